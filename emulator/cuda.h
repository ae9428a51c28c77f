// Device-side view: what a kernel source sees when it is compiled as host C++.
// Everything a kernel may use is declared here; what is absent is a compile error, on purpose.
#pragma once
// standard headers first: some of them use __noinline__ and friends as attribute names
#include <cassert>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <type_traits>
#include <utility>
#include "runtime.h"

#define CUDA_EMU 1
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static_assert(false, "declare shared memory with SHARED()/DYN_SHARED()")

#define EMU_SITE ::emu::Site _site = {__builtin_FILE(), __builtin_LINE()}
#define EMU_INL inline

#define threadIdx (::emu::self->tid)
#define blockIdx (::emu::blk.bid)
#define blockDim (::emu::blk.bdim)
#define gridDim (::emu::blk.gdim)
constexpr int warpSize = 32;

// ---- vector types -----------------------------------------------------------
#define EMU_V2(N, T, A) struct alignas(A) N { T x, y; }; inline N make_##N(T x, T y) { return N{x, y}; }
#define EMU_V4(N, T, A) struct alignas(A) N { T x, y, z, w; }; inline N make_##N(T x, T y, T z, T w) { return N{x, y, z, w}; }
EMU_V2(float2, float, 8) EMU_V4(float4, float, 16) EMU_V2(int2, int, 8) EMU_V4(int4, int, 16)
EMU_V2(uint2, unsigned, 8) EMU_V4(uint4, unsigned, 16) EMU_V2(double2, double, 16)
EMU_V4(char4, signed char, 4) EMU_V4(uchar4, unsigned char, 4)

// ---- half and bfloat16 --------------------------------------------------------
namespace emu {
inline float bits_f(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
inline uint32_t f_bits(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }
inline float h2f(uint16_t h) {
  uint32_t mag = (uint32_t)(h & 0x7fff) << 13, sign = (uint32_t)(h & 0x8000) << 16;
  uint32_t r = f_bits(bits_f(mag) * 0x1p112f);           // rescales normals and subnormals alike
  if ((h & 0x7c00) == 0x7c00) r = mag | 0x7f800000u;     // inf / nan keep their payload
  return bits_f(r | sign);
}
inline uint16_t f2h(float f) {                            // round to nearest even
  uint32_t u = f_bits(f), sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return (uint16_t)(0x7fff);         // CUDA's canonical NaN
  if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);
  if (a < 0x38800000u) {                                  // subnormal result: let the FPU round
    float t = bits_f(a) + 0.5f;
    return (uint16_t)(sign | (f_bits(t) - 0x3f000000u));
  }
  a += 0xfffu + ((a >> 13) & 1u);
  return (uint16_t)(sign | ((a - 0x38000000u) >> 13));
}
inline float b2f(uint16_t h) { return bits_f((uint32_t)h << 16); }
inline uint16_t f2b(float f) {
  uint32_t u = f_bits(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
}  // namespace emu

struct __half { uint16_t u; };
struct alignas(4) __half2 { __half x, y; };
struct __nv_bfloat16 { uint16_t u; };
struct alignas(4) __nv_bfloat162 { __nv_bfloat16 x, y; };
using half = __half; using half2 = __half2;

inline float __half2float(__half h) { return emu::h2f(h.u); }
inline __half __float2half(float f) { return __half{emu::f2h(f)}; }
inline __half __float2half_rn(float f) { return __half{emu::f2h(f)}; }
inline float2 __half22float2(__half2 h) { return make_float2(emu::h2f(h.x.u), emu::h2f(h.y.u)); }
inline __half2 __floats2half2_rn(float a, float b) { return __half2{__float2half(a), __float2half(b)}; }
inline __half2 __float22half2_rn(float2 a) { return __floats2half2_rn(a.x, a.y); }
inline __half2 __halves2half2(__half a, __half b) { return __half2{a, b}; }
inline __half __low2half(__half2 h) { return h.x; }
inline __half __high2half(__half2 h) { return h.y; }
inline unsigned short __half_as_ushort(__half h) { return h.u; }
inline __half __ushort_as_half(unsigned short u) { return __half{u}; }
#define EMU_H1(N, E) inline __half N(__half a, __half b) { float x = emu::h2f(a.u), y = emu::h2f(b.u); return __float2half(E); } \
  inline __half2 N##2(__half2 a, __half2 b) { return __half2{N(a.x, b.x), N(a.y, b.y)}; }
EMU_H1(__hadd, x + y) EMU_H1(__hsub, x - y) EMU_H1(__hmul, x * y)
EMU_H1(__hmax, std::fmax(x, y)) EMU_H1(__hmin, std::fmin(x, y))
inline __half __hfma(__half a, __half b, __half c) {   // via double: one rounding for all but pathological cases
  return __half{emu::f2h((float)((double)emu::h2f(a.u) * emu::h2f(b.u) + emu::h2f(c.u)))};
}
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) { return __half2{__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; }
inline float __bfloat162float(__nv_bfloat16 h) { return emu::b2f(h.u); }
inline __nv_bfloat16 __float2bfloat16(float f) { return __nv_bfloat16{emu::f2b(f)}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b) { return {__float2bfloat16(a), __float2bfloat16(b)}; }

// ---- scalar intrinsics ---------------------------------------------------------
inline int min(int a, int b) { return a < b ? a : b; }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
inline long long min(long long a, long long b) { return a < b ? a : b; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float x) { return std::exp(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __double2float_rn(double x) { return (float)x; }
inline long long __double_as_longlong(double x) { long long b; memcpy(&b, &x, 8); return b; }
inline double __longlong_as_double(long long b) { double x; memcpy(&x, &b, 8); return x; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline int __float_as_int(float f) { return (int)emu::f_bits(f); }
inline unsigned __float_as_uint(float f) { return emu::f_bits(f); }
inline float __int_as_float(int i) { return emu::bits_f((uint32_t)i); }
inline float __uint_as_float(unsigned i) { return emu::bits_f(i); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __brev(unsigned x) { unsigned r = 0; for (int i = 0; i < 32; ++i) r |= ((x >> i) & 1u) << (31 - i); return r; }
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned s) {
  uint64_t v = ((uint64_t)b << 32) | a; unsigned r = 0;
  for (int i = 0; i < 4; ++i) { unsigned k = (s >> (4 * i)) & 0xf; unsigned byte = (v >> (8 * (k & 7))) & 0xff;
    if (k & 8) { byte = (byte & 0x80) ? 0xff : 0; }
    r |= byte << (8 * i); }
  return r;
}
inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; ++i) c = (int)((unsigned)c + (unsigned)((int)(int8_t)(a >> (8 * i)) * (int)(int8_t)(b >> (8 * i))));
  return c;
}
template <class T> inline T __ldg(const T* p) { return *p; }
inline long long clock64() { static thread_local long long c = 0; return ++c; }
[[noreturn]] inline void __trap() { emu::fatal("__trap()"); }
inline void __nanosleep(unsigned, EMU_SITE) { emu::poll_yield(_site); }

// ---- synchronisation --------------------------------------------------------------
inline void __syncthreads(EMU_SITE) { emu::block_barrier(0, 0, true, _site); }
inline void __syncwarp(unsigned mask = 0xffffffffu, EMU_SITE) { emu::warp_op(emu::Op::syncwarp, mask, nullptr, _site); }
inline void __threadfence() { static char g; emu::hb_acquire(&g); emu::hb_release(&g); emu::yield_point(); }
inline void __threadfence_block() { __threadfence(); }

// ---- warp collectives -----------------------------------------------------------------
namespace emu {
template <class T> inline T shfl(Op op, unsigned mask, T v, unsigned b, int width, Site s) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "shuffle operand");
  ShflArg a{0, 0, b, (uint32_t)width}; memcpy(&a.val, &v, sizeof v);
  warp_op(op, mask, &a, s);
  T r; memcpy(&r, &a.res, sizeof r); return r;
}
inline uint32_t vote(Op op, unsigned mask, uint64_t v, Site s) { VoteArg a{v, 0}; warp_op(op, mask, &a, s); return a.res; }
}
template <class T> inline T __shfl_sync(unsigned m, T v, int src, int w = 32, EMU_SITE) { return emu::shfl(emu::Op::shfl_idx, m, v, (unsigned)src, w, _site); }
template <class T> inline T __shfl_up_sync(unsigned m, T v, unsigned d, int w = 32, EMU_SITE) { return emu::shfl(emu::Op::shfl_up, m, v, d, w, _site); }
template <class T> inline T __shfl_down_sync(unsigned m, T v, unsigned d, int w = 32, EMU_SITE) { return emu::shfl(emu::Op::shfl_down, m, v, d, w, _site); }
template <class T> inline T __shfl_xor_sync(unsigned m, T v, int x, int w = 32, EMU_SITE) { return emu::shfl(emu::Op::shfl_xor, m, v, (unsigned)x, w, _site); }
inline unsigned __ballot_sync(unsigned m, int p, EMU_SITE) { return emu::vote(emu::Op::ballot, m, p != 0, _site); }
inline int __any_sync(unsigned m, int p, EMU_SITE) { return emu::vote(emu::Op::any, m, p != 0, _site); }
inline int __all_sync(unsigned m, int p, EMU_SITE) { return emu::vote(emu::Op::all, m, p != 0, _site); }
inline unsigned __match_any_sync(unsigned m, unsigned v, EMU_SITE) { return emu::vote(emu::Op::match_any, m, v, _site); }
inline unsigned __reduce_add_sync(unsigned m, unsigned v, EMU_SITE) { return emu::vote(emu::Op::red_add_u, m, v, _site); }
inline int __reduce_add_sync(unsigned m, int v, EMU_SITE) { return (int)emu::vote(emu::Op::red_add_u, m, (unsigned)v, _site); }
inline unsigned __reduce_min_sync(unsigned m, unsigned v, EMU_SITE) { return emu::vote(emu::Op::red_min_u, m, v, _site); }
inline unsigned __reduce_max_sync(unsigned m, unsigned v, EMU_SITE) { return emu::vote(emu::Op::red_max_u, m, v, _site); }
inline int __reduce_min_sync(unsigned m, int v, EMU_SITE) { return (int)emu::vote(emu::Op::red_min_s, m, (unsigned)v, _site); }
inline int __reduce_max_sync(unsigned m, int v, EMU_SITE) { return (int)emu::vote(emu::Op::red_max_s, m, (unsigned)v, _site); }
inline unsigned __reduce_and_sync(unsigned m, unsigned v, EMU_SITE) { return emu::vote(emu::Op::red_and, m, v, _site); }
inline unsigned __reduce_or_sync(unsigned m, unsigned v, EMU_SITE) { return emu::vote(emu::Op::red_or, m, v, _site); }
inline unsigned __reduce_xor_sync(unsigned m, unsigned v, EMU_SITE) { return emu::vote(emu::Op::red_xor, m, v, _site); }

// ---- atomics (relaxed, as CUDA's are) ----------------------------------------------------
template <class T, class F> inline T emu_rmw(T* p, F f) {
  emu::yield_point();
  static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 2, "atomic width");
  using U = typename std::conditional<sizeof(T) == 8, unsigned long long, typename std::conditional<sizeof(T) == 4, unsigned, unsigned short>::type>::type;
  U* u = reinterpret_cast<U*>(p); U old = __atomic_load_n(u, __ATOMIC_RELAXED), nw; T o, n;
  do { memcpy(&o, &old, sizeof o); n = f(o); memcpy(&nw, &n, sizeof n); }
  while (!__atomic_compare_exchange_n(u, &old, nw, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return o;
}
#define EMU_ATOMICS(T) \
  inline T atomicAdd(T* p, T v) { return emu_rmw(p, [v](T o) { return (T)(o + v); }); } \
  inline T atomicMin(T* p, T v) { return emu_rmw(p, [v](T o) { return o < v ? o : v; }); } \
  inline T atomicMax(T* p, T v) { return emu_rmw(p, [v](T o) { return o > v ? o : v; }); } \
  inline T atomicExch(T* p, T v) { return emu_rmw(p, [v](T) { return v; }); } \
  inline T atomicOr(T* p, T v) { return emu_rmw(p, [v](T o) { return (T)(o | v); }); } \
  inline T atomicAnd(T* p, T v) { return emu_rmw(p, [v](T o) { return (T)(o & v); }); } \
  inline T atomicCAS(T* p, T c, T v) { return emu_rmw(p, [c, v](T o) { return o == c ? v : o; }); }
EMU_ATOMICS(int) EMU_ATOMICS(unsigned) EMU_ATOMICS(unsigned long long)
inline int atomicSub(int* p, int v) { return atomicAdd(p, -v); }
inline float atomicAdd(float* p, float v) { return emu_rmw(p, [v](float o) { return o + v; }); }
inline __half2 atomicAdd(__half2* p, __half2 v) { return emu_rmw(p, [v](__half2 o) { return __hadd2(o, v); }); }

// ---- registration of kernels ---------------------------------------------------------------
namespace emu {
template <class T> constexpr ParamInfo pinfo() {
  return {(uint32_t)sizeof(T), (uint32_t)alignof(T)};
}
template <auto F> struct Thunk;
template <class... A, void (*F)(A...)> struct Thunk<F> {
  template <size_t... I> static void go(void** p, std::index_sequence<I...>) { F(*static_cast<std::remove_reference_t<A>*>(p[I])...); }
  static void call(void** p) { go(p, std::index_sequence_for<A...>{}); }
  static constexpr ParamInfo info[sizeof...(A) + 1] = {pinfo<A>()..., {0, 0}};
  static constexpr int n = sizeof...(A);
};
struct Reg { Kernel k; Reg(const char* m, const char* n, void (*t)(void**), const ParamInfo* p, int np, int mt) : k{m, n, t, p, np, mt, nullptr} { register_kernel(&k); } };
}
// The unit that includes a kernel file defines EMU_MODULE_NAME, the name that the driver loads it by.
#define EMU_KERNEL(NAME, MAXT) static ::emu::Reg emu_reg_##NAME(EMU_MODULE_NAME, #NAME, &::emu::Thunk<&NAME>::call, ::emu::Thunk<&NAME>::info, ::emu::Thunk<&NAME>::n, MAXT);
