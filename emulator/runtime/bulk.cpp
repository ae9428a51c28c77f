// mbarrier and bulk tensor copies (sm_90). An mbarrier keeps its whole state in its 8 bytes of shared memory, as on the
// hardware. The copy engine is a thread of its own: it works when nothing else can run, or when a random run says so.
#include <cstring>

#include "worker.h"

namespace emu {

namespace {

constexpr unsigned kMaxCount = 0x7fff;  // also what poisoned memory holds
constexpr uint64_t kMapMagic = 0x50414d2d554d45;
constexpr uint32_t kSwizzle128 = 3;  // CU_TENSOR_MAP_SWIZZLE_128B
constexpr uint32_t kChunk = 16;

struct Mbarrier {
  uint32_t pending : 15;
  uint32_t count : 15;
  uint32_t phase : 1;
  uint32_t unused : 1;
  int32_t bytes;
};
static_assert(sizeof(Mbarrier) == 8, "an mbarrier is one 64-bit word");

struct TensorMap2d {
  uint64_t magic;
  uint64_t address;
  uint64_t dims[2];
  uint64_t stride;
  uint32_t element_bytes;
  uint32_t box[2];
  uint32_t swizzle;
  uint64_t unused[9];
};
static_assert(sizeof(TensorMap2d) == 128, "as CUtensorMap");

Mbarrier* checked(uint64_t* barrier, Site site, bool initialised = true) {
  bool aligned = reinterpret_cast<uintptr_t>(barrier) % sizeof(uint64_t) == 0;
  if (!is_shared(barrier) || !aligned) {
    fatal_at(site, "mbarrier %p is not an aligned shared-memory word", static_cast<void*>(barrier));
  }
  auto* m = reinterpret_cast<Mbarrier*>(barrier);
  if (initialised && (m->count == kMaxCount || m->count == 0)) fatal_at(site, "mbarrier used before mbarrier.init");
  return m;
}

// The object that orders those who complete a phase before those who wait for it.
void* order_of(const void* barrier, unsigned phase) { return static_cast<char*>(const_cast<void*>(barrier)) + phase; }

// Ends the phase if nothing is missing, and wakes its waiters.
void settle(Mbarrier* m) {
  if (m->pending || m->bytes) return;
  m->phase ^= 1;
  m->pending = m->count;
  Worker& w = *worker;
  w.polls = 0;
  unsigned left = 0;
  for (unsigned i = 0; i < w.at_mbarrier_count; ++i) {
    Thread* thread = w.at_mbarrier[i];
    if (thread->argument == m) {
      make_ready(thread);
    } else {
      w.at_mbarrier[left++] = thread;
    }
  }
  w.at_mbarrier_count = left;
}

// Runs `work` as the copy engine, ordered after every issue so far.
template <class F>
void as_engine(F work) {
  bool before = hb_engine(true);
  hb_acquire(&worker->issue_order);
  work();
  hb_engine(before);
}

// 16 bytes of the box's row `y` from element `x` on; what lies outside the tensor is zero.
void read_chunk(const TensorMap2d& map, int64_t x, int64_t y, char (&chunk)[kChunk]) {
  memset(chunk, 0, kChunk);
  if (y < 0 || static_cast<uint64_t>(y) >= map.dims[1]) return;
  for (uint32_t at = 0; at < kChunk; at += map.element_bytes, ++x) {
    if (x < 0 || static_cast<uint64_t>(x) >= map.dims[0]) continue;
    uint64_t offset = static_cast<uint64_t>(y) * map.stride + static_cast<uint64_t>(x) * map.element_bytes;
    auto* from = reinterpret_cast<const char*>(map.address + offset);
    note_read(from, map.element_bytes);
    memcpy(chunk + at, from, map.element_bytes);
  }
}

void copy_box(const BulkCopy& copy, const TensorMap2d& map) {
  const uint32_t row_bytes = map.box[0] * map.element_bytes;
  for (uint32_t row = 0; row < map.box[1]; ++row) {
    for (uint32_t at = 0; at < row_bytes; at += kChunk) {
      uint32_t to = copy.to + row * row_bytes + at;
      if (map.swizzle == kSwizzle128) to ^= (to >> 7 & 7) << 4;
      char chunk[kChunk];
      read_chunk(map, int64_t{copy.x} + at / map.element_bytes, int64_t{copy.y} + row, chunk);
      note_write(shared_address(to - kSharedBias), kChunk);
      memcpy(shared_address(to - kSharedBias), chunk, kChunk);
    }
  }
}

}  // namespace

void mbar_init(uint64_t* barrier, int count, Site site) {
  Mbarrier* m = checked(barrier, site, false);
  if (count < 1 || count >= static_cast<int>(kMaxCount)) fatal_at(site, "mbarrier count %d", count);
  m->pending = m->count = static_cast<unsigned>(count) & kMaxCount;
  m->phase = 0;
  m->unused = 0;
  m->bytes = 0;
}

void mbar_arrive(uint64_t* barrier, int expect_bytes, Site site) {
  Mbarrier* m = checked(barrier, site);
  hb_release(order_of(barrier, m->phase));
  if (!m->pending) fatal_at(site, "mbarrier: more arrivals in a phase than its count %u", m->count);
  m->bytes += expect_bytes;
  m->pending = (m->pending - 1) & kMaxCount;
  settle(m);
  yield_point();
}

void mbar_wait(uint64_t* barrier, int parity, Site site) {
  Mbarrier* m = checked(barrier, site);
  Worker& w = *worker;
  Thread* me = self;
  const auto phase = static_cast<unsigned>(parity & 1);
  while (m->phase == phase) {
    me->argument = m;
    me->state = ThreadState::at_mbarrier;
    me->op = Op::none;
    me->site = site;
    w.at_mbarrier[w.at_mbarrier_count++] = me;
    block_self();
  }
  hb_acquire(order_of(barrier, phase));
}

void tma_load_2d(void* to, const void* map_bytes, uint64_t* barrier, int x, int y, Site site) {
  Worker& w = *worker;
  TensorMap2d map;
  memcpy(&map, map_bytes, sizeof map);
  checked(barrier, site);
  if (map.magic != kMapMagic) fatal_at(site, "TMA: not an encoded tensor map");
  const uint32_t address = shared_to_u32(to, site);
  const uint32_t bytes = map.box[0] * map.element_bytes * map.box[1];
  const uint32_t align = map.swizzle == kSwizzle128 ? 1024 : 128;
  if (address % align) fatal_at(site, "TMA: shared destination 0x%x is not %u-byte aligned", address, align);
  shared_from_u32(address, bytes, kChunk, site);
  if (w.bulk_count == kMaxBulkCopies) fatal_at(site, "emulator: more than %u bulk copies in flight", kMaxBulkCopies);
  hb_release(&w.issue_order);
  BulkCopy& copy = w.bulk[w.bulk_count++];
  copy = {address, {}, barrier, x, y};
  memcpy(copy.map, &map, sizeof map);
  as_engine([&] { note_write(to, bytes); });  // the write may start at once
  if (performs_early()) run_bulk_copy(w.bulk_count - 1);
}

void run_bulk_copy(unsigned index) {
  Worker& w = *worker;
  const BulkCopy copy = w.bulk[index];
  w.bulk[index] = w.bulk[--w.bulk_count];
  TensorMap2d map;
  memcpy(&map, copy.map, sizeof map);
  auto* m = reinterpret_cast<Mbarrier*>(copy.barrier);
  as_engine([&] {
    hb_acquire(order_of(copy.barrier, 0));
    copy_box(copy, map);
    hb_release(order_of(copy.barrier, m->phase));
  });
  m->bytes -= static_cast<int32_t>(map.box[0] * map.element_bytes * map.box[1]);
  settle(m);
}

bool encode_tensor_map(void* to, void* address, uint32_t element_bytes, const uint64_t (&dims)[2], uint64_t stride,
                       const uint32_t (&box)[2], uint32_t swizzle) {
  constexpr uint32_t kMaxBox = 256, kMaxSwizzledRow = 128;
  uint32_t row_bytes = box[0] * element_bytes;
  bool aligned = reinterpret_cast<uintptr_t>(address) % kChunk == 0 && stride % kChunk == 0 && row_bytes % kChunk == 0;
  bool in_range = box[0] && box[1] && box[0] <= kMaxBox && box[1] <= kMaxBox;
  if (!aligned || !in_range || (swizzle == kSwizzle128 && row_bytes > kMaxSwizzledRow)) return false;
  TensorMap2d map{};
  map.magic = kMapMagic;
  map.address = reinterpret_cast<uint64_t>(address);
  memcpy(map.dims, dims, sizeof dims);
  map.stride = stride;
  map.element_bytes = element_bytes;
  memcpy(map.box, box, sizeof box);
  map.swizzle = swizzle;
  memcpy(to, &map, sizeof map);
  return true;
}

}  // namespace emu
