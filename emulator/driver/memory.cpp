// Device and pinned memory. Each allocation ends at a guard page and starts poisoned; freed addresses stay reserved for a
// while, so that a stale pointer faults instead of reaching somebody else's memory. Under AddressSanitizer its allocator
// does both.
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "driver.h"

using namespace driver;

namespace driver {

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kAlignment = 256;          // what cuMemAlloc promises
constexpr unsigned char kPoison = 0xff;     // NaN in every float type: device memory is not zero
constexpr unsigned char kCanary = 0xa5;     // between an allocation and the edges of its pages
constexpr size_t kQuarantine = 1024;        // freed allocations whose addresses stay reserved
// Where Linux puts programs, heaps and stacks. Below are small integers side by side and the sanitizers' own tables.
constexpr uintptr_t kLowestPointer = 0x550000000000;
constexpr uintptr_t kHighestPointer = 0x800000000000;

struct Memory {
  std::map<uintptr_t, Allocation> live;
  std::map<uintptr_t, Allocation> freed;
  std::deque<uintptr_t> freed_order;
  size_t device_bytes[kMaxDevices] = {};
  size_t pinned_bytes = 0;
  unsigned accesses = 0;  // nested DeviceAccess
};

Memory& memory() {
  static Memory& instance = *new Memory;
  return instance;
}

size_t round_up(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

#ifdef __SANITIZE_ADDRESS__
constexpr bool kOwnPages = false;
#else
constexpr bool kOwnPages = true;
#endif

bool hides(const Allocation& a) { return kOwnPages && emu::options().hide && !a.pinned; }

void protect(const Allocation& a, int access) { mprotect(a.map + kPage, a.map_size - 2 * kPage, access); }

void protect_all(int access) {
  for (auto& entry : memory().live) {
    if (hides(entry.second)) protect(entry.second, access);
  }
}

const Allocation* holding(const std::map<uintptr_t, Allocation>& all, uintptr_t address, size_t bytes) {
  auto next = all.upper_bound(address);
  if (next == all.begin()) return nullptr;
  auto& [start, allocation] = *std::prev(next);
  bool inside = bytes <= allocation.size && address - start <= allocation.size - bytes;
  return inside ? &allocation : nullptr;
}

bool is_mapped(uintptr_t address) {
  unsigned char resident = 0;
  return mincore(reinterpret_cast<void*>(address & ~(kPage - 1)), kPage, &resident) == 0;
}

bool map_pages(Allocation& a, char*& user) {
  size_t body = round_up(a.size, kAlignment);
  size_t pages = round_up(body, kPage);
  a.map_size = pages + 2 * kPage;
  void* map = mmap(nullptr, a.map_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) return false;
  a.map = static_cast<char*>(map);
  protect(a, PROT_READ | PROT_WRITE);
  user = a.map + kPage + pages - body;
  emu::watch(user, a.size);
  memset(a.map + kPage, kCanary, static_cast<size_t>(user - a.map) - kPage);
  memset(user + a.size, kCanary, body - a.size);
  return true;
}

// Where canaries around the allocation changed; empty if nowhere.
std::string overrun_of(uintptr_t start, const Allocation& a) {
  const auto* user = reinterpret_cast<const unsigned char*>(start);
  const auto* low = std::max(user - kAlignment, reinterpret_cast<const unsigned char*>(a.map) + kPage);
  const auto* high = reinterpret_cast<const unsigned char*>(a.map) + a.map_size - kPage;
  for (const auto* p = low; p < user; ++p) {
    if (*p != kCanary) {
      return "write " + std::to_string(user - p) + " bytes before an allocation of " + std::to_string(a.size) + " bytes";
    }
  }
  for (const auto* p = user + a.size; p < high; ++p) {
    if (*p != kCanary) {
      return "write " + std::to_string(p - user - static_cast<ptrdiff_t>(a.size)) +
             " bytes past the end of an allocation of " + std::to_string(a.size) + " bytes";
    }
  }
  return "";
}

void give_back(uintptr_t start, const Allocation& a) {
  if (!kOwnPages) {
    free(reinterpret_cast<void*>(start));
    return;
  }
  Memory& m = memory();
  emu::unwatch(reinterpret_cast<void*>(start), a.size);
  mmap(a.map, a.map_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  m.freed[start] = a;
  m.freed_order.push_back(start);
  if (m.freed_order.size() <= kQuarantine) return;
  auto oldest = m.freed.find(m.freed_order.front());
  m.freed_order.pop_front();
  munmap(oldest->second.map, oldest->second.map_size);
  m.freed.erase(oldest);
}

std::map<uintptr_t, Allocation>::iterator forget(std::map<uintptr_t, Allocation>::iterator it) {
  Memory& m = memory();
  const Allocation& a = it->second;
  (a.pinned ? m.pinned_bytes : m.device_bytes[a.context->device]) -= a.size;
  give_back(it->first, a);
  return m.live.erase(it);
}

}  // namespace

uint64_t memory_size() { return emu::options().memory; }

const Allocation* find_allocation(uintptr_t address, size_t bytes) { return holding(memory().live, address, bytes); }

size_t live_bytes(const Context* context, bool pinned) {
  return pinned ? memory().pinned_bytes : memory().device_bytes[context->device];
}

size_t live_allocations(bool pinned) {
  const auto& live = memory().live;
  return static_cast<size_t>(
      std::count_if(live.begin(), live.end(), [=](const auto& entry) { return entry.second.pinned == pinned; }));
}

std::string forbidden_address(uintptr_t address, const Context* context) {
  if (address < kLowestPointer || address >= kHighestPointer) return "";
  if (const Allocation* a = find_allocation(address, 0)) {
    return a->pinned || a->context == context ? "" : "memory of another device";
  }
  if (holding(memory().freed, address, 1)) return "freed device memory";
  return is_mapped(address) ? "host memory" : "";
}

std::string overrun() {
  if (!kOwnPages) return "";
  DeviceAccess access;
  for (const auto& [start, allocation] : memory().live) {
    std::string found = overrun_of(start, allocation);
    if (!found.empty()) return found;
  }
  return "";
}

size_t release_memory(const Context* context) {
  size_t released = 0;
  auto& live = memory().live;
  for (auto it = live.begin(); it != live.end();) {
    bool ours = it->second.context == context;
    it = ours ? forget(it) : std::next(it);
    released += ours;
  }
  return released;
}

DeviceAccess::DeviceAccess() {
  if (!memory().accesses++) protect_all(PROT_READ | PROT_WRITE);
}

DeviceAccess::~DeviceAccess() {
  if (!--memory().accesses) protect_all(PROT_NONE);
}

namespace {

int allocate(uintptr_t* address, size_t size, bool pinned) {
  State& s = state();
  Memory& m = memory();
  Context* context = current();
  if (!size) return fail(kInvalidValue, "allocation of 0 bytes");
  if (s.faults.allocation && !--s.faults.allocation) {
    return fail(kOutOfMemory, "allocation of %zu bytes fails by order of the test", size);
  }
  size_t used = m.device_bytes[context->device];
  if (!pinned && (size > memory_size() || used > memory_size() - size)) {
    return fail(kOutOfMemory, "%zu bytes wanted, %zu of %zu in use", size, used, static_cast<size_t>(memory_size()));
  }
  Allocation a;
  a.size = size;
  a.pinned = pinned;
  a.context = context;
  char* user = nullptr;
  if (kOwnPages) {
    if (!map_pages(a, user)) return fail(kOutOfMemory, "the host has no room for %zu bytes", size);
  } else {
    void* got = nullptr;
    if (posix_memalign(&got, kAlignment, size)) return fail(kOutOfMemory, "the host has no room for %zu bytes", size);
    user = static_cast<char*>(got);
  }
  memset(user, kPoison, size);
  if (hides(a) && !m.accesses) protect(a, PROT_NONE);
  *address = reinterpret_cast<uintptr_t>(user);
  m.live[*address] = a;
  size_t& bytes = pinned ? m.pinned_bytes : m.device_bytes[context->device];
  bytes += size;
  if (!pinned) s.counters.peak_bytes = std::max<uint64_t>(s.counters.peak_bytes, bytes);
  ++s.counters.allocations;
  return kSuccess;
}

int release(uintptr_t address, bool pinned) {
  auto& live = memory().live;
  auto it = live.find(address);
  if (it == live.end() || it->second.pinned != pinned) {
    bool again = holding(memory().freed, address, 1) != nullptr;
    return fail(kInvalidValue, again ? "free of memory that is free already" : "free of an address that is no allocation");
  }
  Context* context = it->second.context;
  std::string found;
  if (kOwnPages) {
    DeviceAccess access;
    found = overrun_of(address, it->second);
  }
  forget(it);
  ++state().counters.frees;
  if (found.empty()) return kSuccess;
  lose(context, kIllegalAddress, found + " (found when it was freed)");
  return kIllegalAddress;
}

}  // namespace

}  // namespace driver

DRIVER_API CUresult cuMemAlloc_v2(CUdeviceptr* address, size_t size) {
  DRIVER_ENTER(Needs::context);
  if (int code = refuse_in_capture("cuMemAlloc")) return code;
  uintptr_t got = 0;
  int code = allocate(&got, size, false);
  *address = got;
  return code;
}

DRIVER_API CUresult cuMemFree_v2(CUdeviceptr address) {
  DRIVER_ENTER(Needs::context);
  if (!address) return kSuccess;
  if (int code = refuse_in_capture("cuMemFree")) return code;
  if (int code = finish_all(current())) return code;
  return release(address, false);
}

// Stream-ordered: the memory is there at once, as from a pool that has room, and goes when the stream gets to it.
DRIVER_API CUresult cuMemAllocAsync(CUdeviceptr* address, size_t size, void* handle) {
  DRIVER_ENTER(Needs::context);
  Stream* stream = stream_of(handle);
  if (!stream) return kInvalidHandle;
  if (int code = refuse_if_capturing(stream, "cuMemAllocAsync")) return code;
  uintptr_t got = 0;
  int code = allocate(&got, size, false);
  *address = got;
  return code;
}

DRIVER_API CUresult cuMemFreeAsync(CUdeviceptr address, void* handle) {
  DRIVER_ENTER(Needs::context);
  Stream* stream = stream_of(handle);
  if (!stream) return kInvalidHandle;
  if (int code = refuse_if_capturing(stream, "cuMemFreeAsync")) return code;
  const Allocation* a = find_allocation(address, 0);
  if (!a || a->pinned) return release(address, false);
  return submit(stream, "free", [address] { release(address, false); });
}

DRIVER_API CUresult cuMemHostAlloc(void** address, size_t size, unsigned) {
  DRIVER_ENTER(Needs::context);
  if (int code = refuse_in_capture("cuMemHostAlloc")) return code;
  uintptr_t got = 0;
  int code = allocate(&got, size, true);
  *address = reinterpret_cast<void*>(got);
  return code;
}

DRIVER_API CUresult cuMemAllocHost_v2(void** address, size_t size) { return cuMemHostAlloc(address, size, 0); }

DRIVER_API CUresult cuMemFreeHost(void* address) {
  DRIVER_ENTER(Needs::context);
  if (int code = refuse_in_capture("cuMemFreeHost")) return code;
  if (int code = finish_all(current())) return code;
  return release(reinterpret_cast<uintptr_t>(address), true);
}

DRIVER_API CUresult cuMemGetInfo_v2(size_t* free, size_t* total) {
  DRIVER_ENTER(Needs::context);
  size_t used = live_bytes(current(), false);
  *total = memory_size();
  *free = *total > used ? *total - used : 0;
  return kSuccess;
}

// The one pool of a device; it keeps nothing, so its attributes are remembered and have no effect.
DRIVER_API CUresult cuDeviceGetDefaultMemPool(void** pool, CUdevice device) {
  DRIVER_ENTER(Needs::driver);
  if (device < 0 || device >= emu::options().devices) return fail(kInvalidDevice, "device %d", device);
  *pool = &state().contexts[device].pool_threshold;
  return kSuccess;
}

DRIVER_API CUresult cuDeviceGetMemPool(void** pool, CUdevice device) { return cuDeviceGetDefaultMemPool(pool, device); }

DRIVER_API CUresult cuMemPoolSetAttribute(void* pool, int, void* value) {
  DRIVER_ENTER(Needs::driver);
  memcpy(pool, value, sizeof(uint64_t));
  return kSuccess;
}

DRIVER_API CUresult cuMemPoolGetAttribute(void* pool, int, void* value) {
  DRIVER_ENTER(Needs::driver);
  memcpy(value, pool, sizeof(uint64_t));
  return kSuccess;
}

DRIVER_API CUresult cuMemPoolTrimTo(void*, size_t) {
  DRIVER_ENTER(Needs::driver);
  return kSuccess;
}
