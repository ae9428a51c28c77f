// Modules, functions and launches. A module image is the text "EMU-MODULE <name>"; its kernels are compiled into this
// library and registered under that name.
#include <algorithm>
#include <cstring>

#include "driver.h"

using namespace driver;

DRIVER_API CUresult cuDeviceGetAttribute(int* value, int which, CUdevice device);

namespace {

constexpr char kImage[] = "EMU-MODULE ";
constexpr size_t kPointer = sizeof(void*);

// The arguments of one launch, copied at the call as the driver does.
struct Arguments {
  std::vector<std::vector<char>> values;
  std::vector<void*> pointers;
};

bool has_kernels(const char* module) {
  for (const emu::Kernel* k = emu::kernel_list(); k; k = k->next) {
    if (!strcmp(k->module, module)) return true;
  }
  return false;
}

std::string hexadecimal(uintptr_t address) {
  char text[24];
  snprintf(text, sizeof text, "0x%zx", address);
  return text;
}

// Every aligned word of the arguments that can only be a pointer must be one that a kernel may follow.
std::string bad_argument(const emu::Kernel* kernel, const Arguments& arguments, const Context* context) {
  for (int i = 0; i < kernel->nparams; ++i) {
    const std::vector<char>& bytes = arguments.values[static_cast<size_t>(i)];
    for (size_t at = 0; at + kPointer <= bytes.size(); at += kPointer) {
      uintptr_t word = 0;
      memcpy(&word, bytes.data() + at, sizeof word);
      std::string what = forbidden_address(word, context);
      if (what.empty()) continue;
      return "kernel " + std::string(kernel->name) + ": parameter " + std::to_string(i) + ", bytes " +
             std::to_string(at) + " to " + std::to_string(at + kPointer) + " hold " + hexadecimal(word) + ", " + what;
    }
  }
  return "";
}

void run_kernel(Context* context, const emu::Kernel* kernel, dim3 grid, dim3 block, unsigned shared, Arguments& arguments) {
  State& s = state();
  ++s.counters.kernels;
  if (s.faults.launch && !--s.faults.launch) {
    lose(context, kLaunchFailed, "the device is lost by order of the test");
    return;
  }
  std::string bad = bad_argument(kernel, arguments, context);
  if (!bad.empty()) {
    lose(context, kIllegalAddress, bad);
    return;
  }
  DeviceAccess access;
  emu::LaunchResult result;
  if (emu::launch(kernel, grid, block, shared, arguments.pointers.data(), &result)) {
    lose(context, result.code, result.msg);
    return;
  }
  std::string overrun_found = overrun();
  if (!overrun_found.empty()) lose(context, kIllegalAddress, "kernel " + std::string(kernel->name) + ": " + overrun_found);
}

int attribute(int which) {
  int value = 0;
  cuDeviceGetAttribute(&value, which, current()->device);
  return value;
}

Function* function_of(void* handle) {
  Function* found = nullptr;
  state().modules.each([&](Module& module) {
    for (auto& entry : module.functions) {
      if (entry.second.get() == handle) found = entry.second.get();
    }
  });
  if (!found) fail(kInvalidHandle, "%p is not a function of a live module", handle);
  return found;
}

}  // namespace

DRIVER_API CUresult cuModuleLoadData(void** handle, const void* image) {
  DRIVER_ENTER(Needs::context);
  auto* text = static_cast<const char*>(image);
  size_t prefix = strlen(kImage);
  if (strncmp(text, kImage, prefix)) return fail(kInvalidImage, "not an emulator image: a cubin or PTX reached the emulator");
  const char* name = text + prefix;
  if (!has_kernels(name)) return fail(kInvalidImage, "no kernels of a module '%s' are built into the emulator", name);
  Module* module = state().modules.add(current());
  module->name = name;
  *handle = module;
  return kSuccess;
}

DRIVER_API CUresult cuModuleLoadDataEx(void** handle, const void* image, unsigned, int*, void**) {
  return cuModuleLoadData(handle, image);
}

DRIVER_API CUresult cuModuleLoadFatBinary(void** handle, const void* image) { return cuModuleLoadData(handle, image); }

DRIVER_API CUresult cuModuleUnload(void* handle) {
  DRIVER_ENTER(Needs::context);
  Module* module = state().modules.find(handle);
  if (!module) return fail(kInvalidHandle, "%p is not a live module", handle);
  int code = finish_all(current());
  state().modules.remove(module);
  return code;
}

DRIVER_API CUresult cuModuleGetFunction(void** handle, void* module_handle, const char* name) {
  DRIVER_ENTER(Needs::context);
  Module* module = state().modules.find(module_handle);
  if (!module) return fail(kInvalidHandle, "%p is not a live module", module_handle);
  const emu::Kernel* kernel = emu::find_kernel(module->name.c_str(), name);
  if (!kernel) return fail(kNotFound, "module '%s' has no kernel named '%s'", module->name.c_str(), name);
  std::unique_ptr<Function>& function = module->functions[name];
  if (!function) {
    function = std::make_unique<Function>();
    function->kernel = kernel;
    function->context = module->context;
  }
  *handle = function.get();
  return kSuccess;
}

DRIVER_API CUresult cuModuleGetGlobal_v2(CUdeviceptr*, size_t*, void*, const char* name) {
  DRIVER_ENTER(Needs::context);
  return fail(kNotFound, "the emulator exports no global variables ('%s')", name);
}

DRIVER_API CUresult cuFuncSetAttribute(void* handle, int which, int value) {
  DRIVER_ENTER(Needs::context);
  enum { kMaxDynamicShared = 8, kCarveout = 9 };
  Function* function = function_of(handle);
  if (!function) return kInvalidHandle;
  if (which == kMaxDynamicShared) {
    if (value < 0 || static_cast<uint32_t>(value) > emu::options().smem_limit) {
      return fail(kInvalidValue, "%s: %d bytes of dynamic shared memory, the device has %u", function->kernel->name, value,
                  emu::options().smem_limit);
    }
    function->max_dynamic_shared = static_cast<uint32_t>(value);
    return kSuccess;
  }
  if (which != kCarveout || value < -1 || value > 100) return fail(kInvalidValue, "function attribute %d = %d", which, value);
  function->carveout = value;
  return kSuccess;
}

// The driver loads a function here at the latest; the stand-in has all of them from the start.
DRIVER_API CUresult cuFuncLoad(void* handle) {
  DRIVER_ENTER(Needs::context);
  return function_of(handle) ? kSuccess : kInvalidHandle;
}

DRIVER_API CUresult cuFuncSetCacheConfig(void* handle, int) {
  DRIVER_ENTER(Needs::context);
  return function_of(handle) ? kSuccess : kInvalidHandle;
}

DRIVER_API CUresult cuFuncGetAttribute(int* value, int which, void* handle) {
  DRIVER_ENTER(Needs::context);
  Function* function = function_of(handle);
  if (!function) return kInvalidHandle;
  switch (which) {
    case 0: *value = function->kernel->max_threads ? function->kernel->max_threads : 1024; break;
    case 4: *value = 32; break;                   // registers: not known here
    case 5: *value = emu::options().arch; break;  // PTX version
    case 6: *value = emu::options().arch; break;  // binary version
    case 8: *value = static_cast<int>(function->max_dynamic_shared); break;
    case 9: *value = function->carveout; break;
    default: *value = 0;                          // static shared memory, constants, local memory: not known here
  }
  return kSuccess;
}

DRIVER_API CUresult cuFuncGetParamInfo(void* handle, size_t index, size_t* offset, size_t* size) {
  DRIVER_ENTER(Needs::context);
  Function* function = function_of(handle);
  if (!function) return kInvalidHandle;
  const emu::Kernel* kernel = function->kernel;
  if (index >= static_cast<size_t>(kernel->nparams)) {
    return fail(kInvalidValue, "%s has %d parameters", kernel->name, kernel->nparams);
  }
  size_t at = 0;
  for (size_t i = 0; i <= index; ++i) {
    const emu::ParamInfo& parameter = kernel->params[i];
    at = (at + parameter.align - 1) / parameter.align * parameter.align;
    if (i < index) at += parameter.size;
  }
  *offset = at;
  if (size) *size = kernel->params[index].size;
  return kSuccess;
}

DRIVER_API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, void* handle, int threads,
                                                                         size_t dynamic_shared, unsigned) {
  DRIVER_ENTER(Needs::context);
  Function* function = function_of(handle);
  if (!function) return kInvalidHandle;
  if (threads < 1) return fail(kInvalidValue, "occupancy of a block of %d threads", threads);
  int warps = (threads + 31) / 32;
  int by_threads = attribute(39) / (warps * 32);
  int by_shared = attribute(81) / static_cast<int>(dynamic_shared + static_cast<size_t>(attribute(111)));
  bool fits = threads <= (function->kernel->max_threads ? function->kernel->max_threads : 1024) &&
              dynamic_shared <= function->max_dynamic_shared;
  *blocks = fits ? std::min({by_threads, by_shared, attribute(106)}) : 0;
  return kSuccess;
}

DRIVER_API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void* handle, int threads,
                                                                size_t dynamic_shared) {
  return cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, handle, threads, dynamic_shared, 0);
}

DRIVER_API CUresult cuLaunchKernel(void* handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                                   unsigned block_y, unsigned block_z, unsigned shared, void* stream_handle,
                                   void** parameters, void** extra) {
  DRIVER_ENTER(Needs::context);
  Function* function = function_of(handle);
  Stream* stream = stream_of(stream_handle);
  if (!function || !stream) return kInvalidHandle;
  const emu::Kernel* kernel = function->kernel;
  if (extra) return fail(kNotSupported, "extra launch options");
  if (kernel->nparams && !parameters) return fail(kInvalidValue, "%s takes %d parameters", kernel->name, kernel->nparams);
  if (shared > function->max_dynamic_shared) {
    return fail(kInvalidValue, "%s: %u bytes of dynamic shared memory, its attribute allows %u", kernel->name, shared,
                function->max_dynamic_shared);
  }
  dim3 grid(grid_x, grid_y, grid_z);
  dim3 block(block_x, block_y, block_z);
  emu::LaunchResult result;
  if (emu::refuse_launch(kernel, grid, block, shared, &result)) return fail(kInvalidValue, "%s", result.msg);
  auto arguments = std::make_shared<Arguments>();
  for (int i = 0; i < kernel->nparams; ++i) {
    auto* first = static_cast<const char*>(parameters[i]);
    auto& value = arguments->values.emplace_back(first, first + kernel->params[i].size);
    kernel->params[i].clear_padding(value.data());
  }
  for (auto& value : arguments->values) arguments->pointers.push_back(value.data());
  if (!stream->capture) ++state().counters.launches;
  Context* context = stream->context;
  return submit(stream, "kernel", [=] { run_kernel(context, kernel, grid, block, shared, *arguments); });
}

DRIVER_API CUresult cuLaunchCooperativeKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                                              void*, void**) {
  DRIVER_ENTER(Needs::context);
  return fail(kNotSupported, "cooperative launches");
}

// A two-dimensional tiled map; `data_type` as CUtensorMapDataType.
DRIVER_API CUresult cuTensorMapEncodeTiled(void* map, int data_type, unsigned rank, void* address, const uint64_t* dims,
                                           const uint64_t* strides, const uint32_t* box, const uint32_t*, int interleave,
                                           int swizzle, int, int) {
  DRIVER_ENTER(Needs::context);
  constexpr uint32_t kBytes[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4};
  if (rank != 2 || interleave || data_type < 0 || data_type > 12) return fail(kNotSupported, "tensor map of rank %u", rank);
  bool encoded = emu::encode_tensor_map(map, address, kBytes[data_type], {dims[0], dims[1]}, strides[0], {box[0], box[1]},
                                        static_cast<uint32_t>(swizzle));
  return encoded ? kSuccess : fail(kInvalidValue, "tensor map: alignment, stride or box out of range");
}
