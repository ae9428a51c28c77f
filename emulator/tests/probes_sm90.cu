// Conformance probes of what only sm_90 has; see probes.cu for what a probe is.
#include "device_sm90.cuh"

struct ProbeSm90Args {
  const uint32_t* in;
  uint32_t* out;
};
static_assert(sizeof(ProbeSm90Args) == 16, "as in tests/emulator.rs");

// 128 threads: two warps produce, two consume, over a ring of two buffers guarded by mbarriers.
// in: 4 words; out: for consumers the 4 words of the producer in the other half, for producers zeros
extern "C" __global__ void __launch_bounds__(128) probe_mbarrier(const ProbeSm90Args args) {
  SHARED(uint32_t, ring, [2][64]);
  SHARED(uint64_t, filled, [2]);
  SHARED(uint64_t, empty, [2]);
  const uint32_t* in = args.in + threadIdx.x * 4;
  uint32_t* out = args.out + threadIdx.x * 4;
  const int slot = threadIdx.x % 64;
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; ++i) {
      mbar_init(&filled[i], 64);
      mbar_init(&empty[i], 64);
    }
    mbar_fence_init();
  }
  __syncthreads();
  if (threadIdx.x < 64) {
    for (int i = 0; i < 4; ++i) {
      mbar_wait(&empty[i % 2], (i / 2 & 1) ^ 1);  // the phase before the first counts as over
      ring[i % 2][slot] = in[i];
      mbar_arrive(&filled[i % 2]);
      out[i] = 0;
    }
  } else {
    for (int i = 0; i < 4; ++i) {
      mbar_wait(&filled[i % 2], i / 2 & 1);
      out[i] = ring[i % 2][63 - slot];
      mbar_arrive(&empty[i % 2]);
    }
  }
}

// 128 threads: D = A B^T of halves, 64 x 64 x 64, both operands K-major under 128-byte swizzle.
// in: half of row thread / 2 of A, then of B, 16 words each; out: the thread's 32 sums
extern "C" __global__ void __launch_bounds__(128) probe_wgmma(const ProbeSm90Args args) {
  SHARED_ALIGNED(1024, uint32_t, a, [64 * 32]);
  SHARED_ALIGNED(1024, uint32_t, b, [64 * 32]);
  const uint32_t* in = args.in + threadIdx.x * 32;
  const int row = threadIdx.x / 2;
  for (int i = 0; i < 16; ++i) {
    const int word = threadIdx.x % 2 * 16 + i;
    const int place = row * 32 + (word / 4 ^ row % 8) * 4 + word % 4;
    a[place] = in[i];
    b[place] = in[16 + i];
  }
  fence_proxy_async();
  __syncthreads();
  float d[32];
  for (int i = 0; i < 32; ++i) d[i] = 0.0f;
  wgmma_fence(d);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    wgmma_m64n64k16_f16(d, wgmma_desc_128b(smem_u32(a) + k * 32), wgmma_desc_128b(smem_u32(b) + k * 32));
  }
  wgmma_commit();
  wgmma_wait<0>(d);
  for (int i = 0; i < 32; ++i) args.out[threadIdx.x * 32 + i] = __float_as_uint(d[i]);
}
