// The concatenation of segments, which a head without layers is; the parts of such a head too.
//
//   y[r, first_s + k] = x_s[r, k], and zeros for the segments that row r lacks
//
//   segment, rows, output, wide, fault: as in device/head.cuh; T is f32, f16 or bf16, as the name of the kernel says
//
// Grid: any number of blocks in x; a warp takes rows warp, warp + warps, ... Block: 256 threads. Shared memory: none.
// Nothing is summed. No rows: nothing is done. The launch code checks every length but the entries of index.
#include "head.cuh"

namespace {
template <typename Element> DEV void concatenate(const HeadArgs& args) {
  const uint32_t lane = threadIdx.x % 32;
  const size_t rows = rows_of(args.rows, args.most), warps = static_cast<size_t>(gridDim.x) * 8;
  for (size_t row = static_cast<size_t>(blockIdx.x) * 8 + threadIdx.x / 32; row < rows; row += warps) {
    const size_t first = row * args.outputs;
    for (uint32_t i = lane; i < args.outputs; i += 32) put_y(args, first + i, 0.0f);
    __syncwarp();
    for (uint32_t s = 0; s < args.segments; ++s) {
      const HeadSegment& segment = args.segment[s];
      const uint32_t place = segment.index[row];
      if (place >= segment.rows) continue;
      const Element* const data = static_cast<const Element*>(segment.data) + static_cast<size_t>(place) * segment.width;
      for (uint32_t i = lane; i < segment.width; i += 32) put_y(args, first + segment.first + i, to_float(data[i]));
    }
    __syncwarp();
    if (args.normalize) put_normalized(args, row);
  }
}
}  // namespace

extern "C" __global__ void __launch_bounds__(256) head_concatenate_f32(const HeadArgs args) { concatenate<float>(args); }
extern "C" __global__ void __launch_bounds__(256) head_concatenate_f16(const HeadArgs args) { concatenate<__half>(args); }
extern "C" __global__ void __launch_bounds__(256) head_concatenate_bf16(const HeadArgs args) {
  concatenate<__nv_bfloat16>(args);
}
