// mma.sync and ldmatrix with the fragment layouts of the PTX manual. With g = lane / 4 and t = lane % 4:
//   A 16 x K: register pair i holds row g + 8 * (i odd), and for a 16-bit type columns 2t, 2t+1 (+8 from the third on)
//   B K x 8:  column g, rows 2t, 2t+1 (+8)          C, D 16 x 8: rows g and g + 8, columns 2t, 2t+1
// Products are summed in the order of k without contraction, so that every host computes the same bits; a GPU's own
// order and width are not specified.
#include <cstring>
#include <mutex>

#include "worker.h"

namespace emu {

namespace {

constexpr int kM = 16;
constexpr int kN = 8;
constexpr int kHalfK = 16;
constexpr int kByteK = 32;

float half_table[1 << 16];
std::once_flag half_table_filled;

float bfloat_to_float(uint16_t bits) {
  uint32_t word = static_cast<uint32_t>(bits) << 16;
  float value;
  memcpy(&value, &word, sizeof value);
  return value;
}

const MmaArg& argument(const Warp& warp, unsigned lane) { return *static_cast<const MmaArg*>(warp.lane[lane]->argument); }

// The accumulator's element `i` of a lane.
int row_of(unsigned lane, int i) { return static_cast<int>(lane / 4) + (i / 2) * 8; }
int column_of(unsigned lane, int i) { return static_cast<int>(lane % 4) * 2 + i % 2; }

template <class T>
void gather_c(const Warp& warp, T (&c)[kM][kN]) {
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    auto* from = static_cast<const T*>(argument(warp, lane).c);
    for (int i = 0; i < 4; ++i) c[row_of(lane, i)][column_of(lane, i)] = from[i];
  }
}

template <class T>
void scatter_d(const Warp& warp, const T (&d)[kM][kN]) {
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    auto* to = static_cast<T*>(argument(warp, lane).d);
    for (int i = 0; i < 4; ++i) to[i] = d[row_of(lane, i)][column_of(lane, i)];
  }
}

void run_mma_half(const Warp& warp, float (*convert)(uint16_t)) {
  float a[kM][kHalfK], b[kHalfK][kN], c[kM][kN];
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    const MmaArg& m = argument(warp, lane);
    const int g = static_cast<int>(lane / 4), t = static_cast<int>(lane % 4);
    uint16_t a_bits[8], b_bits[4];
    memcpy(a_bits, m.a, sizeof a_bits);
    memcpy(b_bits, m.b, sizeof b_bits);
    for (int i = 0; i < 8; ++i) a[g + (i / 2 % 2) * 8][t * 2 + i % 2 + i / 4 * 8] = convert(a_bits[i]);
    for (int i = 0; i < 4; ++i) b[t * 2 + i % 2 + i / 2 * 8][g] = convert(b_bits[i]);
  }
  gather_c(warp, c);
  for (int i = 0; i < kM; ++i) {
    for (int k = 0; k < kHalfK; ++k) {
      for (int j = 0; j < kN; ++j) c[i][j] += a[i][k] * b[k][j];
    }
  }
  scatter_d(warp, c);
}

void run_mma_byte(const Warp& warp) {
  int a[kM][kByteK], b[kByteK][kN], c[kM][kN];
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    const MmaArg& m = argument(warp, lane);
    const int g = static_cast<int>(lane / 4), t = static_cast<int>(lane % 4);
    int8_t a_bytes[16], b_bytes[8];
    memcpy(a_bytes, m.a, sizeof a_bytes);
    memcpy(b_bytes, m.b, sizeof b_bytes);
    for (int i = 0; i < 16; ++i) a[g + (i / 4 % 2) * 8][t * 4 + i % 4 + i / 8 * 16] = a_bytes[i];
    for (int i = 0; i < 8; ++i) b[t * 4 + i % 4 + i / 4 * 16][g] = b_bytes[i];
  }
  gather_c(warp, c);
  for (int i = 0; i < kM; ++i) {
    for (int k = 0; k < kByteK; ++k) {
      for (int j = 0; j < kN; ++j) {
        c[i][j] = static_cast<int>(static_cast<unsigned>(c[i][j]) + static_cast<unsigned>(a[i][k] * b[k][j]));
      }
    }
  }
  scatter_d(warp, c);
}

}  // namespace

void fill_half_table() {
  std::call_once(half_table_filled, [] {
    for (uint32_t h = 0; h < 1 << 16; ++h) {
      uint32_t magnitude = (h & 0x7fff) << 13;
      float scaled;
      memcpy(&scaled, &magnitude, sizeof scaled);
      scaled *= 0x1p112f;  // rescales normal and subnormal numbers alike
      uint32_t bits;
      memcpy(&bits, &scaled, sizeof bits);
      if ((h & 0x7c00) == 0x7c00) bits = magnitude | 0x7f800000u;
      bits |= (h & 0x8000) << 16;
      memcpy(&half_table[h], &bits, sizeof bits);
    }
  });
}

float half_to_float(uint16_t bits) { return half_table[bits]; }

void run_mma(Op op, Warp& warp) {
  switch (op) {
    case Op::mma_f16_f32: run_mma_half(warp, half_to_float); break;
    case Op::mma_bf16_f32: run_mma_half(warp, bfloat_to_float); break;
    default: run_mma_byte(warp);
  }
}

// Matrix j takes its eight rows from lanes 8j to 8j + 7; each lane has read its row before the rendezvous.
void run_ldmatrix(Warp& warp) {
  auto argument = [&](unsigned lane) { return static_cast<LdmArg*>(warp.lane[lane]->argument); };
  const int count = argument(0)->count;
  const bool transpose = argument(0)->transpose;
  for (int j = 0; j < count; ++j) {
    uint16_t matrix[8][8];
    for (int row = 0; row < 8; ++row) memcpy(matrix[row], argument(static_cast<unsigned>(8 * j + row))->row, 16);
    for (unsigned lane = 0; lane < kWarp; ++lane) {
      const unsigned row = lane / 4, column = lane % 4 * 2;
      uint32_t low = transpose ? matrix[column][row] : matrix[row][column];
      uint32_t high = transpose ? matrix[column + 1][row] : matrix[row][column + 1];
      argument(lane)->out[j] = low | high << 16;
    }
  }
}

}  // namespace emu
