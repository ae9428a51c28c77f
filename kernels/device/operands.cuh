// Operands of matrix products: how tiles of them lie in shared memory, and how a warp brings them to the tensor cores.
//
// A tile is an array of lines of LINE bytes along k, each in units of 16 bytes. The units of a line are exchanged so that
// lanes which read one unit of 8 neighbouring lines hit every bank once.
#pragma once
#include "device.cuh"

// Where a unit of a line lies, in bytes.
template <int LINE> DEV uint32_t unit_offset(uint32_t line, uint32_t unit) {
  constexpr uint32_t UNITS = LINE / 16, LINES = 128 / LINE;  // so many lines fill the banks
  static_assert(UNITS * LINES == 8, "lines of 16 to 128 bytes");
  return line * LINE + (unit ^ (line / LINES % UNITS)) * 16;
}

// The operand of 16 lines from `line` on and 16 values of 16 bits, two units from `unit` on. `tile` is an address in
// shared memory.
template <int LINE> DEV void load_left(uint32_t (&a)[4], uint32_t tile, uint32_t line, uint32_t unit) {
  const uint32_t lane = threadIdx.x % 32;
  ldmatrix_x4(a, tile + unit_offset<LINE>(line + lane % 16, unit + lane / 16));
}

// Two operands of 8 lines each: the first in [0] and [1], the second in [2] and [3].
template <int LINE> DEV void load_right(uint32_t (&b)[4], uint32_t tile, uint32_t line, uint32_t unit) {
  const uint32_t lane = threadIdx.x % 32;
  ldmatrix_x4(b, tile + unit_offset<LINE>(line + lane / 16 * 8 + lane % 8, unit + lane / 8 % 2));
}

// sums += a * b, where b is operand number `half` of two, for values of the type of the last argument.
DEV void mma(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[4], int half, __half) {
  const uint32_t column[2] = {b[half * 2], b[half * 2 + 1]};
  mma_16816_f16(sums, a, column, sums);
}
DEV void mma(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[4], int half, __nv_bfloat16) {
  const uint32_t column[2] = {b[half * 2], b[half * 2 + 1]};
  mma_16816_bf16(sums, a, column, sums);
}
