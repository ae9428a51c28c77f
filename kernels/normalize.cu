// The defined normalisation of rows, in place, bit for bit as src/cpu/normalize.rs.
//
//   y = x * 2^-e, where 2^e <= max|x| < 2^(e+1);  x[i] = y[i] / sqrt(score(y, y))
//
// The score is 32 partial sums, lane l taking elements l, l + 32, ... with fused multiply-add, added as a tree over
// l ^ 16, l ^ 8, l ^ 4, l ^ 2, l ^ 1.
//
//   x:     f32 [most, dim], row-major, 4-byte aligned
//   rows:  u32 [1], how many rows there are, at most what x has room for
//   fault: u64 [1]; (stage, row) of the least row that is all zeros or holds NaN or an infinity; such a row stays as it is
//
// Grid: any number of blocks in x; a warp takes rows warp, warp + warps, ... Block: 256 threads. Shared memory: none.
// No rows: nothing is done. The launch code checks the length of x and that dim is at least 1.
#include "device.cuh"
#include "fault.cuh"

struct NormalizeArgs {
  float* x;
  unsigned long long* fault;
  const uint32_t* rows;
  uint32_t dim;
  uint32_t stage;
};
static_assert(sizeof(NormalizeArgs) == 32, "as in src/cuda/normalize.rs");

namespace {
constexpr unsigned FULL = 0xffffffffu;
constexpr int WARPS = 8;

// 2^-e for the e with 2^e <= x < 2^(e+1); x is positive and finite, so the result is a normal double.
DEV double power_of_two_below_reciprocal(float x) {
  const long long biased = __double_as_longlong(static_cast<double>(x)) >> 52;
  return __longlong_as_double((2 * 1023 - biased) << 52);
}

DEV void normalize_row(float* row, uint32_t dim, size_t at, const NormalizeArgs& args) {
  const uint32_t lane = threadIdx.x % 32;
  float largest = 0.0f;
  int finite = 1;
  for (uint32_t i = lane; i < dim; i += 32) {
    const float x = fabsf(row[i]);
    finite &= x < INFINITY;
    largest = fmaxf(largest, x);
  }
  finite = __all_sync(FULL, finite);
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(FULL, largest, distance));
  }
  if (!finite || largest == 0.0f) {  // the same in every lane
    if (lane == 0) report_fault(args.fault, args.stage, at);
    return;
  }
  const double scale = power_of_two_below_reciprocal(largest);
  float square = 0.0f;
  for (uint32_t i = lane; i < dim; i += 32) {
    const float y = __double2float_rn(static_cast<double>(row[i]) * scale);
    row[i] = y;
    square = __fmaf_rn(y, y, square);
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    square = __fadd_rn(square, __shfl_xor_sync(FULL, square, distance));
  }
  const float norm = __fsqrt_rn(square);
  for (uint32_t i = lane; i < dim; i += 32) row[i] = __fdiv_rn(row[i], norm);
}
}  // namespace

extern "C" __global__ void __launch_bounds__(256) normalize_f32(const NormalizeArgs args) {
  const size_t rows = *args.rows, warps = static_cast<size_t>(gridDim.x) * WARPS;
  for (size_t at = static_cast<size_t>(blockIdx.x) * WARPS + threadIdx.x / 32; at < rows; at += warps) {
    normalize_row(args.x + at * args.dim, args.dim, at, args);
  }
}
