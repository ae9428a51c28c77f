// cp.async. A copy is performed when its group is waited for, the latest moment that is legal, or at issue, the earliest;
// a random run draws which.
#include <cstring>

#include "worker.h"

namespace emu {

namespace {

void perform(const PendingCopy& copy) {
  memcpy(copy.to, copy.from, copy.source_bytes);
  memset(static_cast<char*>(copy.to) + copy.source_bytes, 0, copy.bytes - copy.source_bytes);
}

// The copy may happen anywhere from its issue to the wait, whenever it is performed here: both ends count.
void note(const PendingCopy& copy) {
  note_read(copy.from, copy.source_bytes, copy.code);
  note_write(copy.to, copy.bytes, copy.code);
}

}  // namespace

void cp_async(void* to, const void* from, uint32_t bytes, uint32_t source_bytes, Site site) {
  if (source_bytes && reinterpret_cast<uintptr_t>(from) % bytes) {
    fatal_at(site, "cp.async: global address %p is not %u-byte aligned", from, bytes);
  }
  if (is_shared(from)) fatal_at(site, "cp.async: the source is in shared memory");
  Thread* me = self;
  if (me->copy_count == kMaxPendingCopies) {
    fatal_at(site, "emulator: more than %u pending cp.async in one thread", kMaxPendingCopies);
  }
  const bool early = performs_early();
  const PendingCopy copy{to, from, bytes, source_bytes, site, __builtin_return_address(0), me->copy_group, early};
  if (early) perform(copy);
  note(copy);
  me->copies[me->copy_count++] = copy;
}

void cp_async_commit() { ++self->copy_group; }

void cp_async_wait(uint32_t keep_groups) {
  Thread* me = self;
  uint32_t left = 0;
  for (uint32_t i = 0; i < me->copy_count; ++i) {
    const PendingCopy copy = me->copies[i];
    bool committed = copy.group < me->copy_group;
    if (committed && me->copy_group - copy.group > keep_groups) {
      if (!copy.performed) perform(copy);
      note(copy);
    } else {
      me->copies[left++] = copy;
    }
  }
  me->copy_count = left;
}

}  // namespace emu
