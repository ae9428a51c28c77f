// Pooling over NHWC images: maximum and mean per window, mean over the map.
//
//   pool_max:            the largest value of the window in the image; NaN always wins, padding never
//   pool_average:        the sum of the window in the image / its pixels, padding counted where asked for
//   pool_global_average: the sum of the map / its pixels
//
//   input:  T [images, height, width, channels], 16-byte aligned; T is f32, f16 or bf16
//   output: T [images, out_height, out_width, channels], 16-byte aligned; global: T [images, channels]
//   images: u32 [1], how many there are, at most `most`; behind them nothing is read or written
//
// Max and average: any number of blocks in x; a thread takes one channel, or eight, of pixels thread, thread + threads, ...
// Global: x = most images * ceil(channels / 32); a lane has a channel, warp w of a block lines w, w + 8, ...; the
// arguments of windows are not read.
// Block: 256 threads. Shared memory: 1 KiB, static, in the global mean.
// Sums are f32 in a fixed order: a line first, then the lines (in the global mean those of a warp, then the warps); one
// IEEE division. No images: nothing is done. The launch code checks lengths, alignment, and that no window lies in the
// padding alone.
#include "rows.cuh"
#include "values.cuh"

struct PoolArgs {
  const void* input;
  void* output;
  const uint32_t* images;
  uint32_t most;
  uint32_t height, width, channels;
  uint32_t out_height, out_width;
  uint32_t kernel_height, kernel_width;
  uint32_t stride_height, stride_width;
  uint32_t padding_height, padding_width;
  uint32_t count_include_pad;
  uint32_t zero;  // no byte is padding
};
static_assert(sizeof(PoolArgs) == 80, "as in src/cuda/pool.rs");

namespace {
constexpr int WARPS = 8;

// The part of a window in the image, along one axis.
struct Range {
  int start, end;
};
DEV Range range(uint32_t at, uint32_t stride, uint32_t padding, uint32_t kernel, uint32_t size) {
  const int start = static_cast<int>(at * stride) - static_cast<int>(padding);
  return {max(start, 0), min(start + static_cast<int>(kernel), static_cast<int>(size))};
}

// The maximum of N channels of a window; `input` is its image from its channel on.
template <class T, int N> DEV void maximum(const PoolArgs& args, const T* input, Range ys, Range xs, float (&out)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) out[i] = -INFINITY;
  for (int y = ys.start; y < ys.end; ++y) {
    for (int x = xs.start; x < xs.end; ++x) {
      float values[N];
      load(input + (static_cast<size_t>(y) * args.width + x) * args.channels, values);
#pragma unroll
      for (int i = 0; i < N; ++i) out[i] = values[i] > out[i] || values[i] != values[i] ? values[i] : out[i];
    }
  }
}

template <class T, int N> DEV void average(const PoolArgs& args, const T* input, Range ys, Range xs, float (&out)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) out[i] = 0.0f;
  for (int y = ys.start; y < ys.end; ++y) {
    float line[N];
#pragma unroll
    for (int i = 0; i < N; ++i) line[i] = 0.0f;
    for (int x = xs.start; x < xs.end; ++x) {
      float values[N];
      load(input + (static_cast<size_t>(y) * args.width + x) * args.channels, values);
#pragma unroll
      for (int i = 0; i < N; ++i) line[i] += values[i];
    }
#pragma unroll
    for (int i = 0; i < N; ++i) out[i] += line[i];
  }
  const int pixels = args.count_include_pad ? static_cast<int>(args.kernel_height * args.kernel_width)
                                            : (ys.end - ys.start) * (xs.end - xs.start);
#pragma unroll
  for (int i = 0; i < N; ++i) out[i] = __fdiv_rn(out[i], static_cast<float>(pixels));
}

template <class T, int N, bool MAX> DEV void pool(const PoolArgs& args) {
  const uint32_t groups = args.channels / N, per_image = args.out_height * args.out_width * groups;
  const size_t all = static_cast<size_t>(rows_of(args.images, args.most)) * per_image;
  const size_t threads = static_cast<size_t>(gridDim.x) * blockDim.x;
  for (size_t at = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x; at < all; at += threads) {
    const size_t image = quotient(at, per_image);
    const uint32_t rest = static_cast<uint32_t>(at - image * per_image), pixel = rest / groups;
    const Range ys = range(pixel / args.out_width, args.stride_height, args.padding_height, args.kernel_height, args.height);
    const Range xs = range(pixel % args.out_width, args.stride_width, args.padding_width, args.kernel_width, args.width);
    const T* input = static_cast<const T*>(args.input) + image * args.height * args.width * args.channels + rest % groups * N;
    float out[N];
    if (MAX) {
      maximum(args, input, ys, xs, out);
    } else {
      average(args, input, ys, xs, out);
    }
    store(static_cast<T*>(args.output) + at * N, out);
  }
}

template <class T, bool MAX> DEV void pool(const PoolArgs& args) {
  if (args.channels % 8 == 0) {
    pool<T, 8, MAX>(args);
  } else {
    pool<T, 1, MAX>(args);
  }
}

// One image, 32 channels.
template <class T> DEV void global_average(const PoolArgs& args, size_t image, uint32_t group) {
  SHARED(float, sums, [WARPS][32]);
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, channel = group * 32 + lane;
  float sum = 0.0f;
  if (channel < args.channels) {
    const T* input = static_cast<const T*>(args.input) + image * args.height * args.width * args.channels + channel;
    for (uint32_t y = warp; y < args.height; y += WARPS) {
      float line = 0.0f;
      for (uint32_t x = 0; x < args.width; ++x) {
        line += to_float(input[(static_cast<size_t>(y) * args.width + x) * args.channels]);
      }
      sum += line;
    }
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp == 0 && channel < args.channels) {
#pragma unroll
    for (int w = 1; w < WARPS; ++w) sum += sums[w][lane];
    const float mean = __fdiv_rn(sum, static_cast<float>(args.height * args.width));
    static_cast<T*>(args.output)[image * args.channels + channel] = from_float<T>(mean);
  }
}

template <class T> DEV void global_average(const PoolArgs& args) {
  const uint32_t groups = (args.channels + 31) / 32, image = blockIdx.x / groups;
  if (image < rows_of(args.images, args.most)) global_average<T>(args, image, blockIdx.x % groups);
}
}  // namespace

extern "C" __global__ void __launch_bounds__(256) pool_max_f32(const PoolArgs args) { pool<float, true>(args); }
extern "C" __global__ void __launch_bounds__(256) pool_max_f16(const PoolArgs args) { pool<__half, true>(args); }
extern "C" __global__ void __launch_bounds__(256) pool_max_bf16(const PoolArgs args) { pool<__nv_bfloat16, true>(args); }
extern "C" __global__ void __launch_bounds__(256) pool_average_f32(const PoolArgs args) { pool<float, false>(args); }
extern "C" __global__ void __launch_bounds__(256, 4) pool_average_f16(const PoolArgs args) { pool<__half, false>(args); }
extern "C" __global__ void __launch_bounds__(256, 4) pool_average_bf16(const PoolArgs args) { pool<__nv_bfloat16, false>(args); }
extern "C" __global__ void __launch_bounds__(256) pool_global_average_f32(const PoolArgs args) { global_average<float>(args); }
extern "C" __global__ void __launch_bounds__(256) pool_global_average_f16(const PoolArgs args) { global_average<__half>(args); }
extern "C" __global__ void __launch_bounds__(256) pool_global_average_bf16(const PoolArgs args) { global_average<__nv_bfloat16>(args); }
