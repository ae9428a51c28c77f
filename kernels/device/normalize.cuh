// The defined normalisation of one row by one warp, bit for bit as src/cpu/normalize.rs.
//
//   y = x * 2^-e, where 2^e <= max|x| < 2^(e+1);  x[i] = y[i] / sqrt(score(y, y))
//
// The score is 32 partial sums, lane l taking elements l, l + 32, ... with fused multiply-add, added as a tree over
// l ^ 16, l ^ 8, l ^ 4, l ^ 2, l ^ 1.
#pragma once
#include "device.cuh"

// 2^-e for the e with 2^e <= x < 2^(e+1); x is positive and finite, so the result is a normal double.
DEV double power_of_two_below_reciprocal(float x) {
  const long long biased = __double_as_longlong(static_cast<double>(x)) >> 52;
  return __longlong_as_double((2 * 1023 - biased) << 52);
}

// Normalises row: [dim]; put takes each element's number and value, in the lane that reads the element last, so it may
// write to row. A row that is all zeros or holds NaN or an infinity stays as it is, and put takes nothing; the answer, the
// same in every lane, is whether the row was normalised. All 32 lanes call it.
template <class Put> DEV bool normalize_row(float* row, uint32_t dim, Put put) {
  constexpr unsigned FULL = 0xffffffffu;
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
  if (!finite || largest == 0.0f) return false;
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
  for (uint32_t i = lane; i < dim; i += 32) put(i, __fdiv_rn(row[i], norm));
  return true;
}

// In place.
DEV bool normalize_row(float* row, uint32_t dim) {
  return normalize_row(row, dim, [row](uint32_t i, float x) { row[i] = x; });
}
