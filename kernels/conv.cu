// Convolution over NHWC images as implicit GEMM: a row is an output pixel, a column an output channel, and the sum runs
// over the taps of the window and, within a tap, over the channels.
//
//   output[p, o] = relu(sum_k input[window(p), k] * weight[o, k] + bias[o] + residual[p, o])
//
//   input, residual, output: T as in ConvArgs, 16-byte aligned; T is f32, f16 or bf16
//   weight: T [out_channels, depth], 16-byte aligned; depth is kernel height * kernel width * in_channels, padded with
//           zeros to a multiple of 64 bytes
//   taps:   int4 [depth / copy], copy being the values of one tap that are copied at once: 16 bytes, 8 in the kernels named
//           pairs, one value in those named gather; in_channels is a multiple of it; padding is a line of 2^30, in no image
//   images: u32 [1], how many there are, at most `most`; behind them nothing is read or written
//
// Grid: x = ceil(most pixels / M) * ceil(out_channels / N), columns first, so that blocks which read the same pixels run
// together. Block: 32 * (M / WARP_M) * (N / 32) threads. Shared memory: 3 * (M + N) * 64 bytes, dynamic.
// Sums are f32: f16 and bf16 in runs of 16 on the tensor cores, f32 by fused multiply-add; always in the order of k, so
// neither the tile nor the batch changes a bit. No images: nothing is done. The launch code checks shapes, lengths and
// alignment.
#include "conv.cuh"
#include "warp_tile.cuh"

namespace {
constexpr int STAGES = 3;

// Copies values of one tap, or zeros. They are there for the block after cp_async_wait and a barrier.
template <int BYTES, class T> DEV void copy(unsigned char* to, const T* from, bool there) {
  if constexpr (BYTES == 16) {
    cp_async16(smem_u32(to), from, there);
  } else if constexpr (BYTES >= 4) {
    cp_async_ca<BYTES>(smem_u32(to), from, there);
  } else {
    *reinterpret_cast<T*>(to) = there ? __ldg(from) : from_float<T>(0.0f);
  }
}

// The part of the output from pixel `first` and channel `channel` on; `end` is behind the last pixel. TAP: bytes of a copy.
template <class T, int M, int N, int WARP_M, int TAP>
DEV void conv_tile(const ConvArgs& args, size_t first, size_t end, uint32_t channel) {
  constexpr int WARPS_N = N / 32;
  constexpr int THREADS = M / WARP_M * WARPS_N * 32;
  constexpr int LOADERS = THREADS / TILE_CHUNKS;  // rows that the block loads at once
  constexpr int STAGE = (M + N) * TILE_ROW;
  constexpr uint32_t CHUNK = 16 / sizeof(T);  // values of a chunk
  static_assert(M % LOADERS == 0 && N % LOADERS == 0, "every thread loads as many rows");
  static_assert(THREADS / 32 * SLAB * SLAB_STRIDE * 4 <= STAGES * STAGE, "the epilogue reuses the tiles' memory");
  DYN_SHARED(unsigned char, shared);
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t row = threadIdx.x / TILE_CHUNKS, chunk = threadIdx.x % TILE_CHUNKS;
  const T* input = static_cast<const T*>(args.input);
  const T* weight = static_cast<const T*>(args.weight) + chunk * CHUNK;

  Corner corners[M / LOADERS];
#pragma unroll
  for (int i = 0; i < M / LOADERS; ++i) {
    const size_t pixel = first + row + i * LOADERS;
    corners[i] = pixel < end ? corner(args, pixel) : Corner{0, -0x7fffffff - 1, 0};  // in no image with any tap
  }

  const auto fetch = [&](uint32_t step) {
    unsigned char* a = shared + step % STAGES * STAGE;
    unsigned char* b = a + M * TILE_ROW;
    const uint32_t at = step * TILE_CHUNKS + chunk;
#pragma unroll
    for (int part = 0; part < 16 / TAP; ++part) {
      const int4 tap = __ldg(args.taps + at * (16 / TAP) + part);
#pragma unroll
      for (int i = 0; i < M / LOADERS; ++i) {
        const bool there = inside(args, corners[i], tap);
        const T* from = there ? input + (corners[i].at + tap.z) : input;
        copy<TAP>(a + chunk_offset(row + i * LOADERS, chunk) + part * TAP, from, there);
      }
    }
#pragma unroll
    for (int i = 0; i < N / LOADERS; ++i) {
      const uint32_t output = channel + row + i * LOADERS;
      const bool there = output < args.out_channels;
      const T* from = there ? weight + (static_cast<size_t>(output) * args.depth + step * TILE_CHUNKS * CHUNK) : weight;
      cp_async16(smem_u32(b + chunk_offset(row + i * LOADERS, chunk)), from, there);
    }
  };

  const uint32_t steps = args.depth / (TILE_CHUNKS * CHUNK);
#pragma unroll
  for (uint32_t step = 0; step < STAGES - 1; ++step) {
    if (step < steps) fetch(step);
    cp_async_commit();
  }
  const uint32_t warp_row = warp / WARPS_N * WARP_M, warp_column = warp % WARPS_N * 32;
  // A warp without a pixel or a channel of its own loads for the others.
  const bool sums_here = first + warp_row < end && channel + warp_column < args.out_channels;
  WarpTile<T, WARP_M> tile;
  tile.clear();
  for (uint32_t step = 0; step < steps; ++step) {
    cp_async_wait<STAGES - 2>();
    __syncthreads();  // the step's tiles are there, and all have left the stage that is loaded next
    if (step + STAGES - 1 < steps) fetch(step + STAGES - 1);
    cp_async_commit();
    const unsigned char* a = shared + step % STAGES * STAGE;
    if (sums_here) tile.multiply(a, warp_row, a + M * TILE_ROW, warp_column);
  }
  cp_async_wait<0>();
  __syncthreads();

  if (sums_here) {
    float* slab = reinterpret_cast<float*>(shared) + warp * (SLAB * SLAB_STRIDE);
    const uint32_t output = channel + warp_column + lane % 4 * 8;
#pragma unroll
    for (int m = 0; m < WARP_M / SLAB; ++m) {
      tile.put(m, slab);
      __syncwarp();
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t slab_row = lane / 4 + 8 * half;
        const size_t pixel = first + warp_row + m * SLAB + slab_row;
        if (pixel < end && output < args.out_channels) {
          float sums[8];
          load(slab + slab_row * SLAB_STRIDE + lane % 4 * 8, sums);
          const size_t at = pixel * args.out_channels + output;
          if (args.out_channels % 8 == 0) {
            finish<T>(args, at, output, sums);
          } else {
#pragma unroll
            for (uint32_t i = 0; i < 8; ++i) {
              float sum[1] = {sums[i]};
              if (output + i < args.out_channels) finish<T>(args, at + i, output + i, sum);
            }
          }
        }
      }
      __syncwarp();
    }
  }
}

template <class T, int M, int N, int WARP_M, int TAP = 16> DEV void conv(const ConvArgs& args) {
  const uint32_t columns = (args.out_channels + N - 1) / N;
  const size_t first = static_cast<size_t>(blockIdx.x / columns) * M;
  const size_t end = pixels_of(args);
  if (first < end) conv_tile<T, M, N, WARP_M, TAP>(args, first, end, blockIdx.x % columns * N);
}
}  // namespace

extern "C" __global__ void __launch_bounds__(256) conv_128x128_f32(const ConvArgs args) { conv<float, 128, 128, 64>(args); }
extern "C" __global__ void __launch_bounds__(256) conv_128x128_f16(const ConvArgs args) { conv<__half, 128, 128, 64>(args); }
extern "C" __global__ void __launch_bounds__(256) conv_128x128_bf16(const ConvArgs args) { conv<__nv_bfloat16, 128, 128, 64>(args); }
extern "C" __global__ void __launch_bounds__(256) conv_128x64_f32(const ConvArgs args) { conv<float, 128, 64, 32>(args); }
extern "C" __global__ void __launch_bounds__(256) conv_128x64_f16(const ConvArgs args) { conv<__half, 128, 64, 32>(args); }
extern "C" __global__ void __launch_bounds__(256) conv_128x64_bf16(const ConvArgs args) { conv<__nv_bfloat16, 128, 64, 32>(args); }
extern "C" __global__ void __launch_bounds__(128) conv_64x64_f32(const ConvArgs args) { conv<float, 64, 64, 32>(args); }
extern "C" __global__ void __launch_bounds__(128) conv_64x64_f16(const ConvArgs args) { conv<__half, 64, 64, 32>(args); }
extern "C" __global__ void __launch_bounds__(128) conv_64x64_bf16(const ConvArgs args) { conv<__nv_bfloat16, 64, 64, 32>(args); }
extern "C" __global__ void __launch_bounds__(256) conv_pairs_f32(const ConvArgs args) { conv<float, 128, 64, 32, 8>(args); }
extern "C" __global__ void __launch_bounds__(256) conv_pairs_f16(const ConvArgs args) { conv<__half, 128, 64, 32, 8>(args); }
extern "C" __global__ void __launch_bounds__(256) conv_pairs_bf16(const ConvArgs args) { conv<__nv_bfloat16, 128, 64, 32, 8>(args); }
extern "C" __global__ void __launch_bounds__(256, 1) conv_gather_f32(const ConvArgs args) { conv<float, 128, 64, 32, 4>(args); }
extern "C" __global__ void __launch_bounds__(256, 2) conv_gather_f16(const ConvArgs args) { conv<__half, 128, 64, 32, 2>(args); }
extern "C" __global__ void __launch_bounds__(256, 2) conv_gather_bf16(const ConvArgs args) { conv<__nv_bfloat16, 128, 64, 32, 2>(args); }
