// Pixels to the values that a network reads, in its precision, with zeros for the channels that it has beside theirs.
//
//   pixels_normalize: output[p, c] = table[c][input[p, c]], where table[channel][value] is (value / 255 - mean) / std
//   pixels_cast:      output[p, c] = input[p, c]
//
//   input:  u8 (f32 in pixels_cast) [images, pixels, channels]; channels is 3 in pixels_normalize
//   table:  f32 [3, 256]
//   output: T [images, pixels, stored], 16-byte aligned, stored at least channels; T is f32, f16 or bf16, rounded to
//           nearest even
//   images: u32 [1], how many there are, at most `most`; behind them nothing is read or written
//
// Grid: any number of blocks in x; threads take groups of eight values of the output thread, thread + threads, ... Block:
// 256 threads. Shared memory: 3 KiB, static, in pixels_normalize. No images: nothing is done. The launch code checks
// lengths and alignment.
#include "rows.cuh"
#include "values.cuh"

struct PixelsArgs {
  const void* input;
  const float* table;
  void* output;
  const uint32_t* images;
  uint32_t most;
  uint32_t pixels, channels, stored;
};
static_assert(sizeof(PixelsArgs) == 48, "as in src/cuda/pixels.rs");

namespace {
// Stores value(place in the input, channel) in all channels that the input has.
template <class T, class F> DEV void store_all(const PixelsArgs& args, F value) {
  const size_t values = static_cast<size_t>(rows_of(args.images, args.most)) * args.pixels * args.stored;
  const size_t threads = static_cast<size_t>(gridDim.x) * blockDim.x;
  for (size_t at = (static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x) * 8; at < values; at += threads * 8) {
    size_t pixel = quotient(at, args.stored);
    uint32_t channel = static_cast<uint32_t>(at - pixel * args.stored);
    float x[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const bool there = channel < args.channels && at + i < values;
      x[i] = there ? value(pixel * args.channels + channel, channel) : 0.0f;
      if (++channel == args.stored) {
        channel = 0;
        ++pixel;
      }
    }
    T* output = static_cast<T*>(args.output) + at;
    if (values - at >= 8) {
      store(output, x);
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if (at + i < values) output[i] = from_float<T>(x[i]);
      }
    }
  }
}

template <class T> DEV void pixels_normalize(const PixelsArgs& args) {
  SHARED(float, table, [3 * 256]);
  for (uint32_t i = threadIdx.x; i < 3 * 256; i += blockDim.x) table[i] = args.table[i];
  __syncthreads();
  const unsigned char* input = static_cast<const unsigned char*>(args.input);
  store_all<T>(args, [&](size_t at, uint32_t channel) { return table[channel * 256 + input[at]]; });
}

template <class T> DEV void pixels_cast(const PixelsArgs& args) {
  const float* input = static_cast<const float*>(args.input);
  store_all<T>(args, [&](size_t at, uint32_t) { return input[at]; });
}
}  // namespace

extern "C" __global__ void __launch_bounds__(256) pixels_normalize_f32(const PixelsArgs args) { pixels_normalize<float>(args); }
extern "C" __global__ void __launch_bounds__(256) pixels_normalize_f16(const PixelsArgs args) { pixels_normalize<__half>(args); }
extern "C" __global__ void __launch_bounds__(256) pixels_normalize_bf16(const PixelsArgs args) { pixels_normalize<__nv_bfloat16>(args); }
extern "C" __global__ void __launch_bounds__(256) pixels_cast_f32(const PixelsArgs args) { pixels_cast<float>(args); }
extern "C" __global__ void __launch_bounds__(256) pixels_cast_f16(const PixelsArgs args) { pixels_cast<__half>(args); }
extern "C" __global__ void __launch_bounds__(256) pixels_cast_bf16(const PixelsArgs args) { pixels_cast<__nv_bfloat16>(args); }
