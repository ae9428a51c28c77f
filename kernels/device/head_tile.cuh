// The product of a tile of weights and a tile of rows, both in shared memory: sums of [OUTPUTS, ROWS] in the registers
// of a block.
//
// A tile is an array of lines of 128 bytes as operands.cuh says, one line a stretch of one output's weights or of one
// row's values.
//
// Every tile here defines: OUTPUTS, ROWS, THREADS; Element, how values lie in memory; GROUPS, where a thread holds its
// sums as float [GROUPS][4]; place, which output and row of the tile such a sum belongs to; multiply, which adds the
// products of one pair of lines per sum, in an order that is the same for all sums and all tiles of one Element.
#pragma once
#include "operands.cuh"

constexpr int LINE_BYTES = 128, UNIT_BYTES = 16, UNITS = LINE_BYTES / UNIT_BYTES;

struct Place {
  int output, row;
};

// Tensor cores, 16 elements of a line at a time in ascending order: weights are the 16 x 16 operand, rows the 16 x 8
// one. ALONG_OUTPUTS x ALONG_ROWS warps share the tile.
template <typename E, int O, int R, int ALONG_OUTPUTS, int ALONG_ROWS> struct MmaTile {
  using Element = E;
  static constexpr int OUTPUTS = O, ROWS = R, THREADS = 32 * ALONG_OUTPUTS * ALONG_ROWS;
  static constexpr int M = OUTPUTS / (16 * ALONG_OUTPUTS), N = ROWS / (8 * ALONG_ROWS), GROUPS = M * N;
  static_assert(M * 16 * ALONG_OUTPUTS == OUTPUTS && N * 8 * ALONG_ROWS == ROWS, "warps share the tile evenly");
  static_assert(N % 2 == 0, "one ldmatrix brings the rows of two products");

  static DEV Place first() {
    const int warp = threadIdx.x / 32;
    return {warp % ALONG_OUTPUTS * M * 16, warp / ALONG_OUTPUTS * N * 8};
  }
  static DEV Place place(int group, int at) {
    const int lane = threadIdx.x % 32;
    return {first().output + group / N * 16 + at / 2 * 8 + lane / 4, first().row + group % N * 8 + lane % 4 * 2 + at % 2};
  }
  static DEV void multiply(float (&sum)[GROUPS][4], const unsigned char* weights, const unsigned char* rows) {
    const uint32_t left = smem_u32(weights), right = smem_u32(rows);
#pragma unroll
    for (int unit = 0; unit < UNITS; unit += 2) {
      uint32_t a[M][4], b[N / 2][4];
#pragma unroll
      for (int i = 0; i < M; ++i) load_left<LINE_BYTES>(a[i], left, first().output + i * 16, unit);
#pragma unroll
      for (int j = 0; j < N / 2; ++j) load_right<LINE_BYTES>(b[j], right, first().row + j * 16, unit);
#pragma unroll
      for (int i = 0; i < M; ++i) {
#pragma unroll
        for (int j = 0; j < N; ++j) mma(sum[i * N + j], a[i], b[j / 2], j % 2, Element());
      }
    }
  }
};

// Fused multiply-add, one element of a line after the other. ALONG_OUTPUTS x ALONG_ROWS threads share the tile.
template <int O, int R, int ALONG_OUTPUTS, int ALONG_ROWS> struct FmaTile {
  using Element = float;
  static constexpr int OUTPUTS = O, ROWS = R, THREADS = ALONG_OUTPUTS * ALONG_ROWS;
  static constexpr int M = OUTPUTS / ALONG_OUTPUTS, N = ROWS / ALONG_ROWS, GROUPS = M * N / 4;
  static_assert(M * ALONG_OUTPUTS == OUTPUTS && N * ALONG_ROWS == ROWS, "threads share the tile evenly");
  static_assert(N % 4 == 0 && ALONG_OUTPUTS % 8 == 0, "a group is of one output; 8 lanes read 8 neighbouring lines");

  static DEV Place place(int group, int at) {
    const int thread = threadIdx.x, i = group * 4 / N, j = group * 4 % N + at;
    return {thread % ALONG_OUTPUTS + i * ALONG_OUTPUTS, thread / ALONG_OUTPUTS + j * ALONG_ROWS};
  }
  static DEV void multiply(float (&sum)[GROUPS][4], const unsigned char* weights, const unsigned char* rows) {
    const int output = threadIdx.x % ALONG_OUTPUTS, row = threadIdx.x / ALONG_OUTPUTS;
#pragma unroll 1
    for (int unit = 0; unit < UNITS; ++unit) {
      float4 w[M], x[N];
#pragma unroll
      for (int i = 0; i < M; ++i) {
        w[i] = *reinterpret_cast<const float4*>(weights + unit_offset<LINE_BYTES>(output + i * ALONG_OUTPUTS, unit));
      }
#pragma unroll
      for (int j = 0; j < N; ++j) {
        x[j] = *reinterpret_cast<const float4*>(rows + unit_offset<LINE_BYTES>(row + j * ALONG_ROWS, unit));
      }
#pragma unroll
      for (int i = 0; i < M; ++i) {
#pragma unroll
        for (int j = 0; j < N; ++j) {
          float& s = sum[(i * N + j) / 4][j % 4];
          s = __fmaf_rn(w[i].x, x[j].x, s);
          s = __fmaf_rn(w[i].y, x[j].y, s);
          s = __fmaf_rn(w[i].z, x[j].z, s);
          s = __fmaf_rn(w[i].w, x[j].w, s);
        }
      }
    }
  }
};
