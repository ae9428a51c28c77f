// What every kernel is written against, for the GPU or for the emulator.
#pragma once
#ifdef __CUDACC__
#include "ptx.cuh"
#else
#include "device.h"  // emulator/device.h
#endif

// The unsigned integer of so many bytes.
template <int BYTES> struct Unsigned;
template <> struct Unsigned<2> { using Type = uint16_t; };
template <> struct Unsigned<4> { using Type = uint32_t; };
