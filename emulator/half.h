// __half and __nv_bfloat16: storage and named functions only, as kernels may use them. Conversions round to nearest,
// ties to even; a NaN becomes CUDA's canonical one. Arithmetic is in float with one rounding at the end, which for
// these widths is the same as rounding the exact result.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "vectors.h"

namespace emu {

inline float bits_f(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t f_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float h2f(uint16_t half) {
  uint32_t magnitude = static_cast<uint32_t>(half & 0x7fff) << 13;
  uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  uint32_t bits = f_bits(bits_f(magnitude) * 0x1p112f);           // rescales normal and subnormal numbers alike
  if ((half & 0x7c00) == 0x7c00) bits = magnitude | 0x7f800000u;  // infinity and NaN keep their payload
  return bits_f(bits | sign);
}

inline uint16_t f2h(float value) {
  constexpr uint32_t kInfinity = 0x7f800000u;
  constexpr uint32_t kOverflows = 0x477ff000u;  // 65520: the first that rounds to infinity
  constexpr uint32_t kSubnormal = 0x38800000u;  // 2^-14: below, the result is subnormal
  uint32_t bits = f_bits(value);
  uint32_t sign = bits >> 16 & 0x8000u;
  uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > kInfinity) return 0x7fff;
  if (magnitude >= kOverflows) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < kSubnormal) {  // the addition rounds
    return static_cast<uint16_t>(sign | (f_bits(bits_f(magnitude) + 0.5f) - 0x3f000000u));
  }
  magnitude += 0xfffu + (magnitude >> 13 & 1u);
  return static_cast<uint16_t>(sign | (magnitude - 0x38000000u) >> 13);
}

inline float b2f(uint16_t bfloat) { return bits_f(static_cast<uint32_t>(bfloat) << 16); }

inline uint16_t f2b(float value) {
  uint32_t bits = f_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

}  // namespace emu

struct __half {
  uint16_t u;
};
struct alignas(4) __half2 {
  __half x, y;
};
struct __nv_bfloat16 {
  uint16_t u;
};
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
using half = __half;
using half2 = __half2;

inline float __half2float(__half h) { return emu::h2f(h.u); }
inline __half __float2half(float f) { return {emu::f2h(f)}; }
inline __half __float2half_rn(float f) { return {emu::f2h(f)}; }
inline float2 __half22float2(__half2 h) { return {emu::h2f(h.x.u), emu::h2f(h.y.u)}; }
inline __half2 __floats2half2_rn(float a, float b) { return {__float2half(a), __float2half(b)}; }
inline __half2 __float22half2_rn(float2 a) { return __floats2half2_rn(a.x, a.y); }
inline __half2 __halves2half2(__half a, __half b) { return {a, b}; }
inline __half __low2half(__half2 h) { return h.x; }
inline __half __high2half(__half2 h) { return h.y; }
inline unsigned short __half_as_ushort(__half h) { return h.u; }
inline __half __ushort_as_half(unsigned short u) { return {u}; }

inline __half __hadd(__half a, __half b) { return __float2half(emu::h2f(a.u) + emu::h2f(b.u)); }
inline __half __hsub(__half a, __half b) { return __float2half(emu::h2f(a.u) - emu::h2f(b.u)); }
inline __half __hmul(__half a, __half b) { return __float2half(emu::h2f(a.u) * emu::h2f(b.u)); }
inline __half __hmax(__half a, __half b) { return __float2half(std::fmax(emu::h2f(a.u), emu::h2f(b.u))); }
inline __half __hmin(__half a, __half b) { return __float2half(std::fmin(emu::h2f(a.u), emu::h2f(b.u))); }
inline __half __hfma(__half a, __half b, __half c) {
  double exact = static_cast<double>(emu::h2f(a.u)) * emu::h2f(b.u) + emu::h2f(c.u);
  auto rounded = static_cast<float>(exact);
  // Rounding twice is wrong only on a tie of the second rounding that the first one made: step off it.
  if (rounded != exact && !(emu::f_bits(rounded) & 0xfffu)) {
    rounded = std::nextafter(rounded, exact > rounded ? INFINITY : -INFINITY);
  }
  return __float2half(rounded);
}
inline __half2 __hadd2(__half2 a, __half2 b) { return {__hadd(a.x, b.x), __hadd(a.y, b.y)}; }
inline __half2 __hsub2(__half2 a, __half2 b) { return {__hsub(a.x, b.x), __hsub(a.y, b.y)}; }
inline __half2 __hmul2(__half2 a, __half2 b) { return {__hmul(a.x, b.x), __hmul(a.y, b.y)}; }
inline __half2 __hmax2(__half2 a, __half2 b) { return {__hmax(a.x, b.x), __hmax(a.y, b.y)}; }
inline __half2 __hmin2(__half2 a, __half2 b) { return {__hmin(a.x, b.x), __hmin(a.y, b.y)}; }
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; }

inline float __bfloat162float(__nv_bfloat16 b) { return emu::b2f(b.u); }
inline __nv_bfloat16 __float2bfloat16(float f) { return {emu::f2b(f)}; }
inline __nv_bfloat16 __float2bfloat16_rn(float f) { return {emu::f2b(f)}; }
inline float2 __bfloat1622float2(__nv_bfloat162 b) { return {emu::b2f(b.x.u), emu::b2f(b.y.u)}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b) { return {__float2bfloat16(a), __float2bfloat16(b)}; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 b) { return b.u; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short u) { return {u}; }
