// wgmma (sm_90), operands in shared memory under 128-byte swizzle. Each warp of the warpgroup computes its 16 of the 64
// rows when the group is waited for, or at issue if a random run says so.
#include <cstring>

#include "worker.h"

namespace emu {

namespace {

constexpr int kK = 16;
constexpr int kMaxN = 64;
constexpr int kRowsPerWarp = 16;
constexpr uint64_t kSwizzle128 = 1;  // of a descriptor's top two bits

// Where a row's chunk of 16 bytes lies, by the descriptor's start and stride between groups of eight rows.
uint32_t chunk_address(uint64_t descriptor, uint32_t row, uint32_t byte) {
  auto field = [=](int shift) { return static_cast<uint32_t>(descriptor >> shift & 0x3fff) << 4; };
  uint32_t address = field(0) + row / 8 * field(32) + row % 8 * 128 + byte;
  return address ^ (address >> 7 & 7) << 4;
}

void read_row(uint64_t descriptor, uint32_t row, float (&out)[kK]) {
  for (uint32_t half = 0; half < 2; ++half) {
    const char* from = shared_address(chunk_address(descriptor, row, half * 16) - kSharedBias);
    note_read(from, 16);
    uint16_t bits[8];
    memcpy(bits, from, sizeof bits);
    for (uint32_t i = 0; i < 8; ++i) out[half * 8 + i] = half_to_float(bits[i]);
  }
}

// Accumulator element i of a lane: rows as in mma.sync, and eight columns for every four elements.
void perform(const PendingWgmma& w) {
  float a[kRowsPerWarp][kK], b[kMaxN][kK];
  for (uint32_t row = 0; row < kRowsPerWarp; ++row) read_row(w.a, w.warp_rank * kRowsPerWarp + row, a[row]);
  for (uint32_t row = 0; row < static_cast<uint32_t>(w.n); ++row) read_row(w.b, row, b[row]);
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    for (int i = 0; i < w.n / 2; ++i) {
      int row = static_cast<int>(lane / 4) + (i / 2 % 2) * 8;
      int column = i / 4 * 8 + static_cast<int>(lane % 4) * 2 + i % 2;
      float sum = w.d[lane][i];
      for (int k = 0; k < kK; ++k) sum += a[row][k] * b[column][k];
      w.d[lane][i] = sum;
    }
  }
}

}  // namespace

void issue_wgmma(Warp& warp) {
  auto argument = [&](unsigned lane) { return static_cast<const WgmmaArg*>(warp.lane[lane]->argument); };
  PendingWgmma w;
  w.a = argument(0)->a;
  w.b = argument(0)->b;
  w.n = argument(0)->n;
  w.warp_rank = warp.lane[0]->linear / kWarp % 4;
  w.group = warp.wgmma_group;
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if (argument(lane)->a != w.a || argument(lane)->b != w.b) fatal("wgmma: descriptors differ between lanes");
    w.d[lane] = argument(lane)->d;
  }
  if (!warp.wgmma_count && performs_early()) {
    perform(w);
    return;
  }
  if (warp.wgmma_count == kMaxWgmma) fatal("emulator: more than %u wgmma in flight in one warp", kMaxWgmma);
  warp.wgmma[warp.wgmma_count++] = w;
}

void perform_wgmma(Warp& warp) {
  uint32_t keep = *static_cast<const uint32_t*>(warp.lane[0]->argument);
  unsigned left = 0;
  for (unsigned i = 0; i < warp.wgmma_count; ++i) {
    const PendingWgmma& w = warp.wgmma[i];
    bool committed = w.group < warp.wgmma_group;
    if (committed && warp.wgmma_group - w.group > keep) {
      perform(w);
    } else {
      warp.wgmma[left++] = w;
    }
  }
  warp.wgmma_count = left;
}

void wgmma_fence(Site site) { warp_op(Op::wgmma_fence, kFullMask, nullptr, site); }

void wgmma(float* d, uint64_t a, uint64_t b, int n, Site site) {
  if (n > kMaxN) fatal_at(site, "wgmma: n %d", n);
  if (a >> 62 != kSwizzle128 || b >> 62 != kSwizzle128) fatal_at(site, "wgmma: only 128-byte swizzle is modelled");
  WgmmaArg argument{d, a, b, n};
  warp_op(Op::wgmma, kFullMask, &argument, site);
}

void wgmma_commit(Site site) { warp_op(Op::wgmma_commit, kFullMask, nullptr, site); }

// The reads of the operands are done by whichever lane arrives last: order them among the lanes.
void wgmma_wait(uint32_t keep_groups, Site site) {
  int* order = &self->warp->orders[Warp::kOrders - 1];
  hb_release(order);
  warp_op(Op::wgmma_wait, kFullMask, &keep_groups, site);
  hb_acquire(order);
}

}  // namespace emu
