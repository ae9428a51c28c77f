// What kernels for sm_90 include besides: mbarrier, TMA and wgmma.
#pragma once
#ifdef __CUDACC__
#include "ptx_sm90.cuh"
#else
#include "device_sm90.h"  // emulator/device_sm90.h
#endif
