// The fused concat-linear head, and linear layers, which are a head over one segment.
//
//   y[r, o] = activation(bias[o] + sum over the segments s that row r has: sum over k: weight[o, first_s + k] * x_s[r, k])
//
// The concatenation of the segments is never built, and a segment that a row lacks takes no part in its sum, whatever
// its weights are.
//
//   weight:   T [outputs, pitch], row-major, 16-byte aligned; each segment's columns begin at a multiple of 16 bytes,
//             zeros up to the next one; T is f32, f16 or bf16, as the name of the kernel says
//   bias:     f32 [outputs], or null
//   segment, rows, output, wide, fault: as in device/head.cuh
//   partials: f32 [tiles, chunks, ROWS, OUTPUTS], used if slices > 1
//   counters: u32 [tiles + row tiles], zeros, used if slices > 1 or normalize
//
// Order of a sum, the same in all kernels of one T and for every grid: each segment is cut into chunks of 256 elements.
// A chunk's sum is f32, from +0, ascending: f32 with fused multiply-add, one element at a time; f16 and bf16 on the
// tensor cores, 16 elements at a time, the last ones filled up with zeros. The sums of the chunks that a row has are
// added to +0 in order, then the bias.
//
// Grid: slices * column tiles * row tiles blocks in x, the slice running fastest, then the column; a tile is OUTPUTS x
// ROWS of y. A block computes its slice of the tile's chunks. With more than one slice each chunk's sum goes to
// partials, and the block that is last to finish a tile adds them; with normalize, the block that is last to finish a
// tile of rows normalises them. Block: THREADS.
// Shared memory: STAGES * (OUTPUTS + ROWS) * 128 + segments * (ROWS + 1) * 4 bytes, dynamic, and 4, static, which take
// 1 KiB as the dynamic ones begin at a multiple of that.
// No segments, or none that a row has: activation(bias). The launch code checks every length but the entries of index.
#include "head.cuh"
#include "head_tile.cuh"

namespace {
constexpr unsigned FULL = 0xffffffffu;
constexpr uint32_t CHUNK = 256, ABSENT = 0xffffffffu;

// As src/cpu/activation.rs: sigmoid and tanh in double, rounded once; relu keeps NaN.
DEV float activate(uint32_t activation, float x) {
  if (activation < 2) return activation == 1 ? relu(x) : x;
  const double wide = x;
  return __double2float_rn(activation == 2 ? 1.0 / (1.0 + exp(-wide)) : tanh(wide));
}

// One unit of a row that is aligned to its elements only; `left` elements are there, zeros stand for the rest.
DEV uint4 load_unit(const uint32_t* from, uint32_t left) {
  return make_uint4(left > 0 ? from[0] : 0, left > 1 ? from[1] : 0, left > 2 ? from[2] : 0, left > 3 ? from[3] : 0);
}
DEV uint32_t load_pair(const uint16_t* from, uint32_t left) {
  const uint32_t low = left > 0 ? from[0] : 0, high = left > 1 ? from[1] : 0;
  return high << 16 | low;
}
DEV uint4 load_unit(const uint16_t* from, uint32_t left) {
  const auto after = [left](uint32_t n) { return left > n ? left - n : 0; };
  return make_uint4(load_pair(from, left), load_pair(from + 2, after(2)), load_pair(from + 4, after(4)),
                    load_pair(from + 6, after(6)));
}

// Whether this block is the last of `blocks` that arrive. What the others wrote before, this one can read after.
DEV bool last_to_arrive(uint32_t* counter, uint32_t blocks) {
  SHARED(uint32_t, last);
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicAdd(counter, 1u) == blocks - 1;
    __threadfence();
  }
  __syncthreads();
  return last;
}

// What a block reads next: elements from k on of a segment that some of its rows have.
struct Cursor {
  uint32_t segment, k;
};

template <typename T, int STAGES> struct Block {
  using Element = typename T::Element;
  static constexpr uint32_t SIZE = sizeof(Element), UNIT = UNIT_BYTES / SIZE, STEP = LINE_BYTES / SIZE;
  static constexpr int STAGE_BYTES = (T::OUTPUTS + T::ROWS) * LINE_BYTES;
  static constexpr int PITCH = T::OUTPUTS + 4;  // of sums in shared memory: the lanes of a warp hit different banks
  static_assert(CHUNK % STEP == 0, "a step is of one chunk");
  static_assert(T::ROWS * PITCH * 4 <= STAGES * STAGE_BYTES, "the sums take the place of the stages");
  using Bits = typename Unsigned<SIZE>::Type;

  const HeadArgs& args;
  unsigned char* stages;
  uint32_t* places;   // [segments, ROWS]: the row of data, or ABSENT
  uint32_t* present;  // [segments]: whether any row of the tile has it
  size_t tile, first_row;
  uint32_t first_output, live, end;

  DEV void find_places() const {
    for (uint32_t s = threadIdx.x / 32; s < args.segments; s += T::THREADS / 32) {
      int any = 0;
      for (uint32_t n = threadIdx.x % 32; n < T::ROWS; n += 32) {
        const size_t row = first_row + n;
        uint32_t place = ABSENT;
        if (n < live) {
          place = args.segment[s].index ? args.segment[s].index[row] : static_cast<uint32_t>(row);
          if (place >= args.segment[s].rows) place = ABSENT;
        }
        places[s * T::ROWS + n] = place;
        any |= place != ABSENT;
      }
      any = __any_sync(FULL, any);
      if (threadIdx.x % 32 == 0) present[s] = any;
    }
  }

  // Moves on to the next segment where one ends or no row has it.
  DEV void settle(Cursor& at) const {
    while (at.segment < args.segments && (!present[at.segment] || at.k >= args.segment[at.segment].width)) {
      ++at.segment;
      at.k = 0;
    }
  }
  DEV Cursor seek(uint32_t chunk) const {
    Cursor at = {0, 0};
    while (at.segment + 1 < args.segments && args.segment[at.segment + 1].chunk <= chunk) ++at.segment;
    if (args.segments > 0) at.k = (chunk - args.segment[at.segment].chunk) * CHUNK;
    settle(at);
    return at;
  }
  DEV uint32_t chunk(const Cursor& at) const { return args.segment[at.segment].chunk + at.k / CHUNK; }
  DEV bool done(const Cursor& at) const { return at.segment >= args.segments || chunk(at) >= end; }
  DEV bool ends_chunk(const Cursor& at) const {
    return (at.k + STEP) % CHUNK == 0 || at.k + STEP >= args.segment[at.segment].width;
  }
  DEV void advance(Cursor& at) const {
    at.k += STEP;
    settle(at);
  }

  // Starts the copies of a step: a line of each output's weights, then of each row's values.
  DEV void load(int stage, const Cursor& at) const {
    const HeadSegment& segment = args.segment[at.segment];
    unsigned char* const to = stages + stage * STAGE_BYTES;
    const Bits* const weight = static_cast<const Bits*>(args.weight) + segment.first;
    const Bits* const data = static_cast<const Bits*>(segment.data);
    const bool aligned = (reinterpret_cast<uintptr_t>(data) | static_cast<size_t>(segment.width) * SIZE) % UNIT_BYTES == 0;
    static_assert(T::OUTPUTS * UNITS % T::THREADS == 0 && T::ROWS * UNITS % T::THREADS == 0, "all threads copy as much");
#pragma unroll
    for (int n = 0; n < T::OUTPUTS * UNITS / T::THREADS; ++n) {
      const uint32_t i = threadIdx.x + n * T::THREADS;
      const uint32_t output = first_output + i / UNITS, k = at.k + i % UNITS * UNIT;
      const bool inside = output < args.outputs && k < segment.width;
      const Bits* const from = weight + (inside ? static_cast<size_t>(output) * args.pitch + k : 0);
      cp_async16(smem_u32(to + unit_offset<LINE_BYTES>(i / UNITS, i % UNITS)), from, inside);
    }
#pragma unroll
    for (int n = 0; n < T::ROWS * UNITS / T::THREADS; ++n) {
      const uint32_t i = threadIdx.x + n * T::THREADS;
      const uint32_t place = places[at.segment * T::ROWS + i / UNITS], k = at.k + i % UNITS * UNIT;
      const bool inside = place != ABSENT && k < segment.width;
      const Bits* const from = data + (inside ? static_cast<size_t>(place) * segment.width + k : 0);
      unsigned char* const unit = to + unit_offset<LINE_BYTES>(T::OUTPUTS + i / UNITS, i % UNITS);
      if (aligned) {
        cp_async16(smem_u32(unit), from, inside);
      } else {
        *reinterpret_cast<uint4*>(unit) = load_unit(from, inside ? segment.width - k : 0);
      }
    }
  }

  DEV float* partial(uint32_t chunk, int row) const {
    return args.partials + ((tile * args.chunks + chunk) * T::ROWS + row) * T::OUTPUTS;
  }

  // Takes the sums of a chunk that has ended, for the rows that have its segment.
  DEV void fold(float (&sum)[T::GROUPS][4], float (&total)[T::GROUPS][4], const Cursor& at) const {
#pragma unroll
    for (int group = 0; group < T::GROUPS; ++group) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const Place place = T::place(group, i);
        if (places[at.segment * T::ROWS + place.row] != ABSENT) {
          if (args.slices == 1) {
            total[group][i] = __fadd_rn(total[group][i], sum[group][i]);
          } else {
            partial(chunk(at), place.row)[place.output] = sum[group][i];
          }
        }
        sum[group][i] = 0.0f;
      }
    }
  }

  DEV void sum_chunks(float (&total)[T::GROUPS][4], uint32_t begin) const {
    float sum[T::GROUPS][4] = {};
    Cursor next = seek(begin), at = next;
#pragma unroll
    for (int stage = 0; stage < STAGES - 1; ++stage) {
      if (!done(next)) {
        load(stage, next);
        advance(next);
      }
      cp_async_commit();
    }
    for (int stage = 0; !done(at); stage = (stage + 1) % STAGES) {
      cp_async_wait<STAGES - 2>();
      __syncthreads();  // the step is there for all, and all are done with the stage that is loaded next
      if (!done(next)) {
        load((stage + STAGES - 1) % STAGES, next);
        advance(next);
      }
      cp_async_commit();
      const unsigned char* const weights = stages + stage * STAGE_BYTES;
      T::multiply(sum, weights, weights + T::OUTPUTS * LINE_BYTES);
      if (ends_chunk(at)) fold(sum, total, at);
      advance(at);
    }
    cp_async_wait<0>();
  }

  // The sums that all slices' blocks have written: the fences and barriers of last_to_arrive come before these loads. They
  // are read once, so that L1 is left to others.
  DEV float add_partials(int row, int output) const {
    float total = 0.0f;
    for (uint32_t s = 0; s < args.segments; ++s) {
      if (places[s * T::ROWS + row] == ABSENT) continue;
      const uint32_t first = args.segment[s].chunk, count = (args.segment[s].width + CHUNK - 1) / CHUNK;
#pragma unroll 8
      for (uint32_t c = first; c < first + count; ++c) total = __fadd_rn(total, __ldcg(partial(c, row) + output));
    }
    return total;
  }

  // Bias and activation, and the tile's part of the output.
  DEV void finish(const float* sums) const {
    for (int i = threadIdx.x; i < static_cast<int>(live) * T::OUTPUTS; i += T::THREADS) {
      const int row = i / T::OUTPUTS, at = i % T::OUTPUTS;
      const uint32_t output = first_output + at;
      if (output >= args.outputs) continue;
      float y = args.slices == 1 ? sums[row * PITCH + at] : add_partials(row, at);
      if (args.bias) y = __fadd_rn(y, args.bias[output]);
      put_y(args, (first_row + row) * args.outputs + output, activate(args.activation, y));
    }
  }

  DEV void run(uint32_t begin) const {
    float total[T::GROUPS][4] = {};
    find_places();
    __syncthreads();
    sum_chunks(total, begin);
    float* const sums = reinterpret_cast<float*>(stages);
    __syncthreads();  // the stages are free
    if (args.slices == 1) {
#pragma unroll
      for (int group = 0; group < T::GROUPS; ++group) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const Place place = T::place(group, i);
          sums[place.row * PITCH + place.output] = total[group][i];
        }
      }
    }
    // The block that is last at a tile has its sums; the one that is last at a tile of rows has their outputs.
    const uint32_t columns = (args.outputs + T::OUTPUTS - 1) / T::OUTPUTS;
    const size_t tiles = gridDim.x / args.slices;
    bool last = args.slices == 1 || last_to_arrive(args.counters + tile, args.slices);
    __syncthreads();
    if (last) finish(sums);
    last = last && args.normalize && last_to_arrive(args.counters + tiles + tile / columns, columns);
    for (uint32_t n = threadIdx.x / 32; last && n < live; n += T::THREADS / 32) put_normalized(args, first_row + n);
  }
};

template <typename T, int STAGES> DEV void head(const HeadArgs& args) {
  DYN_SHARED(unsigned char, shared);
  uint32_t* const places = reinterpret_cast<uint32_t*>(shared + STAGES * Block<T, STAGES>::STAGE_BYTES);
  const uint32_t columns = (args.outputs + T::OUTPUTS - 1) / T::OUTPUTS, slice = blockIdx.x % args.slices;
  const size_t tile = blockIdx.x / args.slices, first_row = tile / columns * T::ROWS, rows = rows_of(args.rows, args.most);
  const auto first_chunk = [&](uint32_t slice) {
    return static_cast<uint32_t>(static_cast<unsigned long long>(slice) * args.chunks / args.slices);
  };
  if (first_row < rows) {  // the same in all threads of the block
    const Block<T, STAGES> block = {
        args,
        shared,
        places,
        places + args.segments * T::ROWS,
        tile,
        first_row,
        static_cast<uint32_t>(tile % columns) * T::OUTPUTS,
        static_cast<uint32_t>(rows - first_row < T::ROWS ? rows - first_row : T::ROWS),
        first_chunk(slice + 1),
    };
    block.run(first_chunk(slice));
  }
}
}  // namespace

extern "C" __global__ void __launch_bounds__(128, 4) head_f32_64x16(const HeadArgs args) {
  head<FmaTile<64, 16, 64, 2>, 4>(args);
}
extern "C" __global__ void __launch_bounds__(256, 2) head_f32_128x64(const HeadArgs args) {
  head<FmaTile<128, 64, 16, 16>, 3>(args);
}
extern "C" __global__ void __launch_bounds__(128, 4) head_f16_64x16(const HeadArgs args) {
  head<MmaTile<__half, 64, 16, 4, 1>, 4>(args);
}
extern "C" __global__ void __launch_bounds__(256) head_f16_128x64(const HeadArgs args) {
  head<MmaTile<__half, 128, 64, 4, 2>, 3>(args);
}
extern "C" __global__ void __launch_bounds__(128, 4) head_bf16_64x16(const HeadArgs args) {
  head<MmaTile<__nv_bfloat16, 64, 16, 4, 1>, 4>(args);
}
extern "C" __global__ void __launch_bounds__(256) head_bf16_128x64(const HeadArgs args) {
  head<MmaTile<__nv_bfloat16, 128, 64, 4, 2>, 3>(args);
}
