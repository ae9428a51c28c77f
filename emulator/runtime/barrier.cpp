// Barriers of a block: __syncthreads is number 0 with every thread, named barriers say how many take part.
#include <cstring>

#include "worker.h"

namespace emu {

namespace {

bool same_place(const Site& a, const Site& b) { return a.line == b.line && !strcmp(a.file, b.file); }

void release(Barrier& barrier, const Thread* last) {
  if (!barrier.need) hb_barrier();
  worker->polls = 0;
  for (unsigned i = 0; i < barrier.waiting_count; ++i) {
    if (barrier.waiting[i] != last) make_ready(barrier.waiting[i]);
  }
  barrier.waiting_count = 0;
  barrier.arrived = 0;
  barrier.need = 0;
}

void check_arrival(const Barrier& barrier, int id, unsigned count, Site site) {
  const Worker& w = *worker;
  if (count == 0 && options().strict && w.alive != w.thread_count) {
    fatal_at(site, "__syncthreads after %u thread(s) of the block have exited", w.thread_count - w.alive);
  }
  if (!barrier.arrived) return;
  if (barrier.need != count) fatal_at(site, "barrier %d joined with count %u, others use %u", id, count, barrier.need);
  if (count == 0 && !same_place(barrier.site, site)) {
    fatal_at(site, "divergent __syncthreads: thread %u waits at line %d", barrier.waiting[0]->linear, barrier.site.line);
  }
}

}  // namespace

void block_barrier(int id, unsigned count, bool wait, Site site) {
  Worker& w = *worker;
  Thread* me = self;
  if (id < 0 || id >= static_cast<int>(kMaxBarriers)) fatal_at(site, "barrier id %d out of range", id);
  if (count % kWarp) fatal_at(site, "barrier count %u is not a multiple of the warp size", count);
  Barrier& barrier = w.barriers[id];
  check_arrival(barrier, id, count, site);
  if (!barrier.arrived) {
    barrier.site = site;
    barrier.need = count;
    barrier.turn = (barrier.turn + 1) % Barrier::kOrders;
    if (count) hb_forget(&barrier.orders[barrier.turn]);
  }
  int* order = &barrier.orders[barrier.turn];
  if (count) hb_release(order);
  ++barrier.arrived;
  if (barrier.arrived == (count ? count : w.alive)) {
    release(barrier, me);
    if (count && wait) hb_acquire(order);
    return;
  }
  if (!wait) return;
  barrier.waiting[barrier.waiting_count++] = me;
  me->state = ThreadState::at_barrier;
  me->site = site;
  block_self();
  if (count) hb_acquire(order);
}

void exit_from_barrier() {
  Barrier& barrier = worker->barriers[0];
  if (!barrier.arrived || barrier.need) return;
  if (options().strict) {
    fatal("thread exits while %u thread(s) wait in __syncthreads at line %d", barrier.arrived, barrier.site.line);
  }
  if (barrier.arrived == worker->alive) release(barrier, nullptr);
}

}  // namespace emu
