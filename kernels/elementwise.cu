// What stands between convolutions and is in no epilogue: batch norm, sum, ReLU, copy.
//
//   output[p, c] = relu(input[p, c] * scale[c] + shift[c] + other[p, c])
//
//   input, other, output: T [images, values], values a multiple of channels, 16-byte aligned; T is f32, f16 or bf16;
//                         other may be null, and output may be input or other
//   scale, shift:         f32 [channels], 16-byte aligned, or both null
//   images:               u32 [1], how many there are, at most `most`; behind them nothing is read or written
//
// Grid: any number of blocks in x; threads take values, or groups of eight, thread, thread + threads, ... Block: 256
// threads. Shared memory: none. Scale and shift are one fused multiply-add in f32. No images: nothing is done. The launch
// code checks lengths and alignment.
#include "rows.cuh"
#include "values.cuh"

struct ElementwiseArgs {
  const void* input;
  const float* scale;
  const float* shift;
  const void* other;
  void* output;
  const uint32_t* images;
  unsigned long long values;
  uint32_t channels;
  uint32_t relu;
  uint32_t vector;  // whether eight values from a multiple of 8 on have channels from a multiple of 8 on
  uint32_t most;
};
static_assert(sizeof(ElementwiseArgs) == 72, "as in src/cuda/elementwise.rs");

namespace {
template <class T, int N> DEV void elementwise(const ElementwiseArgs& args) {
  const size_t groups = rows_of(args.images, args.most) * static_cast<size_t>(args.values) / N;
  const size_t threads = static_cast<size_t>(gridDim.x) * blockDim.x;
  for (size_t group = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x; group < groups; group += threads) {
    const size_t at = group * N;
    float x[N], other[N];
    load(static_cast<const T*>(args.input) + at, x);
    if (args.scale) {
      float shift[N];
      const size_t channel = at - quotient(at, args.channels) * args.channels;
      load(args.scale + channel, other);
      load(args.shift + channel, shift);
#pragma unroll
      for (int i = 0; i < N; ++i) x[i] = __fmaf_rn(x[i], other[i], shift[i]);
    }
    if (args.other) {
      load(static_cast<const T*>(args.other) + at, other);
#pragma unroll
      for (int i = 0; i < N; ++i) x[i] += other[i];
    }
    if (args.relu) {
#pragma unroll
      for (int i = 0; i < N; ++i) x[i] = relu(x[i]);
    }
    store(static_cast<T*>(args.output) + at, x);
  }
}

template <class T> DEV void elementwise(const ElementwiseArgs& args) {
  if (args.vector) {
    elementwise<T, 8>(args);
  } else {
    elementwise<T, 1>(args);
  }
}
}  // namespace

extern "C" __global__ void __launch_bounds__(256) elementwise_f32(const ElementwiseArgs args) { elementwise<float>(args); }
extern "C" __global__ void __launch_bounds__(256) elementwise_f16(const ElementwiseArgs args) { elementwise<__half>(args); }
extern "C" __global__ void __launch_bounds__(256) elementwise_bf16(const ElementwiseArgs args) { elementwise<__nv_bfloat16>(args); }
