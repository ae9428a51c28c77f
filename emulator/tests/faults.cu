// Planted faults. Every kernel writes out[0..n) = 2*in-like values that the driver can check.
#include "device.cuh"

extern "C" __global__ void __launch_bounds__(256) ok_reverse(const float* in, float* out, int n) {          // the sound version of several below
  SHARED(float, s, [256]);
  s[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = s[255 - threadIdx.x];
}
extern "C" __global__ void __launch_bounds__(256) oob_global_write(const float* in, float* out, int n) { out[threadIdx.x] = in[255 - threadIdx.x]; if (threadIdx.x == 255) out[n] = 1.f; }
extern "C" __global__ void __launch_bounds__(256) oob_global_read(const float* in, float* out, int n) { float v = in[255 - threadIdx.x]; if (threadIdx.x == 255) v += 0.f * in[n]; out[threadIdx.x] = v; }
extern "C" __global__ void __launch_bounds__(256) oob_shared_write(const float* in, float* out, int n) {
  SHARED(float, s, [256]);
  s[threadIdx.x] = in[threadIdx.x];
  if (threadIdx.x == 7) { float* p = s; p[n] = 1.f; }
  __syncthreads();
  out[threadIdx.x] = s[255 - threadIdx.x];
}
extern "C" __global__ void __launch_bounds__(256) oob_dyn_write(const float* in, float* out, int n) {        // launched with n*4 bytes
  DYN_SHARED(float, s);
  s[threadIdx.x] = in[threadIdx.x];
  if (threadIdx.x == 7) s[n] = 1.f;
  __syncthreads();
  out[threadIdx.x] = s[255 - threadIdx.x];
}
extern "C" __global__ void __launch_bounds__(256) oob_shared_read(const float* in, float* out, int n) {
  SHARED(float, s, [256]);
  s[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  const float* p = s;
  out[threadIdx.x] = s[255 - threadIdx.x] + (threadIdx.x == 3 ? (p[n] > 1e30f ? 1.f : 0.f) : 0.f);
}
extern "C" __global__ void __launch_bounds__(256) missing_sync_raw(const float* in, float* out, int n) {
  SHARED(float, s, [256]);
  s[threadIdx.x] = in[threadIdx.x];
  out[threadIdx.x] = s[255 - threadIdx.x];
}
extern "C" __global__ void __launch_bounds__(256) missing_sync_left(const float* in, float* out, int n) {    // ascending order alone never shows this one
  SHARED(float, s, [256]);
  s[threadIdx.x] = in[255 - threadIdx.x];
  out[threadIdx.x] = threadIdx.x ? s[threadIdx.x - 1] * 0.f + in[255 - threadIdx.x] : s[0];
}
extern "C" __global__ void __launch_bounds__(256) missing_sync_war(const float* in, float* out, int n) {     // loop without the trailing barrier
  SHARED(float, s, [256]);
  float a = 0.f;
  for (int i = 0; i < 4; ++i) {
    s[threadIdx.x] = in[threadIdx.x] * (float)(i + 1);
    __syncthreads();
    a += s[255 - threadIdx.x];
  }
  out[threadIdx.x] = a * 0.1f;
}
extern "C" __global__ void __launch_bounds__(256) missing_syncwarp(const float* in, float* out, int n) {
  SHARED(float, s, [256]);
  s[threadIdx.x] = in[threadIdx.x ^ 224];
  out[threadIdx.x] = s[threadIdx.x ^ 31];
}
extern "C" __global__ void __launch_bounds__(256) shfl_is_no_fence(const float* in, float* out, int n) {     // relies on a shuffle to order shared memory
  SHARED(float, s, [256]);
  s[threadIdx.x] = in[threadIdx.x ^ 224];
  (void)__shfl_sync(0xffffffffu, 1, 0);
  out[threadIdx.x] = s[threadIdx.x ^ 31];
}
extern "C" __global__ void __launch_bounds__(256) divergent_sync(const float* in, float* out, int n) {
  SHARED(float, s, [256]);
  s[threadIdx.x] = in[threadIdx.x];
  if (threadIdx.x < 128) __syncthreads();
  else
    __syncthreads();
  out[threadIdx.x] = s[255 - threadIdx.x];
}
extern "C" __global__ void __launch_bounds__(256) sync_after_exit(const float* in, float* out, int n) {
  SHARED(float, s, [256]);
  s[threadIdx.x] = in[threadIdx.x];
  if (threadIdx.x >= 255) { out[255] = in[0]; return; }
  __syncthreads();
  out[threadIdx.x] = threadIdx.x ? s[255 - threadIdx.x] : in[255];
}
extern "C" __global__ void __launch_bounds__(256) full_mask_in_branch(const float* in, float* out, int n) {
  float v = in[255 - threadIdx.x];
  if ((threadIdx.x & 31) < 16) v = __shfl_xor_sync(0xffffffffu, __shfl_xor_sync(0xffffffffu, v, 1), 1);
  out[threadIdx.x] = v;
}
extern "C" __global__ void __launch_bounds__(256) misaligned_vec(const float* in, float* out, int n) {
  const float4 v = *reinterpret_cast<const float4*>(in + (threadIdx.x == 9 ? 1 : 0));
  out[threadIdx.x] = in[255 - threadIdx.x] + v.x * 0.f;
}
extern "C" __global__ void __launch_bounds__(256) cp_async_no_wait(const float* in, float* out, int n) {
  SHARED_ALIGNED(16, float, s, [256]);
  if (threadIdx.x < 64) cp_async16(smem_u32(s + threadIdx.x * 4), in + threadIdx.x * 4, true);
  cp_async_commit();
  __syncthreads();
  out[threadIdx.x] = s[255 - threadIdx.x];
  cp_async_wait<0>();
}
extern "C" __global__ void __launch_bounds__(256) cp_async_wait_one_off(const float* in, float* out, int n) {  // waits for one group too few
  SHARED_ALIGNED(16, float, s, [256]);
  if (threadIdx.x < 64) cp_async16(smem_u32(s + threadIdx.x * 4), in + threadIdx.x * 4, true);
  cp_async_commit();
  cp_async_wait<1>();
  __syncthreads();
  out[threadIdx.x] = s[255 - threadIdx.x];
  cp_async_wait<0>();
}
extern "C" __global__ void __launch_bounds__(256) cp_async_no_sync(const float* in, float* out, int n) {       // waits, but only for its own copies
  SHARED_ALIGNED(16, float, s, [256]);
  if (threadIdx.x < 64) cp_async16(smem_u32(s + threadIdx.x * 4), in + threadIdx.x * 4, true);
  cp_async_commit();
  cp_async_wait<0>();
  out[threadIdx.x] = s[255 - threadIdx.x];
}
extern "C" __global__ void __launch_bounds__(256) cp_async_overwrites(const float* in, float* out, int n) {    // refills a buffer that others still read
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
extern "C" __global__ void __launch_bounds__(256) uninit_shared(const float* in, float* out, int n) {
  SHARED(float, s, [256]);
  if (threadIdx.x < 255) s[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = s[255 - threadIdx.x];
}
extern "C" __global__ void __launch_bounds__(256) race_global(const float* in, float* out, int n) {
  out[threadIdx.x] = in[255 - threadIdx.x];
  out[0] = in[255] + 0.f * (float)threadIdx.x;                  // benign value, still a race
}
extern "C" __global__ void __launch_bounds__(256) lost_update(const float* in, float* out, int n) {            // non-atomic counter shared by the block
  out[threadIdx.x] = in[255 - threadIdx.x];
  float* c = out + n - 1;
  __syncthreads();
  *c = *c + 1.f - 1.f;
}
extern "C" __global__ void __launch_bounds__(256) unwritten_output(const float* in, float* out, int n) { if (threadIdx.x != 77) out[threadIdx.x] = in[255 - threadIdx.x]; }
extern "C" __global__ void __launch_bounds__(256) spin_forever(const float* in, float* out, int n) {
  SHARED(int, f, [1]);
  if (threadIdx.x == 0) f[0] = 0;
  __syncthreads();
  while (atomicAdd(&f[0], 0) == 0) __nanosleep(10);
  out[threadIdx.x] = in[255 - threadIdx.x];
}
extern "C" __global__ void __launch_bounds__(256) ldmatrix_misaligned(const float* in, float* out, int n) {
  SHARED_ALIGNED(16, float, s, [256]);
  s[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  uint32_t r[4];
  ldmatrix_x4(r, smem_u32(s) + (threadIdx.x & 31) * 16 + 8);
  out[threadIdx.x] = s[255 - threadIdx.x] + (float)(r[0] & 0u);
}
extern "C" __global__ void __launch_bounds__(256) host_pointer(const float* in, float* out, int n) { out[threadIdx.x] = in[255 - threadIdx.x]; }
extern "C" __global__ void __launch_bounds__(256) block_race(const float* in, float* out, int n) {             // launched with 2 blocks: both write everything
  out[threadIdx.x] = in[255 - threadIdx.x];
}
