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
// Grid: the sum of the lookups' `blocks` in x, any number at least 1 each; a block works on one lookup. A thread makes
// vectors of 16 bytes of the table (`vector`) or single elements, each as far behind the one before as the lookup has
// threads. Block: 256 threads for gathers, 128 for bags. Shared memory: none.
//
// What limits both is how many bytes are on their way: memory of bandwidth B and latency L is busy when each of M
// multiprocessors has asked for B * L / M bytes (Little's law). A thread of a gather has GATHER_ROUNDS rows' vectors under
// way for about half of its time, since it reads their ids first; a thread of a bag has POOL_ROUNDS, and the ids of the
// next rows with them. So threads of a multiprocessor * rounds * 16 bytes, halved for gathers, has to be well above
// B * L / M: more rounds cost registers, and registers threads. The sums of a bag are one chain, however long it is: with
// fewer vectors of bags than the card has threads, the launch takes the longest bag's rows, POOL_ROUNDS at a time, times L:
// rows cannot be spread over threads without changing the sums.
//
// Sums are f32, in the order of the ids, from +0, with fused multiply-add (a weight of 1 makes it an addition); a mean is
// divided by the number of its ids, rounded to f32 once. A maximum is NaN if a value is. A 16-bit output is the f32
// result rounded to nearest even. The order depends on the bag alone, not on the batch.
//
// Ids equal to the padding id do not count; a bag without others gives zeros. Other ids outside the table, as u64, read
// `unknown_row`; if that is ~0 they are reported and count as padding (in a gather: give zeros). No rows: nothing is
// done. The launch code checks every length, the width (1 to 2^31) and unknown_row; the offsets and the count come from
// the caller, who must have checked them to get the bags that he means: here they are only kept in bounds, and a bag whose
// offsets descend is empty.
#include "embedding.cuh"
#include "fault.cuh"
#include "rows.cuh"

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
constexpr int GATHER_THREADS = 256, POOL_THREADS = 128;
constexpr int GATHER_ROUNDS = 4, POOL_ROUNDS = 8;  // loads of a thread in flight
constexpr unsigned long long REFUSED = ~0ull;
enum : uint8_t { SUM, MEAN, MAX };

// which row of the table an id reads; a negative id is beyond every table as u64
struct Resolver {
  unsigned long long table_rows, unknown_row;
  DEV unsigned long long operator()(long long id) const {  // or REFUSED
    const unsigned long long row = static_cast<unsigned long long>(id);
    return row < table_rows ? row : unknown_row;
  }
};

// a vector of the output, of `vectors` in a row
struct Place {
  size_t row;
  uint32_t column;
  DEV Place(size_t at, uint32_t vectors)
      : row(quotient(at, vectors)), column(static_cast<uint32_t>(at - row * vectors)) {}
  DEV void advance(const Place& by, uint32_t vectors) {
    const uint32_t sum = column + by.column;  // below 2^32, as a row is at most 2^31 wide
    const bool carry = sum >= vectors;
    row += by.row + carry;
    column = carry ? sum - vectors : sum;
  }
};

// writes vector `at` of the output from what was read of the table
template <class V> DEV void convert(const EmbeddingLookup& lookup, size_t at, typename V::Raw raw) {
  float x[V::LEN];
  V::unpack(raw, x);
  store(lookup.output, lookup.output_type, at * V::LEN, x);
}
template <template <class> class V, class Raw> DEV void put(const EmbeddingLookup& lookup, size_t at, Raw raw) {
  if (lookup.table_type == lookup.output_type) {
    __stcg(static_cast<Raw*>(lookup.output) + at, raw);
  } else if (lookup.table_type == F32) {
    if constexpr (sizeof(Raw) != 2) convert<V<float>>(lookup, at, raw);
  } else if constexpr (sizeof(Raw) != 4) {
    if (lookup.table_type == F16) {
      convert<V<__half>>(lookup, at, raw);
    } else {
      convert<V<__nv_bfloat16>>(lookup, at, raw);
    }
  }
}

template <template <class> class V, class Raw>
DEV void gather(const EmbeddingLookup& lookup, size_t rows, uint32_t block, unsigned long long* fault) {
  const uint32_t vectors = lookup.vector ? lookup.width / (lookup.table_type == F32 ? 4 : 8) : lookup.width;
  const size_t total = rows * vectors, threads = static_cast<size_t>(lookup.blocks) * GATHER_THREADS;
  const size_t thread = static_cast<size_t>(block) * GATHER_THREADS + threadIdx.x;
  const Raw* const table = static_cast<const Raw*>(lookup.table);
  const Resolver row_of = {lookup.table_rows, lookup.unknown_row};
  const Place step(threads, vectors);
  Place place(thread, vectors);
  for (size_t first = thread; first < total; first += GATHER_ROUNDS * threads) {
    unsigned long long from[GATHER_ROUNDS];  // vectors of the table
    Raw raw[GATHER_ROUNDS];
#pragma unroll
    for (int i = 0; i < GATHER_ROUNDS; ++i) {
      const unsigned long long row = place.row < rows ? row_of(__ldg(lookup.ids + place.row)) : REFUSED;
      from[i] = row == REFUSED ? REFUSED : row * vectors + place.column;
      place.advance(step, vectors);
    }
#pragma unroll
    for (int i = 0; i < GATHER_ROUNDS; ++i) {
      raw[i] = Raw{};
      if (from[i] != REFUSED) raw[i] = __ldg(table + from[i]);
    }
#pragma unroll
    for (int i = 0; i < GATHER_ROUNDS; ++i) {
      const size_t at = first + i * threads;
      if (at >= total) break;
      put<V>(lookup, at, raw[i]);
      if (from[i] == REFUSED) report_fault(fault, lookup.stage, quotient(at, vectors));  // each vector of the row does
    }
  }
}

// how many of a bag's ids the group that starts at `at` has
DEV uint32_t group_at(size_t at, size_t end) {
  if (at >= end) return 0;
  return end - at < POOL_ROUNDS ? static_cast<uint32_t>(end - at) : POOL_ROUNDS;
}

// a or b, whichever is larger; NaN where either is
DEV float max_or_nan(float a, float b) { return a > b || a != a ? a : b; }

template <class V, bool MAXIMUM>
DEV void pool_vector(const EmbeddingLookup& lookup, const Place& to, unsigned long long* fault) {
  using Raw = typename V::Raw;
  const uint32_t vectors = lookup.width / V::LEN;
  const Raw* const table = static_cast<const Raw*>(lookup.table) + to.column;
  const Resolver row_of = {lookup.table_rows, lookup.unknown_row};
  const size_t first = lookup.offsets[to.row], last = lookup.offsets[to.row + 1];
  const size_t end = last < lookup.ids_len ? last : lookup.ids_len;
  float pooled[V::LEN];
#pragma unroll
  for (float& x : pooled) x = MAXIMUM ? -INFINITY : 0.0f;
  size_t counted = 0;
  bool refused = false;
  long long id[POOL_ROUNDS];
  uint32_t group = group_at(first, end);
#pragma unroll
  for (int i = 0; i < POOL_ROUNDS; ++i) {
    if (i < group) id[i] = __ldg(lookup.ids + first + i);
  }
  for (size_t at = first; group > 0; at += POOL_ROUNDS) {
    uint32_t counts = 0;  // a bit for each of the group
    Raw raw[POOL_ROUNDS];
#pragma unroll
    for (int i = 0; i < POOL_ROUNDS; ++i) {
      if (i >= group || (lookup.padded && id[i] == lookup.padding_id)) continue;
      const unsigned long long row = row_of(id[i]);
      if (row == REFUSED) {
        refused = true;
      } else {
        raw[i] = __ldg(table + row * vectors);
        counts |= 1u << i;
      }
    }
    float weight[POOL_ROUNDS];
#pragma unroll
    for (int i = 0; i < POOL_ROUNDS; ++i) {
      weight[i] = 1.0f;
      if (!MAXIMUM && lookup.weights != nullptr && i < group) weight[i] = __ldg(lookup.weights + at + i);
    }
    // The next ids, while these rows are under way.
    group = group_at(at + POOL_ROUNDS, end);
#pragma unroll
    for (int i = 0; i < POOL_ROUNDS; ++i) {
      if (i < group) id[i] = __ldg(lookup.ids + at + POOL_ROUNDS + i);
    }
    counted += __popc(counts);
#pragma unroll
    for (int i = 0; i < POOL_ROUNDS; ++i) {
      if ((counts >> i & 1) == 0) continue;
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
  store(lookup.output, lookup.output_type, (to.row * vectors + to.column) * V::LEN, pooled);
  if (refused && to.column == 0) report_fault(fault, lookup.stage, to.row);
}

template <class V, bool MAXIMUM>
DEV void pool(const EmbeddingLookup& lookup, size_t rows, uint32_t block, unsigned long long* fault) {
  const uint32_t vectors = lookup.width / V::LEN;
  const Place step(static_cast<size_t>(lookup.blocks) * POOL_THREADS, vectors);
  Place place(static_cast<size_t>(block) * POOL_THREADS + threadIdx.x, vectors);
  for (; place.row < rows; place.advance(step, vectors)) pool_vector<V, MAXIMUM>(lookup, place, fault);
}

template <class V>
DEV void pool(const EmbeddingLookup& lookup, size_t rows, uint32_t block, unsigned long long* fault) {
  if (lookup.pooling == MAX) {
    pool<V, true>(lookup, rows, block, fault);
  } else {
    pool<V, false>(lookup, rows, block, fault);
  }
}

template <template <class> class V>
DEV void pool(const EmbeddingLookup& lookup, size_t rows, uint32_t block, unsigned long long* fault) {
  switch (lookup.table_type) {
    case F32: return pool<V<float>>(lookup, rows, block, fault);
    case F16: return pool<V<__half>>(lookup, rows, block, fault);
    default: return pool<V<__nv_bfloat16>>(lookup, rows, block, fault);
  }
}

// the lookup that this block works on
DEV const EmbeddingLookup& own_lookup(const EmbeddingArgs& args) {
  uint32_t i = 0;
  while (i + 1 < args.lookup_count && blockIdx.x >= args.lookups[i + 1].first_block) ++i;
  return args.lookups[i];
}
}  // namespace

extern "C" __global__ void __launch_bounds__(256, 5) embedding_gather(const EmbeddingArgs args) {
  const EmbeddingLookup& lookup = own_lookup(args);
  const uint32_t rows = rows_of(lookup.count, lookup.most), block = blockIdx.x - lookup.first_block;
  if (lookup.vector) {
    gather<Vector, uint4>(lookup, rows, block, args.fault);
  } else if (lookup.table_type == F32) {
    gather<Scalar, uint32_t>(lookup, rows, block, args.fault);
  } else {
    gather<Scalar, uint16_t>(lookup, rows, block, args.fault);
  }
}

extern "C" __global__ void __launch_bounds__(128) embedding_bags(const EmbeddingArgs args) {
  const EmbeddingLookup& lookup = own_lookup(args);
  const uint32_t rows = rows_of(lookup.count, lookup.most), block = blockIdx.x - lookup.first_block;
  if (lookup.vector) {
    pool<Vector>(lookup, rows, block, args.fault);
  } else {
    pool<Scalar>(lookup, rows, block, args.fault);
  }
}
