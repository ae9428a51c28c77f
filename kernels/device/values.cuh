// Values of the storage types as floats, one at a time or eight at once; and division of element numbers.
#pragma once
#include "device.cuh"

DEV float to_float(float x) { return x; }
DEV float to_float(__half x) { return __half2float(x); }
DEV float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

// Rounded to nearest, ties to even.
template <class T> DEV T from_float(float x);
template <> DEV float from_float<float>(float x) { return x; }
template <> DEV __half from_float<__half>(float x) { return __float2half_rn(x); }
template <> DEV __nv_bfloat16 from_float<__nv_bfloat16>(float x) { return __float2bfloat16(x); }

// One value.
template <class T> DEV void load(const T* from, float (&x)[1]) { x[0] = to_float(*from); }
template <class T> DEV void store(T* to, const float (&x)[1]) { *to = from_float<T>(x[0]); }

// Eight values from an address that is a multiple of 16.
DEV void load(const float* from, float (&x)[8]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float4 bits = reinterpret_cast<const float4*>(from)[half];
    x[4 * half] = bits.x, x[4 * half + 1] = bits.y, x[4 * half + 2] = bits.z, x[4 * half + 3] = bits.w;
  }
}
template <class T> DEV void load(const T* from, float (&x)[8]) {
  const uint4 bits = *reinterpret_cast<const uint4*>(from);
  const T* values = reinterpret_cast<const T*>(&bits);
#pragma unroll
  for (int i = 0; i < 8; ++i) x[i] = to_float(values[i]);
}

// Eight values to an address that is a multiple of 16.
DEV void store(float* to, const float (&x)[8]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float* part = x + 4 * half;
    reinterpret_cast<float4*>(to)[half] = make_float4(part[0], part[1], part[2], part[3]);
  }
}
DEV void store(__half* to, const float (&x)[8]) {
  uint4 bits;
  __half2* values = reinterpret_cast<__half2*>(&bits);
#pragma unroll
  for (int i = 0; i < 4; ++i) values[i] = __floats2half2_rn(x[2 * i], x[2 * i + 1]);
  *reinterpret_cast<uint4*>(to) = bits;
}
DEV void store(__nv_bfloat16* to, const float (&x)[8]) {
  uint4 bits;
  __nv_bfloat162* values = reinterpret_cast<__nv_bfloat162*>(&bits);
#pragma unroll
  for (int i = 0; i < 4; ++i) values[i] = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
  *reinterpret_cast<uint4*>(to) = bits;
}

// n / d, by the much shorter 32-bit division where n allows.
DEV size_t quotient(size_t n, uint32_t d) {
  return n >> 32 ? n / d : static_cast<size_t>(static_cast<uint32_t>(n) / d);
}

// NaN stays.
DEV float relu(float x) { return x <= 0.0f ? 0.0f : x; }
