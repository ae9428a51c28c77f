// Which accesses of a launch are ordered, for the race detector.
#pragma once
#include <cstdint>

#include "worker.h"

namespace emu {

// The copy engine counts as a thread of its own.
constexpr unsigned kEngine = kMaxThreads;

// A point of a launch: a thread of a block, and the time by its block's clock. Blocks are numbered across launches.
struct Moment {
  uint32_t block;
  uint32_t time;
  uint16_t thread;
};

// The running thread's.
Moment now();
// Whether what another thread did then comes before what the running one does now, whatever the schedule.
bool is_before_now(const Moment&);
// The first block of the launch, and the index of a block of it.
uint32_t first_block();
uint3 block_index(uint32_t block);

}  // namespace emu
