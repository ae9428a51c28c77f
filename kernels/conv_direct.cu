// Convolution in groups of channels over NHWC images: one thread per output value, without reuse between threads, meant
// for depthwise layers and for rare groups.
//
//   output[p, o] = relu(sum_t,c input[window(p) + t, first(o) + c] * weight[t, c, o] + bias[o] + residual[p, o])
//
//   input, residual, output: T as in ConvArgs; T is f32, f16 or bf16
//   weight: T [taps, in_channels / groups, out_channels]
//   taps:   int4 [depth], one per tap of the window
//   images: u32 [1], how many there are, at most `most`; behind them nothing is read or written
//
// Grid: any number of blocks in x; threads take values thread, thread + threads, ... Block: 256 threads. Shared memory:
// none. Sums are f32 by fused multiply-add, taps outside, channels inside, in order. No images: nothing is done. The
// launch code checks shapes and lengths.
#include "conv.cuh"

namespace {
template <class T> DEV void conv_direct(const ConvArgs& args) {
  const uint32_t inputs = args.in_channels / args.groups, outputs = args.out_channels / args.groups;
  const size_t values = pixels_of(args) * args.out_channels;
  const size_t threads = static_cast<size_t>(gridDim.x) * blockDim.x;
  for (size_t at = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x; at < values; at += threads) {
    const size_t pixel = quotient(at, args.out_channels);
    const uint32_t channel = static_cast<uint32_t>(at - pixel * args.out_channels);
    const Corner window = corner(args, pixel);
    const T* weight = static_cast<const T*>(args.weight) + channel;
    float sum[1] = {0.0f};
    for (uint32_t t = 0; t < args.depth; ++t) {
      const int4 tap = __ldg(args.taps + t);
      if (inside(args, window, tap)) {
        const T* input = static_cast<const T*>(args.input) + (window.at + tap.z + channel / outputs * inputs);
        const T* weights = weight + static_cast<size_t>(t) * inputs * args.out_channels;
        for (uint32_t c = 0; c < inputs; ++c) {
          const float w = to_float(weights[static_cast<size_t>(c) * args.out_channels]);
          sum[0] = __fmaf_rn(to_float(input[c]), w, sum[0]);
        }
      }
    }
    finish<T>(args, at, channel, sum);
  }
}
}  // namespace

extern "C" __global__ void __launch_bounds__(256) conv_direct_f32(const ConvArgs args) { conv_direct<float>(args); }
extern "C" __global__ void __launch_bounds__(256) conv_direct_f16(const ConvArgs args) { conv_direct<__half>(args); }
extern "C" __global__ void __launch_bounds__(256) conv_direct_bf16(const ConvArgs args) { conv_direct<__nv_bfloat16>(args); }
