// The defined score (src/cpu/score.rs) of stored rows with queries, by one warp, bit for bit.
//
//   score(q, x) = the 32 sums over i = l (mod 32) of q[i] * x[i], in order of i with fused multiply-add from +0, added
//                 as a tree over l ^ 16, l ^ 8, l ^ 4, l ^ 2, l ^ 1
//
// Lane l has sum l, and its terms lie together, so that it loads four of them at once: 16 bytes of f32s, 8 of halves.
//
//   a row of `dim` values: whole groups of 128, value 32 * t + l of the group at place 4 * l + t; the rest, fewer than
//                          128, in order; zeros up to a multiple of 16 bytes
//   Q queries in shared memory: [groups of 128, Q, 128] floats, value 32 * t + l of a group at place 4 * l + t; -0 where
//                               the last group has none
//
// A term that is not there is +0 of the row times -0 of the query: -0, which leaves every sum as it is, -0 and NaN too.
#pragma once
#include "values.cuh"

constexpr uint32_t SCORE_GROUP = 128;

// What one load brings.
template <int BYTES> struct Words;
template <> struct Words<8> { using Type = uint2; };
template <> struct Words<16> { using Type = uint4; };

// Values from one stored row to the next.
template <class T> DEV uint32_t row_pitch(uint32_t dim) {
  constexpr uint32_t UNIT = 16 / sizeof(T);
  return (dim + UNIT - 1) / UNIT * UNIT;
}

// Groups of a query.
DEV uint32_t query_groups(uint32_t dim) { return (dim + SCORE_GROUP - 1) / SCORE_GROUP; }

// Adds four terms of this lane to its sums of Q queries with R rows: sums[q * R + r].
template <int Q, int R>
DEV void add_terms(float (&sums)[Q * R], const float (&x)[R][4], const float* queries) {
#pragma unroll
  for (int q = 0; q < Q; ++q) {
    if (q % 4 == 0 && q > 0) __syncwarp();  // or nvcc loads all queries first and runs out of registers
    const float4 y = *reinterpret_cast<const float4*>(queries + q * SCORE_GROUP);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      float& sum = sums[q * R + r];
      sum = __fmaf_rn(x[r][0], y.x, sum);
      sum = __fmaf_rn(x[r][1], y.y, sum);
      sum = __fmaf_rn(x[r][2], y.z, sum);
      sum = __fmaf_rn(x[r][3], y.w, sum);
    }
  }
}

// This lane's sums of Q queries with R stored rows, from `rows` on: sums[q * R + r]. A lane without an element keeps +0.
template <int Q, int R, class T>
DEV void lane_sums(float (&sums)[Q * R], const T* rows, uint32_t dim, const float* queries) {
  using Load = typename Words<4 * sizeof(T)>::Type;
  const uint32_t lane = threadIdx.x % 32, whole = dim / SCORE_GROUP * SCORE_GROUP;
  const uint32_t pitch = row_pitch<T>(dim);
  queries += 4 * lane;
#pragma unroll
  for (int i = 0; i < Q * R; ++i) sums[i] = 0.0f;
#pragma unroll(Q == 1 && sizeof(T) == 2 ? 2 : 1)
  for (uint32_t at = 0; at < whole; at += SCORE_GROUP, queries += Q * SCORE_GROUP) {
    const T* row = rows + at + 4 * lane;
    Load loads[R];
#pragma unroll
    for (int r = 0; r < R; ++r, row += pitch) loads[r] = __ldg(reinterpret_cast<const Load*>(row));
    float x[R][4];
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
      for (int t = 0; t < 4; ++t) x[r][t] = to_float(reinterpret_cast<const T*>(&loads[r])[t]);
    }
    add_terms<Q, R>(sums, x, queries);
  }
  if (whole < dim) {
    float x[R][4];
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      const uint32_t i = whole + 32 * t + lane;
      const T* row = rows + i;
#pragma unroll
      for (int r = 0; r < R; ++r, row += pitch) x[r][t] = i < dim ? to_float(__ldg(row)) : 0.0f;
    }
    add_terms<Q, R>(sums, x, queries);
  }
}

// Adds up each of COUNT sums over the lanes: l with l ^ 16, then ^ 8, ^ 4, ^ 2, ^ 1. As long as a lane has two sums it
// gives one half of them away and takes the other half's partners, so that no addition is done twice. In the end lane l
// has the totals of sums l * COUNT / 32 and following in sum[0 ..], COUNT / 32 of them, at least one.
template <int COUNT, int DISTANCE = 16> DEV void tree_sums(float* sum) {
  if constexpr (DISTANCE > 0 && COUNT == 1) {
    sum[0] = __fadd_rn(sum[0], __shfl_xor_sync(0xffffffffu, sum[0], DISTANCE));
    tree_sums<1, DISTANCE / 2>(sum);
  } else if constexpr (DISTANCE > 0) {
    const bool upper = (threadIdx.x & DISTANCE) != 0;
#pragma unroll
    for (int i = 0; i < COUNT / 2; ++i) {
      const float kept = upper ? sum[COUNT / 2 + i] : sum[i], given = upper ? sum[i] : sum[COUNT / 2 + i];
      sum[i] = __fadd_rn(kept, __shfl_xor_sync(0xffffffffu, given, DISTANCE));
    }
    tree_sums<COUNT / 2, DISTANCE / 2>(sum);
  }
}
