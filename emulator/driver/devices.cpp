// Devices, their attributes and primary contexts. The attributes are those of a card of the chosen compute capability,
// except the number of multiprocessors, which is small so that grids sized by it stay cheap to run.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "driver.h"

using namespace driver;

namespace {

constexpr int kKilobyte = 1024;
constexpr int kMegabyte = 1024 * 1024;
constexpr int kReservedShared = 1 * kKilobyte;  // per block, for the system

struct Card {
  int arch;
  const char* name;
  int shared_per_multiprocessor;
  int threads_per_multiprocessor;
  int blocks_per_multiprocessor;
  int l2_bytes;
  int clock_khz;
  int memory_clock_khz;
  int bus_bits;
};

constexpr Card kCards[] = {
    {75, "emulated sm_75", 64 * kKilobyte, 1024, 16, 4 * kMegabyte, 1590000, 5001000, 256},
    {80, "emulated sm_80", 164 * kKilobyte, 2048, 32, 40 * kMegabyte, 1410000, 1215000, 5120},
    {86, "emulated sm_86", 100 * kKilobyte, 1536, 16, 6 * kMegabyte, 1695000, 9751000, 384},
    {89, "emulated sm_89", 100 * kKilobyte, 1536, 24, 72 * kMegabyte, 2520000, 10501000, 384},
    {90, "emulated sm_90", 228 * kKilobyte, 2048, 32, 50 * kMegabyte, 1980000, 2619000, 5120},
    {100, "emulated sm_100", 228 * kKilobyte, 2048, 32, 126 * kMegabyte, 1965000, 3996000, 8192},
    {120, "emulated sm_120", 100 * kKilobyte, 1536, 24, 96 * kMegabyte, 2407000, 14001000, 512},
};

const Card& card() {
  for (const Card& card : kCards) {
    if (card.arch == emu::options().arch) return card;
  }
  return kCards[4];
}

int devices() { return std::clamp(emu::options().devices, 0, kMaxDevices); }

// CUdevice_attribute by number; what a card does not have is 0.
int attribute(int which) {
  const Card& c = card();
  switch (which) {
    case 1: return 1024;                          // threads per block
    case 2: return 1024;                          // block dimension x
    case 3: return 1024;                          // y
    case 4: return 64;                            // z
    case 5: return 0x7fffffff;                    // grid dimension x
    case 6: return 65535;                         // y
    case 7: return 65535;                         // z
    case 8: return 48 * kKilobyte;                // shared memory per block without opting in
    case 9: return 64 * kKilobyte;                // constant memory
    case 10: return 32;                           // warp size
    case 12: return 65536;                        // registers per block
    case 13: return c.clock_khz;
    case 14: return 512;                          // texture alignment
    case 15: return 1;                            // copies overlap kernels
    case 16: return emu::options().multiprocessors;
    case 19: return 1;                            // maps host memory
    case 31: return 1;                            // concurrent kernels
    case 36: return c.memory_clock_khz;
    case 37: return c.bus_bits;
    case 38: return c.l2_bytes;
    case 39: return c.threads_per_multiprocessor;
    case 40: return 2;                            // copy engines
    case 41: return 1;                            // unified addressing
    case 75: return c.arch / 10;
    case 76: return c.arch % 10;
    case 78: return 1;                            // stream priorities
    case 81: return c.shared_per_multiprocessor;
    case 82: return 65536;                        // registers per multiprocessor
    case 97: return static_cast<int>(emu::options().smem_limit);
    case 106: return c.blocks_per_multiprocessor;
    case 111: return kReservedShared;
    case 115: return 1;                           // memory pools
    default: return 0;
  }
}

int check_device(CUdevice device) {
  if (device >= 0 && device < devices()) return kSuccess;
  return fail(kInvalidDevice, "device %d of %d", device, devices());
}

// Everything that belongs to the context goes; what a caller forgot is counted as leaked.
void destroy(Context& context) {
  State& s = state();
  s.captures.clear();
  size_t left = s.events.remove_all(&context) + s.graph_execs.remove_all(&context) + s.graphs.remove_all(&context);
  left += s.modules.remove_all(&context) + s.streams.remove_all(&context) + release_memory(&context);
  s.counters.leaked += left;
  context.default_stream.reset();
  context.error = kSuccess;
  context.detail.clear();
  context.pool_threshold = 0;
}

}  // namespace

DRIVER_API CUresult cuInit(unsigned flags) {
  DRIVER_ENTER(Needs::nothing);
  if (flags) return fail(kInvalidValue, "cuInit flags %u", flags);
  if (!devices()) return fail(kNoDevice, "the emulator was told to have no device");
  state().initialised = true;
  return kSuccess;
}

DRIVER_API CUresult cuDriverGetVersion(int* version) {
  DRIVER_ENTER(Needs::nothing);
  *version = emu::options().driver_version;
  return kSuccess;
}

DRIVER_API CUresult cuDeviceGetCount(int* count) {
  DRIVER_ENTER(Needs::driver);
  *count = devices();
  return kSuccess;
}

DRIVER_API CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  DRIVER_ENTER(Needs::driver);
  if (int code = check_device(ordinal)) return code;
  *device = ordinal;
  return kSuccess;
}

DRIVER_API CUresult cuDeviceGetName(char* name, int length, CUdevice device) {
  DRIVER_ENTER(Needs::driver);
  if (int code = check_device(device)) return code;
  snprintf(name, static_cast<size_t>(length), "%s", card().name);
  return kSuccess;
}

DRIVER_API CUresult cuDeviceGetUuid_v2(unsigned char* uuid, CUdevice device) {
  DRIVER_ENTER(Needs::driver);
  if (int code = check_device(device)) return code;
  memset(uuid, 0, 16);
  uuid[15] = static_cast<unsigned char>(device);
  return kSuccess;
}

DRIVER_API CUresult cuDeviceGetUuid(unsigned char* uuid, CUdevice device) { return cuDeviceGetUuid_v2(uuid, device); }

DRIVER_API CUresult cuDeviceGetPCIBusId(char* text, int length, CUdevice device) {
  DRIVER_ENTER(Needs::driver);
  if (int code = check_device(device)) return code;
  snprintf(text, static_cast<size_t>(length), "0000:%02x:00.0", device + 1);
  return kSuccess;
}

DRIVER_API CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice device) {
  DRIVER_ENTER(Needs::driver);
  if (int code = check_device(device)) return code;
  *bytes = memory_size();
  return kSuccess;
}

DRIVER_API CUresult cuDeviceGetAttribute(int* value, int which, CUdevice device) {
  DRIVER_ENTER(Needs::driver);
  if (int code = check_device(device)) return code;
  *value = attribute(which);
  return kSuccess;
}

DRIVER_API CUresult cuDevicePrimaryCtxRetain(void** context, CUdevice device) {
  DRIVER_ENTER(Needs::driver);
  if (int code = check_device(device)) return code;
  Context& c = state().contexts[device];
  if (!c.uses++) {
    c.device = device;
    c.default_stream = std::make_unique<Stream>();
    c.default_stream->context = &c;
    c.default_stream->is_default = true;
  }
  *context = &c;
  return kSuccess;
}

DRIVER_API CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  DRIVER_ENTER(Needs::driver);
  if (int code = check_device(device)) return code;
  Context& c = state().contexts[device];
  if (!c.uses) return fail(kInvalidContext, "release of a primary context that nobody holds");
  if (c.uses == 1) {
    finish_all(&c);
    destroy(c);
  }
  --c.uses;
  return kSuccess;
}

DRIVER_API CUresult cuDevicePrimaryCtxReset_v2(CUdevice device) {
  DRIVER_ENTER(Needs::driver);
  if (int code = check_device(device)) return code;
  Context& c = state().contexts[device];
  destroy(c);
  c.uses = 0;
  return kSuccess;
}

DRIVER_API CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned* flags, int* active) {
  DRIVER_ENTER(Needs::driver);
  if (int code = check_device(device)) return code;
  *flags = 0;
  *active = state().contexts[device].uses > 0;
  return kSuccess;
}

DRIVER_API CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice device, unsigned) {
  DRIVER_ENTER(Needs::driver);
  return check_device(device);
}

DRIVER_API CUresult cuCtxSetCurrent(void* context) {
  DRIVER_ENTER(Needs::driver);
  auto* c = static_cast<Context*>(context);
  State& s = state();
  if (c && (c < s.contexts || c >= s.contexts + kMaxDevices || !c->uses)) {
    return fail(kInvalidContext, "cuCtxSetCurrent of something that is not a live context");
  }
  current() = c;
  return kSuccess;
}

DRIVER_API CUresult cuCtxGetCurrent(void** context) {
  DRIVER_ENTER(Needs::driver);
  *context = current();
  return kSuccess;
}

DRIVER_API CUresult cuCtxGetDevice(CUdevice* device) {
  DRIVER_ENTER(Needs::context);
  *device = current()->device;
  return kSuccess;
}

DRIVER_API CUresult cuCtxSynchronize() {
  DRIVER_ENTER(Needs::context);
  if (int code = refuse_if_any_captures(current(), "cuCtxSynchronize")) return code;
  ++state().counters.synchronizations;
  return finish_all(current());
}

DRIVER_API CUresult cuCtxSetFlags(unsigned) {
  DRIVER_ENTER(Needs::context);
  return kSuccess;
}

DRIVER_API CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  DRIVER_ENTER(Needs::context);
  *least = 0;
  *greatest = -5;
  return kSuccess;
}

DRIVER_API CUresult cuCtxGetLimit(size_t*, int limit) {
  DRIVER_ENTER(Needs::context);
  return fail(kUnsupportedLimit, "limit %d", limit);
}

DRIVER_API CUresult cuCtxSetLimit(int limit, size_t) {
  DRIVER_ENTER(Needs::context);
  return fail(kUnsupportedLimit, "limit %d", limit);
}

DRIVER_API CUresult cuCtxSetCacheConfig(int) {
  DRIVER_ENTER(Needs::context);
  return kSuccess;
}
