// What a kernel file includes in an emulator build: the twin of kernels/device/ptx.cuh, name for name.
#pragma once
#include "cuda.h"

#define DEV inline

#define SHARED(T, name, ...) SHARED_ALIGNED(alignof(T), T, name, __VA_ARGS__)
#define SHARED_ALIGNED(A, T, name, ...)                  \
  typedef T name##_shared_t __VA_ARGS__;                 \
  static const char name##_tag = 0;                      \
  name##_shared_t& name = *static_cast<name##_shared_t*>( \
      ::emu::shared_static(&name##_tag, sizeof(name##_shared_t), A, #name))
#define DYN_SHARED(T, name) T* const name = static_cast<T*>(::emu::shared_dynamic({__FILE__, __LINE__}))

DEV uint32_t smem_u32(const void* p, EMU_SITE) { return emu::shared_to_u32(p, _site); }

DEV unsigned long long load_relaxed(const unsigned long long* p) {
  emu::yield_point();
  return __atomic_load_n(p, __ATOMIC_RELAXED);
}

DEV void cp_async16(uint32_t dst, const void* src, bool pred, EMU_SITE) {
  emu::cp_async(emu::shared_from_u32(dst, 16, 16, _site), src, 16, pred ? 16 : 0, _site);
}
template <int BYTES>
DEV void cp_async_ca(uint32_t dst, const void* src, bool pred, EMU_SITE) {
  emu::cp_async(emu::shared_from_u32(dst, BYTES, BYTES, _site), src, BYTES, pred ? BYTES : 0, _site);
}
DEV void cp_async_commit() { emu::cp_async_commit(); }
template <int N>
DEV void cp_async_wait() {
  emu::cp_async_wait(N);
}

namespace emu {

// Each lane reads its own row before the rendezvous, so that the race detector sees whose access it is.
DEV void ldmatrix(uint32_t* out, uint32_t addr, int count, bool transpose, Site site) {
  LdmArg argument;
  argument.out = out;
  argument.count = count;
  argument.transpose = transpose;
  if (static_cast<int>(self->lane) < 8 * count) memcpy(argument.row, shared_from_u32(addr, 16, 16, site), 16);
  warp_op(Op::ldmatrix, kFullMask, &argument, site);
}

DEV void mma(Op op, void* d, const void* a, const void* b, const void* c, Site site) {
  MmaArg argument{d, a, b, c};
  warp_op(op, kFullMask, &argument, site);
}

}  // namespace emu

DEV void ldmatrix_x4(uint32_t (&r)[4], uint32_t addr, EMU_SITE) { emu::ldmatrix(r, addr, 4, false, _site); }
DEV void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t addr, EMU_SITE) { emu::ldmatrix(r, addr, 4, true, _site); }

DEV void mma_16816_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4], EMU_SITE) {
  emu::mma(emu::Op::mma_f16_f32, d, a, b, c, _site);
}
DEV void mma_16816_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4], EMU_SITE) {
  emu::mma(emu::Op::mma_bf16_f32, d, a, b, c, _site);
}
DEV void mma_16832_s8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const int (&c)[4], EMU_SITE) {
  emu::mma(emu::Op::mma_s8_s32, d, a, b, c, _site);
}

DEV void bar_sync(int id, int count, EMU_SITE) { emu::block_barrier(id, static_cast<unsigned>(count), true, _site); }
DEV void bar_arrive(int id, int count, EMU_SITE) { emu::block_barrier(id, static_cast<unsigned>(count), false, _site); }
