// Shared memory of a block: an arena with static arrays at its start, gaps between them, and dynamic memory of exactly
// the launched size behind. Memory starts poisoned in every block; what is written into gaps is found at its end.
#include <cstdio>

#include "worker.h"

namespace emu {

namespace {

uint32_t round_up(uint32_t value, uint32_t unit) { return (value + unit - 1) / unit * unit; }

// The first byte of the range that is not a gap's, or `end`.
uint32_t first_written(uint32_t begin, uint32_t end) {
  auto* bytes = reinterpret_cast<const unsigned char*>(worker->arena);
  while (begin < end && bytes[begin] == kGapByte) ++begin;
  return begin;
}

}  // namespace

char* shared_address(uint32_t offset) { return worker->arena + offset; }

void* shared_static(const void* tag, size_t size, size_t align, const char* name) {
  Worker& w = *worker;
  for (const StaticArray& array : w.arrays) {
    if (array.tag == tag) return w.arena + array.offset;
  }
  constexpr uint32_t kLeastAlign = 16;
  auto bytes = static_cast<uint32_t>(size);
  uint32_t offset = round_up(w.static_top + kGap, align < kLeastAlign ? kLeastAlign : static_cast<uint32_t>(align));
  w.static_bytes = round_up(w.static_bytes, static_cast<uint32_t>(align)) + bytes;
  if (w.static_bytes > kMaxStatic) fatal("static shared memory: %u bytes exceed 48 KiB (at '%s')", w.static_bytes, name);
  if (w.static_bytes + w.dynamic_bytes > options().smem_limit) {
    fatal("shared memory: %u static + %u dynamic bytes exceed the block limit %u", w.static_bytes, w.dynamic_bytes,
          options().smem_limit);
  }
  if (offset + bytes + kGap > kStaticRoom) fatal("emulator: no room for more static shared arrays");
  w.arrays.push_back({tag, offset, bytes, name});
  w.static_top = offset + bytes;
  unpoison(w.arena + offset, bytes);
  raw_set(w.arena + offset, kPoisonByte, bytes);
  return w.arena + offset;
}

void* shared_dynamic(Site) { return worker->arena + kStaticRoom; }

bool is_shared(const void* pointer) {
  auto* p = static_cast<const char*>(pointer);
  return worker && p >= worker->arena && p < worker->arena + kArena;
}

uint32_t shared_to_u32(const void* pointer, Site site) {
  if (!is_shared(pointer)) fatal_at(site, "pointer %p is not in shared memory", pointer);
  return static_cast<uint32_t>(static_cast<const char*>(pointer) - worker->arena) + kSharedBias;
}

void* shared_from_u32(uint32_t address, uint32_t bytes, uint32_t align, Site site) {
  if (address % align) fatal_at(site, "shared address 0x%x is not %u-byte aligned", address, align);
  Worker& w = *worker;
  uint32_t offset = address - kSharedBias;
  auto inside = [=](uint32_t start, uint32_t size) { return offset >= start && offset + bytes <= start + size; };
  if (inside(kStaticRoom, w.dynamic_bytes)) return w.arena + offset;
  for (const StaticArray& array : w.arrays) {
    if (inside(array.offset, array.bytes)) return w.arena + offset;
  }
  fatal_at(site, "shared address 0x%x (+%u) is outside every shared allocation of the block", address, bytes);
}

void prepare_shared(bool first_block) {
  Worker& w = *worker;
  char* dynamic = w.arena + kStaticRoom;
  if (first_block) {
    w.arrays.clear();
    w.static_top = 0;
    w.static_bytes = 0;
    unpoison(w.arena, kArena);
    raw_set(w.arena, kGapByte, kStaticRoom);
    raw_set(dynamic + w.dynamic_bytes, kGapByte, kDynamicGap);
    poison(w.arena, kArena);
    unpoison(dynamic, w.dynamic_bytes);
  }
  for (const StaticArray& array : w.arrays) raw_set(w.arena + array.offset, kPoisonByte, array.bytes);
  raw_set(dynamic, kPoisonByte, w.dynamic_bytes);
}

const char* check_shared() {
  if (kHasAsan) return nullptr;
  static __thread char text[200];
  Worker& w = *worker;
  uint32_t end = 0;
  const char* name = "the start";
  auto report = [&](uint32_t at) {
    snprintf(text, sizeof text, "write outside shared arrays: %u bytes past the end of '%s'", at - end, name);
    return text;
  };
  for (const StaticArray& array : w.arrays) {
    uint32_t at = first_written(end, array.offset);
    if (at < array.offset) return report(at);
    end = array.offset + array.bytes;
    name = array.name;
  }
  uint32_t at = first_written(end, end + kGap);
  if (at < end + kGap) return report(at);
  uint32_t dynamic_end = kStaticRoom + w.dynamic_bytes;
  at = first_written(dynamic_end, dynamic_end + kDynamicGap);
  if (at == dynamic_end + kDynamicGap) return nullptr;
  snprintf(text, sizeof text, "write %u bytes past the end of dynamic shared memory (%u bytes)", at - dynamic_end,
           w.dynamic_bytes);
  return text;
}

}  // namespace emu
