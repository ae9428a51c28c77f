// Exact top-k by the defined score (device/score.cuh), over all rows.
//
//   out[q] = the k greatest keys (device/keys.cuh) of the rows, greatest first, then zeros
//
// topk_scan_*: blocks (p, t) score rows p, p + P, ... in steps of STEP with the queries of tile t. No score is stored:
// each query has a bound that its k-th greatest key reaches for certain, a score below the bound's is dropped after one
// comparison, and the key of any other goes to the block's own buffer of the query (device/survivors.cuh). After a step,
// a buffer without room for another step is cut to its best `kept` keys, and the bound rises. Blocks share their bounds
// through `bounds`; what one sees of another's decides how much it keeps for later, never the answer. In the end each
// buffer holds the best keys of the block's rows, with zeros up to `kept`.
//
// topk_merge: block (q, y) selects the best `length` keys of `share` of a query's runs of keys. Where the buffers of a
// query are many, several blocks leave a run each, and a second launch merges these. The last launch sorts.
//
//   rows:    f32, f16 or bf16 [n rounded up to 8, pitch], arranged for device/score.cuh, 16-byte aligned; n below
//            2^32 - 1, dim from 1 to 4096
//   rank:    u32 [n], the place of the row's id among all ids, or null if that is the row
//   queries: f32 [most, dim], row-major, 4-byte aligned
//   batch:   u32 [1], how many queries there are; more than `most` are `most`; nothing of the others is read or written
//   bounds:  u64 [most], zeros before the first scan
//   buffers: u64 [group, P, capacity], `keys` of the scan and of the first merge
//   best:    u64 [group, gridDim.y, length], `keys` of the second merge; the last merge's length is a power of two, at
//            least min(k, n)
//   out:     u64 [most, k], or null if this is not the last merge
//
// One launch of each answers queries first .. first + group. Scan: grid (P, group / tile rounded up) for tiles of
// Q * groups queries, groups 1, 2 or 4; 256 threads; shared memory 4 * tile * (dim rounded up to 128) bytes, dynamic, and
// 2 KiB, static. Merge: grid (group, runs / share rounded up); 1024 threads; 34 KiB of static shared memory. A NaN score
// is no hit. No rows, no queries: no hits. src/cuda/topk checks every length.
#include "rows.cuh"
#include "score.cuh"
#include "survivors.cuh"

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
static_assert(sizeof(TopkScanArgs) == 80, "as in src/cuda/topk/mod.rs");

struct TopkMergeArgs {
  const Key* keys;
  Key* best;
  Key* out;
  const uint32_t* batch;
  uint32_t first, runs, share;
  uint32_t kept, stride;  // keys of a run; places from one run to the next
  uint32_t length, k;
};
static_assert(sizeof(TopkMergeArgs) == 64, "as in src/cuda/topk/mod.rs");

namespace {
constexpr uint32_t WARPS = 8;
constexpr uint32_t THREADS = 32 * WARPS;
constexpr uint32_t STEP = 128;  // rows that a block scores between two looks at its buffers
constexpr uint32_t R = 8;       // rows that a warp scores at once; those behind the last are zeros
constexpr uint32_t MOST_QUERIES = 32;
constexpr uint32_t SORT_TILE = 4096;

// Scores this block's rows with `count` queries, at least 1, from query `first` of the launch on.
template <class T, int Q> DEV void scan(const TopkScanArgs& args, uint32_t first, uint32_t count) {
  DYN_SHARED(float, queries);  // [groups, query_groups(dim), Q, SCORE_GROUP]
  SHARED(Selection, selection, [1]);
  SHARED(Key, bounds, [MOST_QUERIES]);
  SHARED(uint32_t, counts, [MOST_QUERIES]);
  const uint32_t thread = threadIdx.x, lane = thread % 32, warp = thread / 32;

  // Each group of warps takes Q queries; the warps of a group take turns at the rows of a step.
  uint32_t groups = 1;
  while (groups * Q < count) groups *= 2;
  const uint32_t group = warp % groups, turn = warp / groups, turns = WARPS / groups;

  const size_t query_before = static_cast<size_t>(args.first) + first;
  const uint32_t parts = query_groups(args.dim);
  for (uint32_t i = thread; i < groups * parts * Q * SCORE_GROUP; i += THREADS) {
    const uint32_t place = i % SCORE_GROUP, part = i / (Q * SCORE_GROUP);
    const uint32_t query = part / parts * Q + i / SCORE_GROUP % Q;
    const uint32_t element = part % parts * SCORE_GROUP + place % 4 * 32 + place / 4;
    const bool there = query < count && element < args.dim;
    queries[i] = there ? args.queries[(query_before + query) * args.dim + element] : -0.0f;
  }
  if (thread < MOST_QUERIES) {
    bounds[thread] = thread < count ? 0 : ~0ull;  // nothing reaches the bound of a query that is not there
    counts[thread] = 0;
  }
  __syncthreads();
  Key* const published = args.bounds + query_before;
  const auto survivors_of = [&](uint32_t query) {
    const size_t buffer = static_cast<size_t>(first + query) * gridDim.x + blockIdx.x;
    return Survivors{args.keys + buffer * args.capacity, counts + query, bounds + query, published + query};
  };

  // After tree_sums this lane has the scores of one query with rows lane_row, lane_row + 1, ...; where lanes share them,
  // the first offers them.
  constexpr uint32_t SUMS = Q * R, SCORES = SUMS < 32 ? 1 : SUMS / 32;
  const uint32_t lane_sum = lane * SUMS / 32, lane_row = lane_sum % R, lane_query = group * Q + lane_sum / R;
  const bool offers = lane * SUMS % 32 == 0 || SUMS >= 32;

  const T* const rows = static_cast<const T*>(args.rows);
  const uint32_t steps = args.n / STEP + (args.n % STEP != 0 ? 1 : 0);
  for (uint32_t step = blockIdx.x; step < steps; step += gridDim.x) {
    const uint32_t begin = step * STEP, end = begin + min(args.n - begin, STEP);
    const Key seen = thread < count ? load_relaxed(published + thread) : 0;
    const float gate = gate_of(bounds[lane_query]);  // bounds change between steps only
    for (uint32_t row = begin + turn * R; row < end; row += min(end - row, turns * R)) {  // the same in all lanes
      float sums[SUMS];
      const T* const from = rows + static_cast<size_t>(row) * row_pitch<T>(args.dim);
      lane_sums<Q, R>(sums, from, args.dim, queries + group * parts * Q * SCORE_GROUP);
      tree_sums<SUMS>(sums);
#pragma unroll
      for (uint32_t i = 0; i < SCORES; ++i) {
        const uint32_t own = row + lane_row + i;  // below 2^32 for every n: rows are taken in eights
        if (sums[i] >= gate && offers && own < end) {
          offer(survivors_of(lane_query), key_of(sums[i], args.rank != nullptr ? args.rank[own] : own));
        }
      }
    }
    __syncthreads();
    uint32_t crowded = __ballot_sync(0xffffffffu, lane < count && counts[lane] > args.limit);
    for (; crowded != 0; crowded &= crowded - 1) cut(survivors_of(__ffs(crowded) - 1), args.kept, selection[0]);
    if (thread < count && seen > bounds[thread]) bounds[thread] = seen;
    __syncthreads();
  }
  for (uint32_t query = 0; query < count; ++query) finish(survivors_of(query), args.kept, selection[0]);
}

// Scans with the queries of this block's tile, if it has any.
template <class T, int Q> DEV void scan_tile(const TopkScanArgs& args) {
  const uint32_t tile = args.groups * Q, first = blockIdx.y * tile;
  const uint32_t until = rows_of(args.batch, args.first + args.group);  // of all queries
  if (args.first + first < until) scan<T, Q>(args, first, min(until - args.first - first, tile));
}

DEV void merge(const TopkMergeArgs& args) {
  SHARED(Selection, selection, [1]);
  SHARED(Key, tile, [SORT_TILE]);
  const size_t query = blockIdx.x;
  const uint32_t run = blockIdx.y * args.share, runs = min(args.runs - run, args.share);
  const Key* keys = args.keys + (query * args.runs + run) * args.stride;
  Key* best = args.best + (query * gridDim.y + blockIdx.y) * args.length;
  const Places places{keys, runs * args.kept, args.kept, args.stride};
  const Key bound = bound_of_best(places, args.k, selection[0]);
  move_best(places, bound, best, selection[0]);
  const uint32_t found = selection[0].found;
  for (uint32_t i = found + threadIdx.x; i < args.length; i += blockDim.x) best[i] = 0;
  if (args.out != nullptr) {  // the same in all threads
    __syncthreads();
    sort_descending<SORT_TILE>(best, args.length, tile);
    Key* out = args.out + (args.first + query) * args.k;
    for (uint32_t i = threadIdx.x; i < args.k; i += blockDim.x) out[i] = i < found ? best[i] : 0;
  }
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
