// The product of two tiles in shared memory by one warp: sums[m][n] += a[m][k] * b[n][k].
//
// A tile is rows of 64 bytes along k, each in four chunks of 16 bytes: the lines and units of operands.cuh.
#pragma once
#include "operands.cuh"

constexpr int TILE_ROW = 64;
constexpr int TILE_CHUNKS = 4;

DEV uint32_t chunk_offset(uint32_t row, uint32_t chunk) { return unit_offset<TILE_ROW>(row, chunk); }

// Sums leave a warp's registers 16 rows at a time, through f32 [16, SLAB_STRIDE] in shared memory.
constexpr int SLAB = 16;
constexpr int SLAB_STRIDE = 40;  // of the 32 columns; the rest keeps rows apart in the banks

// ROWS x 32 sums of 16-bit values on the tensor cores, k in runs of 16, in order.
template <class T, int ROWS> struct WarpTile {
  float sums[ROWS / 16][4][4];

  DEV void clear() {
#pragma unroll
    for (int m = 0; m < ROWS / 16; ++m) {
#pragma unroll
      for (int n = 0; n < 4; ++n) sums[m][n][0] = sums[m][n][1] = sums[m][n][2] = sums[m][n][3] = 0.0f;
    }
  }

  // a and b: the tiles; this warp's rows of them start at a_row and b_row.
  DEV void multiply(const unsigned char* a, uint32_t a_row, const unsigned char* b, uint32_t b_row) {
    const uint32_t a_base = smem_u32(a), b_base = smem_u32(b);
#pragma unroll
    for (int k = 0; k < TILE_CHUNKS; k += 2) {
      uint32_t right[2][4];  // [16 columns]
#pragma unroll
      for (int n = 0; n < 2; ++n) load_right<TILE_ROW>(right[n], b_base, b_row + 16 * n, k);
#pragma unroll
      for (int m = 0; m < ROWS / 16; ++m) {
        uint32_t left[4];
        load_left<TILE_ROW>(left, a_base, a_row + 16 * m, k);
#pragma unroll
        for (int n = 0; n < 4; ++n) mma(sums[m][n], left, right[n / 2], n % 2, T{});
      }
    }
  }

  // Writes rows 16 * slab .. 16 * slab + 16.
  DEV void put(int slab, float* to) const {
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      float* at = to + lane / 4 * SLAB_STRIDE + n * 8 + lane % 4 * 2;
      *reinterpret_cast<float2*>(at) = make_float2(sums[slab][n][0], sums[slab][n][1]);
      *reinterpret_cast<float2*>(at + 8 * SLAB_STRIDE) = make_float2(sums[slab][n][2], sums[slab][n][3]);
    }
  }
};

// ROWS x 32 sums of f32 values, one fused multiply-add per k, in order. A lane has rows lane / 4 + 8 m and columns
// lane % 4 + 4 n.
template <int ROWS> struct WarpTile<float, ROWS> {
  float sums[ROWS / 8][8];

  DEV void clear() {
#pragma unroll
    for (int m = 0; m < ROWS / 8; ++m) {
#pragma unroll
      for (int n = 0; n < 8; ++n) sums[m][n] = 0.0f;
    }
  }

  DEV void multiply(const unsigned char* a, uint32_t a_row, const unsigned char* b, uint32_t b_row) {
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < TILE_CHUNKS; ++k) {
      float4 right[8];
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        right[n] = *reinterpret_cast<const float4*>(b + chunk_offset(b_row + lane % 4 + 4 * n, k));
      }
#pragma unroll
      for (int m = 0; m < ROWS / 8; ++m) {
        const float4 left = *reinterpret_cast<const float4*>(a + chunk_offset(a_row + lane / 4 + 8 * m, k));
#pragma unroll
        for (int n = 0; n < 8; ++n) {
          float sum = sums[m][n];
          sum = __fmaf_rn(left.x, right[n].x, sum);
          sum = __fmaf_rn(left.y, right[n].y, sum);
          sum = __fmaf_rn(left.z, right[n].z, sum);
          sums[m][n] = __fmaf_rn(left.w, right[n].w, sum);
        }
      }
    }
  }

  DEV void put(int slab, float* to) const {
    const uint32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        to[(lane / 4 + 8 * m) * SLAB_STRIDE + lane % 4 + 4 * n] = sums[2 * slab + m][n];
      }
    }
  }
};
