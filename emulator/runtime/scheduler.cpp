// Which thread runs next. In order: a warp goes on as long as it can. Reverse: the last thread that can. Random: by the
// seed, either any thread, or by warp priorities that let one warp run as far ahead of the others as the code allows.
#include "worker.h"

namespace emu {

__thread Thread* self = nullptr;
__thread BlockView blk;
__thread Worker* worker = nullptr;

namespace {

constexpr uint64_t kMaxPolls = 2'000'000;

bool is_random() { return options().order == kRandom; }
bool uses_priorities() { return options().seed & 1; }

// In a random run asynchronous operations are all late, all early, or each by a coin.
enum class Eagerness { late, coin, early };
Eagerness eagerness() {
  if (!is_random()) return Eagerness::late;
  return static_cast<Eagerness>(options().seed % 3);
}

// A set bit, looked for from a random one on.
unsigned any_bit(uint32_t mask) {
  unsigned turn = static_cast<unsigned>(draw()) % kWarp;
  uint32_t turned = turn ? mask >> turn | mask << (kWarp - turn) : mask;
  return (static_cast<unsigned>(__builtin_ctz(turned)) + turn) % kWarp;
}

unsigned highest_priority(uint32_t warps) {
  unsigned best = static_cast<unsigned>(__builtin_ctz(warps));
  for (uint32_t rest = warps & (warps - 1); rest; rest &= rest - 1) {
    unsigned next = static_cast<unsigned>(__builtin_ctz(rest));
    if (worker->priority[next] > worker->priority[best]) best = next;
  }
  return best;
}

// The copy engine works when nothing else can, and now and then in random runs.
void let_engine_work() {
  Worker& w = *worker;
  bool may_interfere = is_random() && eagerness() != Eagerness::late;
  while (w.bulk_count && (!w.ready_warps || (may_interfere && draw() % 16 == 0))) {
    run_bulk_copy(is_random() ? static_cast<unsigned>(draw() % w.bulk_count) : 0);
  }
}

}  // namespace

uint64_t draw() {
  uint64_t& s = worker->random;
  s ^= s << 13;
  s ^= s >> 7;
  s ^= s << 17;
  return s;
}

bool performs_early() {
  Eagerness how = eagerness();
  return how == Eagerness::early || (how == Eagerness::coin && (draw() & 1));
}

Thread* pick() {
  Worker& w = *worker;
  let_engine_work();
  if (!w.ready_warps) return nullptr;
  unsigned warp, lane;
  if (is_random()) {
    warp = uses_priorities() ? highest_priority(w.ready_warps) : any_bit(w.ready_warps);
    lane = any_bit(w.ready[warp]);
  } else if (options().order == kReverse) {
    warp = 31u - static_cast<unsigned>(__builtin_clz(w.ready_warps));
    lane = 31u - static_cast<unsigned>(__builtin_clz(w.ready[warp]));
  } else {
    uint32_t not_before = w.ready_warps & ~((1u << w.current_warp) - 1u);
    warp = static_cast<unsigned>(__builtin_ctz(not_before ? not_before : w.ready_warps));
    w.current_warp = warp;
    lane = static_cast<unsigned>(__builtin_ctz(w.ready[warp]));
  }
  w.ready[warp] &= ~(1u << lane);
  if (!w.ready[warp]) w.ready_warps &= ~(1u << warp);
  return w.warps[warp].lane[lane];
}

void switch_to(void** save, Thread* from, Thread* to, bool dying) {
  Worker& w = *worker;
#ifdef EMU_ASAN
  void** fake = from ? &from->asan_fake_stack : &w.host_fake_stack;
  __sanitizer_start_switch_fiber(dying ? nullptr : fake, to ? to->stack : w.host_stack,
                                 to ? to->stack_size : w.host_stack_size);
#else
  (void)from;
  (void)dying;
#endif
  self = to;
  emu_switch(save, to ? to->stack_pointer : w.host_stack_pointer);
#ifdef EMU_ASAN
  __sanitizer_finish_switch_fiber(*fake, nullptr, nullptr);
#endif
}

void block_self() {
  Thread* me = self;
  Thread* next = pick();
  if (next != me) switch_to(&me->stack_pointer, me, next, false);
}

void yield_point() {
  if (!is_random() || !self || draw() % 4) return;
  if (uses_priorities()) worker->priority[self->linear / kWarp] = static_cast<uint8_t>(draw());
  make_ready(self);
  block_self();
}

void poll_yield(Site site) {
  if (++worker->polls > kMaxPolls) fatal_at(site, "livelock: spinning without progress");
  self->site = site;
  make_ready(self);
  block_self();
}

}  // namespace emu
