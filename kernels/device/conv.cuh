// What the convolution kernels share: their arguments and their epilogue.
#pragma once
#include "rows.cuh"
#include "values.cuh"

struct ConvArgs {
  const void* input;       // T [images, height, width, in_channels]
  const void* weight;      // T, see each kernel
  const float* bias;       // f32 [out_channels]
  const void* residual;    // T, as output, or null
  void* output;            // T [images, out_height, out_width, out_channels]
  const int4* taps;        // see each kernel: line, column, and offset in values from the first tap of a window
  const uint32_t* images;  // u32 [1]
  uint32_t most;           // images that the tensors have room for
  uint32_t height, width, in_channels;
  uint32_t out_height, out_width, out_channels;
  uint32_t stride_height, stride_width;
  uint32_t padding_height, padding_width;
  uint32_t depth;  // length of the sum
  uint32_t groups;
  uint32_t relu;  // whether a ReLU ends it
};
static_assert(sizeof(ConvArgs) == 112, "as in src/cuda/conv.rs");

// Output pixels of all images.
DEV size_t pixels_of(const ConvArgs& args) {
  return static_cast<size_t>(rows_of(args.images, args.most)) * args.out_height * args.out_width;
}

// Where a window starts.
struct Corner {
  long long at;  // of its first tap in the input, in values; in front of it where the tap is padding
  int y, x;
};

// The window of output pixel `pixel`.
DEV Corner corner(const ConvArgs& args, size_t pixel) {
  const uint32_t per_image = args.out_height * args.out_width;
  const size_t image = quotient(pixel, per_image);
  const uint32_t rest = static_cast<uint32_t>(pixel - image * per_image);
  const int y = static_cast<int>(rest / args.out_width * args.stride_height) - static_cast<int>(args.padding_height);
  const int x = static_cast<int>(rest % args.out_width * args.stride_width) - static_cast<int>(args.padding_width);
  const long long line = static_cast<long long>(image * args.height) + y;
  return {(line * args.width + x) * args.in_channels, y, x};
}

// Whether the tap of the window lies in the image.
DEV bool inside(const ConvArgs& args, const Corner& corner, const int4& tap) {
  return static_cast<uint32_t>(corner.y + tap.x) < args.height && static_cast<uint32_t>(corner.x + tap.y) < args.width;
}

// relu(sum + bias + residual) of N channels from `channel` on, at `at` in the residual and the output; N is 1, or 8 where
// out_channels is a multiple of it.
template <class T, int N> DEV void finish(const ConvArgs& args, size_t at, uint32_t channel, float (&sums)[N]) {
  float other[N];
  load(args.bias + channel, other);
#pragma unroll
  for (int i = 0; i < N; ++i) sums[i] += other[i];
  if (args.residual) {
    load(static_cast<const T*>(args.residual) + at, other);
#pragma unroll
    for (int i = 0; i < N; ++i) sums[i] += other[i];
  }
  if (args.relu) {
#pragma unroll
    for (int i = 0; i < N; ++i) sums[i] = relu(sums[i]);
  }
  store(static_cast<T*>(args.output) + at, sums);
}
