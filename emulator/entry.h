// Registration of kernels. The translation unit that includes a kernel file defines EMU_MODULE_NAME, the name that the
// driver loads it by, and writes EMU_KERNEL(name, launch bound) for each entry point.
#pragma once
#include <type_traits>
#include <utility>

#include "runtime.h"

namespace emu {

template <auto F>
struct Entry;

// Unpacks the driver's array of parameter addresses by the kernel's own signature.
template <class... A, void (*F)(A...)>
struct Entry<F> {
  template <size_t... I>
  static void unpack(void** params, std::index_sequence<I...>) {
    (void)params;
    F(*static_cast<std::remove_reference_t<A>*>(params[I])...);
  }
  static void call(void** params) { unpack(params, std::index_sequence_for<A...>{}); }
  template <class T>
  static void clear_padding(void* value) {
    __builtin_clear_padding(static_cast<T*>(value));
  }
  template <class T>
  static constexpr ParamInfo info = {sizeof(T), alignof(T), clear_padding<T>};
  static constexpr ParamInfo params[sizeof...(A) + 1] = {info<std::remove_cv_t<A>>..., {0, 0, nullptr}};
  static constexpr int count = sizeof...(A);
};

struct Registration {
  Kernel kernel;
  Registration(const char* module, const char* name, void (*call)(void**), const ParamInfo* params, int count,
               int max_threads)
      : kernel{module, name, call, params, count, max_threads, nullptr} {
    register_kernel(&kernel);
  }
};

}  // namespace emu

#define EMU_KERNEL(Name, MaxThreads)                                                                              \
  static ::emu::Registration emu_registration_##Name(EMU_MODULE_NAME, #Name, &::emu::Entry<&Name>::call,          \
                                                     ::emu::Entry<&Name>::params, ::emu::Entry<&Name>::count, \
                                                     MaxThreads);
