// One block, from its threads' start to its end.
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "worker.h"

namespace emu {

namespace {

void* map(size_t bytes, int access, int flags = 0, void* where = nullptr) {
  void* got = mmap(where, bytes, access, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
  if (got == MAP_FAILED) {
    perror("emulator: mmap");
    abort();
  }
  return got;
}

void check_nothing_pending(const Thread& thread) {
  if (!options().strict) return;
  if (thread.warp->wgmma_count) fatal("thread exits with %u wgmma not waited for", thread.warp->wgmma_count);
  if (thread.copy_count) {
    fatal_at(thread.copies[0].site, "thread exits with %u cp.async not waited for", thread.copy_count);
  }
}

// What a fiber runs, on its own stack.
void thread_main() {
#ifdef EMU_ASAN
  const void* stack;
  size_t size;
  __sanitizer_finish_switch_fiber(nullptr, &stack, &size);
  if (!worker->host_stack) {
    worker->host_stack = stack;
    worker->host_stack_size = size;
  }
#endif
  Worker& w = *worker;
  Thread* me = self;
  w.kernel->call(w.params);
  check_nothing_pending(*me);
  me->state = ThreadState::exited;
  me->warp->exited |= 1u << me->lane;
  --w.alive;
  exit_from_warp(*me->warp, 1u << me->lane);
  exit_from_barrier();
  switch_to(&me->stack_pointer, me, pick(), true);
  abort();
}

void reset_worker(dim3 block) {
  Worker& w = *worker;
  w.thread_count = w.alive = block.x * block.y * block.z;
  w.warp_count = (w.thread_count + kWarp - 1) / kWarp;
  memset(w.ready, 0, sizeof w.ready);
  w.ready_warps = 0;
  w.current_warp = 0;
  w.polls = 0;
  w.bulk_count = 0;
  w.at_mbarrier_count = 0;
  w.failed = false;
  w.code = kCodeLaunchFailed;
  for (Barrier& barrier : w.barriers) barrier.arrived = barrier.need = barrier.waiting_count = 0;
  for (unsigned i = 0; i < w.warp_count; ++i) {
    Warp& warp = w.warps[i];
    warp.exists = warp.exited = 0;
    warp.rendezvous_count = 0;
    warp.wgmma_count = 0;
    warp.wgmma_group = 0;
    w.priority[i] = static_cast<uint8_t>(draw());
  }
}

// Stack tops are staggered so that equal frames of different threads fall into different cache sets.
char* stack_top(const Thread& thread) { return thread.stack + kStackSize - 64 * (thread.linear * 7 % 61) - 64; }

void start_thread(unsigned linear, dim3 block) {
  Worker& w = *worker;
  Thread& thread = w.threads[linear];
  thread.linear = linear;
  thread.lane = linear % kWarp;
  thread.tid = {linear % block.x, linear / block.x % block.y, linear / (block.x * block.y)};
  thread.warp = &w.warps[linear / kWarp];
  thread.warp->lane[thread.lane] = &thread;
  thread.warp->exists |= 1u << thread.lane;
  thread.copy_count = 0;
  thread.copy_group = 0;
  thread.op = Op::none;
  thread.mask = 0;
  thread.asan_fake_stack = nullptr;
  constexpr size_t kUsedStack = 32 * 1024;
  unpoison(thread.stack + kStackSize - kUsedStack, kUsedStack);
  thread.stack_pointer = make_context(stack_top(thread), thread_main);
  make_ready(&thread);
}

}  // namespace

Worker::Worker() {
  constexpr size_t kExpectedArrays = 256;
  arrays.reserve(kExpectedArrays);
  stacks = static_cast<char*>(map(kStackSize * kMaxThreads, PROT_READ | PROT_WRITE, MAP_NORESERVE));
  arena = static_cast<char*>(map(kArena + 2 * kPage, PROT_NONE)) + kPage;
  mprotect(arena, kArena, PROT_READ | PROT_WRITE);
  watch(arena, kArena);
  for (unsigned i = 0; i < kMaxThreads; ++i) {
    threads[i].stack = stacks + kStackSize * i;
    threads[i].stack_size = kStackSize;
    mprotect(threads[i].stack, kPage, PROT_NONE);
  }
}

bool run_block(uint3 index, dim3 grid, dim3 block, bool first_block) {
  Worker& w = *worker;
  blk.bid = index;
  blk.bdim = {block.x, block.y, block.z};
  blk.gdim = {grid.x, grid.y, grid.z};
  reset_worker(block);
  hb_block();
  prepare_shared(first_block);
  for (unsigned i = 0; i < w.thread_count; ++i) start_thread(i, block);
  switch_to(&w.host_stack_pointer, nullptr, pick(), false);
  self = nullptr;
  if (w.failed) return false;
  if (w.alive) {
    describe_deadlock();
    return false;
  }
  const char* outside = check_shared();
  if (!outside) return true;
  snprintf(w.message, sizeof w.message, "kernel %s, block (%u,%u,%u): %s", w.kernel->name, index.x, index.y, index.z,
           outside);
  return false;
}

}  // namespace emu
