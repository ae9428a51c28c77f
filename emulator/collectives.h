// Barriers, fences and warp operations that every lane of a mask calls.
#pragma once
#include <cstring>
#include <type_traits>

#include "runtime.h"

#define EMU_SITE ::emu::Site _site = {__builtin_FILE(), __builtin_LINE()}

inline void __syncthreads(EMU_SITE) { emu::block_barrier(0, 0, true, _site); }
inline void __syncwarp(unsigned mask = emu::kFullMask, EMU_SITE) {
  emu::warp_op(emu::Op::syncwarp, mask, nullptr, _site);
}
inline void __nanosleep(unsigned, EMU_SITE) { emu::poll_yield(_site); }

inline void __threadfence() {
  emu::hb_fence(true);
  emu::yield_point();
}
inline void __threadfence_block() {
  emu::hb_fence(false);
  emu::yield_point();
}

namespace emu {

template <class T>
T shfl(Op op, unsigned mask, T value, unsigned operand, int width, Site site) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "shuffle operand");
  ShflArg argument{0, 0, operand, static_cast<uint32_t>(width)};
  memcpy(&argument.value, &value, sizeof value);
  warp_op(op, mask, &argument, site);
  memcpy(&value, &argument.result, sizeof value);
  return value;
}

inline uint32_t vote(Op op, unsigned mask, uint64_t value, Site site) {
  VoteArg argument{value, 0};
  warp_op(op, mask, &argument, site);
  return argument.result;
}

}  // namespace emu

template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, EMU_SITE) {
  return emu::shfl(emu::Op::shfl_idx, mask, value, static_cast<unsigned>(lane), width, _site);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, EMU_SITE) {
  return emu::shfl(emu::Op::shfl_up, mask, value, delta, width, _site);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, EMU_SITE) {
  return emu::shfl(emu::Op::shfl_down, mask, value, delta, width, _site);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, EMU_SITE) {
  return emu::shfl(emu::Op::shfl_xor, mask, value, static_cast<unsigned>(lanes), width, _site);
}

inline unsigned __ballot_sync(unsigned m, int p, EMU_SITE) { return emu::vote(emu::Op::ballot, m, p != 0, _site); }
inline int __any_sync(unsigned m, int p, EMU_SITE) { return emu::vote(emu::Op::any, m, p != 0, _site); }
inline int __all_sync(unsigned m, int p, EMU_SITE) { return emu::vote(emu::Op::all, m, p != 0, _site); }
template <class T>
unsigned __match_any_sync(unsigned m, T v, EMU_SITE) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "match operand");
  uint64_t bits = 0;
  memcpy(&bits, &v, sizeof v);
  return emu::vote(emu::Op::match_any, m, bits, _site);
}

#define EMU_REDUCE(Name, T, Operation)                                               \
  inline T Name(unsigned m, T v, EMU_SITE) {                                         \
    return static_cast<T>(emu::vote(Operation, m, static_cast<unsigned>(v), _site)); \
  }
EMU_REDUCE(__reduce_add_sync, unsigned, emu::Op::red_add_u)
EMU_REDUCE(__reduce_add_sync, int, emu::Op::red_add_u)
EMU_REDUCE(__reduce_min_sync, unsigned, emu::Op::red_min_u)
EMU_REDUCE(__reduce_min_sync, int, emu::Op::red_min_s)
EMU_REDUCE(__reduce_max_sync, unsigned, emu::Op::red_max_u)
EMU_REDUCE(__reduce_max_sync, int, emu::Op::red_max_s)
EMU_REDUCE(__reduce_and_sync, unsigned, emu::Op::red_and)
EMU_REDUCE(__reduce_or_sync, unsigned, emu::Op::red_or)
EMU_REDUCE(__reduce_xor_sync, unsigned, emu::Op::red_xor)
#undef EMU_REDUCE
