// Happens-before among the threads of a launch, by vector clocks. A barrier of the whole block orders everything in it, so
// a clock lists single threads only where something else ordered them since the block's last barrier.
//
// Fences are those of CUDA's memory model: atomics are relaxed and order nothing by themselves. A fence comes before
// another if each is in the other's scope and an atomic after the first (by program order and barriers) is met by one
// before the second, on the same variable: the later one reads or overwrites the value, or overwrites what the earlier one
// read, directly or over other atomics on that variable. From one variable to the next only a fence leads on.
#ifdef EMU_RACES
#include "order.h"

#include <algorithm>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

namespace emu {

namespace {

struct Clock;
// What is ordered before a point, of each block that is known of.
using Views = std::shared_ptr<const std::map<uint32_t, std::shared_ptr<const Clock>>>;

enum Scope { kBlock, kDevice, kScopes };

// What comes before a point of a block.
struct Clock {
  uint32_t block = 0;
  uint32_t start = 0;   // all that threads of the block did before this time,
  uint32_t engine = 0;  // what its copy engine did until this one,
  uint32_t warps = 0;   // what each thread of these warps did until at[thread],
  uint32_t at[kMaxThreads];
  Views others;           // what threads of other blocks did
  // Fences, with what came before them; of those of the scope of a block, also what they know of other blocks.
  Views fenced[kScopes];  // that come before the point: what atomics hand on
  Views seen[kScopes];    // that atomics have met: what a fence would be ordered behind
};

// The values of an atomic variable.
struct Word {
  uint32_t block;  // that used it last: fences of the scope of a block are its own
  Views written[kScopes], read[kScopes];  // fences before the writes, and before the reads since the last of them
};

uint32_t block, launch_start;
std::vector<uint3> indices;  // of the launch's blocks
uint32_t tick;               // the block's clock
uint32_t barrier_time;       // of the last barrier of the whole block
bool beyond_barriers;        // whether a thread may know of more than its block
bool engine_runs;
Clock clocks[kMaxThreads + 1];
uint32_t times[kMaxThreads + 1], time_of_block[kMaxThreads + 1];  // when the threads are, and in which block
Clock at_barrier;  // what all threads knew of at the last barrier, apart from their own block
std::unordered_map<const void*, Clock> objects;
std::unordered_map<const void*, Word> shared_words, global_words;

unsigned actor() { return engine_runs ? kEngine : self->linear; }

void reset(Clock& clock) {
  clock.block = block;
  clock.start = clock.engine = clock.warps = 0;
  clock.others = nullptr;
  for (int scope = 0; scope < kScopes; ++scope) clock.fenced[scope] = clock.seen[scope] = nullptr;
}

// A warp's times, zero if there were none.
uint32_t* times_of_warp(Clock& clock, unsigned warp) {
  uint32_t* at = clock.at + warp * kWarp;
  if (!(clock.warps >> warp & 1)) std::fill(at, at + kWarp, 0u);
  clock.warps |= 1u << warp;
  return at;
}

void add(Clock& clock, unsigned thread, uint32_t time) {
  uint32_t& at = thread == kEngine ? clock.engine : times_of_warp(clock, thread / kWarp)[thread % kWarp];
  at = std::max(at, time);
}

// What both know of their block.
void join_block(Clock& to, const Clock& from) {
  to.start = std::max(to.start, from.start);
  to.engine = std::max(to.engine, from.engine);
  for (uint32_t rest = from.warps; rest; rest &= rest - 1) {
    auto warp = static_cast<unsigned>(__builtin_ctz(rest));
    uint32_t* at = times_of_warp(to, warp);
    for (unsigned i = 0; i < kWarp; ++i) at[i] = std::max(at[i], from.at[warp * kWarp + i]);
  }
}

void join(Views& to, const Views& from) {
  if (!from || to == from) return;
  if (!to) {
    to = from;
    return;
  }
  auto has = [&](const auto& entry) {
    auto found = to->find(entry.first);
    return found != to->end() && found->second == entry.second;
  };
  if (std::all_of(from->begin(), from->end(), has)) return;
  auto both = std::make_shared<std::map<uint32_t, std::shared_ptr<const Clock>>>(*to);
  for (const auto& [index, view] : *from) {
    std::shared_ptr<const Clock>& known = (*both)[index];
    if (known && known != view) {
      auto joined = std::make_shared<Clock>(*known);
      join_block(*joined, *view);
      join(joined->others, view->others);
      known = joined;
    } else {
      known = view;
    }
  }
  to = both;
}

void join_others(Clock& to, const Clock& from) {
  join(to.others, from.others);
  for (int scope = 0; scope < kScopes; ++scope) {
    join(to.fenced[scope], from.fenced[scope]);
    join(to.seen[scope], from.seen[scope]);
  }
}

// The running thread's clock, after the barriers that it has passed. They do not order the copy engine.
Clock& mine() {
  unsigned thread = actor();
  Clock& clock = clocks[thread];
  if (clock.block != block) {
    reset(clock);
    times[thread] = 1;
    time_of_block[thread] = block;
  }
  if (thread != kEngine && clock.start != barrier_time) {
    clock.start = times[thread] = barrier_time;
    clock.warps = 0;
    if (beyond_barriers) {
      clock.engine = std::max(clock.engine, at_barrier.engine);
      join_others(clock, at_barrier);
    }
  }
  return clock;
}

Clock& clock_of(const void* object) {
  Clock& clock = objects[object];
  if (clock.block != block) reset(clock);
  return clock;
}

bool knows(const Clock& clock, const Moment& then) {
  if (then.thread == kEngine) return then.time <= clock.engine;
  if (then.time < clock.start) return true;
  return clock.warps >> then.thread / kWarp & 1 && then.time <= clock.at[then.thread];
}

// What comes before the fences that a fence of this scope has met: those of the thread's own block, and of the others.
void acquire(Clock& clock, Scope scope) {
  const Views& fences = clock.seen[scope];
  if (!fences) return;
  auto own = fences->find(block);
  if (own != fences->end()) {
    join_block(clock, *own->second);
    join(clock.others, own->second->others);
  }
  if (scope == kDevice) join(clock.others, fences);
}

// What the fence that the running thread is at knows of its block, for those that come after.
std::shared_ptr<Clock> view_of(const Clock& clock) {
  auto view = std::make_shared<Clock>(clock);
  view->others = nullptr;
  for (int scope = 0; scope < kScopes; ++scope) view->fenced[scope] = view->seen[scope] = nullptr;
  add(*view, actor(), times[actor()]);
  return view;
}

Views views(std::shared_ptr<const Clock> view) {
  std::map<uint32_t, std::shared_ptr<const Clock>> one = {{block, std::move(view)}};
  return std::make_shared<const decltype(one)>(std::move(one));
}

}  // namespace

Moment now() {
  unsigned thread = actor();
  if (times[thread] < barrier_time || time_of_block[thread] != block) mine();
  return {block, times[thread], static_cast<uint16_t>(thread)};
}

bool is_before_now(const Moment& then) {
  if (then.block == block) {
    if (then.thread == actor()) return true;
    if (then.time < barrier_time && then.thread != kEngine && !engine_runs) return true;
  }
  const Clock& clock = mine();
  if (then.block == block) return knows(clock, then);
  if (!clock.others) return false;
  auto view = clock.others->find(then.block);
  return view != clock.others->end() && knows(*view->second, then);
}

uint32_t first_block() { return launch_start; }
uint3 block_index(uint32_t index) { return indices[index - launch_start]; }

void hb_launch() {
  launch_start = block + 1;
  indices.clear();
  global_words.clear();
}

void hb_block() {
  ++block;
  indices.push_back(blk.bid);
  tick = barrier_time = 1;
  beyond_barriers = engine_runs = false;
  reset(at_barrier);
  shared_words.clear();
}

void hb_barrier() {
  for (unsigned i = 0; beyond_barriers && i < worker->thread_count; ++i) {
    if (clocks[i].block != block) continue;
    at_barrier.engine = std::max(at_barrier.engine, clocks[i].engine);
    join_others(at_barrier, clocks[i]);
  }
  barrier_time = ++tick;
}

void hb_acquire(const void* object) {
  Clock& clock = mine();
  const Clock& from = clock_of(object);
  join_block(clock, from);
  join_others(clock, from);
  if (clock.engine) beyond_barriers = true;
}

void hb_release(const void* object) {
  const Clock& clock = mine();
  Clock& to = clock_of(object);
  join_block(to, clock);
  join_others(to, clock);
  add(to, actor(), times[actor()]);
  times[actor()] = ++tick;
}

void hb_forget(const void* object) { reset(objects[object]); }

void hb_fence(bool device) {
  Clock& clock = mine();
  acquire(clock, kBlock);
  if (device) {
    acquire(clock, kDevice);
    join(clock.fenced[kDevice], clock.others);
    join(clock.fenced[kDevice], views(view_of(clock)));
  }
  auto with_others = view_of(clock);
  with_others->others = clock.others;
  join(clock.fenced[kBlock], views(with_others));
  times[actor()] = ++tick;
  beyond_barriers = true;
}

void hb_atomic(const void* address, bool writes) {
  Clock& clock = mine();
  auto& words = is_shared(address) ? shared_words : global_words;
  if (!clock.fenced[kBlock] && !clock.fenced[kDevice] && !words.count(address)) return;
  Word& word = words[address];
  if (word.block != block) word.written[kBlock] = word.read[kBlock] = nullptr;
  word.block = block;
  for (int scope = 0; scope < kScopes; ++scope) {
    if (writes) {
      join(word.written[scope], word.read[scope]);
      word.read[scope] = nullptr;
    }
    join(clock.seen[scope], word.written[scope]);
    join(writes ? word.written[scope] : word.read[scope], clock.fenced[scope]);
  }
  beyond_barriers = true;
}

bool hb_engine(bool runs) {
  std::swap(engine_runs, runs);
  return runs;
}

}  // namespace emu
#endif
