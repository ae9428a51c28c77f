// What tests reach by name: the schedule, the make of the device, faults to order, and what the driver counted.
#include <cstring>

#include "driver.h"

using namespace driver;

namespace {

using Lock = std::lock_guard<std::recursive_mutex>;

bool is(const char* text, const char* name) { return !strcmp(text, name); }

}  // namespace

// How threads and blocks are ordered from now on: 0 in order, 1 reverse, 2 random from `seed`.
DRIVER_API void emu_schedule(int order, uint64_t seed) {
  Lock lock(state().mutex);
  emu::options().order = order;
  emu::options().seed = seed;
}

// How many host threads run blocks; 0 for one per processor.
DRIVER_API void emu_workers(int count) {
  Lock lock(state().mutex);
  emu::options().workers = count;
}

// 1: streams run only when something waits for them. 0: at once.
DRIVER_API void emu_streams(int lazy) {
  Lock lock(state().mutex);
  emu::options().lazy_streams = lazy != 0;
  if (lazy) return;
  for (Context& context : state().contexts) finish_all(&context);
}

// How many devices there are, from 0 to 8.
DRIVER_API void emu_devices(int count) {
  Lock lock(state().mutex);
  emu::options().devices = count;
  if (!count) state().initialised = false;
}

// The compute capability, as 10 * major + minor, with its limit of shared memory.
DRIVER_API void emu_arch(int arch) {
  Lock lock(state().mutex);
  emu::set_arch(arch);
}

DRIVER_API void emu_multiprocessors(int count) {
  Lock lock(state().mutex);
  emu::options().multiprocessors = count;
}

// The driver version that cuDriverGetVersion reports: 1000 * major + 10 * minor.
DRIVER_API void emu_driver_version(int version) {
  Lock lock(state().mutex);
  emu::options().driver_version = version;
}

// The size of a device's memory.
DRIVER_API void emu_memory_limit(uint64_t bytes) {
  Lock lock(state().mutex);
  emu::options().memory = bytes;
}

// The n-th allocation from now, device or pinned, runs out of memory; 0 takes the order back.
DRIVER_API void emu_fail_allocation(uint64_t n) {
  Lock lock(state().mutex);
  state().faults.allocation = n;
}

// The n-th kernel from now, those of graphs included, fails and leaves its context with a sticky error; 0 takes it back.
DRIVER_API void emu_lose_device(uint64_t n) {
  Lock lock(state().mutex);
  state().faults.launch = n;
}

// The n-th call of a driver function from now returns `code`; 0 takes the order back.
DRIVER_API void emu_fail_call(const char* function, uint64_t n, int code) {
  Lock lock(state().mutex);
  state().faults.calls.erase(function);
  if (n) state().faults.calls[function] = {n, code};
}

// Calls of one driver function since the counters were reset; of all functions if the name is empty.
DRIVER_API uint64_t emu_calls(const char* function) {
  Lock lock(state().mutex);
  const auto& calls = state().counters.calls;
  if (*function) {
    auto found = calls.find(function);
    return found == calls.end() ? 0 : found->second;
  }
  uint64_t sum = 0;
  for (const auto& entry : calls) sum += entry.second;
  return sum;
}

// What happened since the counters were reset; all ones for a name that is not counted.
DRIVER_API uint64_t emu_count(const char* what) {
  Lock lock(state().mutex);
  const Counters& c = state().counters;
  if (is(what, "allocations")) return c.allocations;
  if (is(what, "frees")) return c.frees;
  if (is(what, "launches")) return c.launches;
  if (is(what, "graph launches")) return c.graph_launches;
  if (is(what, "kernels")) return c.kernels;
  if (is(what, "copies")) return c.copies;
  if (is(what, "fills")) return c.fills;
  if (is(what, "synchronizations")) return c.synchronizations;
  if (is(what, "leaked")) return c.leaked;
  if (is(what, "peak bytes")) return c.peak_bytes;
  return UINT64_MAX;
}

// What is alive now; all ones for a name that is not counted.
DRIVER_API uint64_t emu_live(const char* what) {
  Lock lock(state().mutex);
  State& s = state();
  uint64_t contexts = 0;
  uint64_t bytes = 0;
  for (const Context& context : s.contexts) {
    contexts += context.uses > 0;
    bytes += live_bytes(&s.contexts[&context - s.contexts], false);
  }
  if (is(what, "contexts")) return contexts;
  if (is(what, "device bytes")) return bytes;
  if (is(what, "device allocations")) return live_allocations(false);
  if (is(what, "pinned bytes")) return live_bytes(nullptr, true);
  if (is(what, "pinned allocations")) return live_allocations(true);
  if (is(what, "streams")) return s.streams.size();
  if (is(what, "events")) return s.events.size();
  if (is(what, "graphs")) return s.graphs.size();
  if (is(what, "graph executables")) return s.graph_execs.size();
  if (is(what, "modules")) return s.modules.size();
  return UINT64_MAX;
}

DRIVER_API void emu_reset_counters() {
  Lock lock(state().mutex);
  state().counters = Counters{};
}

// Why the last call that failed did, or what the last fault of a kernel was; good until the next call.
DRIVER_API const char* emu_last_error() {
  Lock lock(state().mutex);
  return state().last_detail.c_str();
}
