// Exact top-k by the defined score, over all rows.
//
//   score(q, x) = the 32 sums over i = l (mod 32) of q[i] * x[i], in order of i with fused multiply-add from +0, added
//                 as a tree over l ^ 16, l ^ 8, l ^ 4, l ^ 2, l ^ 1; bit for bit as src/cpu/score.rs
//   out[q]      = the k greatest keys (device/keys.cuh) of the rows, greatest first, then zeros
//
// topk_scan_*: blocks (p, t) score rows p, p + P, ... in steps of STEP with the queries of tile t. No score is stored:
// each query has a bound that its k-th greatest key reaches for certain, a score below the bound's is dropped after one
// comparison, and the key of any other goes to the block's own buffer of the query. After a step, a buffer without room
// for another step is cut to its best `kept` keys, and the bound rises. Blocks share their bounds through `bounds`; what
// one sees of another's decides how much it keeps for later, never the answer. In the end each buffer holds the best keys
// of the block's rows, with zeros up to `kept`.
//
// topk_merge: a block per query selects the best k of all buffers and sorts them.
//
//   rows:    f32, f16 or bf16 [n, dim], row-major, aligned to a value; n below 2^32 - 1, dim from 1 to 4096
//   rank:    u32 [n], the place of the row's id among all ids, or null if that is the row
//   queries: f32 [most, dim], row-major, 4-byte aligned
//   batch:   u32 [1], how many queries there are, at most `most`; nothing of the others is read or written
//   bounds:  u64 [group], zeros before the scan
//   keys:    u64 [group, P, capacity]
//   sorted:  u64 [group, padded], padded a power of two, at least min(k, n)
//   out:     u64 [most, k]
//
// One launch of each answers queries first .. first + group. Scan: grid (P, group / tile rounded up) for tiles of
// Q * groups queries, groups 1, 2 or 4; 256 threads; shared memory 4 * tile * dim bytes, dynamic, and 2 KiB, static.
// Merge: grid (group); 1024 threads; 34 KiB of static shared memory. A NaN score is no hit. No rows, no queries: no hits.
// src/cuda/topk.rs checks every length.
#include "device.cuh"
#include "select.cuh"

struct TopkScanArgs {
  const void* rows;
  const uint32_t* rank;
  const float* queries;
  const uint32_t* batch;
  Key* bounds;
  Key* keys;
  uint32_t n, dim, first, group, groups;
  uint32_t kept;      // keys that a block keeps of a query: what the answer may need of its rows
  uint32_t capacity;  // of a buffer; more than kept + STEP, or all rows of a block
  uint32_t limit;     // a buffer with more keys is cut after a step; never, if all rows of a block have room
};
static_assert(sizeof(TopkScanArgs) == 80, "as in src/cuda/topk.rs");

struct TopkMergeArgs {
  const Key* keys;
  Key* sorted;
  Key* out;
  const uint32_t* batch;
  uint32_t first, partitions, kept, capacity, padded, k;
};
static_assert(sizeof(TopkMergeArgs) == 56, "as in src/cuda/topk.rs");

namespace {
constexpr unsigned FULL = 0xffffffffu;
constexpr uint32_t WARPS = 8;
constexpr uint32_t THREADS = 32 * WARPS;
constexpr uint32_t STEP = 128;  // rows that a block scores between two looks at its buffers
constexpr uint32_t R = 8;       // rows that a warp scores at once
constexpr uint32_t MOST_QUERIES = 32;
constexpr uint32_t SORT_TILE = 4096;

DEV float to_float(float x) { return x; }
DEV float to_float(__half x) { return __half2float(x); }
DEV float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

// This lane's sums of Q queries, from `query` on, with R rows, from `rows` on: sums[q * R + r]. Row `last` stands in for
// those behind it. Lanes without an element keep +0.
template <class T, int Q>
DEV void lane_sums(float (&sums)[Q * R], const T* rows, uint32_t last, uint32_t dim, const float* query) {
  const uint32_t lane = threadIdx.x % 32;
  const T* row[R];
#pragma unroll
  for (uint32_t r = 0; r < R; ++r) row[r] = rows + min(r, last) * dim + lane;
#pragma unroll
  for (uint32_t i = 0; i < Q * R; ++i) sums[i] = 0.0f;
  const auto add = [&](uint32_t i) {
    float x[R];
#pragma unroll
    for (uint32_t r = 0; r < R; ++r) x[r] = to_float(__ldg(row[r] + i));
#pragma unroll
    for (uint32_t q = 0; q < Q; ++q) {
      const float y = query[q * dim + lane + i];
#pragma unroll
      for (uint32_t r = 0; r < R; ++r) sums[q * R + r] = __fmaf_rn(x[r], y, sums[q * R + r]);
    }
  };
  const uint32_t whole = dim / 32 * 32;
#pragma unroll(Q == 1 ? 4 : 2)
  for (uint32_t i = 0; i < whole; i += 32) add(i);
  if (whole + lane < dim) add(whole);
}

// Adds up each of COUNT sums over the lanes: l with l ^ 16, then ^ 8, ^ 4, ^ 2, ^ 1. As long as a lane has two sums it
// gives one half of them away and takes the other half's partners, so that no addition is done twice. In the end lane l
// has the totals of sums l * COUNT / 32 and following in sum[0 ..], COUNT / 32 of them, at least one.
template <int COUNT, int DISTANCE = 16> DEV void tree_sums(float* sum) {
  if constexpr (DISTANCE > 0 && COUNT == 1) {
    sum[0] = __fadd_rn(sum[0], __shfl_xor_sync(FULL, sum[0], DISTANCE));
    tree_sums<1, DISTANCE / 2>(sum);
  } else if constexpr (DISTANCE > 0) {
    const bool upper = (threadIdx.x & DISTANCE) != 0;
#pragma unroll
    for (int i = 0; i < COUNT / 2; ++i) {
      const float kept = upper ? sum[COUNT / 2 + i] : sum[i], given = upper ? sum[i] : sum[COUNT / 2 + i];
      sum[i] = __fadd_rn(kept, __shfl_xor_sync(FULL, given, DISTANCE));
    }
    tree_sums<COUNT / 2, DISTANCE / 2>(sum);
  }
}

// The best keys of one query among the rows that a block has seen.
struct Best {
  Key* keys;        // [capacity], in device memory
  uint32_t* count;  // how many there are; in shared memory
  Key* bound;       // no key below it is in the answer; in shared memory
  Key* published;   // the greatest bound of all blocks, in device memory
};

// Cuts the keys to the best `kept`, of which there are more. Then `kept` is k: a block with fewer rows than k never has
// more keys than it keeps. All threads of the block.
DEV void cut(const Best& best, uint32_t kept, Selection& shared) {
  const uint32_t count = *best.count;
  const Places places{best.keys, count, count, count};
  const Key bound = bound_of_best(places, kept, shared);
  move_best(places, bound, best.keys, shared);
  if (threadIdx.x == 0) {
    *best.count = kept;
    *best.bound = bound > *best.bound ? bound : *best.bound;
    atomicMax(best.published, bound);
  }
  __syncthreads();
}

// Adds a row whose score passed the gate, unless its key is below the bound.
DEV void offer(const Best& best, const uint32_t* rank, float score, uint32_t row) {
  const Key key = key_of(score, rank != nullptr ? rank[row] : row);
  if (key >= *best.bound) best.keys[atomicAdd(best.count, 1u)] = key;
}

// Scores this block's rows with `count` queries, at least 1, from `first` of the launch on.
template <class T, int Q> DEV void scan(const TopkScanArgs& args, uint32_t first, uint32_t count) {
  DYN_SHARED(float, queries);  // [groups * Q, dim]
  SHARED(Selection, selection, [1]);
  SHARED(Key, bounds, [MOST_QUERIES]);
  SHARED(uint32_t, counts, [MOST_QUERIES]);
  const uint32_t thread = threadIdx.x, lane = thread % 32, warp = thread / 32;

  // Each group of warps takes Q queries; the warps of a group take turns at the rows of a step.
  uint32_t groups = 1;
  while (groups * Q < count) groups *= 2;
  const uint32_t group = warp % groups, turn = warp / groups, turns = WARPS / groups;

  const float* given = args.queries + static_cast<size_t>(args.first + first) * args.dim;
  for (uint32_t i = thread; i < groups * Q * args.dim; i += THREADS) {
    queries[i] = i < count * args.dim ? given[i] : 0.0f;
  }
  if (thread < MOST_QUERIES) {
    bounds[thread] = thread < count ? 0 : ~0ull;  // nothing reaches the bound of a query that is not there
    counts[thread] = 0;
  }
  __syncthreads();
  const auto best_of = [&](uint32_t query) {
    const size_t buffer = static_cast<size_t>(first + query) * gridDim.x + blockIdx.x;
    return Best{args.keys + buffer * args.capacity, counts + query, bounds + query, args.bounds + first + query};
  };

  // After tree_sums this lane has the scores of one query with rows lane_row, lane_row + 1, ...; where lanes share them,
  // the first offers them.
  constexpr uint32_t SUMS = Q * R, SCORES = SUMS < 32 ? 1 : SUMS / 32;
  const uint32_t lane_sum = lane * SUMS / 32, lane_row = lane_sum % R, lane_query = group * Q + lane_sum / R;
  const bool offers = lane * SUMS % 32 == 0 || SUMS >= 32;

  const T* const rows = static_cast<const T*>(args.rows);
  const uint32_t steps = args.n / STEP + (args.n % STEP != 0 ? 1 : 0);
  for (uint32_t step = blockIdx.x; step < steps; step += gridDim.x) {
    const uint32_t first_row = step * STEP, left = min(args.n - first_row, STEP);
    const Key published = thread < count ? load_relaxed(args.bounds + first + thread) : 0;
    const float gate = gate_of(bounds[lane_query]);  // bounds change between steps only
    for (uint32_t at = turn * R; at < left; at += turns * R) {  // the same in all lanes
      float sums[SUMS];
      const T* const from = rows + static_cast<size_t>(first_row + at) * args.dim;
      lane_sums<T, Q>(sums, from, left - at - 1, args.dim, queries + group * Q * args.dim);
      tree_sums<SUMS>(sums);
#pragma unroll
      for (uint32_t i = 0; i < SCORES; ++i) {
        const uint32_t own = at + lane_row + i;
        if (sums[i] >= gate && offers && own < left) offer(best_of(lane_query), args.rank, sums[i], first_row + own);
      }
    }
    __syncthreads();
    uint32_t crowded = __ballot_sync(FULL, lane < count && counts[lane] > args.limit);
    for (; crowded != 0; crowded &= crowded - 1) cut(best_of(__ffs(crowded) - 1), args.kept, selection[0]);
    if (thread < count && published > bounds[thread]) bounds[thread] = published;
    __syncthreads();
  }
  for (uint32_t query = 0; query < count; ++query) {
    const Best best = best_of(query);
    if (*best.count > args.kept) cut(best, args.kept, selection[0]);
    for (uint32_t i = *best.count + thread; i < args.kept; i += THREADS) best.keys[i] = 0;
  }
}

// Scans with the queries of this block's tile, if it has any.
template <class T, int Q> DEV void scan_tile(const TopkScanArgs& args) {
  const uint32_t batch = *args.batch, tile = args.groups * Q, first = blockIdx.y * tile;
  const uint32_t until = min(args.group, batch > args.first ? batch - args.first : 0u);
  if (first < until) scan<T, Q>(args, first, min(until - first, tile));
}

DEV void merge(const TopkMergeArgs& args) {
  SHARED(Selection, selection, [1]);
  SHARED(Key, tile, [SORT_TILE]);
  const size_t query = blockIdx.x;
  const Key* keys = args.keys + query * args.partitions * args.capacity;
  Key *sorted = args.sorted + query * args.padded, *out = args.out + (args.first + query) * args.k;
  const Places places{keys, args.partitions * args.kept, args.kept, args.capacity};
  const Key bound = bound_of_best(places, args.k, selection[0]);
  move_best(places, bound, sorted, selection[0]);
  const uint32_t found = selection[0].found;
  for (uint32_t i = found + threadIdx.x; i < args.padded; i += blockDim.x) sorted[i] = 0;
  __syncthreads();
  sort_descending<SORT_TILE>(sorted, args.padded, tile);
  for (uint32_t i = threadIdx.x; i < args.k; i += blockDim.x) out[i] = i < found ? sorted[i] : 0;
}
}  // namespace

extern "C" __global__ void __launch_bounds__(256, 3) topk_scan_f32_1(const TopkScanArgs args) {
  scan_tile<float, 1>(args);
}
extern "C" __global__ void __launch_bounds__(256, 2) topk_scan_f32_4(const TopkScanArgs args) {
  scan_tile<float, 4>(args);
}
extern "C" __global__ void __launch_bounds__(256, 2) topk_scan_f32_8(const TopkScanArgs args) {
  scan_tile<float, 8>(args);
}
extern "C" __global__ void __launch_bounds__(256, 3) topk_scan_f16_1(const TopkScanArgs args) {
  scan_tile<__half, 1>(args);
}
extern "C" __global__ void __launch_bounds__(256, 2) topk_scan_f16_4(const TopkScanArgs args) {
  scan_tile<__half, 4>(args);
}
extern "C" __global__ void __launch_bounds__(256, 2) topk_scan_f16_8(const TopkScanArgs args) {
  scan_tile<__half, 8>(args);
}
extern "C" __global__ void __launch_bounds__(256, 3) topk_scan_bf16_1(const TopkScanArgs args) {
  scan_tile<__nv_bfloat16, 1>(args);
}
extern "C" __global__ void __launch_bounds__(256, 2) topk_scan_bf16_4(const TopkScanArgs args) {
  scan_tile<__nv_bfloat16, 4>(args);
}
extern "C" __global__ void __launch_bounds__(256, 2) topk_scan_bf16_8(const TopkScanArgs args) {
  scan_tile<__nv_bfloat16, 8>(args);
}

extern "C" __global__ void __launch_bounds__(1024) topk_merge(const TopkMergeArgs args) {
  if (args.first + blockIdx.x < *args.batch) merge(args);
}
