// Warp operations. Lanes meet by operation and mask; the last to arrive computes for all, from the arguments on the
// stacks of the waiting lanes. So masks are exact, diverged parts of a warp work, and mismatches have names.
#include "worker.h"

namespace emu {

namespace {

constexpr uint64_t kUndefined = ~0ull;  // what a GPU leaves undefined: NaN, and an index far out of range

bool needs_full_warp(Op op) { return op >= Op::ldmatrix; }
bool is_shuffle(Op op) { return op >= Op::shfl_idx && op <= Op::shfl_xor; }

template <class T>
T& argument(const Warp& warp, unsigned lane) {
  return *static_cast<T*>(warp.lane[lane]->argument);
}

// Calls `visit(lane)` for each lane of the mask, from the lowest on.
template <class F>
void each_lane(uint32_t mask, F visit) {
  for (; mask; mask &= mask - 1) visit(static_cast<unsigned>(__builtin_ctz(mask)));
}

// The lane that a shuffle reads: its own if the source is out of its segment.
unsigned source_lane(Op op, unsigned lane, const ShflArg& a) {
  int me = static_cast<int>(lane);
  int operand = static_cast<int>(a.operand);
  int first = me & ~(static_cast<int>(a.width) - 1);
  int last = first + static_cast<int>(a.width) - 1;
  int source = me;
  switch (op) {
    case Op::shfl_idx: return static_cast<unsigned>(first + (operand & (static_cast<int>(a.width) - 1)));
    case Op::shfl_up: source = me - operand; break;
    case Op::shfl_down: source = me + operand; break;
    default: source = me ^ operand; break;
  }
  bool inside = op == Op::shfl_up ? source >= first : source <= last;
  return static_cast<unsigned>(inside ? source : me);
}

void run_shuffle(Op op, const Warp& warp, uint32_t mask) {
  each_lane(mask, [&](unsigned lane) {
    ShflArg& a = argument<ShflArg>(warp, lane);
    unsigned source = source_lane(op, lane, a);
    a.result = mask >> source & 1 ? argument<ShflArg>(warp, source).value : kUndefined;
  });
}

void run_match(const Warp& warp, uint32_t mask) {
  each_lane(mask, [&](unsigned lane) {
    VoteArg& mine = argument<VoteArg>(warp, lane);
    mine.result = 0;
    each_lane(mask, [&](unsigned other) {
      if (argument<VoteArg>(warp, other).value == mine.value) mine.result |= 1u << other;
    });
  });
}

uint32_t combine(Op op, uint32_t a, uint32_t b) {
  switch (op) {
    case Op::red_add_u: return a + b;
    case Op::red_min_u: return b < a ? b : a;
    case Op::red_max_u: return b > a ? b : a;
    case Op::red_min_s: return static_cast<int32_t>(b) < static_cast<int32_t>(a) ? b : a;
    case Op::red_max_s: return static_cast<int32_t>(b) > static_cast<int32_t>(a) ? b : a;
    case Op::all:
    case Op::red_and: return a & b;
    case Op::ballot:
    case Op::any:
    case Op::red_or: return a | b;
    case Op::red_xor: return a ^ b;
    default: fatal("no such warp operation: %s", op_name(op));
  }
}

void run_vote(Op op, const Warp& warp, uint32_t mask) {
  bool first = true;
  uint32_t result = 0;
  each_lane(mask, [&](unsigned lane) {
    auto value = static_cast<uint32_t>(argument<VoteArg>(warp, lane).value);
    if (op == Op::ballot) value <<= lane;
    result = first ? value : combine(op, result, value);
    first = false;
  });
  each_lane(mask, [&](unsigned lane) { argument<VoteArg>(warp, lane).result = result; });
}

void run(Op op, Warp& warp, uint32_t mask) {
  switch (op) {
    case Op::syncwarp:
    case Op::wgmma_fence: break;
    case Op::shfl_idx:
    case Op::shfl_up:
    case Op::shfl_down:
    case Op::shfl_xor: run_shuffle(op, warp, mask); break;
    case Op::match_any: run_match(warp, mask); break;
    case Op::ldmatrix: run_ldmatrix(warp); break;
    case Op::mma_f16_f32:
    case Op::mma_bf16_f32:
    case Op::mma_s8_s32: run_mma(op, warp); break;
    case Op::wgmma: issue_wgmma(warp); break;
    case Op::wgmma_commit: ++warp.wgmma_group; break;
    case Op::wgmma_wait: perform_wgmma(warp); break;
    default: run_vote(op, warp, mask);
  }
}

// The lanes that must arrive, those that never existed or have exited left out where that is tolerated.
uint32_t lanes_wanted(Op op, uint32_t mask, const Warp& warp, Site site) {
  uint32_t wanted = mask & warp.exists;
  if (needs_full_warp(op) && wanted != kFullMask) fatal_at(site, "%s needs all 32 lanes of the warp", op_name(op));
  uint32_t gone = wanted & warp.exited;
  if (!gone) return wanted;
  if (needs_full_warp(op) || options().strict) fatal_at(site, "%s names lanes %08x, which have exited", op_name(op), gone);
  return wanted & ~gone;
}

void check_width(const ShflArg& a, Site site) {
  bool power_of_two = a.width && (a.width & (a.width - 1)) == 0;
  if (!power_of_two || a.width > kWarp) fatal_at(site, "shuffle width %u is not a power of two up to 32", a.width);
}

// Finds the rendezvous to join or starts one; a lane that others already wait for in another one is a mismatch.
unsigned join(Op op, uint32_t mask, uint32_t wanted, Warp& warp, Site site) {
  const uint32_t bit = 1u << self->lane;
  for (unsigned i = 0; i < warp.rendezvous_count; ++i) {
    Rendezvous& r = warp.rendezvous[i];
    if (r.op == op && r.mask == mask) return i;
    uint32_t both = r.here & wanted;
    if (!both || !(r.mask & bit)) continue;
    const Thread* other = warp.lane[__builtin_ctz(both)];
    fatal_at(site, "warp mismatch: lane %u is in %s mask %08x, lane %u waits in %s mask %08x at line %d", self->lane,
             op_name(op), mask, other->lane, op_name(other->op), other->mask, other->site.line);
  }
  int order = static_cast<int>(warp.next_order++ % Warp::kOrders);
  if (op == Op::syncwarp) hb_forget(&warp.orders[order]);
  warp.rendezvous[warp.rendezvous_count] = {op, mask, wanted, 0, order};
  return warp.rendezvous_count++;
}

void remove(Warp& warp, unsigned index) { warp.rendezvous[index] = warp.rendezvous[--warp.rendezvous_count]; }

}  // namespace

const char* op_name(Op op) {
  static const char* const names[] = {
      "none",       "__syncwarp",   "shfl.idx",   "shfl.up",    "shfl.down",          "shfl.xor",
      "ballot",     "any",          "all",        "match_any",  "reduce_add",         "reduce_min.u",
      "reduce_max.u", "reduce_min.s", "reduce_max.s", "reduce_and", "reduce_or",      "reduce_xor",
      "ldmatrix",   "mma.f16",      "mma.bf16",   "mma.s8",     "wgmma.fence",        "wgmma",
      "wgmma.commit_group", "wgmma.wait_group"};
  return names[static_cast<int>(op)];
}

void warp_op(Op op, uint32_t mask, void* argument, Site site) {
  Thread* me = self;
  Warp& warp = *me->warp;
  const uint32_t bit = 1u << me->lane;
  if (!(mask & bit)) {
    fatal_at(site, "%s: the calling lane %u is not in its own mask %08x", op_name(op), me->lane, mask);
  }
  uint32_t wanted = lanes_wanted(op, mask, warp, site);
  if (is_shuffle(op)) check_width(*static_cast<ShflArg*>(argument), site);
  me->op = op;
  me->mask = mask;
  me->argument = argument;
  me->site = site;
  unsigned index = join(op, mask, wanted, warp, site);
  Rendezvous& r = warp.rendezvous[index];
  r.here |= bit;
  // Of all warp operations only __syncwarp orders memory.
  int* order = &warp.orders[r.order];
  if (op == Op::syncwarp) hb_release(order);
  if (r.here != r.want) {
    me->state = ThreadState::at_warp_op;
    block_self();
  } else {
    remove(warp, index);
    worker->polls = 0;
    run(op, warp, wanted);
    each_lane(wanted & ~bit, [&](unsigned lane) { make_ready(warp.lane[lane]); });
    if (options().order == kRandom) {
      make_ready(me);
      block_self();
    }
  }
  if (op == Op::syncwarp) hb_acquire(order);
}

void exit_from_warp(Warp& warp, uint32_t lane_bit) {
  for (unsigned i = 0; i < warp.rendezvous_count;) {
    Rendezvous& r = warp.rendezvous[i];
    if (!(r.mask & lane_bit)) {
      ++i;
      continue;
    }
    const Thread* other = warp.lane[__builtin_ctz(r.here)];
    if (options().strict) {
      fatal("thread exits while lane %u waits for it in %s mask %08x at %s:%d", other->lane, op_name(r.op), r.mask,
            other->site.file, other->site.line);
    }
    r.want &= ~lane_bit;
    if (r.here != r.want) {
      ++i;
      continue;
    }
    Rendezvous done = r;
    remove(warp, i);
    run(done.op, warp, done.want);
    each_lane(done.want, [&](unsigned lane) { make_ready(warp.lane[lane]); });
  }
}

}  // namespace emu
