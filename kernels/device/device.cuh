// The only header that a kernel file includes: everything a kernel may use, for the GPU or for the emulator.
#pragma once
#ifdef __CUDACC__
#include "ptx.cuh"
#else
#include "device.h"  // emulator/device.h
#endif
