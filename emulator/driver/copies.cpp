// Copies and fills. A copy from pageable memory takes its bytes at the call and one to pageable memory is complete on
// return; pinned memory is read and written when the stream gets there.
#include <cstring>

#include "driver.h"

using namespace driver;

namespace {

int check_range(CUdeviceptr address, size_t bytes, const char* what) {
  const Allocation* a = find_allocation(address, bytes);
  if (a && !a->pinned) return kSuccess;
  return fail(kInvalidValue, "%s of %zu bytes at %p is not inside a live device allocation", what, bytes,
              reinterpret_cast<void*>(address));
}

// Checked again when the stream gets there: the memory may be gone by then.
bool still_there(Context* context, CUdeviceptr address, size_t bytes, const char* what) {
  if (find_allocation(address, bytes)) return true;
  lose(context, kIllegalAddress, std::string(what) + " of device memory that was freed before the stream got to it");
  return false;
}

bool is_pinned(const void* address, size_t bytes) {
  const Allocation* a = find_allocation(reinterpret_cast<uintptr_t>(address), bytes);
  return a && a->pinned;
}

void* host(CUdeviceptr address) { return reinterpret_cast<void*>(address); }

int check_host(const void* address, size_t bytes) {
  const Allocation* a = find_allocation(reinterpret_cast<uintptr_t>(address), bytes ? 1 : 0);
  if (!a || a->pinned) return kSuccess;
  return fail(kInvalidValue, "the host side %p of a copy is device memory", address);
}

void copy_in(Context* context, CUdeviceptr to, const void* from, size_t bytes) {
  if (!still_there(context, to, bytes, "copy")) return;
  DeviceAccess access;
  memcpy(host(to), from, bytes);
  ++state().counters.copies;
}

void copy_out(Context* context, void* to, CUdeviceptr from, size_t bytes) {
  if (!still_there(context, from, bytes, "copy")) return;
  DeviceAccess access;
  memcpy(to, host(from), bytes);
  ++state().counters.copies;
}

void copy_within(Context* context, CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  if (!still_there(context, to, bytes, "copy") || !still_there(context, from, bytes, "copy")) return;
  DeviceAccess access;
  memmove(host(to), host(from), bytes);
  ++state().counters.copies;
}

int fill(Stream* stream, CUdeviceptr to, uint64_t value, size_t width, size_t count) {
  if (!stream) return kInvalidHandle;
  size_t bytes = count * width;
  if (!bytes) return kSuccess;
  if (to % width) return fail(kInvalidValue, "fill at %p is not %zu-byte aligned", host(to), width);
  if (int code = check_range(to, bytes, "fill")) return code;
  Context* context = stream->context;
  return submit(stream, "fill", [=] {
    if (!still_there(context, to, bytes, "fill")) return;
    DeviceAccess access;
    auto* at = static_cast<char*>(host(to));
    if (width == 1) {
      memset(at, static_cast<int>(value), count);
    } else {
      for (size_t i = 0; i < count; ++i) memcpy(at + i * width, &value, width);
    }
    ++state().counters.fills;
  });
}

// What blocking copies begin with: they belong to the default stream.
int begin_blocking(const char* what) {
  if (int code = refuse_in_capture(what)) return code;
  if (int code = refuse_implicit(current())) return code;
  ++state().counters.synchronizations;
  return finish_all(current());
}

}  // namespace

DRIVER_API CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, void* handle) {
  DRIVER_ENTER(Needs::context);
  Stream* stream = stream_of(handle);
  if (!stream) return kInvalidHandle;
  if (!bytes) return kSuccess;
  if (int code = check_range(to, bytes, "copy")) return code;
  if (int code = check_host(from, bytes)) return code;
  Context* context = stream->context;
  if (stream->capture || is_pinned(from, bytes)) {
    return submit(stream, "copy", [=] { copy_in(context, to, from, bytes); });
  }
  auto* first = static_cast<const char*>(from);
  auto staged = std::make_shared<std::vector<char>>(first, first + bytes);
  return submit(stream, "copy", [=] { copy_in(context, to, staged->data(), bytes); });
}

DRIVER_API CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, void* handle) {
  DRIVER_ENTER(Needs::context);
  Stream* stream = stream_of(handle);
  if (!stream) return kInvalidHandle;
  if (!bytes) return kSuccess;
  if (int code = check_range(from, bytes, "copy")) return code;
  if (int code = check_host(to, bytes)) return code;
  Context* context = stream->context;
  bool blocks = !stream->capture && !is_pinned(to, bytes);
  if (int code = submit(stream, "copy", [=] { copy_out(context, to, from, bytes); })) return code;
  return blocks ? finish(stream) : kSuccess;
}

DRIVER_API CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, void* handle) {
  DRIVER_ENTER(Needs::context);
  Stream* stream = stream_of(handle);
  if (!stream) return kInvalidHandle;
  if (!bytes) return kSuccess;
  if (int code = check_range(to, bytes, "copy")) return code;
  if (int code = check_range(from, bytes, "copy")) return code;
  Context* context = stream->context;
  return submit(stream, "copy", [=] { copy_within(context, to, from, bytes); });
}

DRIVER_API CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) {
  DRIVER_ENTER(Needs::context);
  if (int code = begin_blocking("cuMemcpyHtoD")) return code;
  if (!bytes) return kSuccess;
  if (int code = check_range(to, bytes, "copy")) return code;
  if (int code = check_host(from, bytes)) return code;
  copy_in(current(), to, from, bytes);
  return current()->error;
}

DRIVER_API CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) {
  DRIVER_ENTER(Needs::context);
  if (int code = begin_blocking("cuMemcpyDtoH")) return code;
  if (!bytes) return kSuccess;
  if (int code = check_range(from, bytes, "copy")) return code;
  if (int code = check_host(to, bytes)) return code;
  copy_out(current(), to, from, bytes);
  return current()->error;
}

DRIVER_API CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  DRIVER_ENTER(Needs::context);
  if (int code = begin_blocking("cuMemcpyDtoD")) return code;
  if (!bytes) return kSuccess;
  if (int code = check_range(to, bytes, "copy")) return code;
  if (int code = check_range(from, bytes, "copy")) return code;
  copy_within(current(), to, from, bytes);
  return current()->error;
}

DRIVER_API CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, void* stream) {
  DRIVER_ENTER(Needs::context);
  return fill(stream_of(stream), to, value, sizeof value, count);
}

DRIVER_API CUresult cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t count, void* stream) {
  DRIVER_ENTER(Needs::context);
  return fill(stream_of(stream), to, value, sizeof value, count);
}

DRIVER_API CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, void* stream) {
  DRIVER_ENTER(Needs::context);
  return fill(stream_of(stream), to, value, sizeof value, count);
}

DRIVER_API CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t count) {
  DRIVER_ENTER(Needs::context);
  if (int code = refuse_in_capture("cuMemsetD8")) return code;
  return fill(stream_of(nullptr), to, value, sizeof value, count);
}

DRIVER_API CUresult cuMemsetD32_v2(CUdeviceptr to, unsigned value, size_t count) {
  DRIVER_ENTER(Needs::context);
  if (int code = refuse_in_capture("cuMemsetD32")) return code;
  return fill(stream_of(nullptr), to, value, sizeof value, count);
}
