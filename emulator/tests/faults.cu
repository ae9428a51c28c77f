// Planted faults: each kernel reverses 256 floats with one fault in it, which tests/emulator/faults.rs expects the
// emulator's builds to notice.
//
//   in, out: float [n], n = 256; one block of 256 threads; oob_dyn_write takes n floats of dynamic memory, block_race and
//   fence_* two blocks, *_relay three, and fence_* n + 2 floats behind the output
#include "device.cuh"

extern "C" __global__ void __launch_bounds__(256) ok_reverse(const float* in, float* out, int n) {
  SHARED(float, s, [256]);
  s[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = s[255 - threadIdx.x];
}

// ---- out of bounds

extern "C" __global__ void __launch_bounds__(256) oob_global_write(const float* in, float* out, int n) {
  out[threadIdx.x] = in[255 - threadIdx.x];
  if (threadIdx.x == 255) out[n] = 1.0f;
}

extern "C" __global__ void __launch_bounds__(256) oob_global_read(const float* in, float* out, int n) {
  float v = in[255 - threadIdx.x];
  if (threadIdx.x == 255) v += 0.0f * in[n];
  out[threadIdx.x] = v;
}

extern "C" __global__ void __launch_bounds__(256) oob_shared_write(const float* in, float* out, int n) {
  SHARED(float, s, [256]);
  s[threadIdx.x] = in[threadIdx.x];
  if (threadIdx.x == 7) {
    float* p = s;
    p[n] = 1.0f;
  }
  __syncthreads();
  out[threadIdx.x] = s[255 - threadIdx.x];
}

extern "C" __global__ void __launch_bounds__(256) oob_dyn_write(const float* in, float* out, int n) {
  DYN_SHARED(float, s);
  s[threadIdx.x] = in[threadIdx.x];
  if (threadIdx.x == 7) s[n] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = s[255 - threadIdx.x];
}

extern "C" __global__ void __launch_bounds__(256) oob_shared_read(const float* in, float* out, int n) {
  SHARED(float, s, [256]);
  s[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  const float* p = s;
  float v = s[255 - threadIdx.x];
  if (threadIdx.x == 3 && p[n] > 1e30f) v += 1.0f;
  out[threadIdx.x] = v;
}

extern "C" __global__ void __launch_bounds__(256) misaligned_vec(const float* in, float* out, int n) {
  const float4 v = *reinterpret_cast<const float4*>(in + (threadIdx.x == 9 ? 1 : 0));
  out[threadIdx.x] = in[255 - threadIdx.x] + v.x * 0.0f;
}

// ---- missing barriers

extern "C" __global__ void __launch_bounds__(256) missing_sync_raw(const float* in, float* out, int n) {
  SHARED(float, s, [256]);
  s[threadIdx.x] = in[threadIdx.x];
  out[threadIdx.x] = s[255 - threadIdx.x];
}

// Threads in ascending order never show it.
extern "C" __global__ void __launch_bounds__(256) missing_sync_left(const float* in, float* out, int n) {
  SHARED(float, s, [256]);
  s[threadIdx.x] = in[255 - threadIdx.x];
  out[threadIdx.x] = threadIdx.x ? s[threadIdx.x - 1] * 0.0f + in[255 - threadIdx.x] : s[0];
}

// The loop lacks its trailing barrier.
extern "C" __global__ void __launch_bounds__(256) missing_sync_war(const float* in, float* out, int n) {
  SHARED(float, s, [256]);
  float sum = 0.0f;
  for (int i = 0; i < 4; ++i) {
    s[threadIdx.x] = in[threadIdx.x] * (i == 3 ? 4.0f : -1.0f);
    __syncthreads();
    sum += s[255 - threadIdx.x];
  }
  out[threadIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(256) missing_syncwarp(const float* in, float* out, int n) {
  SHARED(float, s, [256]);
  s[threadIdx.x] = in[threadIdx.x ^ 224];
  out[threadIdx.x] = s[threadIdx.x ^ 31];
}

// A shuffle does not order memory.
extern "C" __global__ void __launch_bounds__(256) shfl_is_no_fence(const float* in, float* out, int n) {
  SHARED(float, s, [256]);
  s[threadIdx.x] = in[threadIdx.x ^ 224];
  (void)__shfl_sync(0xffffffffu, 1, 0);
  out[threadIdx.x] = s[threadIdx.x ^ 31];
}

// A named barrier orders who takes part in the same phase of it. The last phase is the third.
extern "C" __global__ void __launch_bounds__(256) barrier_of_others(const float* in, float* out, int n) {
  SHARED(float, s, [64]);
  const int role = threadIdx.x / 64;
  if (role == 0) s[threadIdx.x] = in[191 - threadIdx.x];
  if (role < 2) bar_sync(1, 64);
  if (role == 1) bar_sync(1, 64);
  out[threadIdx.x] = role == 1 ? s[threadIdx.x - 64] : in[255 - threadIdx.x];
}

// ---- divergence

extern "C" __global__ void __launch_bounds__(256) divergent_sync(const float* in, float* out, int n) {
  SHARED(float, s, [256]);
  s[threadIdx.x] = in[threadIdx.x];
  if (threadIdx.x < 128) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = s[255 - threadIdx.x];
}

extern "C" __global__ void __launch_bounds__(256) sync_after_exit(const float* in, float* out, int n) {
  SHARED(float, s, [256]);
  s[threadIdx.x] = in[threadIdx.x];
  if (threadIdx.x >= 255) {
    out[255] = in[0];
    return;
  }
  __syncthreads();
  out[threadIdx.x] = threadIdx.x ? s[255 - threadIdx.x] : in[255];
}

extern "C" __global__ void __launch_bounds__(256) full_mask_in_branch(const float* in, float* out, int n) {
  float v = in[255 - threadIdx.x];
  if (threadIdx.x % 32 < 16) v = __shfl_xor_sync(0xffffffffu, __shfl_xor_sync(0xffffffffu, v, 1), 1);
  out[threadIdx.x] = v;
}

// ---- asynchronous copies

extern "C" __global__ void __launch_bounds__(256) cp_async_no_wait(const float* in, float* out, int n) {
  SHARED_ALIGNED(16, float, s, [256]);
  if (threadIdx.x < 64) cp_async16(smem_u32(s + threadIdx.x * 4), in + threadIdx.x * 4, true);
  cp_async_commit();
  __syncthreads();
  out[threadIdx.x] = s[255 - threadIdx.x];
  cp_async_wait<0>();
}

// Waits for one group too few.
extern "C" __global__ void __launch_bounds__(256) cp_async_wait_one_off(const float* in, float* out, int n) {
  SHARED_ALIGNED(16, float, s, [256]);
  if (threadIdx.x < 64) cp_async16(smem_u32(s + threadIdx.x * 4), in + threadIdx.x * 4, true);
  cp_async_commit();
  cp_async_wait<1>();
  __syncthreads();
  out[threadIdx.x] = s[255 - threadIdx.x];
  cp_async_wait<0>();
}

// Waits, but each thread only for its own copies.
extern "C" __global__ void __launch_bounds__(256) cp_async_no_sync(const float* in, float* out, int n) {
  SHARED_ALIGNED(16, float, s, [256]);
  if (threadIdx.x < 64) cp_async16(smem_u32(s + threadIdx.x * 4), in + threadIdx.x * 4, true);
  cp_async_commit();
  cp_async_wait<0>();
  out[threadIdx.x] = s[255 - threadIdx.x];
}

// Refills a buffer that others still read.
extern "C" __global__ void __launch_bounds__(256) cp_async_overwrites(const float* in, float* out, int n) {
  SHARED_ALIGNED(16, float, s, [256]);
  s[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  if (threadIdx.x < 64) cp_async16(smem_u32(s + threadIdx.x * 4), in, true);
  cp_async_commit();
  const float v = s[255 - threadIdx.x];
  cp_async_wait<0>();
  __syncthreads();
  out[threadIdx.x] = v;
}

extern "C" __global__ void __launch_bounds__(256) cp_async_never_waited(const float* in, float* out, int n) {
  SHARED_ALIGNED(16, float, s, [256]);
  if (threadIdx.x < 64) cp_async16(smem_u32(s + threadIdx.x * 4), in + threadIdx.x * 4, true);
  cp_async_commit();
  out[threadIdx.x] = in[255 - threadIdx.x];
}

// A barrier between issue and wait does not order a copy that is made at issue.
extern "C" __global__ void __launch_bounds__(256) cp_async_sync_too_early(const float* in, float* out, int n) {
  SHARED_ALIGNED(16, float, s, [256]);
  if (threadIdx.x < 64) cp_async16(smem_u32(s + threadIdx.x * 4), in + threadIdx.x * 4, true);
  cp_async_commit();
  __syncthreads();
  cp_async_wait<0>();
  out[threadIdx.x] = s[255 - threadIdx.x];
}

extern "C" __global__ void __launch_bounds__(256) ldmatrix_misaligned(const float* in, float* out, int n) {
  SHARED_ALIGNED(16, float, s, [256]);
  s[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  uint32_t r[4];
  ldmatrix_x4(r, smem_u32(s) + threadIdx.x % 32 * 16 + 8);
  out[threadIdx.x] = s[255 - threadIdx.x] + static_cast<float>(r[0] & 0u);
}

// ---- memory that nobody wrote, or that several threads write

extern "C" __global__ void __launch_bounds__(256) uninit_shared(const float* in, float* out, int n) {
  SHARED(float, s, [256]);
  if (threadIdx.x < 255) s[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = s[255 - threadIdx.x];
}

extern "C" __global__ void __launch_bounds__(256) unwritten_output(const float* in, float* out, int n) {
  if (threadIdx.x != 77) out[threadIdx.x] = in[255 - threadIdx.x];
}

// All write the same value, but it is a race.
extern "C" __global__ void __launch_bounds__(256) race_global(const float* in, float* out, int n) {
  out[threadIdx.x] = in[255 - threadIdx.x];
  out[0] = in[255] + 0.0f * static_cast<float>(threadIdx.x);
}

// A counter that is not atomic.
extern "C" __global__ void __launch_bounds__(256) lost_update(const float* in, float* out, int n) {
  out[threadIdx.x] = in[255 - threadIdx.x];
  float* counter = out + n - 1;
  __syncthreads();
  *counter = *counter + 1.0f - 1.0f;
}

// The last to add reads the sum and does not know of the others; in `lost_sum_of_warps`, of its own warp alone.
extern "C" __global__ void __launch_bounds__(256) lost_sum(const float* in, float* out, int n) {
  SHARED(float, sum, [1]);
  if (threadIdx.x == 0) sum[0] = 0.0f;
  __syncthreads();
  const bool last = atomicAdd(sum, 1.0f) == 255.0f;
  out[threadIdx.x] = in[255 - threadIdx.x] + (last ? sum[0] * 0.0f : 0.0f);
}
extern "C" __global__ void __launch_bounds__(256) lost_sum_of_warps(const float* in, float* out, int n) {
  SHARED(float, sum, [1]);
  if (threadIdx.x == 0) sum[0] = 0.0f;
  __syncthreads();
  const bool last = atomicAdd(sum, 1.0f) == 255.0f;
  __syncwarp();
  out[threadIdx.x] = in[255 - threadIdx.x] + (last ? sum[0] * 0.0f : 0.0f);
}

// No barrier after the start; the thread that makes it adds first.
extern "C" __global__ void __launch_bounds__(256) sum_starts_late(const float* in, float* out, int n) {
  SHARED(float, sum, [1]);
  if (threadIdx.x == 0) sum[0] = 0.0f;
  atomicAdd(sum, 1.0f);
  __syncthreads();
  out[threadIdx.x] = in[255 - threadIdx.x] + sum[0] * 0.0f;
}

// Both blocks write everything.
extern "C" __global__ void __launch_bounds__(256) block_race(const float* in, float* out, int n) {
  out[threadIdx.x] = in[255 - threadIdx.x];
}

// ---- the rest

extern "C" __global__ void __launch_bounds__(256) spin_forever(const float* in, float* out, int n) {
  SHARED(int, flag, [1]);
  if (threadIdx.x == 0) flag[0] = 0;
  __syncthreads();
  while (atomicAdd(&flag[0], 0) == 0) __nanosleep(10);
  out[threadIdx.x] = in[255 - threadIdx.x];
}

extern "C" __global__ void __launch_bounds__(256) divide_by_zero(const float* in, float* out, int n) {
  const int divisor = n - 255 - (threadIdx.x == 200);
  out[threadIdx.x] = in[255 - threadIdx.x] + static_cast<float>(n / divisor) * 0.0f;
}

// ---- fences

namespace {
enum Fence { NONE, OF_BLOCK, OF_DEVICE };

DEV void fence(Fence which) {
  if (which == OF_BLOCK) __threadfence_block();
  if (which == OF_DEVICE) __threadfence();
}

// Each block leaves half of the input behind the output; the one that is last to count stores all of it. The counter, behind
// the halves, starts at its greatest value. `early`, `left` and `seen` are the
// fences of all threads, before and after a part is left and after the last block is known, `before` and `after` those of
// the thread that counts.
struct Steps {
  Fence early, left, before, after, seen;
  bool barrier;
};

DEV void hand_over(const float* in, float* out, int n, Steps steps) {
  SHARED(bool, last, [1]);
  float* const parts = out + n;
  fence(steps.early);
  if (threadIdx.x / 128 == blockIdx.x) parts[threadIdx.x] = in[threadIdx.x];
  fence(steps.left);
  if (steps.barrier) __syncthreads();
  if (threadIdx.x == 0) {
    fence(steps.before);
    last[0] = atomicAdd(reinterpret_cast<unsigned*>(parts + n), 1u) == 0;
    fence(steps.after);
  }
  __syncthreads();
  fence(steps.seen);
  if (last[0]) out[threadIdx.x] = parts[255 - threadIdx.x];
}
}  // namespace

extern "C" __global__ void __launch_bounds__(256) fence_right(const float* in, float* out, int n) {
  hand_over(in, out, n, {NONE, NONE, OF_DEVICE, OF_DEVICE, NONE, true});
}
extern "C" __global__ void __launch_bounds__(256) fence_by_all(const float* in, float* out, int n) {
  hand_over(in, out, n, {NONE, OF_DEVICE, NONE, NONE, OF_DEVICE, true});
}
extern "C" __global__ void __launch_bounds__(256) fence_missing_before(const float* in, float* out, int n) {
  hand_over(in, out, n, {NONE, NONE, NONE, OF_DEVICE, NONE, true});
}
extern "C" __global__ void __launch_bounds__(256) fence_missing_after(const float* in, float* out, int n) {
  hand_over(in, out, n, {NONE, NONE, OF_DEVICE, NONE, NONE, true});
}
extern "C" __global__ void __launch_bounds__(256) fence_too_early(const float* in, float* out, int n) {
  hand_over(in, out, n, {OF_DEVICE, NONE, NONE, OF_DEVICE, NONE, true});
}
extern "C" __global__ void __launch_bounds__(256) fence_of_block_before(const float* in, float* out, int n) {
  hand_over(in, out, n, {NONE, NONE, OF_BLOCK, OF_DEVICE, NONE, true});
}
extern "C" __global__ void __launch_bounds__(256) fence_of_block_after(const float* in, float* out, int n) {
  hand_over(in, out, n, {NONE, NONE, OF_DEVICE, OF_BLOCK, NONE, true});
}
extern "C" __global__ void __launch_bounds__(256) fence_without_barrier(const float* in, float* out, int n) {
  hand_over(in, out, n, {NONE, OF_DEVICE, OF_DEVICE, OF_DEVICE, NONE, false});
}

// The last block resets the counter with a plain store.
extern "C" __global__ void __launch_bounds__(256) fence_missing_at_reset(const float* in, float* out, int n) {
  if (blockIdx.x == 0) out[threadIdx.x] = in[255 - threadIdx.x];
  auto* counter = reinterpret_cast<unsigned*>(out + 2 * n);
  if (threadIdx.x == 0 && atomicAdd(counter, 1u) + 2u == gridDim.x) *counter = ~0u;
}

// The first block tells the second, which tells the third: only a fence leads from one flag to the other.
namespace {
DEV void relay(const float* in, float* out, int n, Fence between) {
  SHARED(bool, told, [1]);
  float* const parts = out + n;
  auto* flags = reinterpret_cast<unsigned*>(parts + n);
  if (blockIdx.x == 0) parts[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  if (threadIdx.x == 0) {
    if (blockIdx.x == 0) {
      __threadfence();
      atomicExch(&flags[0], 1u);
    } else if (blockIdx.x == 1) {
      if (atomicAdd(&flags[0], 0u) == 1u) {
        fence(between);
        atomicExch(&flags[1], 1u);
      }
    } else {
      told[0] = atomicAdd(&flags[1], 0u) == 1u;
      __threadfence();
    }
  }
  __syncthreads();
  if (blockIdx.x == 2 && told[0]) out[threadIdx.x] = parts[255 - threadIdx.x];
}
}  // namespace

extern "C" __global__ void __launch_bounds__(256) fence_right_in_relay(const float* in, float* out, int n) {
  relay(in, out, n, OF_DEVICE);
}
extern "C" __global__ void __launch_bounds__(256) fence_missing_in_relay(const float* in, float* out, int n) {
  relay(in, out, n, NONE);
}
extern "C" __global__ void __launch_bounds__(256) fence_of_block_in_relay(const float* in, float* out, int n) {
  relay(in, out, n, OF_BLOCK);
}

// On one counter, an addition in between needs no fence.
extern "C" __global__ void __launch_bounds__(256) fence_not_needed_in_relay(const float* in, float* out, int n) {
  SHARED(bool, told, [1]);
  float* const parts = out + n;
  if (blockIdx.x == 0) parts[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  if (threadIdx.x == 0) {
    if (blockIdx.x == 0) __threadfence();
    told[0] = atomicAdd(reinterpret_cast<unsigned*>(parts + n), 1u) == 1;
    if (blockIdx.x == 2) __threadfence();
  }
  __syncthreads();
  if (blockIdx.x == 2 && told[0]) out[threadIdx.x] = parts[255 - threadIdx.x];
}

// A thread of the second block learns what the first left, and tells its own block.
namespace {
DEV void hand_on(const float* in, float* out, int n, Fence first, Fence second) {
  SHARED(unsigned, flag, [1]);
  float* const parts = out + n;
  auto* left = reinterpret_cast<unsigned*>(parts + n);
  if (threadIdx.x == 0) flag[0] = 0;
  if (blockIdx.x == 0) parts[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  if (threadIdx.x == 0 && blockIdx.x == 0) {
    __threadfence();
    atomicExch(left, 1u);
  }
  if (threadIdx.x == 0 && blockIdx.x == 1 && atomicAdd(left, 0u) == 1u) {
    fence(first);
    fence(second);
    atomicExch(flag, 1u);
  }
  const bool told = atomicAdd(flag, 0u) == 1u;
  __threadfence_block();
  if (blockIdx.x == 1) out[threadIdx.x] = told ? parts[255 - threadIdx.x] : in[255 - threadIdx.x];
}
}  // namespace

extern "C" __global__ void __launch_bounds__(256) fence_right_handing_on(const float* in, float* out, int n) {
  hand_on(in, out, n, OF_DEVICE, OF_BLOCK);
}
extern "C" __global__ void __launch_bounds__(256) fence_once_handing_on(const float* in, float* out, int n) {
  hand_on(in, out, n, OF_DEVICE, NONE);
}
extern "C" __global__ void __launch_bounds__(256) fence_of_block_handing_on(const float* in, float* out, int n) {
  hand_on(in, out, n, OF_BLOCK, OF_BLOCK);
}

// A flag inside a block: the fence of the block is enough, and one is needed on either side.
namespace {
DEV void raise_flag(const float* in, float* out, Fence before, Fence after) {
  SHARED(float, s, [256]);
  SHARED(unsigned, flag, [1]);
  if (threadIdx.x == 0) flag[0] = 0;
  __syncthreads();
  if (threadIdx.x == 40) {
    for (int i = 0; i < 256; ++i) s[i] = in[i];
    fence(before);
    atomicExch(flag, 1u);
  }
  const bool raised = atomicAdd(flag, 0u) == 1;
  fence(after);
  out[threadIdx.x] = raised ? s[255 - threadIdx.x] : in[255 - threadIdx.x];
}
}  // namespace

extern "C" __global__ void __launch_bounds__(256) flag_right(const float* in, float* out, int n) {
  raise_flag(in, out, OF_BLOCK, OF_BLOCK);
}
extern "C" __global__ void __launch_bounds__(256) flag_without_fences(const float* in, float* out, int n) {
  raise_flag(in, out, NONE, NONE);
}
extern "C" __global__ void __launch_bounds__(256) flag_without_fence_after(const float* in, float* out, int n) {
  raise_flag(in, out, OF_BLOCK, NONE);
}
