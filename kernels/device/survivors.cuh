// The keys of one query that passed a block's gate: a buffer in device memory that is cut to its best keys when it is
// full, and the bound that rises with each cut. Whatever scores rows, offers their keys.
#pragma once
#include "select.cuh"

struct Survivors {
  Key* keys;        // [capacity], in device memory
  uint32_t* count;  // how many there are; in shared memory
  Key* bound;       // no key below it is in the answer; in shared memory
  Key* published;   // the greatest bound of all blocks, in device memory
};

// Adds a key, unless it is below the bound.
DEV void offer(const Survivors& survivors, Key key) {
  if (key >= *survivors.bound) survivors.keys[atomicAdd(survivors.count, 1u)] = key;
}

// Cuts the keys to the best `kept`, of which there are more. Then `kept` is k: a block with fewer rows than k never has
// more keys than it keeps. All threads of the block.
DEV void cut(const Survivors& survivors, uint32_t kept, Selection& shared) {
  const uint32_t count = *survivors.count;
  const Places places{survivors.keys, count, count, count};
  const Key bound = bound_of_best(places, kept, shared);
  move_best(places, bound, survivors.keys, shared);
  if (threadIdx.x == 0) {
    *survivors.count = kept;
    *survivors.bound = bound > *survivors.bound ? bound : *survivors.bound;
    atomicMax(survivors.published, bound);
  }
  __syncthreads();
}

// Leaves the best `kept` keys, and zeros where there are fewer. All threads of the block.
DEV void finish(const Survivors& survivors, uint32_t kept, Selection& shared) {
  if (*survivors.count > kept) cut(survivors, kept, shared);
  for (uint32_t i = *survivors.count + threadIdx.x; i < kept; i += blockDim.x) survivors.keys[i] = 0;
}
