// Selecting and sorting keys with the threads of one block. Keys are distinct; a place that holds 0 is empty.
// Every function is called by all threads of a block, of which there is a whole number of warps.
#pragma once
#include "keys.cuh"

// `count` places in runs of `kept`, one run every `stride`.
struct Places {
  const Key* keys;
  uint32_t count, kept, stride;
};

DEV Key key_at(const Places& places, uint32_t i) {
  const uint32_t run = i / places.kept;
  return places.keys[static_cast<size_t>(run) * places.stride + (i - run * places.kept)];
}

// Shared memory of a selection. A barrier lies between two uses.
struct Selection {
  Key least, greatest;
  uint32_t bins[256];
  uint32_t found;                 // keys in all, later keys that were moved
  uint32_t digit, above, inside;  // the bin that holds the wanted key, keys in greater bins, keys in it
};

// Warp 0: the bin that holds the `wanted`th greatest key.
DEV void find_digit(Selection& shared, uint32_t wanted) {
  const uint32_t lane = threadIdx.x, top = 255 - 8 * lane;
  uint32_t own = 0;
#pragma unroll
  for (uint32_t i = 0; i < 8; ++i) own += shared.bins[top - i];
  uint32_t until = own;
#pragma unroll
  for (unsigned distance = 1; distance < 32; distance *= 2) {
    const uint32_t before = __shfl_up_sync(0xffffffffu, until, distance);
    if (lane >= distance) until += before;
  }
  uint32_t above = until - own;
  if (above < wanted && wanted <= until) {
    uint32_t bin = top;
    while (above + shared.bins[bin] < wanted) above += shared.bins[bin--];
    shared.digit = bin;
    shared.above = above;
    shared.inside = shared.bins[bin];
  }
}

// The least key, the greatest key and the number of keys of all places.
DEV void find_range(const Places& places, Selection& shared) {
  Key least = ~0ull, greatest = 0;
  uint32_t found = 0;
#pragma unroll 4
  for (uint32_t i = threadIdx.x; i < places.count; i += blockDim.x) {
    const Key key = key_at(places, i);
    found += key != 0 ? 1 : 0;
    least = key != 0 && key < least ? key : least;
    greatest = key > greatest ? key : greatest;
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const Key low = __shfl_xor_sync(0xffffffffu, least, distance);
    const Key high = __shfl_xor_sync(0xffffffffu, greatest, distance);
    found += __shfl_xor_sync(0xffffffffu, found, distance);
    least = low < least ? low : least;
    greatest = high > greatest ? high : greatest;
  }
  if (threadIdx.x == 0) {
    shared.least = ~0ull;
    shared.greatest = 0;
    shared.found = 0;
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) {
    atomicMin(&shared.least, least);
    atomicMax(&shared.greatest, greatest);
    atomicAdd(&shared.found, found);
  }
  __syncthreads();
}

// A bound that exactly the `k` greatest keys reach, or all keys if there are no more than `k`; never 0. Radix selection:
// the keys of a range are counted in 256 bins of equal width, and the bin of the k-th is the next range.
DEV Key bound_of_best(const Places& places, uint32_t k, Selection& shared) {
  find_range(places, shared);
  Key low = shared.least, span = shared.greatest - low;
  if (shared.found <= k) return low;  // the same in all threads
  int shift = max(56 - __clzll(static_cast<long long>(span)), 0);
  for (uint32_t wanted = k;;) {
    for (uint32_t bin = threadIdx.x; bin < 256; bin += blockDim.x) shared.bins[bin] = 0;
    __syncthreads();
#pragma unroll 4
    for (uint32_t i = threadIdx.x; i < places.count; i += blockDim.x) {
      const Key above = key_at(places, i) - low;  // keys below the range wrap round and lie above it
      if (above <= span) atomicAdd(&shared.bins[above >> shift], 1u);
    }
    __syncthreads();
    if (threadIdx.x < 32) find_digit(shared, wanted);
    __syncthreads();
    low += static_cast<Key>(shared.digit) << shift;
    wanted -= shared.above;
    if (shared.inside == wanted || shift == 0) return low;
    span = (1ull << shift) - 1;
    shift = max(shift - 8, 0);
  }
}

// Moves the keys of `places` that reach `bound` to the front of `to`, in any order. `to` may begin where `places` does if
// those are one run.
DEV void move_best(const Places& places, Key bound, Key* to, Selection& shared) {
  constexpr uint32_t AT_ONCE = 4;
  __syncthreads();
  if (threadIdx.x == 0) shared.found = 0;
  for (uint32_t first = 0; first < places.count; first += AT_ONCE * blockDim.x) {
    Key own[AT_ONCE];
#pragma unroll
    for (uint32_t each = 0; each < AT_ONCE; ++each) {
      const uint32_t i = first + each * blockDim.x + threadIdx.x;
      own[each] = i < places.count ? key_at(places, i) : 0;
    }
    __syncthreads();  // no place is written before it is read: no more keys are moved than were read
#pragma unroll
    for (uint32_t each = 0; each < AT_ONCE; ++each) {
      if (own[each] >= bound) to[atomicAdd(&shared.found, 1u)] = own[each];
    }
  }
  __syncthreads();
}

// One step of a bitonic sort of `length` keys that start at place `first` of the whole: those `stride` apart are put in
// descending order where bit `size` of the place is clear, in ascending order where it is set.
DEV void exchange(Key* keys, uint32_t length, uint32_t first, uint32_t size, uint32_t stride) {
  for (uint32_t pair = threadIdx.x; pair < length / 2; pair += blockDim.x) {
    const uint32_t i = 2 * pair - (pair & (stride - 1)), j = i + stride;
    const Key a = keys[i], b = keys[j];
    if ((a < b) == (((first + i) & size) == 0)) {
      keys[i] = b;
      keys[j] = a;
    }
  }
  __syncthreads();
}

// Sorts keys, greatest first; their number is a power of two. `tile` is shared memory for TILE keys, a power of two.
template <uint32_t TILE> DEV void sort_descending(Key* keys, uint32_t count, Key* tile) {
  const uint32_t length = count < TILE ? count : TILE;
  // Steps of strides below TILE pass in shared memory, one tile after the other.
  uint32_t from = 2;
  for (uint32_t until = length; from <= count; from = until * 2, until *= 2) {
    for (uint32_t stride = until / 2; stride >= TILE; stride /= 2) exchange(keys, count, 0, until, stride);
    for (uint32_t first = 0; first < count; first += length) {
      for (uint32_t i = threadIdx.x; i < length; i += blockDim.x) tile[i] = keys[first + i];
      __syncthreads();
      for (uint32_t size = from; size <= until; size *= 2) {
        for (uint32_t stride = min(size, length) / 2; stride > 0; stride /= 2) {
          exchange(tile, length, first, size, stride);
        }
      }
      for (uint32_t i = threadIdx.x; i < length; i += blockDim.x) keys[first + i] = tile[i];
      __syncthreads();
    }
  }
}
