// Conformance probes: each kernel runs a few instructions on words from memory and stores the resulting words, so that
// the emulator and a GPU can be compared bit for bit with tests/golden/probes.safetensors (made by
// tools/golden/probes.py, which says what each word is).
//
//   in:  uint32 [threads, inputs]      out: uint32 [threads, outputs]
//
// One block of `threads` threads, 32 unless its comment says otherwise. Inputs and outputs are counted in each kernel.
#include "device.cuh"

struct ProbeArgs {
  const uint32_t* in;
  uint32_t* out;
};
static_assert(sizeof(ProbeArgs) == 16, "as in tests/emulator.rs");

namespace {

constexpr unsigned FULL = 0xffffffffu;

// The calling thread's words.
template <int N> __device__ __forceinline__ const uint32_t* inputs(const ProbeArgs& args) { return args.in + threadIdx.x * N; }
template <int N> __device__ __forceinline__ uint32_t* outputs(const ProbeArgs& args) { return args.out + threadIdx.x * N; }

__device__ __forceinline__ __half half_of(uint32_t word) { return __ushort_as_half(static_cast<unsigned short>(word)); }
__device__ __forceinline__ uint32_t word_of(__half h) { return __half_as_ushort(h); }

}  // namespace

// in: fragments a[4], b[2], c[4]; out: d[4]
extern "C" __global__ void __launch_bounds__(32) probe_mma_f16(const ProbeArgs args) {
  const uint32_t* in = inputs<10>(args);
  uint32_t* out = outputs<4>(args);
  const uint32_t a[4] = {in[0], in[1], in[2], in[3]}, b[2] = {in[4], in[5]};
  float c[4], d[4];
  for (int i = 0; i < 4; ++i) c[i] = __uint_as_float(in[6 + i]);
  mma_16816_f16(d, a, b, c);
  for (int i = 0; i < 4; ++i) out[i] = __float_as_uint(d[i]);
}

// in: fragments a[4], b[2], c[4]; out: d[4]
extern "C" __global__ void __launch_bounds__(32) probe_mma_bf16(const ProbeArgs args) {
  const uint32_t* in = inputs<10>(args);
  uint32_t* out = outputs<4>(args);
  const uint32_t a[4] = {in[0], in[1], in[2], in[3]}, b[2] = {in[4], in[5]};
  float c[4], d[4];
  for (int i = 0; i < 4; ++i) c[i] = __uint_as_float(in[6 + i]);
  mma_16816_bf16(d, a, b, c);
  for (int i = 0; i < 4; ++i) out[i] = __float_as_uint(d[i]);
}

// in: fragments a[4], b[2], c[4]; out: d[4]
extern "C" __global__ void __launch_bounds__(32) probe_mma_s8(const ProbeArgs args) {
  const uint32_t* in = inputs<10>(args);
  uint32_t* out = outputs<4>(args);
  const uint32_t a[4] = {in[0], in[1], in[2], in[3]}, b[2] = {in[4], in[5]};
  int c[4], d[4];
  for (int i = 0; i < 4; ++i) c[i] = static_cast<int>(in[6 + i]);
  mma_16832_s8(d, a, b, c);
  for (int i = 0; i < 4; ++i) out[i] = static_cast<uint32_t>(d[i]);
}

// in: 16 bytes, a row of matrix lane / 8; out: the four matrices' registers, plain and transposed
extern "C" __global__ void __launch_bounds__(32) probe_ldmatrix(const ProbeArgs args) {
  SHARED_ALIGNED(16, uint32_t, rows, [32 * 4]);
  const uint32_t* in = inputs<4>(args);
  uint32_t* out = outputs<8>(args);
  for (int i = 0; i < 4; ++i) rows[threadIdx.x * 4 + i] = in[i];
  __syncwarp();
  uint32_t r[4];
  ldmatrix_x4(r, smem_u32(rows + threadIdx.x * 4));
  for (int i = 0; i < 4; ++i) out[i] = r[i];
  ldmatrix_x4_trans(r, smem_u32(rows + threadIdx.x * 4));
  for (int i = 0; i < 4; ++i) out[4 + i] = r[i];
}

// in: a value; out: shuffles by index, up, down, xor, at several widths, and of 8 bytes
extern "C" __global__ void __launch_bounds__(32) probe_shuffle(const ProbeArgs args) {
  const uint32_t v = inputs<1>(args)[0];
  uint32_t* out = outputs<9>(args);
  const int lane = threadIdx.x;
  out[0] = __shfl_sync(FULL, v, lane * 7 + 3);
  out[1] = __shfl_sync(FULL, v, 5, 8);
  out[2] = __shfl_up_sync(FULL, v, 5, 16);
  out[3] = __shfl_down_sync(FULL, v, 3, 8);
  out[4] = __shfl_xor_sync(FULL, v, 9, 16);
  out[5] = __shfl_xor_sync(FULL, v, 21);
  const unsigned long long wide = __shfl_sync(FULL, static_cast<unsigned long long>(v) << 32 | ~v, lane ^ 1);
  out[6] = static_cast<uint32_t>(wide);
  out[7] = static_cast<uint32_t>(wide >> 32);
  if (lane < 16) {
    out[8] = __shfl_down_sync(0x0000ffffu, v, 4, 16);
  } else {
    out[8] = __shfl_sync(0xffff0000u, v, 31);
  }
}

// in: a value; out: ballot, any, all, match, of the warp and of its halves apart
extern "C" __global__ void __launch_bounds__(32) probe_vote(const ProbeArgs args) {
  const uint32_t v = inputs<1>(args)[0];
  uint32_t* out = outputs<6>(args);
  out[0] = __ballot_sync(FULL, v & 1);
  out[1] = static_cast<uint32_t>(__any_sync(FULL, v == 77) * 2 + __all_sync(FULL, v != 77));
  out[2] = static_cast<uint32_t>(__any_sync(FULL, v % 2) * 2 + __all_sync(FULL, v < 0x80000000u));
  out[3] = __match_any_sync(FULL, v & 7u);
  if (threadIdx.x < 16) {
    out[4] = __ballot_sync(0x0000ffffu, v & 2);
    out[5] = __match_any_sync(0x0000ffffu, v & 3u);
  } else {
    out[4] = __ballot_sync(0xffff0000u, v & 4);
    out[5] = __match_any_sync(0xffff0000u, v & 1u);
  }
}

// in: a value; out: sum, minimum and maximum of both signs, and, or, xor, and a sum of each half
extern "C" __global__ void __launch_bounds__(32) probe_reduce(const ProbeArgs args) {
  const uint32_t v = inputs<1>(args)[0];
  uint32_t* out = outputs<9>(args);
  out[0] = __reduce_add_sync(FULL, v);
  out[1] = __reduce_min_sync(FULL, v);
  out[2] = __reduce_max_sync(FULL, v);
  out[3] = static_cast<uint32_t>(__reduce_min_sync(FULL, static_cast<int>(v)));
  out[4] = static_cast<uint32_t>(__reduce_max_sync(FULL, static_cast<int>(v)));
  out[5] = __reduce_and_sync(FULL, v);
  out[6] = __reduce_or_sync(FULL, v);
  out[7] = __reduce_xor_sync(FULL, v);
  out[8] = threadIdx.x < 16 ? __reduce_add_sync(0x0000ffffu, v) : __reduce_add_sync(0xffff0000u, v);
}

// 256 threads. in: bits of a float; out: to half, to bfloat16, and back
extern "C" __global__ void __launch_bounds__(256) probe_convert(const ProbeArgs args) {
  const float f = __uint_as_float(inputs<1>(args)[0]);
  uint32_t* out = outputs<4>(args);
  const __half h = __float2half_rn(f);
  const __nv_bfloat16 b = __float2bfloat16(f);
  out[0] = word_of(h);
  out[1] = __bfloat16_as_ushort(b);
  out[2] = f == f ? __float_as_uint(__half2float(h)) : 0;  // which NaN comes back is not compared
  out[3] = f == f ? __float_as_uint(__bfloat162float(b)) : 0;
}

// 256 threads. in: bits of three halves; out: sum, difference, product, fused multiply-add, maximum, minimum
extern "C" __global__ void __launch_bounds__(256) probe_half(const ProbeArgs args) {
  const uint32_t* in = inputs<3>(args);
  uint32_t* out = outputs<6>(args);
  const __half a = half_of(in[0]), b = half_of(in[1]), c = half_of(in[2]);
  out[0] = word_of(__hadd(a, b));
  out[1] = word_of(__hsub(a, b));
  out[2] = word_of(__hmul(a, b));
  out[3] = word_of(__hfma(a, b, c));
  out[4] = word_of(__hmax(a, b));
  out[5] = word_of(__hmin(a, b));
}

// 256 threads. in: bits of three floats; out: sum, difference, product, quotient, fused multiply-add, square root of the
// first's magnitude, and the product in double rounded to float
extern "C" __global__ void __launch_bounds__(256) probe_float(const ProbeArgs args) {
  const uint32_t* in = inputs<3>(args);
  uint32_t* out = outputs<7>(args);
  const float a = __uint_as_float(in[0]), b = __uint_as_float(in[1]), c = __uint_as_float(in[2]);
  out[0] = __float_as_uint(__fadd_rn(a, b));
  out[1] = __float_as_uint(__fsub_rn(a, b));
  out[2] = __float_as_uint(__fmul_rn(a, b));
  out[3] = __float_as_uint(__fdiv_rn(a, b));
  out[4] = __float_as_uint(__fmaf_rn(a, b, c));
  out[5] = __float_as_uint(__fsqrt_rn(fabsf(a)));
  out[6] = __float_as_uint(__double2float_rn(static_cast<double>(a) * static_cast<double>(b)));
}

// in: three words; out: byte_perm, dp4a, popc, clz, clz of 64 bits, ffs, brev, high product
extern "C" __global__ void __launch_bounds__(32) probe_bits(const ProbeArgs args) {
  const uint32_t* in = inputs<3>(args);
  uint32_t* out = outputs<8>(args);
  const uint32_t a = in[0], b = in[1], c = in[2];
  out[0] = __byte_perm(a, b, c);
  out[1] = static_cast<uint32_t>(__dp4a(static_cast<int>(a), static_cast<int>(b), static_cast<int>(c)));
  out[2] = static_cast<uint32_t>(__popc(a));
  out[3] = static_cast<uint32_t>(__clz(static_cast<int>(a)));
  out[4] = static_cast<uint32_t>(__clzll(static_cast<long long>(static_cast<unsigned long long>(a) << 32 | b)));
  out[5] = static_cast<uint32_t>(__ffs(static_cast<int>(a)));
  out[6] = __brev(a);
  out[7] = __umulhi(a, b);
}

// 256 threads. in: a value below 2^20; out: what atomics leave in memory, thread i stores the i-th: sum, minimum, maximum,
// or, and, xor, sum by compare-and-swap, sum of floats, minimum of 64 bits; zeros from the other threads
extern "C" __global__ void __launch_bounds__(256) probe_atomic(const ProbeArgs args) {
  SHARED(unsigned, words, [7]);
  SHARED(unsigned long long, wide, [1]);
  SHARED(float, sum, [1]);
  const uint32_t v = inputs<1>(args)[0];
  if (threadIdx.x < 7) words[threadIdx.x] = threadIdx.x == 1 || threadIdx.x == 4 ? ~0u : 0u;
  if (threadIdx.x == 0) {
    wide[0] = ~0ull;
    sum[0] = 0.0f;
  }
  __syncthreads();
  atomicAdd(&words[0], v);
  atomicMin(&words[1], v);
  atomicMax(&words[2], v);
  atomicOr(&words[3], 1u << v % 32);
  atomicAnd(&words[4], ~(1u << v % 31));
  atomicXor(&words[5], v);
  unsigned before = 0, seen;
  do {
    seen = before;
    before = atomicCAS(&words[6], seen, seen + 2 * v + 1);
  } while (before != seen);
  atomicAdd(&sum[0], static_cast<float>(v % 64));
  atomicMin(&wide[0], static_cast<unsigned long long>(v) << 32 | threadIdx.x);
  __syncthreads();
  uint32_t out = 0;
  if (threadIdx.x < 7) out = words[threadIdx.x];
  if (threadIdx.x == 7) out = __float_as_uint(sum[0]);
  if (threadIdx.x == 8) out = static_cast<uint32_t>(wide[0] >> 32) ^ static_cast<uint32_t>(wide[0]);
  outputs<1>(args)[0] = out;
}

// in: 8 words; out: 8 words copied in two groups of which the second half of each odd lane is filled with zeros
extern "C" __global__ void __launch_bounds__(32) probe_cp_async(const ProbeArgs args) {
  SHARED_ALIGNED(16, uint32_t, first, [32 * 4]);
  SHARED_ALIGNED(16, uint32_t, second, [32 * 4]);
  const uint32_t* in = inputs<8>(args);
  uint32_t* out = outputs<8>(args);
  const int lane = threadIdx.x;
  cp_async16(smem_u32(first + lane * 4), in, true);
  cp_async_commit();
  cp_async16(smem_u32(second + lane * 4), in + 4, lane % 2 == 0);
  cp_async_commit();
  cp_async_wait<1>();
  __syncwarp();
  for (int i = 0; i < 4; ++i) out[i] = first[(31 - lane) * 4 + i];
  cp_async_wait<0>();
  __syncwarp();
  for (int i = 0; i < 4; ++i) out[4 + i] = second[(31 - lane) * 4 + i];
}

// 128 threads: two warps produce, two consume, over a ring of two buffers guarded by named barriers.
// in: 4 words; out: for consumers the 4 words of the producer in the other half, for producers zeros
extern "C" __global__ void __launch_bounds__(128) probe_named_barrier(const ProbeArgs args) {
  SHARED(uint32_t, ring, [2][64]);
  const uint32_t* in = inputs<4>(args);
  uint32_t* out = outputs<4>(args);
  const int slot = threadIdx.x % 64;
  constexpr int FILLED = 1, EMPTY = 3;  // and the next number for the second buffer
  if (threadIdx.x < 64) {
    for (int i = 0; i < 4; ++i) {
      if (i >= 2) bar_sync(EMPTY + i % 2, 128);
      ring[i % 2][slot] = in[i];
      bar_arrive(FILLED + i % 2, 128);
      out[i] = 0;
    }
  } else {
    for (int i = 0; i < 4; ++i) {
      bar_sync(FILLED + i % 2, 128);
      out[i] = ring[i % 2][63 - slot];
      if (i < 2) bar_arrive(EMPTY + i % 2, 128);
    }
  }
}
