// Options from the environment.
#include "options.h"

#include <cstdlib>
#include <cstring>

namespace emu {

namespace {

constexpr uint32_t kKilobyte = 1024;

uint32_t shared_of(int arch) {
  switch (arch) {
    case 75: return 64 * kKilobyte;
    case 80: return 163 * kKilobyte;
    case 90:
    case 100: return 227 * kKilobyte;
    default: return 99 * kKilobyte;
  }
}

uint64_t number(const char* name, uint64_t otherwise) {
  const char* text = getenv(name);
  return text && *text ? strtoull(text, nullptr, 0) : otherwise;
}

bool is(const char* name, const char* value) {
  const char* text = getenv(name);
  return text && !strcmp(text, value);
}

int order() {
  if (is("EMU_ORDER", "reverse")) return kReverse;
  if (is("EMU_ORDER", "random")) return kRandom;
  return static_cast<int>(number("EMU_ORDER", kInOrder));
}

Options read() {
  Options o;
  o.order = order();
  o.seed = number("EMU_SEED", o.seed);
  o.workers = static_cast<int>(number("EMU_WORKERS", 0));
  o.strict = number("EMU_STRICT", 1) != 0;
  o.lazy_streams = is("EMU_STREAM", "lazy");
  o.hide = number("EMU_HIDE", 1) != 0;
  o.verbose = number("EMU_VERBOSE", 0) != 0;
  o.devices = static_cast<int>(number("EMU_DEVICES", 1));
  o.arch = static_cast<int>(number("EMU_ARCH", 90));
  o.smem_limit = static_cast<uint32_t>(number("EMU_SMEM", shared_of(o.arch)));
  o.multiprocessors = static_cast<int>(number("EMU_SMS", 4));
  o.memory = number("EMU_MEMORY", o.memory);
  o.driver_version = static_cast<int>(number("EMU_DRIVER_VERSION", 13000));
  return o;
}

}  // namespace

Options& options() {
  static Options instance = read();
  return instance;
}

void set_arch(int arch) {
  options().arch = arch;
  options().smem_limit = shared_of(arch);
}

}  // namespace emu
