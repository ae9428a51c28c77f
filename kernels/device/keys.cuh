// The order of answers as one integer: of two hits of a query, the better one has the greater key. 0 is no key.
//
//   key = code(score) << 32 | ~rank
//
// The score descends as a number, then the rank of the row's id ascends. code maps floats to integers in their order.
// Its values for -0 and +0 are neighbours, and the two are one number: their keys share the 2^33 integers of both
// codes, ZERO_KEYS + (~rank << 1 | whether the zero is +0), so that the rank decides first and no bit is lost.
// src/cuda/topk/corpus.rs turns keys back.
#pragma once
#include "device.cuh"

using Key = unsigned long long;

constexpr Key ZERO_KEYS = 0x7fffffffull << 32;

// The key of a row. Ranks are below 2^32 - 1, the score is not NaN.
DEV Key key_of(float score, uint32_t rank) {
  const uint32_t bits = __float_as_uint(score);
  const Key late = static_cast<uint32_t>(~rank);
  if (score == 0.0f) return ZERO_KEYS + (late << 1 | (bits == 0 ? 1 : 0));
  const uint32_t code = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<Key>(code) << 32 | late;
}

// A score that every row with this key or a greater one reaches, as numbers are compared.
DEV float gate_of(Key key) {
  constexpr uint32_t INFINITY_BELOW = 0x007fffffu;  // the code of -inf
  const uint32_t code = static_cast<uint32_t>(key >> 32);
  if (code < INFINITY_BELOW) return -INFINITY;
  return __uint_as_float((code & 0x80000000u) != 0 ? code & 0x7fffffffu : ~code);
}
