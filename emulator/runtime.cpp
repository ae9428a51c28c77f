// Emulator runtime: fibers, scheduler, shared-memory arena, warp operations, launches.
#include "runtime.h"
#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(EMU_ASAN)
#define HAS_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef EMU_TSAN
#define HAS_TSAN 1
extern "C" {
void* __tsan_get_current_fiber(); void* __tsan_create_fiber(unsigned); void __tsan_destroy_fiber(void*);
void __tsan_switch_to_fiber(void*, unsigned); void __tsan_set_fiber_name(void*, const char*);
void __tsan_acquire(void*); void __tsan_release(void*); void __tsan_read_range(void*, unsigned long); void __tsan_write_range(void*, unsigned long);
}
#endif

namespace emu {

// ---------------------------------------------------------------- context switch
#if defined(__x86_64__) && !defined(EMU_UCONTEXT)
extern "C" void emu_ctx_switch(void** save, void* load);
asm(R"(
.text
.globl emu_ctx_switch
.hidden emu_ctx_switch
.type emu_ctx_switch,@function
.p2align 4
emu_ctx_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emu_ctx_switch,.-emu_ctx_switch
)");
static void* ctx_make(char* top, void (*entry)()) {
  uintptr_t t = (uintptr_t)top & ~(uintptr_t)15;
  void** p = (void**)t;
  *--p = nullptr;                  // keeps rsp = 8 mod 16 at entry, and ends backtraces
  *--p = (void*)entry;
  for (int i = 0; i < 6; ++i) *--p = nullptr;
  return p;
}
#else
#include <ucontext.h>
static void emu_ctx_switch(void** save, void* load) {
  ucontext_t here; *save = &here;
  swapcontext(&here, (ucontext_t*)load);
}
static void* ctx_make(char* top, void (*entry)()) {     // the context itself lives at the stack's top
  ucontext_t* u = (ucontext_t*)(((uintptr_t)top - sizeof(ucontext_t)) & ~(uintptr_t)63);
  getcontext(u);
  size_t room = 60 * 1024;
  u->uc_stack.ss_sp = (char*)u - room; u->uc_stack.ss_size = room; u->uc_link = nullptr;
  makecontext(u, entry, 0);
  return u;
}
#endif

// ---------------------------------------------------------------- state
__thread Thread* self = nullptr;
__thread BlockView blk;

#define g_opt options()

struct Barrier { unsigned arrived = 0, need = 0; Site site{"", 0}; Thread* waiting[1024]; unsigned nwait = 0; int hb[2] = {0, 0}; unsigned gen = 0; };

#ifdef HAS_ASAN
constexpr size_t kStack = 256 * 1024;
#else
constexpr size_t kStack = 64 * 1024;
#endif
constexpr size_t kArena = 512 * 1024, kStaticRoom = 128 * 1024, kBias = 1024, kRed = 128;

struct Slot { const void* tag; uint32_t off, bytes; const char* name; };

struct Worker {
  Thread th[1024];
  Warp warps[32];
  char* stacks = nullptr;
  char* arena = nullptr;
  std::vector<Slot> slots; uint32_t static_top = 0, static_bytes = 0;
  uint32_t dyn_bytes = 0;
  unsigned nthreads = 0, nwarps = 0, alive = 0;
  Barrier bars[16];
  uint32_t ready[32], ready_warps = 0; unsigned cur = 0;
  void* host_sp = nullptr; void* host_tsan = nullptr; void* host_fake = nullptr; const void* host_lo = nullptr; size_t host_sz = 0;
  const Kernel* kern = nullptr; void** params = nullptr;
  uint64_t s = 88172645463325252ull;
  bool failed = false; int code = 719; char msg[2048];
  uint64_t polls = 0, progress = 0;
  TmaOp ops[256]; unsigned nops = 0; void* engine = nullptr; int hb_issue = 0;
  uint8_t prio[32];
  Thread* mw[1024]; unsigned nmw = 0;                // threads blocked on an mbarrier
  int hb_start = 0, hb_end = 0;   // host -> threads, threads -> host; never threads -> threads
  Worker();
  ~Worker() { if (stacks) munmap(stacks, (kStack) * 1024); if (arena) munmap(arena, kArena + 8192); }
};
Worker::Worker() {
  slots.reserve(256);
  stacks = (char*)mmap(nullptr, kStack * 1024, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  char* a = (char*)mmap(nullptr, kArena + 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  mprotect(a + 4096, kArena, PROT_READ | PROT_WRITE);
  arena = a;
  arena += 4096;
  for (int i = 0; i < 1024; ++i) {
    th[i].stack_lo = stacks + kStack * i;
    th[i].stack_sz = kStack;
    mprotect(th[i].stack_lo, 4096, PROT_NONE);        // overflow guard
  }
  arena -= 4096;
}
static __thread Worker* tw = nullptr;
static inline char* arena_base() { return tw->arena + 4096; }

// In random mode a launch draws how eager asynchronous operations are: never, half the time, always.
uint64_t rng();
static inline bool early() { if (g_opt.order != 2) return false; unsigned e = (unsigned)(g_opt.seed % 3); return e == 2 || (e == 1 && (rng() & 1)); }
uint64_t rng() { uint64_t& s = tw->s; s ^= s << 13; s ^= s >> 7; s ^= s << 17; return s; }

// memset that no sanitizer intercepts: the emulator's own bookkeeping is not the kernel's access
static inline void raw_set(void* p, int v, size_t n) {
#if defined(__x86_64__)
  asm volatile("rep stosb" : "+D"(p), "+c"(n) : "a"(v) : "memory");
#else
  memset(p, v, n);
#endif
}

// ---------------------------------------------------------------- sanitizer hooks
static inline void poison(void* p, size_t n) { (void)p; (void)n;
#ifdef HAS_ASAN
  __asan_poison_memory_region(p, n);
#endif
}
static inline void unpoison(void* p, size_t n) { (void)p; (void)n;
#ifdef HAS_ASAN
  __asan_unpoison_memory_region(p, n);
#endif
}
void hb_acquire(const void* p) { (void)p;
#ifdef HAS_TSAN
  __tsan_acquire((void*)p);
#endif
}
void hb_release(const void* p) { (void)p;
#ifdef HAS_TSAN
  __tsan_release((void*)p);
#endif
}

// ---------------------------------------------------------------- switching
static inline void go(void** save, Thread* from, Thread* to, bool dying) {
  Worker& w = *tw; (void)w; (void)from; (void)dying;
#ifdef HAS_TSAN
  __tsan_switch_to_fiber(to ? to->tsan : w.host_tsan, 1 /* no synchronisation */);
#endif
#ifdef HAS_ASAN
  void** fake = from ? &from->fake : &w.host_fake;
  __sanitizer_start_switch_fiber(dying ? nullptr : fake, to ? to->stack_lo : w.host_lo, to ? to->stack_sz : w.host_sz);
#endif
  self = to;
  emu_ctx_switch(save, to ? to->sp : w.host_sp);
#ifdef HAS_ASAN
  __sanitizer_finish_switch_fiber(*fake, nullptr, nullptr);
#endif
}
static void engine_run(unsigned);
// Ready fibers are bit masks: one word per warp, one word of warps. Picking is O(1) (priorities: O(warps)).
static inline unsigned any_bit(uint32_t m) {           // a set bit, from a random starting point
  unsigned r = (unsigned)rng() & 31u;
  return ((unsigned)__builtin_ctz((m >> r) | (m << ((32 - r) & 31))) + r) & 31u;
}
static inline Thread* pick() {
  Worker& w = *tw;
  const bool rnd = g_opt.order == 2;
  while (w.nops && (!w.ready_warps || (rnd && g_opt.seed % 3 && !(rng() & 15)))) engine_run(rnd ? (unsigned)(rng() % w.nops) : 0);
  uint32_t rw = w.ready_warps;
  if (!rw) return nullptr;
  unsigned wi, li;
  if (rnd) {
    if (g_opt.seed & 1) {   // odd seeds: warps have random priorities, so that one runs as far ahead of another as the code allows
      wi = (unsigned)__builtin_ctz(rw);
      for (uint32_t m = rw & (rw - 1); m; m &= m - 1) if (unsigned c = (unsigned)__builtin_ctz(m); w.prio[c] > w.prio[wi]) wi = c;
    } else wi = any_bit(rw);
    li = any_bit(w.ready[wi]);
  } else if (g_opt.order == 1) {
    wi = 31u - (unsigned)__builtin_clz(rw); li = 31u - (unsigned)__builtin_clz(w.ready[wi]);
  } else {                  // stay with a warp while it can run, then go on to the next
    uint32_t up = rw & ~((1u << w.cur) - 1u);
    wi = w.cur = (unsigned)__builtin_ctz(up ? up : rw); li = (unsigned)__builtin_ctz(w.ready[wi]);
  }
  if (!(w.ready[wi] &= ~(1u << li))) w.ready_warps &= ~(1u << wi);
  return w.warps[wi].lane[li];
}
static inline void make_ready(Thread* t) {
  Worker& w = *tw; unsigned wi = t->linear >> 5;
  t->st = St::ready; w.ready[wi] |= 1u << t->lane; w.ready_warps |= 1u << wi;
}
static void block_self() {                       // give the OS thread to another fiber (or back to the host)
  Thread* me = self; Thread* nx = pick();
  if (nx == me) return;
  go(&me->sp, me, nx, false);
}
void yield_point() {
  if (g_opt.order != 2 || !self || (rng() & 3)) return;
  if (g_opt.seed & 1) tw->prio[self->linear >> 5] = (uint8_t)rng();
  make_ready(self); block_self();
}
void poll_yield(Site s) {
  Worker& w = *tw;
  if (++w.polls > 20000000ull) fatal_at(s, "livelock: spinning without progress");
  self->site = s;
  make_ready(self); block_self();
}

// ---------------------------------------------------------------- errors
static void coords(char* b, size_t n) {
  if (self && tw) snprintf(b, n, "kernel %s, block (%u,%u,%u), thread (%u,%u,%u)", tw->kern ? tw->kern->name : "?", blk.bid.x, blk.bid.y, blk.bid.z, self->tid.x, self->tid.y, self->tid.z);
  else snprintf(b, n, "host");
}
[[noreturn]] static void leave_failed() {
  Worker& w = *tw; w.failed = true;
  void* dummy; Thread* me = self;
  go(&dummy, me, nullptr, true);
  abort();
}
void fatal(const char* fmt, ...) {
  char c[256], m[1024]; coords(c, sizeof c);
  va_list ap; va_start(ap, fmt); vsnprintf(m, sizeof m, fmt, ap); va_end(ap);
  if (!tw || !self) { fprintf(stderr, "emu: %s\n", m); abort(); }
  snprintf(tw->msg, sizeof tw->msg, "%s: %s", c, m);
  leave_failed();
}
void fatal_at(Site s, const char* fmt, ...) {
  char m[1024]; va_list ap; va_start(ap, fmt); vsnprintf(m, sizeof m, fmt, ap); va_end(ap);
  fatal("%s (at %s:%d)", m, s.file, s.line);
}

const char* op_name(Op o) {
  static const char* n[] = {"none", "__syncwarp", "shfl.idx", "shfl.up", "shfl.down", "shfl.xor", "ballot", "any", "all", "match_any",
    "reduce_add", "reduce_min.u", "reduce_max.u", "reduce_min.s", "reduce_max.s", "reduce_and", "reduce_or", "reduce_xor",
    "ldmatrix", "mma.f16", "mma.bf16", "mma.s8", "wgmma.fence", "wgmma", "wgmma.commit_group", "wgmma.wait_group"};
  return n[(int)o];
}

// ---------------------------------------------------------------- block barrier
static void release_barrier(Barrier& b, Thread* me) {
  Worker& w = *tw; ++w.progress; w.polls = 0;
  for (unsigned i = 0; i < b.nwait; ++i) if (b.waiting[i] != me) make_ready(b.waiting[i]);
  b.nwait = 0; b.arrived = 0; b.need = 0; b.gen ^= 1;
}
void block_barrier(int id, unsigned count, bool wait, Site s) {
  Worker& w = *tw; Thread* me = self;
  if (id < 0 || id > 15) fatal_at(s, "barrier id %d out of range", id);
  if (count % 32) fatal_at(s, "barrier count %u is not a multiple of the warp size", count);
  Barrier& b = w.bars[id];
  if (b.arrived == 0) { b.site = s; b.need = count; }
  else {
    if (b.need != count) fatal_at(s, "barrier %d joined with count %u, others use %u", id, count, b.need);
    if (count == 0 && (b.site.line != s.line || strcmp(b.site.file, s.file)))
      fatal_at(s, "divergent __syncthreads: thread %u waits at line %d", b.nwait ? b.waiting[0]->linear : 0, b.site.line);
  }
  // two alternating objects: a thread that already races ahead to the next barrier must not be
  // ordered before one that has yet to leave this one
  int* hb = &b.hb[b.gen];
  hb_release(hb);
  b.arrived++;
  unsigned need = count ? count : w.alive;
  if (count == 0 && g_opt.strict && w.alive != w.nthreads) fatal_at(s, "__syncthreads after %u thread(s) of the block have exited", w.nthreads - w.alive);
  if (b.arrived == need) { release_barrier(b, me); if (wait) hb_acquire(hb); return; }
  if (!wait) return;
  b.waiting[b.nwait++] = me;
  me->st = St::at_barrier; me->bar = id; me->site = s;
  block_self();
  hb_acquire(hb);
}

// ---------------------------------------------------------------- warp operations
static float tab_h2f[65536]; static std::once_flag tab_once;
static void fill_tab() {
  for (uint32_t h = 0; h < 65536; ++h) {
    uint32_t mag = (h & 0x7fff) << 13; float f; memcpy(&f, &mag, 4); f *= 0x1p112f;
    uint32_t r; memcpy(&r, &f, 4); if ((h & 0x7c00) == 0x7c00) r = mag | 0x7f800000u; r |= (h & 0x8000) << 16; memcpy(&tab_h2f[h], &r, 4);
  }
}
static inline float cvt(uint16_t v, bool bf) { if (!bf) return tab_h2f[v]; uint32_t u = (uint32_t)v << 16; float f; memcpy(&f, &u, 4); return f; }

// The product alone, in k order and without contraction, so that every host computes the same bits.
static void mul_16x16x8(float (*C)[8], const float (*A)[16], const float (*Bm)[8]) {
  for (int i = 0; i < 16; ++i)
    for (int k = 0; k < 16; ++k)
      for (int j = 0; j < 8; ++j) C[i][j] += A[i][k] * Bm[k][j];
}
static void do_mma_16(Warp& w, bool bf) {
  float A[16][16], Bm[16][8], C[16][8];
  for (int l = 0; l < 32; ++l) {
    const MmaArg* m = (const MmaArg*)w.lane[l]->arg;
    int g = l >> 2, t = l & 3;
    uint16_t a[8], b[4]; memcpy(a, m->a, 16); memcpy(b, m->b, 8);
    for (int i = 0; i < 8; ++i) A[g + ((i >> 1) & 1) * 8][t * 2 + (i & 1) + (i >> 2) * 8] = cvt(a[i], bf);
    for (int i = 0; i < 4; ++i) Bm[t * 2 + (i & 1) + (i >> 1) * 8][g] = cvt(b[i], bf);
    const float* c = (const float*)m->c;
    for (int i = 0; i < 4; ++i) C[g + (i >> 1) * 8][t * 2 + (i & 1)] = c[i];
  }
  mul_16x16x8(C, A, Bm);
  for (int l = 0; l < 32; ++l) {
    const MmaArg* m = (const MmaArg*)w.lane[l]->arg; int g = l >> 2, t = l & 3; float* d = (float*)m->d;
    for (int i = 0; i < 4; ++i) d[i] = C[g + (i >> 1) * 8][t * 2 + (i & 1)];
  }
}
static void do_mma_s8(Warp& w) {
  int A[16][32], Bm[32][8]; int C[16][8];
  for (int l = 0; l < 32; ++l) {
    const MmaArg* m = (const MmaArg*)w.lane[l]->arg;
    int g = l >> 2, t = l & 3; int8_t a[16], b[8]; memcpy(a, m->a, 16); memcpy(b, m->b, 8);
    for (int i = 0; i < 16; ++i) A[g + ((i >> 2) & 1) * 8][t * 4 + (i & 3) + (i >> 3) * 16] = a[i];
    for (int i = 0; i < 8; ++i) Bm[t * 4 + (i & 3) + (i >> 2) * 16][g] = b[i];
    const int* c = (const int*)m->c;
    for (int i = 0; i < 4; ++i) C[g + (i >> 1) * 8][t * 2 + (i & 1)] = c[i];
  }
  for (int i = 0; i < 16; ++i)
    for (int k = 0; k < 32; ++k)
      for (int j = 0; j < 8; ++j) C[i][j] = (int)((unsigned)C[i][j] + (unsigned)(A[i][k] * Bm[k][j]));
  for (int l = 0; l < 32; ++l) {
    const MmaArg* m = (const MmaArg*)w.lane[l]->arg; int g = l >> 2, t = l & 3; int* d = (int*)m->d;
    for (int i = 0; i < 4; ++i) d[i] = C[g + (i >> 1) * 8][t * 2 + (i & 1)];
  }
}
static void do_ldmatrix(Warp& w) {
  int num = ((LdmArg*)w.lane[0]->arg)->num; bool tr = ((LdmArg*)w.lane[0]->arg)->trans;
  for (int j = 0; j < num; ++j) {
    uint16_t m[8][8];
    for (int r = 0; r < 8; ++r) memcpy(m[r], ((LdmArg*)w.lane[8 * j + r]->arg)->row, 16);
    for (int l = 0; l < 32; ++l) {
      int r = l >> 2, c = (l & 3) * 2;
      uint32_t lo = tr ? m[c][r] : m[r][c], hi = tr ? m[c + 1][r] : m[r][c + 1];
      ((LdmArg*)w.lane[l]->arg)->out[j] = lo | (hi << 16);
    }
  }
}
static void wg_issue(Warp&); static void wg_wait(Warp&);
static void combine(Op op, Warp& w, uint32_t mask) {
  switch (op) {
    case Op::wgmma: wg_issue(w); break;
    case Op::wgmma_commit: w.wg_group++; break;
    case Op::wgmma_wait: wg_wait(w); break;
    case Op::syncwarp: case Op::wgmma_arrive: break;
    case Op::shfl_idx: case Op::shfl_up: case Op::shfl_down: case Op::shfl_xor:
      for (int l = 0; l < 32; ++l) if (mask >> l & 1) {
        ShflArg* a = (ShflArg*)w.lane[l]->arg;
        int seg = l & ~((int)a->width - 1), last = seg + (int)a->width - 1, j = 0; bool ok = true;
        if (op == Op::shfl_idx) j = seg + (int)(a->b & (a->width - 1));
        else if (op == Op::shfl_up) { j = l - (int)a->b; ok = j >= seg; }
        else if (op == Op::shfl_down) { j = l + (int)a->b; ok = j <= last; }
        else { j = l ^ (int)a->b; ok = j <= last; }
        if (!ok) j = l;
        a->res = (mask >> j & 1) ? ((ShflArg*)w.lane[j]->arg)->val : ~0ull;   // undefined on a GPU: poison it
      }
      break;
    case Op::ldmatrix: do_ldmatrix(w); break;
    case Op::mma_f16_f32: do_mma_16(w, false); break;
    case Op::mma_bf16_f32: do_mma_16(w, true); break;
    case Op::mma_s8_s32: do_mma_s8(w); break;
    case Op::match_any:
      for (int l = 0; l < 32; ++l) if (mask >> l & 1) {
        uint32_t r = 0; uint64_t v = ((VoteArg*)w.lane[l]->arg)->val;
        for (int j = 0; j < 32; ++j) if ((mask >> j & 1) && ((VoteArg*)w.lane[j]->arg)->val == v) r |= 1u << j;
        ((VoteArg*)w.lane[l]->arg)->res = r;
      }
      break;
    default: {
      uint32_t r = 0; bool first = true;
      for (int l = 0; l < 32; ++l) if (mask >> l & 1) {
        uint32_t v = (uint32_t)((VoteArg*)w.lane[l]->arg)->val;
        switch (op) {
          case Op::ballot: r |= (v & 1u) << l; break;
          case Op::any: r |= v; break;
          case Op::all: r = first ? v : (r & v); break;
          case Op::red_add_u: r += v; break;
          case Op::red_min_u: r = first || v < r ? v : r; break;
          case Op::red_max_u: r = first || v > r ? v : r; break;
          case Op::red_min_s: r = first || (int32_t)v < (int32_t)r ? v : r; break;
          case Op::red_max_s: r = first || (int32_t)v > (int32_t)r ? v : r; break;
          case Op::red_and: r = first ? v : (r & v); break;
          case Op::red_or: r |= v; break;
          case Op::red_xor: r ^= v; break;
          default: fatal("unimplemented warp operation %s", op_name(op));
        }
        first = false;
      }
      for (int l = 0; l < 32; ++l) if (mask >> l & 1) ((VoteArg*)w.lane[l]->arg)->res = r;
    }
  }
}
static inline bool full_warp_op(Op o) { return o >= Op::ldmatrix; }

void warp_op(Op op, uint32_t mask, void* arg, Site s) {
  Thread* me = self; Warp& w = *me->warp;
  const uint32_t bit = 1u << me->lane;
  if (!(mask & bit)) fatal_at(s, "%s: the calling lane %u is not in its own mask %08x", op_name(op), me->lane, mask);
  uint32_t m = mask & w.exists;               // lanes that were never launched count as exited
  if (full_warp_op(op) && m != 0xffffffffu) fatal_at(s, "%s needs all 32 lanes of the warp", op_name(op));
  if (m & w.exited) {
    if (full_warp_op(op) || g_opt.strict) fatal_at(s, "%s names lanes %08x, which have exited", op_name(op), m & w.exited);
    m &= ~w.exited;
  }
  if (op >= Op::shfl_idx && op <= Op::shfl_xor) {
    uint32_t wd = ((ShflArg*)arg)->width;
    if (!wd || wd > 32 || (wd & (wd - 1))) fatal_at(s, "shuffle width %u is not a power of two up to 32", wd);
  }
  me->op = op; me->mask = mask; me->arg = arg; me->site = s;
  int gi = 0;
  for (; gi < w.ng; ++gi) {
    Group& g = w.g[gi];
    if (g.op == op && g.mask == mask) break;
    if (uint32_t both = g.here & m; both && (g.mask & bit)) {
      Thread* o = w.lane[__builtin_ctz(both)];
      fatal_at(s, "warp mismatch: lane %u is in %s mask %08x, lane %u waits in %s mask %08x at line %d", me->lane, op_name(op), mask, o->lane, op_name(o->op), o->mask, o->site.line);
    }
  }
  if (gi == w.ng) w.g[w.ng++] = {op, mask, m, 0, w.hb_next++ & 63};
  Group& g = w.g[gi];
  g.here |= bit;
  int* hb = &w.hb[g.hb];
  if (op == Op::syncwarp) hb_release(hb);
  if (g.here != g.want) {
    w.waiting |= bit; me->st = St::at_warp;
    block_self();
  } else {
    g = w.g[--w.ng];
    tw->polls = 0;
    combine(op, w, m);
    w.waiting &= ~m;
    for (uint32_t r = m & ~bit; r; r &= r - 1) make_ready(w.lane[__builtin_ctz(r)]);
    if (g_opt.order == 2) { make_ready(me); block_self(); }
  }
  if (op == Op::syncwarp) hb_acquire(hb);
}

// An exit can complete a rendezvous that was waiting for the exited lane (legal, if untidy).
static void lane_exits(Warp& w, uint32_t bit) {
  for (int i = 0; i < w.ng; ++i) {
    Group& g = w.g[i];
    if (!(g.mask & bit)) continue;
    Thread* o = w.lane[__builtin_ctz(g.here)];
    if (g_opt.strict) fatal("thread exits while lane %u waits for it in %s mask %08x at %s:%d", o->lane, op_name(g.op), g.mask, o->site.file, o->site.line);
    g.want &= ~bit;
    if (g.here != g.want) continue;
    uint32_t m = g.want; Op op = g.op; g = w.g[--w.ng]; --i;
    combine(op, w, m); w.waiting &= ~m;
    for (uint32_t r = m; r; r &= r - 1) make_ready(w.lane[__builtin_ctz(r)]);
  }
}

// ---------------------------------------------------------------- shared memory
void* shared_static(const void* tag, size_t bytes, size_t align, const char* name) {
  Worker& w = *tw;
  for (Slot& s : w.slots) if (s.tag == tag) return arena_base() + s.off;
  uint32_t off = (w.static_top + kRed + (uint32_t)align - 1) & ~((uint32_t)align - 1);
  if (align < 16) off = (off + 15) & ~15u;
  w.static_bytes = (uint32_t)((w.static_bytes + align - 1) / align * align + bytes);
  if (w.static_bytes > 48 * 1024) fatal("static shared memory: %u bytes exceed 48 KiB (at '%s')", w.static_bytes, name);
  if (off + bytes + kRed > kStaticRoom) fatal("emulator: static shared room exhausted");
  if (w.static_bytes + w.dyn_bytes > g_opt.smem_limit) fatal("shared memory: %u static + %u dynamic bytes exceed the block limit %u", w.static_bytes, w.dyn_bytes, g_opt.smem_limit);
  w.slots.push_back({tag, off, (uint32_t)bytes, name});
  w.static_top = off + (uint32_t)bytes;
  unpoison(arena_base() + off, bytes);
  raw_set(arena_base() + off, 0xff, bytes);
  return arena_base() + off;
}
void* shared_dynamic(Site) { return arena_base() + kStaticRoom; }
uint32_t dynamic_smem_size() { return tw->dyn_bytes; }
bool is_shared(const void* p, size_t) { const char* c = (const char*)p; return tw && c >= arena_base() && c < arena_base() + kArena; }
uint32_t shared_to_u32(const void* p, Site s) {
  if (!is_shared(p, 1)) fatal_at(s, "pointer %p is not in shared memory", p);
  return (uint32_t)((const char*)p - arena_base()) + kBias;
}
void* shared_from_u32(uint32_t a, uint32_t bytes, uint32_t align, Site s) {
  if (a % align) fatal_at(s, "shared address 0x%x is not %u-byte aligned", a, align);
  Worker& w = *tw; uint32_t o = a - kBias;
  if (o >= kStaticRoom && o + bytes <= kStaticRoom + w.dyn_bytes) return arena_base() + o;
  for (Slot& t : w.slots) if (o >= t.off && o + bytes <= t.off + t.bytes) return arena_base() + o;
  fatal_at(s, "shared address 0x%x (+%u) is outside every shared allocation of the block", a, bytes);
}
// canaries between and after the allocations: 0xA5, checked when a block ends
static void arena_prepare(bool first) {
  Worker& w = *tw; char* b = arena_base();
  if (first) { w.slots.clear(); w.static_top = 0; w.static_bytes = 0; unpoison(b, kArena); raw_set(b, 0xA5, kStaticRoom); poison(b, kArena); }
  else for (Slot& s : w.slots) raw_set(b + s.off, 0xff, s.bytes);
  if (first) unpoison(b + kStaticRoom, w.dyn_bytes);
  raw_set(b + kStaticRoom, 0xff, w.dyn_bytes);
#ifndef HAS_ASAN
  if (first) raw_set(b + kStaticRoom + w.dyn_bytes, 0xA5, 4096);
#endif
}
static const char* arena_check() {
#ifndef HAS_ASAN
  Worker& w = *tw; static thread_local char m[200]; const unsigned char* b = (const unsigned char*)arena_base();
  auto bad = [&](uint32_t lo, uint32_t hi) { for (uint32_t i = lo; i < hi; ++i) if (b[i] != 0xA5) return (int)i; return -1; };
  uint32_t prev = 0; const char* pn = "start";
  for (Slot& s : w.slots) {
    int i = bad(prev, s.off); if (i >= 0) { snprintf(m, sizeof m, "write outside shared arrays: %d bytes past the end of '%s'", i - (int)prev, pn); return m; }
    prev = s.off + s.bytes; pn = s.name;
  }
  int i = bad(prev, prev + kRed); if (i >= 0) { snprintf(m, sizeof m, "write outside shared arrays: %d bytes past the end of '%s'", i - (int)prev, pn); return m; }
  i = bad(kStaticRoom + w.dyn_bytes, kStaticRoom + w.dyn_bytes + 4096); if (i >= 0) { snprintf(m, sizeof m, "write %d bytes past the end of dynamic shared memory (%u bytes)", i - (int)(kStaticRoom + w.dyn_bytes), w.dyn_bytes); return m; }
#endif
  return nullptr;
}

// ---------------------------------------------------------------- cp.async
static void cp_do(const CpAsync& c) {
  memcpy(c.dst, c.src, c.src_bytes);
  if (c.src_bytes < c.bytes) memset((char*)c.dst + c.src_bytes, 0, c.bytes - c.src_bytes);
}
void cp_async(void* dst, const void* src, uint32_t bytes, uint32_t src_bytes, Site s) {
  if (src_bytes && (uintptr_t)src % bytes) fatal_at(s, "cp.async: global address %p is not %u-byte aligned", src, bytes);
  if (is_shared(src, 1)) fatal_at(s, "cp.async: the source is in shared memory");
  Thread* t = self; CpAsync c{dst, src, bytes, src_bytes, s, t->cp_group};
#ifdef HAS_TSAN
  __tsan_write_range(dst, bytes);   // the copy may happen anywhere between here and the wait: both ends count
#endif
  if (early()) { cp_do(c); return; }         // as early as the hardware might
  if (t->cpq_n == 64) fatal_at(s, "emulator: more than 64 pending cp.async in one thread");
  t->cpq[t->cpq_n++] = c;                                             // as late as it might
}
void cp_async_commit() { self->cp_group++; }
void cp_async_wait(uint32_t keep) {
  Thread* t = self; uint32_t n = 0;
  for (uint32_t i = 0; i < t->cpq_n; ++i) {
    CpAsync c = t->cpq[i];
    if (c.group < t->cp_group && t->cp_group - c.group > keep) cp_do(c); else t->cpq[n++] = c;
  }
  t->cpq_n = n;
}

// ---------------------------------------------------------------- Hopper
#include "sm90.inc"

// ---------------------------------------------------------------- fibers and launch
static void fiber_main() {
#ifdef HAS_ASAN
  { const void* lo; size_t sz; __sanitizer_finish_switch_fiber(nullptr, &lo, &sz);
    if (!tw->host_lo) { tw->host_lo = lo; tw->host_sz = sz; } }
#endif
  Worker& w = *tw; Thread* me = self;
  hb_acquire(&w.hb_start);
  w.kern->thunk(w.params);
  if (me->warp->nwg && g_opt.strict) fatal("thread exits with %d wgmma not waited for", me->warp->nwg);
  if (me->cpq_n && g_opt.strict) fatal_at(me->cpq[0].site, "thread exits with %u cp.async not waited for", me->cpq_n);
  me->st = St::exited; me->warp->exited |= 1u << me->lane; --w.alive;
  hb_release(&w.hb_end);
  lane_exits(*me->warp, 1u << me->lane);
  Barrier& b = w.bars[0];
  if (b.arrived && b.need == 0) {
    if (g_opt.strict) fatal("thread exits while %u thread(s) wait in __syncthreads at line %d", b.arrived, b.site.line);
    if (b.arrived == w.alive) release_barrier(b, nullptr);
  }
  Thread* nx = pick();
  go(&me->sp, me, nx, true);
  abort();
}

static void describe_deadlock() {
  Worker& w = *tw; char* m = w.msg; size_t n = sizeof w.msg;
  int k = snprintf(m, n, "deadlock in kernel %s, block (%u,%u,%u):", w.kern->name, blk.bid.x, blk.bid.y, blk.bid.z);
  unsigned shown = 0;
  for (unsigned i = 0; i < w.nthreads && shown < 6; ++i) {
    Thread& t = w.th[i];
    bool same = i && w.th[i - 1].st == t.st && w.th[i - 1].site.line == t.site.line && t.st != St::exited;
    if (t.st == St::exited || same) continue;
    k += snprintf(m + k, n - k, " [from thread %u: %s at %s:%d]", i, t.st == St::at_barrier ? "barrier" : t.st == St::polling ? "mbarrier wait" : op_name(t.op), t.site.file, t.site.line); ++shown;
  }
}

static bool run_block(uint3 bid, dim3 grid, dim3 block, bool first) {
  Worker& w = *tw;
  blk.bid = bid; blk.bdim = {block.x, block.y, block.z}; blk.gdim = {grid.x, grid.y, grid.z};
  w.nthreads = w.alive = block.x * block.y * block.z; w.nwarps = (w.nthreads + 31) / 32;
  memset(w.ready, 0, sizeof w.ready); w.ready_warps = 0; w.cur = 0; w.failed = false; w.code = 719; w.polls = 0; w.nops = 0; w.nmw = 0;
  for (Barrier& b : w.bars) { b.arrived = 0; b.need = 0; b.nwait = 0; }
#ifdef HAS_TSAN
  // Blocks are unordered: new fibers, and shared memory and stacks without history (mmap clears the shadow).
  w.host_tsan = __tsan_get_current_fiber();
  const bool across = g_opt.race_across_blocks;
  if (!across) hb_acquire(&w.hb_end);
  else {
  mmap(w.arena + 4096, kArena, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  mmap(w.stacks, kStack * w.nthreads, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
  for (auto& t : w.th) if (t.tsan) { __tsan_destroy_fiber(t.tsan); t.tsan = nullptr; }
  first = true;
  }
#endif
  arena_prepare(first);
  for (unsigned i = 0; i < w.nwarps; ++i) { w.prio[i] = (uint8_t)rng(); w.warps[i].exists = w.warps[i].exited = w.warps[i].waiting = 0; w.warps[i].ng = 0; w.warps[i].nwg = 0; w.warps[i].wg_group = 0; }
  for (unsigned i = 0; i < w.nthreads; ++i) {
    Thread& t = w.th[i];
    t.linear = i; t.lane = i & 31; t.tid = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
    t.warp = &w.warps[i >> 5]; t.warp->lane[t.lane] = &t; t.warp->exists |= 1u << t.lane;
    t.cpq_n = 0; t.cp_group = 0; t.fake = nullptr; t.op = Op::none; t.mask = 0;
#ifdef HAS_ASAN
    unpoison(t.stack_lo + kStack - 32768, 32768);
#endif
    // stagger the stack tops so that equal frames of different fibers fall into different cache sets
    t.sp = ctx_make(t.stack_lo + kStack - 64 * ((i * 7) % 61) - 64, fiber_main);
#ifdef HAS_TSAN
    if (!t.tsan) { char nm[64]; snprintf(nm, sizeof nm, "block %u,%u thread %u", bid.x, bid.y, i); t.tsan = __tsan_create_fiber(0); __tsan_set_fiber_name(t.tsan, nm); }
#endif
    make_ready(&t);
  }
  hb_release(&w.hb_start);
  Thread* nx = pick();
  go(&w.host_sp, nullptr, nx, false);
  self = nullptr;
#ifdef HAS_TSAN
  if (w.failed || w.alive) {                   // abandoned fibers: order them before the host all the same
    for (unsigned i = 0; i < w.nthreads; ++i) if (w.th[i].st != St::exited) { __tsan_switch_to_fiber(w.th[i].tsan, 1); __tsan_release(&w.hb_end); }
    __tsan_switch_to_fiber(w.host_tsan, 1);
  }
#endif
  if (w.failed) return false;
  if (w.alive) { describe_deadlock(); w.failed = true; return false; }
  if (const char* c = arena_check()) { snprintf(w.msg, sizeof w.msg, "kernel %s, block (%u,%u,%u): %s", w.kern->name, bid.x, bid.y, bid.z, c); w.failed = true; return false; }
  return true;
}

// A wild access inside a fiber becomes a failed launch instead of a dead process.
static struct sigaction old_segv, old_bus, old_fpe;
static void on_segv(int sig, siginfo_t* si, void*) {
  static __thread int nested;
  if (!self || !tw || nested) { sigaction(sig, sig == SIGSEGV ? &old_segv : sig == SIGBUS ? &old_bus : &old_fpe, nullptr); return; }   // not ours, or beyond repair
  struct Guard { Guard() { nested = 1; } } guard; (void)guard;
  char* a = (char*)si->si_addr;
  const char* what = "illegal memory access";
  tw->code = sig == SIGFPE ? 719 : 700;
  if (sig == SIGFPE) what = "integer division by zero";
  else if (a >= tw->stacks && a < tw->stacks + kStack * 1024) what = "fiber stack overflow";
  else if (a >= arena_base() - 4096 && a < arena_base() + kArena + 4096) what = "shared memory access far out of bounds";
  char m[300]; coords(m, sizeof m); nested = 0;
  snprintf(tw->msg, sizeof tw->msg, "%s: %s at address %p", m, what, (void*)a);
  leave_failed();
}
#ifdef HAS_ASAN
static void on_asan(const char*) { char c[256]; coords(c, sizeof c); fprintf(stderr, "CUDA coordinates: %s\n", c); }
#endif
static std::mutex g_launch_mu, g_pool_mu;
static std::vector<Worker*>& g_pool = *new std::vector<Worker*>;   // never destroyed: stacks and arenas outlive OS threads
static Worker* take_worker() {
  std::lock_guard<std::mutex> g(g_pool_mu);
  if (g_pool.empty()) return new Worker;
  Worker* w = g_pool.back(); g_pool.pop_back(); return w;
}
static void give_worker(Worker* w) { std::lock_guard<std::mutex> g(g_pool_mu); g_pool.push_back(w); }

static Kernel* g_head = nullptr;
void register_kernel(Kernel* k) { k->next = g_head; g_head = k; }
const Kernel* kernel_list() { return g_head; }
const Kernel* find_kernel(const char* module, const char* name) { for (Kernel* k = g_head; k; k = k->next) if (!strcmp(k->name, name) && !strcmp(k->module, module)) return k; return nullptr; }

int refuse_launch(const Kernel* k, dim3 grid, dim3 block, uint32_t dyn, LaunchResult* out) {
  auto bad = [&](const char* why) { snprintf(out->msg, sizeof out->msg, "launch of %s refused: %s", k->name, why); return out->code = 1; };
  out->code = 0; out->msg[0] = 0;
  uint64_t nt = (uint64_t)block.x * block.y * block.z;
  if (!grid.x || !grid.y || !grid.z || !nt) return bad("empty grid or block");
  if (nt > 1024 || block.x > 1024 || block.y > 1024 || block.z > 64) return bad("block exceeds 1024 threads (or 1024,1024,64)");
  if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) return bad("grid exceeds (2^31-1, 65535, 65535)");
  if (k->max_threads && nt > (uint64_t)k->max_threads) return bad("block exceeds the kernel's __launch_bounds__");
  if (dyn > g_opt.smem_limit) return bad("dynamic shared memory exceeds the limit");
  return 0;
}

int launch(const Kernel* k, dim3 grid, dim3 block, uint32_t dyn, void** params, LaunchResult* out) {
  std::call_once(tab_once, [] { fill_tab();
#ifdef HAS_ASAN
    __asan_set_error_report_callback(on_asan);
#endif
  });
  if (int code = refuse_launch(k, grid, block, dyn, out)) return code;
  std::lock_guard<std::mutex> lk(g_launch_mu);
  struct sigaction sa; memset(&sa, 0, sizeof sa); sa.sa_sigaction = on_segv; sa.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
#if !defined(HAS_ASAN) && !defined(HAS_TSAN)
  sigaction(SIGSEGV, &sa, &old_segv); sigaction(SIGBUS, &sa, &old_bus); sigaction(SIGFPE, &sa, &old_fpe);
#endif
  uint64_t nb = (uint64_t)grid.x * grid.y * grid.z;
  std::atomic<uint64_t> next{0}; std::atomic<bool> stop{false}; std::mutex mu;
  std::vector<uint32_t> order;
  uint64_t seed = g_opt.seed * 0x9E3779B97F4A7C15ull + 1;
  if (g_opt.order && nb < (1u << 22)) {                     // blocks too run in no particular order
    order.resize(nb); for (uint64_t i = 0; i < nb; ++i) order[i] = (uint32_t)i;
    uint64_t s = seed; for (uint64_t i = nb; i > 1; --i) { s ^= s << 13; s ^= s >> 7; s ^= s << 17; std::swap(order[i - 1], order[s % i]); }
  }
  auto work = [&](int wi) {
    static thread_local std::vector<char> alt;
    alt.resize(65536);
    stack_t ss{}, oldss{}; ss.ss_sp = alt.data(); ss.ss_size = alt.size(); sigaltstack(&ss, &oldss);
    tw = take_worker(); Worker& w = *tw;
    w.kern = k; w.params = params; w.dyn_bytes = dyn; w.s = seed + 7919 * (uint64_t)(wi + 1); if (!w.s) w.s = 1; w.host_lo = nullptr;
    bool first = true;
    while (!stop) {
      uint64_t i = next++; if (i >= nb) break;
      if (!order.empty()) i = order[i];
      uint3 b{(unsigned)(i % grid.x), (unsigned)(i / grid.x % grid.y), (unsigned)(i / ((uint64_t)grid.x * grid.y))};
      if (!run_block(b, grid, block, first)) {
        std::lock_guard<std::mutex> g(mu);
        if (!stop) { stop = true; out->code = w.code; memcpy(out->msg, w.msg, sizeof out->msg); }
      }
      first = false;
    }
#ifdef HAS_ASAN
    unpoison(arena_base(), kArena);
#endif
    hb_acquire(&w.hb_end);                     // only now: the host sees the whole grid
    sigaltstack(&oldss, nullptr);
    give_worker(tw); tw = nullptr;
  };
  int nw = g_opt.workers ? g_opt.workers : (int)std::thread::hardware_concurrency();
  if ((uint64_t)nw > nb) nw = (int)nb;
#ifdef HAS_TSAN
  nw = 1;
#endif
  std::vector<std::thread> ts;
  for (int i = 1; i < nw; ++i) ts.emplace_back(work, i);
  work(0);
  for (auto& t : ts) t.join();
#if !defined(HAS_ASAN) && !defined(HAS_TSAN)
  sigaction(SIGSEGV, &old_segv, nullptr); sigaction(SIGBUS, &old_bus, nullptr); sigaction(SIGFPE, &old_fpe, nullptr);
#endif
  return out->code;
}
}  // namespace emu
