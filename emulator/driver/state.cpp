// State of the stand-in driver, the guard of its entry points, and its errors.
#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "driver.h"

namespace driver {

State& state() {
  static State& instance = *new State;  // never destroyed: threads of the process may outlive static objects
  return instance;
}

Context*& current() {
  static __thread Context* context = nullptr;
  return context;
}

namespace {

struct ErrorText {
  int code;
  const char* name;
  const char* text;
};

constexpr ErrorText kErrors[] = {
    {kSuccess, "CUDA_SUCCESS", "no error"},
    {kInvalidValue, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {kOutOfMemory, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {kNotInitialized, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {kNoDevice, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {kInvalidDevice, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {kInvalidImage, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {kInvalidContext, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {kUnsupportedLimit, "CUDA_ERROR_UNSUPPORTED_LIMIT", "limit is not supported on this architecture"},
    {kInvalidHandle, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {kIllegalState, "CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in the present state"},
    {kNotFound, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {kNotReady, "CUDA_ERROR_NOT_READY", "device not ready"},
    {kIllegalAddress, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {kLaunchOutOfResources, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {716, "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"},
    {kLaunchFailed, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {kNotSupported, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {kCaptureUnsupported, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {kCaptureInvalidated, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
    {kCaptureUnmatched, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "capture was not ended in the same stream as it began"},
    {kCaptureUnjoined, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work"},
    {kCaptureIsolation, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION",
     "dependency created on uncaptured work in another stream"},
    {kCaptureImplicit, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {kCapturedEvent, "CUDA_ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream"},
    {kCaptureWrongThread, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD",
     "attempt to terminate a thread-local capture sequence from another thread"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

const ErrorText* find_error(int code) {
  for (const ErrorText& error : kErrors) {
    if (error.code == code) return &error;
  }
  return nullptr;
}

}  // namespace

Call::Call(const char* function) : lock_(state().mutex), function_(function) {
  ++state().counters.calls[function];
}

int Call::enter(Needs needs) {
  State& s = state();
  if (needs != Needs::nothing && !s.initialised) return fail(kNotInitialized, "%s before cuInit", function_);
  if (needs == Needs::context) {
    Context* context = current();
    if (!context || !context->uses) return fail(kInvalidContext, "%s without a current context", function_);
    if (context->error) return context->error;
  }
  auto ordered = s.faults.calls.find(function_);
  if (ordered == s.faults.calls.end() || --ordered->second.countdown) return kSuccess;
  int code = ordered->second.code;
  s.faults.calls.erase(ordered);
  return fail(code, "%s fails by order of the test", function_);
}

int fail(int code, const char* format, ...) {
  char text[2400];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  State& s = state();
  s.last_code = code;
  s.last_detail = text;
  if (emu::options().verbose) fprintf(stderr, "emulator: error %d: %s\n", code, text);
  return code;
}

void lose(Context* context, int code, const std::string& detail) {
  if (context->error) return;
  context->error = code;
  context->detail = detail;
  fail(code, "%s", detail.c_str());
}

}  // namespace driver

using namespace driver;

DRIVER_API CUresult cuGetErrorName(int code, const char** name) {
  const ErrorText* error = find_error(code);
  *name = error ? error->name : nullptr;
  return error ? kSuccess : kInvalidValue;
}

// The driver's own words, then what the emulator knows: which kernel, block and thread, or which argument.
DRIVER_API CUresult cuGetErrorString(int code, const char** text) {
  static thread_local std::string words;
  const ErrorText* error = find_error(code);
  words = error ? error->text : "unrecognized error code";
  State& s = state();
  std::lock_guard<std::recursive_mutex> lock(s.mutex);
  Context* context = current();
  if (code && context && context->error == code) {
    words += ": " + context->detail;
  } else if (code && s.last_code == code) {
    words += ": " + s.last_detail;
  }
  *text = words.c_str();
  return error ? kSuccess : kInvalidValue;
}
