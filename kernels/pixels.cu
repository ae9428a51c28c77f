// Pixels to the values that a network reads, in its precision.
//
//   pixels_normalize: output[i] = table[i % 3][input[i]], where table[channel][value] is (value / 255 - mean) / std
//   pixels_cast:      output[i] = input[i]
//
//   input:  u8 (f32 in pixels_cast) [images, values], 16-byte aligned; in pixels_normalize values is a multiple of 3
//   table:  f32 [3, 256]
//   output: T [images, values], 16-byte aligned; T is f32, f16 or bf16, rounded to nearest even
//   images: u32 [1], how many there are, at most `most`; behind them nothing is read or written
//
// Grid: any number of blocks in x; threads take groups of eight values thread, thread + threads, ... Block: 256 threads.
// Shared memory: 3 KiB, static, in pixels_normalize. No images: nothing is done. The launch code checks lengths and
// alignment.
#include "rows.cuh"
#include "values.cuh"

struct PixelsArgs {
  const void* input;
  const float* table;
  void* output;
  const uint32_t* images;
  uint32_t values;
  uint32_t most;
};
static_assert(sizeof(PixelsArgs) == 40, "as in src/cuda/pixels.rs");

namespace {
// Calls of(first value, count) for groups of eight values, the last of all perhaps shorter.
template <class F> DEV void for_groups(const PixelsArgs& args, F of) {
  const size_t values = static_cast<size_t>(rows_of(args.images, args.most)) * args.values;
  const size_t threads = static_cast<size_t>(gridDim.x) * blockDim.x;
  for (size_t at = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x; at * 8 < values; at += threads) {
    of(at * 8, values - at * 8 < 8 ? static_cast<int>(values - at * 8) : 8);
  }
}

template <class T> DEV void pixels_normalize(const PixelsArgs& args) {
  SHARED(float, table, [3 * 256]);
  for (uint32_t i = threadIdx.x; i < 3 * 256; i += blockDim.x) table[i] = args.table[i];
  __syncthreads();
  for_groups(args, [&](size_t at, int count) {
    const unsigned char* input = static_cast<const unsigned char*>(args.input) + at;
    T* output = static_cast<T*>(args.output) + at;
    const uint32_t channel = static_cast<uint32_t>(at - quotient(at, 3) * 3);
    if (count == 8) {
      const uint2 bits = *reinterpret_cast<const uint2*>(input);
      float x[8];
#pragma unroll
      for (uint32_t i = 0; i < 8; ++i) {
        const uint32_t value = ((i < 4 ? bits.x : bits.y) >> (i % 4 * 8)) & 0xff;
        x[i] = table[(channel + i) % 3 * 256 + value];
      }
      store(output, x);
    } else {
      for (int i = 0; i < count; ++i) output[i] = from_float<T>(table[(channel + i) % 3 * 256 + input[i]]);
    }
  });
}

template <class T> DEV void pixels_cast(const PixelsArgs& args) {
  for_groups(args, [&](size_t at, int count) {
    const float* input = static_cast<const float*>(args.input) + at;
    T* output = static_cast<T*>(args.output) + at;
    if (count == 8) {
      float x[8];
      load(input, x);
      store(output, x);
    } else {
      for (int i = 0; i < count; ++i) output[i] = from_float<T>(input[i]);
    }
  });
}
}  // namespace

extern "C" __global__ void __launch_bounds__(256) pixels_normalize_f32(const PixelsArgs args) { pixels_normalize<float>(args); }
extern "C" __global__ void __launch_bounds__(256) pixels_normalize_f16(const PixelsArgs args) { pixels_normalize<__half>(args); }
extern "C" __global__ void __launch_bounds__(256) pixels_normalize_bf16(const PixelsArgs args) { pixels_normalize<__nv_bfloat16>(args); }
extern "C" __global__ void __launch_bounds__(256) pixels_cast_f32(const PixelsArgs args) { pixels_cast<float>(args); }
extern "C" __global__ void __launch_bounds__(256) pixels_cast_f16(const PixelsArgs args) { pixels_cast<__half>(args); }
extern "C" __global__ void __launch_bounds__(256) pixels_cast_bf16(const PixelsArgs args) { pixels_cast<__nv_bfloat16>(args); }
