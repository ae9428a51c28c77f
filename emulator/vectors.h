// CUDA's small vector types, with its alignments.
#pragma once

#define EMU_VECTOR2(Name, T, Align)                   \
  struct alignas(Align) Name {                        \
    T x, y;                                           \
  };                                                  \
  inline Name make_##Name(T x, T y) { return {x, y}; }

#define EMU_VECTOR4(Name, T, Align)                                     \
  struct alignas(Align) Name {                                          \
    T x, y, z, w;                                                       \
  };                                                                    \
  inline Name make_##Name(T x, T y, T z, T w) { return {x, y, z, w}; }

EMU_VECTOR2(float2, float, 8)
EMU_VECTOR4(float4, float, 16)
EMU_VECTOR2(int2, int, 8)
EMU_VECTOR4(int4, int, 16)
EMU_VECTOR2(uint2, unsigned, 8)
EMU_VECTOR4(uint4, unsigned, 16)
EMU_VECTOR2(double2, double, 16)
EMU_VECTOR2(ulonglong2, unsigned long long, 16)
EMU_VECTOR4(char4, signed char, 4)
EMU_VECTOR4(uchar4, unsigned char, 4)

#undef EMU_VECTOR2
#undef EMU_VECTOR4
