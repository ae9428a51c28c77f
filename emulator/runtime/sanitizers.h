// What AddressSanitizer must be told: memory that is out of bounds. The emulator's own memory traffic must stay invisible to
// the race detector, so it is compiled without it.
#pragma once
#include <cstddef>

#ifdef __SANITIZE_ADDRESS__
#define EMU_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emu {

#ifdef EMU_ASAN
constexpr bool kHasAsan = true;
inline void poison(void* address, size_t bytes) { __asan_poison_memory_region(address, bytes); }
inline void unpoison(void* address, size_t bytes) { __asan_unpoison_memory_region(address, bytes); }
#else
constexpr bool kHasAsan = false;
inline void poison(void*, size_t) {}
inline void unpoison(void*, size_t) {}
#endif

#ifdef EMU_RACES
constexpr bool kFindsRaces = true;
#else
constexpr bool kFindsRaces = false;
#endif

// The emulator handles faults itself, except where AddressSanitizer does.
constexpr bool kCatchesFaults = !kHasAsan;

// A memset that no sanitizer intercepts.
inline void raw_set(void* address, int value, size_t bytes) {
#ifdef __x86_64__
  asm volatile("rep stosb" : "+D"(address), "+c"(bytes) : "a"(value) : "memory");
#else
  auto* p = static_cast<volatile unsigned char*>(address);
  for (size_t i = 0; i < bytes; ++i) p[i] = static_cast<unsigned char>(value);
#endif
}

}  // namespace emu
