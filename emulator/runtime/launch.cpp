// Kernels by name, what the driver refuses to launch, and launches: blocks are spread over host threads, in an order
// that nothing may depend on.
#include <signal.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#include "worker.h"

namespace emu {

namespace {

Kernel* kernels = nullptr;
std::mutex launch_mutex;
std::mutex pool_mutex;
// Never destroyed: stacks and arenas outlive the host threads.
std::vector<Worker*>& pool = *new std::vector<Worker*>;

Worker* take_worker() {
  std::lock_guard<std::mutex> lock(pool_mutex);
  if (pool.empty()) return new Worker;
  Worker* taken = pool.back();
  pool.pop_back();
  return taken;
}

void give_worker(Worker* w) {
  std::lock_guard<std::mutex> lock(pool_mutex);
  pool.push_back(w);
}

// A stack for the fault handler, as fibers may have overflown theirs.
class SignalStack {
 public:
  SignalStack() {
    static thread_local std::vector<char> memory(64 * 1024);
    stack_t mine{};
    mine.ss_sp = memory.data();
    mine.ss_size = memory.size();
    sigaltstack(&mine, &before_);
  }
  ~SignalStack() { sigaltstack(&before_, nullptr); }
  SignalStack(const SignalStack&) = delete;
  SignalStack& operator=(const SignalStack&) = delete;

 private:
  stack_t before_{};
};

// Blocks by their turn; shuffled unless the order is plain or there are too many to list.
std::vector<uint32_t> shuffled_blocks(uint64_t blocks, uint64_t seed) {
  constexpr uint64_t kMaxListed = 1u << 22;
  std::vector<uint32_t> order;
  if (options().order == kInOrder || blocks >= kMaxListed) return order;
  order.resize(blocks);
  for (uint64_t i = 0; i < blocks; ++i) order[i] = static_cast<uint32_t>(i);
  uint64_t s = seed;
  for (uint64_t i = blocks; i > 1; --i) {
    s ^= s << 13;
    s ^= s >> 7;
    s ^= s << 17;
    std::swap(order[i - 1], order[s % i]);
  }
  return order;
}

unsigned worker_count(uint64_t blocks) {
  if (kFindsRaces) return 1;  // the race detector's tables have one user
  uint64_t wanted = options().workers ? static_cast<uint64_t>(options().workers) : std::thread::hardware_concurrency();
  return static_cast<unsigned>(wanted < blocks ? wanted : blocks);
}

struct Launch {
  const Kernel* kernel;
  dim3 grid, block;
  uint32_t dynamic_shared;
  void** params;
  LaunchResult* result;
  uint64_t blocks;
  uint64_t seed;
  std::vector<uint32_t> order;
  std::atomic<uint64_t> next{0};
  std::atomic<bool> stopped{false};
  std::mutex result_mutex;

  uint3 block_index(uint64_t turn) const {
    uint64_t i = order.empty() ? turn : order[turn];
    return {static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
            static_cast<unsigned>(i / (static_cast<uint64_t>(grid.x) * grid.y))};
  }

  void fail() {
    std::lock_guard<std::mutex> lock(result_mutex);
    if (stopped.exchange(true)) return;
    result->code = worker->code;
    memcpy(result->msg, worker->message, sizeof result->msg);
  }

  void work(unsigned rank) {
    SignalStack signal_stack;
    worker = take_worker();
    Worker& w = *worker;
    w.kernel = kernel;
    w.params = params;
    w.dynamic_bytes = dynamic_shared;
    w.random = (seed + 7919 * (uint64_t{rank} + 1)) | 1;
    w.host_stack = nullptr;
    bool first_block = true;
    for (uint64_t turn = next++; turn < blocks && !stopped; turn = next++) {
      if (!run_block(block_index(turn), grid, block, first_block)) fail();
      first_block = false;
    }
    unpoison(w.arena, kArena);
    give_worker(worker);
    worker = nullptr;
  }
};

}  // namespace

void register_kernel(Kernel* kernel) {
  kernel->next = kernels;
  kernels = kernel;
}

const Kernel* kernel_list() { return kernels; }

const Kernel* find_kernel(const char* module, const char* name) {
  for (const Kernel* k = kernels; k; k = k->next) {
    if (!strcmp(k->name, name) && !strcmp(k->module, module)) return k;
  }
  return nullptr;
}

int refuse_launch(const Kernel* kernel, dim3 grid, dim3 block, uint32_t dynamic_shared, LaunchResult* result) {
  constexpr unsigned kMaxGridX = 0x7fffffff, kMaxGridYZ = 65535, kMaxBlockZ = 64;
  auto refuse = [&](const char* why) {
    snprintf(result->msg, sizeof result->msg, "launch of %s with grid (%u,%u,%u), block (%u,%u,%u), %u bytes refused: %s",
             kernel->name, grid.x, grid.y, grid.z, block.x, block.y, block.z, dynamic_shared, why);
    return result->code = kCodeInvalidValue;
  };
  result->code = 0;
  result->msg[0] = 0;
  uint64_t threads = static_cast<uint64_t>(block.x) * block.y * block.z;
  if (!grid.x || !grid.y || !grid.z || !threads) return refuse("empty grid or block");
  if (block.x > kMaxThreads || block.y > kMaxThreads || block.z > kMaxBlockZ || threads > kMaxThreads) {
    return refuse("a block has at most 1024 threads and dimensions (1024,1024,64)");
  }
  if (grid.x > kMaxGridX || grid.y > kMaxGridYZ || grid.z > kMaxGridYZ) {
    return refuse("a grid has at most dimensions (2147483647,65535,65535)");
  }
  if (kernel->max_threads && threads > static_cast<uint64_t>(kernel->max_threads)) {
    return refuse("more threads than the kernel's __launch_bounds__");
  }
  if (dynamic_shared > options().smem_limit) return refuse("more dynamic shared memory than a block can have");
  return 0;
}

int launch(const Kernel* kernel, dim3 grid, dim3 block, uint32_t dynamic_shared, void** params, LaunchResult* result) {
  if (int code = refuse_launch(kernel, grid, block, dynamic_shared, result)) return code;
  fill_half_table();
  install_asan_callback();
  std::lock_guard<std::mutex> lock(launch_mutex);
  uint64_t blocks = static_cast<uint64_t>(grid.x) * grid.y * grid.z;
  uint64_t seed = options().seed * 0x9e3779b97f4a7c15ull + 1;
  Launch job{kernel, grid, block, dynamic_shared, params, result, blocks, seed, shuffled_blocks(blocks, seed), {}, {}, {}};
  catch_faults();
  hb_launch();
  std::vector<std::thread> helpers;
  for (unsigned rank = 1; rank < worker_count(blocks); ++rank) helpers.emplace_back([&job, rank] { job.work(rank); });
  job.work(0);
  for (std::thread& helper : helpers) helper.join();
  stop_catching_faults();
  return result->code;
}

}  // namespace emu
