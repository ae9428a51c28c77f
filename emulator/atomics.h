// Atomic operations, relaxed as CUDA's are. In random runs other threads may run before each.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "half.h"
#include "runtime.h"

namespace emu {

template <class T, class F>
T atomic_update(T* target, F update) {
  static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8, "atomic width");
  using Wide = std::conditional_t<sizeof(T) == 8, uint64_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>>;
  yield_point();
  auto* word = reinterpret_cast<Wide*>(target);
  Wide before = __atomic_load_n(word, __ATOMIC_RELAXED);
  Wide after;
  T old;
  do {
    memcpy(&old, &before, sizeof old);
    T changed = update(old);
    memcpy(&after, &changed, sizeof after);
  } while (!__atomic_compare_exchange_n(word, &before, after, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}

}  // namespace emu

#define EMU_ATOMIC(Name, T, Expression)                              \
  inline T Name(T* target, T v) {                                    \
    return emu::atomic_update(target, [v](T old) -> T { return Expression; }); \
  }
#define EMU_ATOMICS(T)                                               \
  EMU_ATOMIC(atomicAdd, T, old + v)                                  \
  EMU_ATOMIC(atomicMin, T, old < v ? old : v)                        \
  EMU_ATOMIC(atomicMax, T, old > v ? old : v)                        \
  EMU_ATOMIC(atomicExch, T, ((void)old, v))                          \
  EMU_ATOMIC(atomicOr, T, old | v)                                   \
  EMU_ATOMIC(atomicAnd, T, old & v)                                  \
  EMU_ATOMIC(atomicXor, T, old ^ v)                                  \
  inline T atomicCAS(T* target, T expected, T v) {                   \
    return emu::atomic_update(target, [=](T old) { return old == expected ? v : old; }); \
  }
EMU_ATOMICS(int)
EMU_ATOMICS(unsigned)
EMU_ATOMICS(unsigned long long)
EMU_ATOMIC(atomicSub, int, old - v)
EMU_ATOMIC(atomicSub, unsigned, old - v)
EMU_ATOMIC(atomicAdd, float, old + v)
EMU_ATOMIC(atomicExch, float, ((void)old, v))
EMU_ATOMIC(atomicAdd, __half2, __hadd2(old, v))
#undef EMU_ATOMICS
#undef EMU_ATOMIC
