// The defined normalisation of one row by one warp, bit for bit as src/cpu/normalize.rs.
//
//   y = x * 2^-e, where 2^e <= max|x| < 2^(e+1);  x[i] = y[i] / sqrt(score(y, y))
//
// The score is 32 partial sums, lane l taking elements l, l + 32, ... with fused multiply-add, added as a tree over
// l ^ 16, l ^ 8, l ^ 4, l ^ 2, l ^ 1.
#pragma once
#include "device.cuh"

// Multiplies by 2^-e for the e with 2^e <= largest < 2^(e+1), rounding once; largest is positive and finite, and nothing
// larger is multiplied. 2^-e may be beyond f32: a row of small values takes it in two factors, which only enlarge and are
// therefore exact; other rows take it in one.
struct Scale {
  float first, second;
  explicit DEV Scale(float largest) {
    const long long biased = __double_as_longlong(static_cast<double>(largest)) >> 52;
    const double reciprocal = __longlong_as_double((2 * 1023 - biased) << 52);
    const bool small = reciprocal > 0x1p64;
    first = small ? 0x1p64f : __double2float_rn(reciprocal);
    second = small ? __double2float_rn(reciprocal * 0x1p-64) : 1.0f;
  }
  DEV float operator()(float x) const { return __fmul_rn(__fmul_rn(x, first), second); }
};

// Calls take with the elements of row: [dim] that are this lane's in passes where order does not matter: 16 bytes at a
// time if the row is `vector`, starting and ending at multiples of 16 bytes.
template <class F> DEV void read_row(const float* row, uint32_t dim, bool vector, F take) {
  const uint32_t lane = threadIdx.x % 32;
  if (vector) {
#pragma unroll 4
    for (uint32_t i = lane; i < dim / 4; i += 32) {
      const float4 x = reinterpret_cast<const float4*>(row)[i];
      take(x.x), take(x.y), take(x.z), take(x.w);
    }
  } else {
#pragma unroll 4
    for (uint32_t i = lane; i < dim; i += 32) take(row[i]);
  }
}

// Puts change(x) in the place of those elements.
template <class F> DEV void change_row(float* row, uint32_t dim, bool vector, F change) {
  const uint32_t lane = threadIdx.x % 32;
  if (vector) {
#pragma unroll 1  // the row is in the cache, and more would cost registers
    for (uint32_t i = lane; i < dim / 4; i += 32) {
      float4& to = reinterpret_cast<float4*>(row)[i];
      const float4 x = to;
      to = make_float4(change(x.x), change(x.y), change(x.z), change(x.w));
    }
  } else {
#pragma unroll 1
    for (uint32_t i = lane; i < dim; i += 32) row[i] = change(row[i]);
  }
}

// What the elements of a row are multiplied and divided by.
struct Norm {
  Scale scale;
  float norm;
  DEV float operator()(float x) const { return __fdiv_rn(scale(x), norm); }
};

// Calls use(norm, vector) for row: [dim] unless the row is all zeros or holds NaN or an infinity; the answer, the same in
// every lane, is whether it did. All 32 lanes call it, and all have read the row before any uses it.
template <class Use> DEV bool with_norm(const float* row, uint32_t dim, Use use) {
  constexpr unsigned FULL = 0xffffffffu;
  const bool vector = (reinterpret_cast<uintptr_t>(row) | dim * sizeof(float)) % 16 == 0;
  float largest = 0.0f;
  int finite = 1;
  read_row(row, dim, vector, [&](float x) {
    finite &= fabsf(x) < INFINITY;
    largest = fmaxf(largest, fabsf(x));
  });
  finite = __all_sync(FULL, finite);
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(FULL, largest, distance));
  }
  if (!finite || largest == 0.0f) return false;
  const Scale scale(largest);
  float square = 0.0f;
#pragma unroll 4
  for (uint32_t i = threadIdx.x % 32; i < dim; i += 32) {
    const float y = scale(row[i]);
    square = __fmaf_rn(y, y, square);
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    square = __fadd_rn(square, __shfl_xor_sync(FULL, square, distance));
  }
  __syncwarp();  // lanes now write what others have read
  use(Norm{scale, __fsqrt_rn(square)}, vector);
  return true;
}

// Normalises row: [dim] in place; a row without a norm stays as it is. Which lane writes what is not said, so __syncwarp
// comes before other lanes read the row.
DEV bool normalize_row(float* row, uint32_t dim) {
  return with_norm(row, dim, [&](Norm norm, bool vector) { change_row(row, dim, vector, norm); });
}

// As above, and put takes each element's number and value instead; it may write to row.
template <class Put> DEV bool normalize_row(const float* row, uint32_t dim, Put put) {
  return with_norm(row, dim, [&](Norm norm, bool) {
#pragma unroll 1
    for (uint32_t i = threadIdx.x % 32; i < dim; i += 32) put(i, norm(row[i]));
  });
}
