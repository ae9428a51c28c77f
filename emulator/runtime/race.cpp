// The race detector. Kernels are compiled with -fsanitize=thread, whose calls end here in place of ThreadSanitizer's
// runtime: it knows neither blocks, which are unordered, nor barriers of all threads, nor fences.
//
// Each 4 bytes of shared and device memory have the last accesses on record. Two accesses race if they touch the same byte,
// one writes, not both are atomic, and neither comes before the other.
#ifdef EMU_RACES
#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "order.h"

extern "C" const char __ehdr_start __attribute__((visibility("hidden")));

namespace emu {

namespace {

enum Kind : uint8_t { kRead = 0, kWrite = 1, kAtomic = 2 };

struct Record {
  uint32_t block, time;
  uint16_t thread;
  uint8_t bytes;  // of the four
  uint8_t kind;
  uint32_t place;  // in the code, from the start of the library; 0 if it is not known
};

// Writes: the last one, and one before it that it does not stand for. Reads: the last one, the last ones of another warp,
// of another lane of the warp, and of another block.
struct Cell {
  Record writes[2];
  Record reads[4];
};

constexpr uintptr_t kWord = 4;
constexpr int kAddressBits = 47, kLeafBits = 24;
constexpr size_t kCells = (size_t{1} << kLeafBits) / kWord;
Cell* leaves[size_t{1} << (kAddressBits - kLeafBits)];  // null where no memory is watched

Cell* cell_of(uintptr_t address) {
  if (address >> kAddressBits) return nullptr;
  Cell* leaf = leaves[address >> kLeafBits];
  return leaf ? leaf + address % (uintptr_t{1} << kLeafBits) / kWord : nullptr;
}

// The line of a kernel file that a place of the library is made from.
void describe_code(uint32_t place, char* text, size_t size) {
  Dl_info info;
  if (!place || !dladdr(&__ehdr_start, &info)) {
    snprintf(text, size, "a place unknown");
    return;
  }
  snprintf(text, size, "+0x%x", place);
  char command[512], line[512];
  snprintf(command, sizeof command, "LD_PRELOAD= addr2line -i -s -e '%s' 0x%x 2>/dev/null", info.dli_fname, place - 1);
  FILE* lines = popen(command, "r");
  while (lines && fgets(line, sizeof line, lines)) {
    if (!strstr(line, ".cu")) continue;
    snprintf(text, size, "%.*s", static_cast<int>(strcspn(line, " \n")), line);
    break;
  }
  if (lines) pclose(lines);
}

const char* name_of(uint8_t kind) {
  static const char* const names[] = {"read", "write", "atomic read", "atomic write"};
  return names[kind];
}

[[noreturn]] void report(uintptr_t address, const Record& mine, const Record& other) {
  char here[128], there[128], thread[128];
  describe_code(mine.place, here, sizeof here);
  describe_code(other.place, there, sizeof there);
  const uint3 index = block_index(other.block);
  if (other.thread == kEngine) {
    snprintf(thread, sizeof thread, "the copy engine");
  } else {
    snprintf(thread, sizeof thread, "thread %u of block (%u,%u,%u)", other.thread, index.x, index.y, index.z);
  }
  auto* pointer = reinterpret_cast<void*>(address);
  fatal("data race in %s memory, %p: %s at %s, %s by %s at %s", is_shared(pointer) ? "shared" : "global", pointer,
        name_of(mine.kind), here, name_of(other.kind), thread, there);
}

Moment moment_of(const Record& record) { return {record.block, record.time, record.thread}; }

bool is_live(const Record& record, uint32_t since) { return record.bytes && record.block >= since; }

void check(uintptr_t address, const Record& other, const Record& mine, uint32_t since) {
  if (!is_live(other, since) || !(other.bytes & mine.bytes) || (other.kind & mine.kind & kAtomic)) return;
  if (!is_before_now(moment_of(other))) report(address, mine, other);
}

// A write stands for what comes before it: who races with that races with the write. An atomic one stands for atomic
// accesses only, and may be unordered with them.
void cover(Record& other, const Record& mine) {
  bool stays = mine.kind & kAtomic && !(other.kind & kAtomic && is_before_now(moment_of(other)));
  if (!stays) other.bytes &= static_cast<uint8_t>(~mine.bytes);
}

// The farther two threads are apart, the less there is that orders them.
int distance(const Record& a, const Record& b) {
  if (a.block != b.block) return 2;
  return a.thread / kWarp != b.thread / kWarp;
}

void put_write(Cell& cell, const Record& mine, uint32_t since) {
  for (Record& read : cell.reads) cover(read, mine);
  for (Record& write : cell.writes) cover(write, mine);
  auto& [last, other] = cell.writes;
  bool keeps = is_live(other, since) && distance(other, mine) > distance(last, mine) && !is_before_now(moment_of(other));
  if (is_live(last, since) && !keeps) other = last;
  last = mine;
}

void put_read(Cell& cell, const Record& mine, uint32_t since) {
  Record& last = cell.reads[0];
  bool same_block = last.block == mine.block;
  bool same_thread = same_block && last.thread == mine.thread;
  bool covered = same_thread && last.kind == mine.kind && !(last.bytes & ~mine.bytes);
  if (is_live(last, since) && !covered) {
    bool same_warp = last.thread / kWarp == mine.thread / kWarp;
    cell.reads[!same_block ? 3 : same_warp ? 2 : 1] = last;
  }
  last = mine;
}

// The threads' own stacks, and what the emulator knows of its threads.
bool is_private(uintptr_t address) {
  return address - reinterpret_cast<uintptr_t>(worker->stacks) < kStackSize * kMaxThreads ||
         address - reinterpret_cast<uintptr_t>(worker) < sizeof(Worker);
}

void access(const void* start, size_t size, uint8_t kind, const void* code) {
  auto address = reinterpret_cast<uintptr_t>(start);
  if (!self || !size || is_private(address) || !cell_of(address)) return;
  const auto place = code ? reinterpret_cast<uintptr_t>(code) - reinterpret_cast<uintptr_t>(&__ehdr_start) : 0;
  const Moment moment = now();
  const uint32_t since = is_shared(start) ? moment.block : first_block();
  Record mine{moment.block, moment.time, moment.thread, 0, kind, static_cast<uint32_t>(place)};
  for (uintptr_t end = address + size, word = address / kWord * kWord; word < end; word += kWord) {
    Cell* cell = cell_of(word);
    if (!cell) continue;
    mine.bytes = 0xf;
    if (word < address) mine.bytes &= static_cast<uint8_t>(0xf << (address - word));
    if (end - word < kWord) mine.bytes &= static_cast<uint8_t>(0xf >> (word + kWord - end));
    for (const Record& write : cell->writes) check(word, write, mine, since);
    if (!(kind & kWrite)) {
      put_read(*cell, mine, since);
      continue;
    }
    for (const Record& read : cell->reads) check(word, read, mine, since);
    put_write(*cell, mine, since);
  }
}

}  // namespace

void watch(const void* start, size_t bytes) {
  auto address = reinterpret_cast<uintptr_t>(start);
  for (uintptr_t i = address >> kLeafBits; i <= (address + bytes - 1) >> kLeafBits; ++i) {
    if (leaves[i]) continue;
    void* got = mmap(nullptr, kCells * sizeof(Cell), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                     -1, 0);
    if (got == MAP_FAILED) abort();
    leaves[i] = static_cast<Cell*>(got);
  }
}

// Whole pages of cells go back; what stays is of launches that are over.
void unwatch(const void* start, size_t bytes) {
  constexpr uintptr_t kLeaf = uintptr_t{1} << kLeafBits;
  auto address = reinterpret_cast<uintptr_t>(start);
  for (uintptr_t end = address + bytes, next; address < end; address = next) {
    next = std::min(end, (address / kLeaf + 1) * kLeaf);
    auto first = reinterpret_cast<uintptr_t>(cell_of(address)), last = first + (next - address) / kWord * sizeof(Cell);
    first = (first + kPage - 1) / kPage * kPage;
    last = last / kPage * kPage;
    if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
  }
}

void note_read(const void* address, size_t bytes, const void* code) { access(address, bytes, kRead, code); }
void note_write(const void* address, size_t bytes, const void* code) { access(address, bytes, kWrite, code); }

}  // namespace emu

// ---- what the compiler calls

extern "C" {
void __tsan_init() {}

#define EMU_ACCESSES(Bytes)                                                                                          \
  void __tsan_read##Bytes(void* p) { emu::access(p, Bytes, emu::kRead, __builtin_return_address(0)); }               \
  void __tsan_write##Bytes(void* p) { emu::access(p, Bytes, emu::kWrite, __builtin_return_address(0)); }             \
  void __tsan_unaligned_read##Bytes(void* p) { emu::access(p, Bytes, emu::kRead, __builtin_return_address(0)); }     \
  void __tsan_unaligned_write##Bytes(void* p) { emu::access(p, Bytes, emu::kWrite, __builtin_return_address(0)); }
EMU_ACCESSES(1)
EMU_ACCESSES(2)
EMU_ACCESSES(4)
EMU_ACCESSES(8)
EMU_ACCESSES(16)
#undef EMU_ACCESSES
void __tsan_read_range(void* p, size_t n) { emu::access(p, n, emu::kRead, __builtin_return_address(0)); }
void __tsan_write_range(void* p, size_t n) { emu::access(p, n, emu::kWrite, __builtin_return_address(0)); }

// Order is what hb_atomic makes of it: CUDA's atomics are relaxed.
#define EMU_ATOMIC(Bits)                                                                                             \
  uint##Bits##_t __tsan_atomic##Bits##_load(const volatile uint##Bits##_t* p, int) {                                 \
    auto* word = const_cast<uint##Bits##_t*>(p);                                                                     \
    emu::access(word, Bits / 8, emu::kRead | emu::kAtomic, __builtin_return_address(0));                             \
    if (emu::self) emu::hb_atomic(word, false);                                                                      \
    return __atomic_load_n(word, __ATOMIC_RELAXED);                                                                  \
  }                                                                                                                  \
  int __tsan_atomic##Bits##_compare_exchange_strong(volatile uint##Bits##_t* p, uint##Bits##_t* expected,            \
                                                    uint##Bits##_t value, int, int) {                                \
    auto* word = const_cast<uint##Bits##_t*>(p);                                                                     \
    emu::access(word, Bits / 8, emu::kWrite | emu::kAtomic, __builtin_return_address(0));                            \
    if (emu::self) emu::hb_atomic(word, true);                                                                       \
    return __atomic_compare_exchange_n(word, expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);            \
  }
EMU_ATOMIC(16)
EMU_ATOMIC(32)
EMU_ATOMIC(64)
#undef EMU_ATOMIC
}
#endif
