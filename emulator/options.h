// What can be chosen about a run: by environment when the library is loaded, by the emu_* functions later.
#pragma once
#include <cstdint>

namespace emu {

enum Order { kInOrder = 0, kReverse = 1, kRandom = 2 };

struct Options {
  int order = kInOrder;             // EMU_ORDER: of threads and blocks
  uint64_t seed = 1;                // EMU_SEED: of the random order and of early or late copies
  int workers = 0;                  // EMU_WORKERS: host threads that run blocks; 0 is one per processor
  bool strict = true;               // EMU_STRICT: findings that a GPU might survive are errors too
  bool lazy_streams = false;        // EMU_STREAM=lazy: streams run only when something waits for them
  bool hide = true;                 // EMU_HIDE: device memory is out of the host's reach
  bool verbose = false;             // EMU_VERBOSE: errors go to stderr too
  int devices = 1;                  // EMU_DEVICES
  int arch = 90;                    // EMU_ARCH: compute capability, 10 * major + minor
  uint32_t smem_limit = 227 * 1024; // EMU_SMEM: shared memory of a block; the capability's if not given
  int multiprocessors = 4;          // EMU_SMS
  uint64_t memory = 8ull << 30;     // EMU_MEMORY: bytes of a device
  int driver_version = 13000;       // EMU_DRIVER_VERSION
};

Options& options();
void set_arch(int arch);

}  // namespace emu
