// What a kernel file for sm_90 includes besides in an emulator build: the twin of kernels/device/ptx_sm90.cuh.
#pragma once
#include "device.h"

struct alignas(64) TensorMap {
  uint64_t opaque[16];
};

DEV void mbar_init(uint64_t* b, int n, EMU_SITE) { emu::mbar_init(b, n, _site); }
DEV void mbar_fence_init() {}
DEV void mbar_expect_tx(uint64_t* b, int bytes, EMU_SITE) { emu::mbar_arrive(b, bytes, _site); }
DEV void mbar_arrive(uint64_t* b, EMU_SITE) { emu::mbar_arrive(b, 0, _site); }
DEV void mbar_wait(uint64_t* b, int parity, EMU_SITE) { emu::mbar_wait(b, parity, _site); }

DEV void tma_load_2d(void* dst, const TensorMap* m, uint64_t* b, int x, int y, EMU_SITE) {
  emu::tma_load_2d(dst, m, b, x, y, _site);
}

DEV void fence_proxy_async() {}
DEV void wgmma_fence(float (&)[32], EMU_SITE) { emu::wgmma_fence(_site); }
DEV void wgmma_commit(EMU_SITE) { emu::wgmma_commit(_site); }
template <int N>
DEV void wgmma_wait(float (&)[32], EMU_SITE) {
  emu::wgmma_wait(N, _site);
}
// K-major tile of 128-byte rows, 128-byte swizzle
DEV uint64_t wgmma_desc_128b(uint32_t addr) {
  return static_cast<uint64_t>((addr & 0x3ffff) >> 4) | (1ull << 16) | (static_cast<uint64_t>(1024 >> 4) << 32) |
         (1ull << 62);
}
DEV void wgmma_m64n64k16_f16(float (&d)[32], uint64_t a, uint64_t b, EMU_SITE) { emu::wgmma(d, a, b, 64, _site); }
