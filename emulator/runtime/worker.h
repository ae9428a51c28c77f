// A host thread that runs blocks, one at a time: the block's threads, warps, barriers and shared memory, and the
// scheduling between them.
#pragma once
#include <cstdint>
#include <vector>

#include "fiber.h"
#include "runtime.h"
#include "sanitizers.h"

namespace emu {

constexpr unsigned kMaxThreads = 1024;
constexpr unsigned kMaxWarps = kMaxThreads / kWarp;
constexpr unsigned kMaxBarriers = 16;
constexpr unsigned kMaxBulkCopies = 256;
constexpr unsigned kMaxWgmma = 32;
constexpr size_t kPage = 4096;
constexpr size_t kStackSize = (kHasAsan ? 256 : 64) * 1024;

// The arena of shared memory: static arrays with gaps between them, then dynamic memory of the launched size.
constexpr uint32_t kArena = 512 * 1024;
constexpr uint32_t kStaticRoom = 128 * 1024;
constexpr uint32_t kMaxStatic = 48 * 1024;
constexpr uint32_t kSharedBias = 1024;        // the first 32-bit shared address; 0 is never one
constexpr uint32_t kGap = 128;
constexpr uint32_t kDynamicGap = 4096;        // watched bytes behind dynamic memory
constexpr unsigned char kGapByte = 0xa5;
constexpr unsigned char kPoisonByte = 0xff;   // NaN in every float type: shared memory is not zero

enum : int { kCodeInvalidValue = 1, kCodeIllegalAddress = 700, kCodeLaunchFailed = 719 };

// A named barrier's phases have happens-before objects of their own, used in turn: threads that take part in one phase are
// not ordered behind those of another, nor before a thread that has yet to leave this one.
struct Barrier {
  static constexpr unsigned kOrders = 64;
  unsigned arrived = 0;
  unsigned need = 0;
  Site site{"", 0};
  Thread* waiting[kMaxThreads];
  unsigned waiting_count = 0;
  int orders[kOrders];
  unsigned turn = 0;
};

// A rendezvous of lanes in progress; a warp has more than one only while it is diverged.
struct Rendezvous {
  Op op;
  uint32_t mask;
  uint32_t want;
  uint32_t here;
  int order;
};

// A wgmma that is not performed yet: the accumulators of the 32 lanes of one warp.
struct PendingWgmma {
  float* d[kWarp];
  uint64_t a, b;
  int n;
  uint32_t warp_rank;
  uint32_t group;
};

struct Warp {
  static constexpr unsigned kOrders = 64;
  Thread* lane[kWarp];
  uint32_t exists = 0;
  uint32_t exited = 0;
  Rendezvous rendezvous[kWarp];
  unsigned rendezvous_count = 0;
  int orders[kOrders];
  unsigned next_order = 0;
  PendingWgmma wgmma[kMaxWgmma];
  unsigned wgmma_count = 0;
  uint32_t wgmma_group = 0;
};

// A bulk copy that the copy engine has not performed yet. The map is copied at issue: as a kernel parameter it dies
// with its thread here, not on a GPU.
struct BulkCopy {
  uint32_t to;
  char map[128];
  uint64_t* barrier;
  int x, y;
};

struct StaticArray {
  const void* tag;
  uint32_t offset, bytes;
  const char* name;
};

struct Worker {
  Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  Thread threads[kMaxThreads];
  Warp warps[kMaxWarps];
  Barrier barriers[kMaxBarriers];
  char* stacks = nullptr;
  char* arena = nullptr;  // between two guard pages

  const Kernel* kernel = nullptr;
  void** params = nullptr;
  uint32_t dynamic_bytes = 0;
  std::vector<StaticArray> arrays;
  uint32_t static_top = 0;
  uint32_t static_bytes = 0;

  unsigned thread_count = 0;
  unsigned warp_count = 0;
  unsigned alive = 0;
  uint32_t ready[kMaxWarps];  // lanes that can run, and the warps that have some
  uint32_t ready_warps = 0;
  unsigned current_warp = 0;
  uint8_t priority[kMaxWarps];
  uint64_t random = 1;
  uint64_t polls = 0;  // since something last moved on

  BulkCopy bulk[kMaxBulkCopies];
  unsigned bulk_count = 0;
  int issue_order = 0;
  Thread* at_mbarrier[kMaxThreads];
  unsigned at_mbarrier_count = 0;

  bool failed = false;
  int code = kCodeLaunchFailed;
  char message[2048];

  void* host_stack_pointer = nullptr;
  void* host_fake_stack = nullptr;
  const void* host_stack = nullptr;
  size_t host_stack_size = 0;
};

extern __thread Worker* worker;

// ---- scheduler.cpp
uint64_t draw();
// Whether an asynchronous operation is performed when it is issued; if not, at the latest moment allowed.
bool performs_early();
Thread* pick();
// Gives the host thread to another fiber; returns when this one is picked again.
void block_self();
// Leaves the running fiber for `to`, or for the host if null.
void switch_to(void** save, Thread* from, Thread* to, bool dying);

inline void make_ready(Thread* thread) {
  unsigned warp = thread->linear / kWarp;
  thread->state = ThreadState::ready;
  worker->ready[warp] |= 1u << thread->lane;
  worker->ready_warps |= 1u << warp;
}

// ---- errors.cpp
void describe_place(char* text, size_t size);
void describe_deadlock();
[[noreturn]] void leave_failed();
void catch_faults();
void stop_catching_faults();
void install_asan_callback();

// ---- barrier.cpp, warp.cpp: what an exit does to those who wait
void exit_from_barrier();
void exit_from_warp(Warp&, uint32_t lane_bit);

// ---- matrix.cpp
void fill_half_table();
float half_to_float(uint16_t bits);
void run_ldmatrix(Warp&);
void run_mma(Op, Warp&);

// ---- wgmma.cpp
void issue_wgmma(Warp&);
void perform_wgmma(Warp&);

// ---- bulk.cpp: performs one pending bulk copy
void run_bulk_copy(unsigned index);

// ---- shared.cpp
char* shared_address(uint32_t offset);
// Fills the arena for a block; the layout of static arrays is kept within a launch.
void prepare_shared(bool first_block);
// What was written between and behind shared arrays; null if nothing.
const char* check_shared();

// ---- block.cpp
bool run_block(uint3 index, dim3 grid, dim3 block, bool first_block);

}  // namespace emu
