// The defined normalisation of rows, in place; see device/normalize.cuh.
//
//   x:     f32 [most, dim], row-major, 4-byte aligned
//   count: u32 [1], how many rows there are; more than `most` counts as `most`
//   fault: u64 [1]; (stage, row) of the least row that is all zeros or holds NaN or an infinity; such a row stays as it is
//
// Grid: any number of blocks in x; a warp takes rows warp, warp + warps, ... Block: 256 threads. Shared memory: none.
// A row is read from memory once, 16 bytes at a time where dim and x allow, and then twice from the cache; the sum of
// squares, whose order is defined, is of 4-byte loads. No rows: nothing is done. The launch code checks the length of x
// and that dim is at least 1.
#include "fault.cuh"
#include "normalize.cuh"
#include "rows.cuh"

struct NormalizeArgs {
  float* x;
  unsigned long long* fault;
  const uint32_t* count;
  uint32_t most;
  uint32_t dim;
  uint32_t stage;
  uint32_t unused;
};
static_assert(sizeof(NormalizeArgs) == 40, "as in src/cuda/normalize.rs");

namespace {
constexpr int WARPS = 8;
}  // namespace

extern "C" __global__ void __launch_bounds__(256) normalize_f32(const NormalizeArgs args) {
  const size_t rows = rows_of(args.count, args.most), warps = static_cast<size_t>(gridDim.x) * WARPS;
  for (size_t at = static_cast<size_t>(blockIdx.x) * WARPS + threadIdx.x / 32; at < rows; at += warps) {
    const bool normalized = normalize_row(args.x + at * args.dim, args.dim);
    if (!normalized && threadIdx.x % 32 == 0) report_fault(args.fault, args.stage, at);
  }
}
