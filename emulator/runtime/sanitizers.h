// What the sanitizers must be told: switches of stacks, memory that is out of bounds, order between threads. The
// emulator's own memory traffic must stay invisible to the race detector, so it is compiled without it.
#pragma once
#include <cstddef>

#ifdef __SANITIZE_ADDRESS__
#define EMU_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifdef EMU_TSAN
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_set_fiber_name(void* fiber, const char* name);
void __tsan_acquire(void* object);
void __tsan_release(void* object);
void __tsan_read_range(void* address, unsigned long bytes);
void __tsan_write_range(void* address, unsigned long bytes);
}
#endif

namespace emu {

constexpr unsigned kNoSynchronization = 1;  // __tsan_switch_to_fiber: a switch orders nothing

#ifdef EMU_ASAN
constexpr bool kHasAsan = true;
inline void poison(void* address, size_t bytes) { __asan_poison_memory_region(address, bytes); }
inline void unpoison(void* address, size_t bytes) { __asan_unpoison_memory_region(address, bytes); }
#else
constexpr bool kHasAsan = false;
inline void poison(void*, size_t) {}
inline void unpoison(void*, size_t) {}
#endif

#ifdef EMU_TSAN
constexpr bool kHasTsan = true;
inline void note_read(const void* address, size_t bytes) { __tsan_read_range(const_cast<void*>(address), bytes); }
inline void note_write(void* address, size_t bytes) { __tsan_write_range(address, bytes); }
#else
constexpr bool kHasTsan = false;
inline void note_read(const void*, size_t) {}
inline void note_write(void*, size_t) {}
#endif

// The emulator handles faults itself, except where a sanitizer does.
constexpr bool kCatchesFaults = !kHasAsan && !kHasTsan;

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
