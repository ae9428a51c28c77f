// Embedding lookups, bit for bit as src/cpu/embedding.rs: the row of an id, and the pooled rows of a bag of ids.
//
//   gather: output[r] = table[ids[r]]
//   bags:   output[r] = sum, mean or maximum over i in offsets[r] .. offsets[r + 1] of table[ids[i]]; a sum may be weighted
//
// A launch works on up to 16 lookups, each with its own table. Of a lookup:
//   table:   f32 | f16 | bf16 [table_rows, width], row-major, aligned to its element
//   output:  f32 | f16 | bf16 [most, width], row-major, aligned to its element; must not overlap any input or output
//   count:   u32 [1], how many rows of the output there are; more than `most` counts as `most`
//   ids:     i64 [ids_len]; for a gather ids_len >= most
//   offsets: u64 [most + 1], or null for a gather; what points behind the ids is cut to ids_len
//   weights: f32 [ids_len], or null for weights of 1
//   fault:   u64 [1]; (stage, row of the output) of the least row with an id that is refused
// If `vector` is set, table and output are 16-byte aligned and rows of the table are whole numbers of 16 bytes.
//
// Grid: the sum of the lookups' `blocks` in x, any number at least 1 each; a block works on one lookup, in tiles that are
// `blocks` apart. A thread makes vectors of 16 bytes of the table (`vector`) or single elements: four rows' at a time in a
// gather, one bag's over groups of eight ids in a pool. Block: 256 threads. Shared memory: none.
//
// Sums are f32, in the order of the ids, from +0, with fused multiply-add (a weight of 1 makes it an addition); a mean is
// divided by the number of its ids, rounded to f32 once. A maximum is NaN if a value is. A 16-bit output is the f32
// result rounded to nearest even. The order depends on the bag alone, not on the batch.
//
// Ids equal to the padding id do not count; a bag without others gives zeros. Other ids outside the table, as u64, read
// `unknown_row`; if that is ~0 they are reported and count as padding (in a gather: give zeros). No rows: nothing is
// done. The launch code checks every length, the width (1 to 2^31) and unknown_row; the offsets and the count come from
// the caller, who must have checked them to get the bags that he means: here they are only kept in bounds.
#include "device.cuh"
#include "fault.cuh"

struct EmbeddingLookup {
  const void* table;
  void* output;
  const uint32_t* count;
  const long long* ids;
  const unsigned long long* offsets;
  const float* weights;
  unsigned long long ids_len;
  unsigned long long table_rows;
  unsigned long long unknown_row;
  long long padding_id;
  uint32_t width;
  uint32_t most;
  uint32_t first_block;
  uint32_t blocks;
  uint16_t stage;
  uint8_t table_type;   // F32, F16, BF16
  uint8_t output_type;  // F32, F16, BF16
  uint8_t pooling;      // SUM, MEAN, MAX; without meaning for a gather
  uint8_t padded;       // whether there is a padding id
  uint8_t vector;
  uint8_t unused;
};
static_assert(sizeof(EmbeddingLookup) == 104, "as in src/cuda/embedding.rs");

struct EmbeddingArgs {
  EmbeddingLookup lookups[16];
  unsigned long long* fault;
  uint32_t lookup_count;
  uint32_t unused;
};
static_assert(sizeof(EmbeddingArgs) == 1680, "as in src/cuda/embedding.rs");

namespace {
constexpr int THREADS = 256;
constexpr int GATHER_ROUNDS = 4;  // loads of a thread in flight
constexpr int POOL_ROUNDS = 8;
constexpr unsigned long long REFUSED = ~0ull;
enum : uint8_t { F32, F16, BF16 };
enum : uint8_t { SUM, MEAN, MAX };

template <int TYPE> DEV float widen(uint32_t bits) {
  if constexpr (TYPE == F32) return __uint_as_float(bits);
  if constexpr (TYPE == F16) return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
  return __uint_as_float(bits << 16);
}

// 16 bytes of a row
template <int TYPE> struct Vector {
  using Raw = uint4;
  static constexpr int LEN = TYPE == F32 ? 4 : 8;
  static DEV void unpack(const uint4& raw, float (&x)[LEN]) {
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < LEN; ++i) {
      x[i] = TYPE == F32 ? widen<TYPE>(words[i % 4]) : widen<TYPE>(words[i / 2] >> (16 * (i % 2)) & 0xffffu);
    }
  }
};

// one element of a row
template <int TYPE> struct Scalar {
  using Raw = typename Unsigned<TYPE == F32 ? 4 : 2>::Type;
  static constexpr int LEN = 1;
  static DEV void unpack(Raw raw, float (&x)[1]) { x[0] = widen<TYPE>(raw); }
};

// two values rounded to 16 bits, the first in the lower half
DEV uint32_t narrow(float a, float b, uint8_t type) {
  if (type == F16) {
    const __half2 pair = __floats2half2_rn(a, b);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
  const __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

template <int LEN> DEV void store_f32(float* to, const float (&x)[LEN]) {
  if constexpr (LEN == 1) {
    *to = x[0];
  } else {
#pragma unroll
    for (int i = 0; i < LEN; i += 4) {
      *reinterpret_cast<float4*>(to + i) = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
    }
  }
}

template <int LEN> DEV void store_16(uint16_t* to, const float (&x)[LEN], uint8_t type) {
  if constexpr (LEN == 1) {
    *to = static_cast<uint16_t>(narrow(x[0], 0.0f, type));
  } else {
    uint32_t pairs[LEN / 2];
#pragma unroll
    for (int i = 0; i < LEN / 2; ++i) pairs[i] = narrow(x[2 * i], x[2 * i + 1], type);
    if constexpr (LEN == 4) *reinterpret_cast<uint2*>(to) = make_uint2(pairs[0], pairs[1]);
    if constexpr (LEN == 8) *reinterpret_cast<uint4*>(to) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
  }
}

// writes from element `at` of the output on
template <int LEN> DEV void store(const EmbeddingLookup& lookup, size_t at, const float (&x)[LEN]) {
  if (lookup.output_type == F32) {
    store_f32(static_cast<float*>(lookup.output) + at, x);
  } else {
    store_16(static_cast<uint16_t*>(lookup.output) + at, x, lookup.output_type);
  }
}

// which row of the table an id reads; a negative id is beyond every table as u64
struct Rows {
  unsigned long long table_rows, unknown_row;
  DEV unsigned long long operator()(long long id) const {  // or REFUSED
    const unsigned long long row = static_cast<unsigned long long>(id);
    return row < table_rows ? row : unknown_row;
  }
};

// the row of a vector that is `distance` behind (row, column), and its column
struct Place {
  size_t row;
  uint32_t column;
};
DEV Place advance(const Place& from, uint32_t distance, uint32_t vectors) {
  const uint32_t at = from.column + distance;
  return {from.row + at / vectors, at % vectors};
}

template <class V>
DEV void gather(const EmbeddingLookup& lookup, size_t rows, uint32_t block, unsigned long long* fault) {
  using Raw = typename V::Raw;
  const uint32_t vectors = lookup.width / V::LEN;
  const size_t total = rows * vectors, tile = THREADS * GATHER_ROUNDS;
  const Raw* const table = static_cast<const Raw*>(lookup.table);
  const Rows row_of = {lookup.table_rows, lookup.unknown_row};
  const long long* const ids = lookup.ids;
  for (size_t first = block * tile; first < total; first += lookup.blocks * tile) {
    const Place start = {first / vectors, static_cast<uint32_t>(first % vectors)};
    Place places[GATHER_ROUNDS];
    unsigned long long from[GATHER_ROUNDS];
    Raw raw[GATHER_ROUNDS];
#pragma unroll
    for (int i = 0; i < GATHER_ROUNDS; ++i) {
      places[i] = advance(start, i * THREADS + threadIdx.x, vectors);
      // Behind the last row, the tile's first id again: there is one, and all loads can be under way at once.
      from[i] = row_of(__ldg(ids + (places[i].row < rows ? places[i].row : start.row)));
    }
#pragma unroll
    for (int i = 0; i < GATHER_ROUNDS; ++i) {
      raw[i] = Raw{};
      if ((places[i].row < rows) & (from[i] != REFUSED)) raw[i] = __ldg(table + from[i] * vectors + places[i].column);
    }
#pragma unroll
    for (int i = 0; i < GATHER_ROUNDS; ++i) {
      if (places[i].row >= rows) continue;
      float x[V::LEN];
      V::unpack(raw[i], x);
      store(lookup, (places[i].row * vectors + places[i].column) * V::LEN, x);
      if (from[i] == REFUSED && places[i].column == 0) report_fault(fault, lookup.stage, places[i].row);
    }
  }
}

// a or b, whichever is larger; NaN where either is
DEV float max_or_nan(float a, float b) { return a > b || a != a ? a : b; }

template <class V, bool MAXIMUM>
DEV void pool_vector(const EmbeddingLookup& lookup, const Place& to, unsigned long long* fault) {
  using Raw = typename V::Raw;
  const uint32_t vectors = lookup.width / V::LEN;
  const Raw* const table = static_cast<const Raw*>(lookup.table) + to.column;
  const long long* const ids = lookup.ids;
  const float* const weights = lookup.weights;
  const Rows row_of = {lookup.table_rows, lookup.unknown_row};
  const long long padding_id = lookup.padding_id;
  const bool padded = lookup.padded;
  const size_t first = lookup.offsets[to.row], last = lookup.offsets[to.row + 1];
  const size_t end = last < lookup.ids_len ? last : lookup.ids_len;
  float pooled[V::LEN];
#pragma unroll
  for (float& x : pooled) x = MAXIMUM ? -INFINITY : 0.0f;
  size_t counted = 0;
  bool refused = false;
  for (size_t at = first; at < end; at += POOL_ROUNDS) {
    long long id[POOL_ROUNDS];
    float weight[POOL_ROUNDS];
    bool counts[POOL_ROUNDS];
    Raw raw[POOL_ROUNDS];
#pragma unroll
    for (int i = 0; i < POOL_ROUNDS; ++i) id[i] = __ldg(ids + (i < end - at ? at + i : at));
#pragma unroll
    for (int i = 0; i < POOL_ROUNDS; ++i) {
      const unsigned long long row = row_of(id[i]);
      const bool asked = (i < end - at) & !(padded & (id[i] == padding_id));
      counts[i] = asked & (row != REFUSED);
      refused |= asked & (row == REFUSED);
      if (counts[i]) raw[i] = __ldg(table + row * vectors);
    }
#pragma unroll
    for (int i = 0; i < POOL_ROUNDS; ++i) weight[i] = 1.0f;
    if (!MAXIMUM && weights != nullptr) {
#pragma unroll
      for (int i = 0; i < POOL_ROUNDS; ++i) weight[i] = __ldg(weights + (i < end - at ? at + i : at));
    }
#pragma unroll
    for (int i = 0; i < POOL_ROUNDS; ++i) {
      if (!counts[i]) continue;
      ++counted;
      float x[V::LEN];
      V::unpack(raw[i], x);
#pragma unroll
      for (int j = 0; j < V::LEN; ++j) {
        pooled[j] = MAXIMUM ? max_or_nan(pooled[j], x[j]) : __fmaf_rn(weight[i], x[j], pooled[j]);
      }
    }
  }
  if (counted == 0) {
#pragma unroll
    for (float& x : pooled) x = 0.0f;
  } else if (lookup.pooling == MEAN) {
    const float divisor = static_cast<float>(counted);
#pragma unroll
    for (float& x : pooled) x = __fdiv_rn(x, divisor);
  }
  store(lookup, (to.row * vectors + to.column) * V::LEN, pooled);
  if (refused && to.column == 0) report_fault(fault, lookup.stage, to.row);
}

template <class V, bool MAXIMUM>
DEV void pool(const EmbeddingLookup& lookup, size_t rows, uint32_t block, unsigned long long* fault) {
  const uint32_t vectors = lookup.width / V::LEN;
  const size_t total = rows * vectors, tile = THREADS;
  for (size_t first = block * tile; first < total; first += lookup.blocks * tile) {
    const Place start = {first / vectors, static_cast<uint32_t>(first % vectors)};
    const Place to = advance(start, threadIdx.x, vectors);
    if (to.row < rows) pool_vector<V, MAXIMUM>(lookup, to, fault);
  }
}

template <class V> DEV void look_up(const EmbeddingLookup& lookup, uint32_t block, unsigned long long* fault) {
  const uint32_t count = *lookup.count, rows = count < lookup.most ? count : lookup.most;
  if (lookup.offsets == nullptr) {
    gather<V>(lookup, rows, block, fault);
  } else if (lookup.pooling == MAX) {
    pool<V, true>(lookup, rows, block, fault);
  } else {
    pool<V, false>(lookup, rows, block, fault);
  }
}

template <int TYPE> DEV void look_up_as(const EmbeddingLookup& lookup, uint32_t block, unsigned long long* fault) {
  if (lookup.vector) {
    look_up<Vector<TYPE>>(lookup, block, fault);
  } else {
    look_up<Scalar<TYPE>>(lookup, block, fault);
  }
}
}  // namespace

extern "C" __global__ void __launch_bounds__(256) embedding_lookup(const EmbeddingArgs args) {
  uint32_t i = 0;
  while (i + 1 < args.lookup_count && blockIdx.x >= args.lookups[i + 1].first_block) ++i;
  const EmbeddingLookup& lookup = args.lookups[i];
  const uint32_t block = blockIdx.x - lookup.first_block;
  switch (lookup.table_type) {
    case F32: return look_up_as<F32>(lookup, block, args.fault);
    case F16: return look_up_as<F16>(lookup, block, args.fault);
    default: return look_up_as<BF16>(lookup, block, args.fault);
  }
}
