// How a kernel reports bad data: one 64-bit word per call, the least report wins, all ones is none.
#pragma once
#include "device.cuh"

// The highest 16 bits are the stage (what the caller numbered this launch), the rest the row.
DEV void report_fault(unsigned long long* fault, uint32_t stage, unsigned long long row) {
  atomicMin(fault, (static_cast<unsigned long long>(stage) << 48) | row);
}
