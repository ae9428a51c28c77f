// How a lookup reads the rows of a table and writes those of its output: 16 bytes or one element at a time, each of a
// type that only the arguments tell.
#pragma once
#include "values.cuh"

enum : uint8_t { F32, F16, BF16 };  // types as the arguments number them

// 16 bytes of a row of T.
template <class T> struct Vector {
  using Raw = uint4;
  static constexpr int LEN = 16 / sizeof(T);
  static DEV void unpack(const Raw& raw, float (&x)[LEN]) {
    const T* values = reinterpret_cast<const T*>(&raw);
#pragma unroll
    for (int i = 0; i < LEN; ++i) x[i] = to_float(values[i]);
  }
};

// One element of a row of T.
template <class T> struct Scalar {
  using Raw = typename Unsigned<sizeof(T)>::Type;
  static constexpr int LEN = 1;
  static DEV void unpack(const Raw& raw, float (&x)[1]) { x[0] = to_float(*reinterpret_cast<const T*>(&raw)); }
};

// Two values rounded to 16 bits, the first in the lower half.
DEV uint32_t narrow(float a, float b, uint8_t type) {
  if (type == F16) {
    const __half2 pair = __floats2half2_rn(a, b);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
  const __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// Stores are __stcg: nvcc cuts plain ones of 16 bytes into words where it joins branches.
template <int LEN> DEV void store_f32(float* to, const float (&x)[LEN]) {
  if constexpr (LEN == 1) {
    __stcg(to, x[0]);
  } else {
#pragma unroll
    for (int i = 0; i < LEN; i += 4) {
      __stcg(reinterpret_cast<float4*>(to + i), make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]));
    }
  }
}
template <int LEN> DEV void store_16(uint16_t* to, const float (&x)[LEN], uint8_t type) {
  if constexpr (LEN == 1) {
    __stcg(to, static_cast<uint16_t>(narrow(x[0], 0.0f, type)));
  } else {
    uint32_t pairs[LEN / 2];
#pragma unroll
    for (int i = 0; i < LEN / 2; ++i) pairs[i] = narrow(x[2 * i], x[2 * i + 1], type);
    if constexpr (LEN == 4) __stcg(reinterpret_cast<uint2*>(to), make_uint2(pairs[0], pairs[1]));
    if constexpr (LEN == 8) __stcg(reinterpret_cast<uint4*>(to), make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]));
  }
}

// Writes from element `at` of an output of the type on, where a vector begins.
template <int LEN> DEV void store(void* output, uint8_t type, size_t at, const float (&x)[LEN]) {
  if (type == F32) {
    store_f32(static_cast<float*>(output) + at, x);
  } else {
    store_16(static_cast<uint16_t*>(output) + at, x, type);
  }
}
