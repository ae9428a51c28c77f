// What the parts of the stand-in driver share: its objects, the state behind one lock, and the guard that every entry
// point starts with. Handles that cross the C interface are pointers to these objects; the registries know which live.
#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "runtime.h"

#define DRIVER_API extern "C" __attribute__((visibility("default")))

using CUresult = int;
using CUdevice = int;
using CUdeviceptr = unsigned long long;

namespace driver {

// CUresult values, as in cuda.h of the toolkit.
enum Result : int {
  kSuccess = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kNotInitialized = 3,
  kNoDevice = 100,
  kInvalidDevice = 101,
  kInvalidImage = 200,
  kInvalidContext = 201,
  kUnsupportedLimit = 215,
  kInvalidHandle = 400,
  kIllegalState = 401,
  kNotFound = 500,
  kNotReady = 600,
  kIllegalAddress = 700,
  kLaunchOutOfResources = 701,
  kLaunchFailed = 719,
  kNotSupported = 801,
  kCaptureUnsupported = 900,
  kCaptureInvalidated = 901,
  kCaptureUnmatched = 903,
  kCaptureUnjoined = 904,
  kCaptureIsolation = 905,
  kCaptureImplicit = 906,
  kCapturedEvent = 907,
  kCaptureWrongThread = 908,
};

struct Stream;
struct Capture;

// A device's primary context. An `error` other than success is sticky: every later call returns it until the last user
// releases the context or somebody resets it.
struct Context {
  int device = 0;
  unsigned uses = 0;
  int error = kSuccess;
  std::string detail;
  std::unique_ptr<Stream> default_stream;
  uint64_t pool_threshold = 0;
};

// Work of a stream; it reports a fault through `lose`.
using Operation = std::function<void()>;

struct Stream {
  Context* context = nullptr;
  bool non_blocking = false;      // does not wait for the default stream, nor the other way round
  bool is_default = false;
  std::deque<Operation> pending;  // lazy mode: submitted, not yet run
  std::shared_ptr<Capture> capture;
  size_t captured = 0;            // nodes this stream has put into its capture
  size_t joined = 0;              // of these, how many the capture's origin waits for
};

// One cuEventRecord: a wait names the record that was the latest when the wait was submitted.
struct Record {
  Stream* stream = nullptr;
  bool done = false;
  std::chrono::steady_clock::time_point time;
  std::shared_ptr<Capture> capture;
  size_t captured = 0;
};

struct Event {
  Context* context = nullptr;
  bool timed = true;
  std::shared_ptr<Record> last;
};

struct Node {
  const char* kind;  // "kernel", "copy", "fill", "host"
  Operation run;
};

struct Graph {
  Context* context = nullptr;
  std::vector<Node> nodes;  // in the order of capture, which respects every dependency
};

struct GraphExec {
  Context* context = nullptr;
  std::shared_ptr<const std::vector<Node>> nodes;
};

enum class CaptureMode { global = 0, thread_local_ = 1, relaxed = 2 };

struct Capture {
  Stream* origin = nullptr;
  CaptureMode mode = CaptureMode::global;
  std::thread::id owner;
  bool invalidated = false;
  std::vector<Stream*> streams;
  std::vector<Node> nodes;
};

struct Function {
  const emu::Kernel* kernel = nullptr;
  Context* context = nullptr;
  uint32_t max_dynamic_shared = 48 * 1024;
  int carveout = -1;
};

struct Module {
  Context* context = nullptr;
  std::string name;
  std::map<std::string, std::unique_ptr<Function>> functions;
};

// The live objects of one kind.
template <class T>
class Registry {
 public:
  T* add(Context* context) {
    auto object = std::make_unique<T>();
    object->context = context;
    T* raw = object.get();
    live_[raw] = std::move(object);
    return raw;
  }
  T* find(void* handle) const {
    auto found = live_.find(static_cast<T*>(handle));
    return found == live_.end() ? nullptr : found->second.get();
  }
  void remove(T* object) { live_.erase(object); }
  size_t size() const { return live_.size(); }
  size_t remove_all(const Context* context) {
    size_t removed = 0;
    for (auto it = live_.begin(); it != live_.end();) {
      bool gone = it->second->context == context;
      it = gone ? live_.erase(it) : std::next(it);
      removed += gone;
    }
    return removed;
  }
  template <class F>
  void each(F visit) {
    for (auto& entry : live_) visit(*entry.second);
  }

 private:
  std::unordered_map<T*, std::unique_ptr<T>> live_;
};

// Faults that a test has ordered: each counts down to the call that fails.
struct Faults {
  uint64_t allocation = 0;  // the n-th allocation from now runs out of memory; 0 is never
  uint64_t launch = 0;      // the n-th kernel from now loses the device
  struct Named {
    uint64_t countdown;
    int code;
  };
  std::map<std::string, Named> calls;
};

struct Counters {
  std::map<std::string, uint64_t> calls;  // by function
  uint64_t allocations = 0;               // that succeeded, device and pinned
  uint64_t frees = 0;
  uint64_t launches = 0;                  // cuLaunchKernel outside a capture
  uint64_t graph_launches = 0;
  uint64_t kernels = 0;                   // kernels that ran, those of graphs included
  uint64_t copies = 0;                    // copies that ran
  uint64_t fills = 0;
  uint64_t synchronizations = 0;          // waits of the host: stream, event, context, blocking copies
  uint64_t leaked = 0;                    // objects and allocations that died with their context
  uint64_t peak_bytes = 0;                // of device memory
};

constexpr int kMaxDevices = 8;

struct State {
  std::recursive_mutex mutex;
  bool initialised = false;
  Context contexts[kMaxDevices];
  Registry<Stream> streams;
  Registry<Event> events;
  Registry<Graph> graphs;
  Registry<GraphExec> graph_execs;
  Registry<Module> modules;
  std::vector<std::shared_ptr<Capture>> captures;  // in progress
  Faults faults;
  Counters counters;
  int last_code = kSuccess;
  std::string last_detail;
};
State& state();

// The context that is current to the calling thread.
Context*& current();

// What an entry point needs before it may work.
enum class Needs { nothing, driver, context };

// Holds the lock for the length of a call, counts it, and decides whether it may go on.
class Call {
 public:
  explicit Call(const char* function);
  int enter(Needs needs);

 private:
  std::lock_guard<std::recursive_mutex> lock_;
  const char* function_;
};

#define DRIVER_ENTER(needs)                   \
  ::driver::Call call_(__func__);             \
  if (int refused_ = call_.enter(needs)) return refused_

// Remembers why a call fails, for cuGetErrorString and emu_last_error, and returns `code`.
int fail(int code, const char* format, ...) __attribute__((format(printf, 2, 3)));
// Makes `code` the context's sticky error, unless it has one.
void lose(Context* context, int code, const std::string& detail);

// ---- streams.cpp
// The stream behind a handle; null after `fail` if it is not a live stream of the current context.
Stream* stream_of(void* handle);
// Runs work now, or later in lazy mode, or adds it to the capture in progress.
int submit(Stream* stream, const char* kind, Operation run);
// Runs everything that `stream` still owes; returns the context's error.
int finish(Stream* stream);
// The same for every stream of the context.
int finish_all(Context* context);

// ---- graphs.cpp
// A stream that ends while it captures spoils the capture.
void leave_capture(Stream* stream);
// Refuses a call that is unsafe in a capture (allocation, waiting) and spoils the capture: this thread's own, unless its
// mode is relaxed, and any whose mode is global.
int refuse_in_capture(const char* what);
// Refuses to wait for a context of which any stream captures, whoever captures in whatever mode, and spoils the captures.
int refuse_if_any_captures(const Context* context, const char* what);
// The same for one stream: waiting for it cannot be captured.
int refuse_if_capturing(Stream* stream, const char* what);
// Work on the default stream would wait for a blocking stream that captures.
int refuse_implicit(Context* context);

// ---- memory.cpp
struct Allocation {
  size_t size = 0;
  char* map = nullptr;  // what mmap gave, guard pages included
  size_t map_size = 0;
  bool pinned = false;
  Context* context = nullptr;
};
// The allocation that holds [address, address + bytes), or null.
const Allocation* find_allocation(uintptr_t address, size_t bytes);
size_t live_bytes(const Context* context, bool pinned);
size_t live_allocations(bool pinned);
// Names what the address is if a kernel may not follow it: freed memory, host memory; empty if there is nothing to say.
std::string forbidden_address(uintptr_t address, const Context* context);
// The first allocation that was written outside its bounds, named; empty if none was.
std::string overrun();
size_t release_memory(const Context* context);
uint64_t memory_size();

// Device memory is out of the host's reach except while one of these lives.
class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
  DeviceAccess& operator=(const DeviceAccess&) = delete;
};

}  // namespace driver
