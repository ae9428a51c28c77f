// How many rows there are, where that is known only when a kernel runs.
#pragma once
#include "device.cuh"

// The number in device memory, never more than the launch has room for.
DEV uint32_t rows_of(const uint32_t* count, uint32_t most) { return min(*count, most); }
