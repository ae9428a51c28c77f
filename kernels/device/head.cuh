// What the kernels of the head share: their arguments, and how they store a row.
//
//   segment: data T [rows, width], row-major, aligned to T; index u32 [most], for each row of the batch its row in data,
//            anything from `rows` on where it has none; null for row r at r, but not for head_concatenate
//   rows:    u32 [1], how many rows the batch has; a number beyond `most` is taken as `most`; nothing behind them is read
//            or written
//   output:  f32, f16 or bf16 [most, outputs], aligned to its elements: y, or with normalize y / |y| as normalize.cuh
//            says, rounded to nearest even for f16 and bf16
//   wide:    f32 [most, outputs], y for normalize; the output itself where that is f32
//   fault:   u64 [1]; (stage, row) of the least row that cannot be normalised; such a row is stored as it is
#pragma once
#include "fault.cuh"
#include "normalize.cuh"
#include "rows.cuh"
#include "values.cuh"

constexpr uint32_t MOST_SEGMENTS = 32;

struct HeadSegment {
  const void* data;
  const uint32_t* index;
  uint32_t rows;
  uint32_t width;
  uint32_t first;  // its column of the weights, or of the concatenation
  uint32_t chunk;  // number of chunks of the segments before
};

struct HeadArgs {
  const void* weight;
  const float* bias;
  void* output;
  float* wide;
  float* partials;
  uint32_t* counters;
  unsigned long long* fault;
  const uint32_t* rows;
  uint32_t outputs;
  uint32_t pitch;
  uint32_t segments;
  uint32_t chunks;
  uint32_t slices;
  uint32_t activation;  // 0 none, 1 relu, 2 sigmoid, 3 tanh
  uint32_t normalize;
  uint32_t stage;
  uint32_t precision;  // of the output: 0 f32, 1 f16, 2 bf16
  uint32_t most;
  HeadSegment segment[MOST_SEGMENTS];
};
static_assert(sizeof(HeadArgs) == 104 + 32 * MOST_SEGMENTS, "as in src/cuda/linear/kernels.rs");

// Element `at` of the output.
DEV void put(const HeadArgs& args, size_t at, float x) {
  if (args.precision == 0) {
    static_cast<float*>(args.output)[at] = x;
  } else if (args.precision == 1) {
    static_cast<__half*>(args.output)[at] = from_float<__half>(x);
  } else {
    static_cast<__nv_bfloat16*>(args.output)[at] = from_float<__nv_bfloat16>(x);
  }
}

// Element `at` of y.
DEV void put_y(const HeadArgs& args, size_t at, float y) {
  if (args.normalize) {
    args.wide[at] = y;
  } else {
    put(args, at, y);
  }
}

// Row `row` of `wide`, normalised, to the output. All 32 lanes call it.
DEV void put_normalized(const HeadArgs& args, size_t row) {
  const uint32_t lane = threadIdx.x % 32;
  const size_t first = row * args.outputs;
  float* const wide = args.wide + first;
  if (normalize_row(wide, args.outputs, [&](uint32_t i, float x) { put(args, first + i, x); })) return;
  __syncwarp();  // wide may be the output: lanes now write what others have read
  for (uint32_t i = lane; i < args.outputs; i += 32) put(args, first + i, wide[i]);
  if (lane == 0) report_fault(args.fault, args.stage, row);
}
