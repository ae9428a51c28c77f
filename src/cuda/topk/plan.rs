//! How a search is cut into launches: pure functions of the shapes and the card.

use super::corpus::{Corpus, GROUP, Shape};
use crate::catalogue::MAX_K;
use crate::cuda::{CudaError, DeviceInfo, to_u32};

/// Bytes of workspace that a plan asks for at most.
pub const MOST_WORKSPACE: usize = 64 << 20;

/// Rows that a block scores between two looks at its buffers; `STEP` of the kernel.
pub(super) const STEP: usize = 128;

/// Keys that a buffer holds at least beyond those that are kept, where a block has more rows.
const SPARE: usize = 512;

/// Bytes of shared memory that a block of a scan takes beside the queries: its own, and those that the driver reserves, which
/// count on a multiprocessor, not towards what one block may have.
const STATIC_SHARED: usize = 2 << 10;
const RESERVED_SHARED: usize = 1 << 10;

/// The most blocks of one launch along the axis of query tiles.
const MOST_TILES: usize = 65_535;

/// Keys that one block merges without the help of others: 16 for each of its threads.
const MERGED_ALONE: usize = 16 << 10;

/// How a number of queries search a corpus on a card: a pure function of the shapes and the card. The answer does not
/// depend on it.
///
/// A plan answers every smaller `k` too: hits come best first, so the first `k` keys of an answer are the answer for `k`.
/// Where launches are recorded, one plan for the next power of two serves all `k` up to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub(super) shape: Shape,
    pub(super) k: usize,
    /// The most queries.
    pub(super) batch: usize,
    pub(super) tile: Tile,
    /// Blocks that share the rows.
    pub(super) partitions: usize,
    /// Queries of one set of launches.
    pub(super) group: usize,
    pub(super) buffer: Buffer,
    pub(super) merge: Merge,
}

/// The queries of a block of the scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tile {
    /// Which of the kernels: 1, 4 or 8 queries per warp.
    pub(super) kernel: usize,
    /// Groups of warps with queries of their own.
    pub(super) groups: usize,
    /// Blocks that a multiprocessor runs at once, as far as registers allow.
    most_resident: usize,
}

const QUERIES_PER_WARP: [usize; 3] = [1, 4, 8];

/// In order of their queries. The first fits any card.
const TILES: [Tile; 5] = [
    Tile { kernel: 0, groups: 1, most_resident: 3 },
    Tile { kernel: 1, groups: 1, most_resident: 2 },
    Tile { kernel: 2, groups: 1, most_resident: 2 },
    Tile { kernel: 2, groups: 2, most_resident: 2 },
    Tile { kernel: 2, groups: 4, most_resident: 2 },
];

impl Tile {
    pub(super) const fn queries(self) -> usize {
        QUERIES_PER_WARP[self.kernel] * self.groups
    }

    /// Bytes of the queries in shared memory.
    pub(super) const fn shared(self, dim: usize) -> usize {
        self.queries() * dim.next_multiple_of(GROUP) * size_of::<f32>()
    }

    /// Whether a block may have the shared memory that it needs.
    fn fits(self, dim: usize, card: &DeviceInfo) -> bool {
        self.shared(dim) + STATIC_SHARED <= card.shared_memory as usize
    }

    /// Blocks that a multiprocessor runs at once.
    fn resident(self, dim: usize, card: &DeviceInfo) -> usize {
        let of_block = self.shared(dim) + STATIC_SHARED + RESERVED_SHARED;
        let of_multiprocessor = card.shared_memory as usize + RESERVED_SHARED;
        (of_multiprocessor / of_block).clamp(1, self.most_resident)
    }
}

/// The best keys of one query in one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Buffer {
    /// Keys that the answer may need.
    pub(super) kept: usize,
    /// Keys that there is room for.
    pub(super) capacity: usize,
    /// Whether all rows of a block have room.
    pub(super) holds_all: bool,
}

impl Buffer {
    /// The buffer of a block that scores `rows` rows.
    fn new(rows: usize, k: usize) -> Buffer {
        let kept = k.min(rows).max(1);
        let roomy = kept + (kept / 2).max(SPARE);
        Buffer { kept, capacity: roomy.min(rows.max(1)), holds_all: roomy >= rows }
    }
}

/// How one query's buffers become its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Merge {
    /// Blocks that select from some of the buffers each, before one block selects from what they leave; 1 if it needs no help.
    pub(super) parts: usize,
    /// Buffers of a part, the last of which may have fewer.
    pub(super) share: usize,
    /// Keys that a part leaves.
    pub(super) left: usize,
    /// Keys that are sorted, a power of two.
    pub(super) sorted: usize,
}

impl Merge {
    /// One block reads `partitions * kept` keys a few times; with `parts` blocks before it each reads a part of these, and
    /// it `parts * left`. The longer of the two is shortest when they are alike.
    fn new(partitions: usize, kept: usize, k: usize, sorted: usize, blocks: usize) -> Merge {
        let keys = partitions * kept;
        let parts = if keys <= MERGED_ALONE { 1 } else { (keys / k).isqrt().min(blocks).max(1) };
        let share = partitions.div_ceil(parts);
        Merge { parts: partitions.div_ceil(share), share, left: k.min(share * kept), sorted }
    }

    /// Keys beside the buffers.
    const fn keys(self) -> usize {
        self.sorted + if self.parts > 1 { self.parts * self.left } else { 0 }
    }
}

/// What a plan is made for.
#[derive(Debug, Clone, Copy)]
struct Task<'a> {
    shape: Shape,
    k: usize,
    batch: usize,
    card: &'a DeviceInfo,
    /// Bytes of workspace at most.
    workspace: usize,
}

impl Task<'_> {
    /// Bytes of workspace at least: those of one block that answers one query after the other.
    fn least(&self) -> usize {
        let (k, rows) = (self.k, self.shape.rows);
        let words = Buffer::new(rows, k).capacity + k.min(rows).max(1).next_power_of_two();
        self.batch.saturating_add(words).saturating_mul(size_of::<u64>())
    }

    /// Of all tiles, and numbers of partitions that halve, the pair whose blocks are done first.
    fn plan(&self) -> Result<Plan, CudaError> {
        let Task { shape, k, batch, card, workspace } = *self;
        if !(1..=MAX_K).contains(&k) {
            return Err(CudaError::Limit { what: "k", value: k, limit: MAX_K });
        }
        to_u32("queries", batch)?;
        // One tile that has room for all queries is enough.
        let enough = TILES.iter().filter(|tile| tile.queries() < batch).count() + 1;
        let mut best: Option<(f64, Plan)> = None;
        for tile in TILES.iter().take(enough).filter(|tile| tile.fits(shape.dim, card)).chain(&TILES[..1]) {
            let resident = tile.resident(shape.dim, card);
            let slots = card.multiprocessors as usize * resident;
            let mut partitions =
                (slots / batch.div_ceil(tile.queries()).max(1)).clamp(1, shape.rows.div_ceil(STEP).max(1));
            loop {
                if let Some(plan) = self.plan_with(*tile, partitions) {
                    let time = plan.time(slots, resident);
                    if best.as_ref().is_none_or(|(least, _)| time < *least) {
                        best = Some((time, plan));
                    }
                }
                if partitions == 1 {
                    break;
                }
                partitions /= 2;
            }
        }
        let none = CudaError::Limit { what: "bytes for one query", value: self.least(), limit: workspace };
        best.map(|(_, plan)| plan).ok_or(none)
    }

    /// With `partitions` blocks per tile, if the workspace has room for a query.
    fn plan_with(&self, tile: Tile, partitions: usize) -> Option<Plan> {
        let Task { shape, k, batch, card, workspace } = *self;
        let steps = shape.rows.div_ceil(STEP).div_ceil(partitions);
        let buffer = Buffer::new((steps * STEP).min(shape.rows), k);
        let sorted = k.min(shape.rows).max(1).next_power_of_two();
        let room = (workspace / size_of::<u64>()).saturating_sub(batch);
        let at_once = (room / (partitions * buffer.capacity + sorted)).clamp(1, batch.max(1));
        let blocks = card.multiprocessors as usize / at_once; // for each query
        let merge = Merge::new(partitions, buffer.kept, k, sorted, blocks);
        let mut plan = Plan { shape, k, batch, tile, partitions, group: 1, buffer, merge };
        let most = (room / plan.words_per_query()).min(MOST_TILES * tile.queries());
        plan.group = match most {
            0 => return None,
            most if most >= batch => batch.max(1),
            most if most >= tile.queries() => most - most % tile.queries(),
            most => most,
        };
        Some(plan)
    }
}

impl Plan {
    /// The plan of up to `batch` queries for their best `k` rows of `corpus` on a card, with [`MOST_WORKSPACE`].
    ///
    /// # Errors
    /// As [`Plan::within`].
    pub fn new(corpus: &Corpus, k: usize, batch: usize, card: &DeviceInfo) -> Result<Plan, CudaError> {
        Plan::within(MOST_WORKSPACE, corpus, k, batch, card)
    }

    /// The plan of up to `batch` queries for their best `k` rows of `corpus` on a card, with so many bytes of workspace at
    /// most: with less of it, fewer blocks share the rows, and fewer queries are answered at once.
    ///
    /// # Errors
    /// [`CudaError::Limit`] for a `k` of 0 or beyond 65,536, or a `workspace` that has no room for one query and 8 bytes
    /// of each.
    pub fn within(
        workspace: usize,
        corpus: &Corpus,
        k: usize,
        batch: usize,
        card: &DeviceInfo,
    ) -> Result<Plan, CudaError> {
        Task { shape: corpus.shape, k, batch, card, workspace }.plan()
    }

    /// An estimate to compare plans by: the time to read a row is the unit, and as long as arithmetic hides behind
    /// memory, a row costs little more with more queries.
    fn time(&self, slots: usize, resident: usize) -> f64 {
        let launches = self.batch.div_ceil(self.group);
        let blocks = self.partitions * self.group.div_ceil(self.tile.queries());
        let steps = self.shape.rows.div_ceil(STEP).div_ceil(self.partitions);
        let rounds = (blocks as f64 / slots as f64).max(1.0);
        let per_row = 1.0 + self.tile.queries() as f64 / 16.0;
        launches as f64 * rounds * (steps * resident) as f64 * per_row
    }

    /// Bytes of device memory that [`enqueue`](super::enqueue) works in.
    pub fn workspace(&self) -> usize {
        (self.batch + self.group * self.words_per_query()) * size_of::<u64>()
    }

    /// Keys that a query of a group has room for.
    fn words_per_query(&self) -> usize {
        self.partitions * self.buffer.capacity + self.merge.keys()
    }

    /// The most queries.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Hits of an answer at most.
    pub fn k(&self) -> usize {
        self.k
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed check ends the test
mod tests {
    use super::super::corpus::Shape;
    use super::*;
    use crate::cuda::Precision;

    fn card(multiprocessors: u32, shared_memory: u32) -> DeviceInfo {
        let (name, capability, memory) = (String::new(), (8, 0), 80 << 30);
        DeviceInfo { ordinal: 0, name, capability, memory, multiprocessors, shared_memory }
    }

    fn of(shape: Shape, k: usize, batch: usize, card: &DeviceInfo) -> Result<Plan, CudaError> {
        Task { shape, k, batch, card, workspace: MOST_WORKSPACE }.plan()
    }

    /// What every plan keeps: the workspace and the launch limits, room for a step in every buffer that is cut, an answer
    /// in the buffers together.
    fn check(shape: Shape, k: usize, batch: usize, card: &DeviceInfo) {
        let what = format!("{shape:?}, k {k}, batch {batch}, {} multiprocessors", card.multiprocessors);
        let plan = of(shape, k, batch, card).unwrap();
        let Buffer { kept, capacity, holds_all } = plan.buffer;
        let rows = shape.rows.div_ceil(STEP).div_ceil(plan.partitions) * STEP; // of a block
        assert!(plan.workspace() <= MOST_WORKSPACE, "{what}: {} bytes", plan.workspace());
        assert!(plan.tile.fits(shape.dim, card), "{what}");
        assert!(plan.group >= 1 && plan.group.div_ceil(plan.tile.queries()) <= MOST_TILES, "{what}");
        assert!(
            i32::try_from(plan.partitions).is_ok() && u32::try_from(plan.partitions * kept).is_ok(),
            "{what}"
        );
        assert!(
            capacity >= kept
                && if holds_all { capacity >= rows.min(shape.rows) } else { capacity >= kept + STEP }
        );
        assert!(kept >= k.min(rows).min(shape.rows), "{what}");
        let Merge { parts, share, left, .. } = plan.merge;
        assert!(parts * share >= plan.partitions && (parts - 1) * share < plan.partitions, "{what}");
        assert!(left >= k.min(share * kept) && u32::try_from(parts * left).is_ok(), "{what}");
        assert!(plan.merge.sorted >= k.min(shape.rows) && plan.merge.sorted.is_power_of_two(), "{what}");
    }

    #[test]
    fn plans_keep_their_limits() {
        let ks = [1, 10, 100, 1000, 4096, 5000, 65_535, 65_536];
        for (multiprocessors, shared) in [(1, 99 << 10), (16, 48 << 10), (108, 163 << 10), (132, 227 << 10)] {
            let card = card(multiprocessors, shared);
            for rows in [0, 1, 127, 128, 129, 70_000, 1 << 24, u32::MAX as usize - 1] {
                for dim in [1, 128, 768, 4096] {
                    for k in ks {
                        for batch in [0, 1, 2, 4, 5, 8, 9, 33, 64, 4096, 65_536] {
                            check(Shape::new(rows, dim, Precision::F32).unwrap(), k, batch, &card);
                        }
                    }
                }
            }
        }
    }

    /// Where shared memory has less room for blocks than registers: each brings its own and what is reserved for it.
    #[test]
    fn shared_memory_limits_the_blocks() {
        for (tile, dim, kib, expected) in [
            (TILES[4], 896, 227, 1), // 112 KiB of queries
            (TILES[4], 768, 227, 2), // 96 KiB
            (TILES[3], 768, 99, 1),  // 48 KiB
            (TILES[3], 640, 99, 2),  // 40 KiB
            (TILES[0], 4096, 163, 3),
            (TILES[0], 4096, 48, 2),
            (TILES[4], 4096, 48, 1),
        ] {
            let found = tile.resident(dim, &card(1, kib << 10));
            assert_eq!(found, expected, "{} queries of {dim}, {kib} KiB", tile.queries());
        }
    }

    /// One query streams the rows through every multiprocessor; a batch that fits a tile reads them once.
    #[test]
    fn plans_fill_the_card() {
        let card = card(132, 227 << 10);
        let shape = Shape::new(10_000_000, 128, Precision::F16).unwrap();
        for k in [1, 100, 1000] {
            let one = of(shape, k, 1, &card).unwrap();
            assert_eq!((one.tile, one.partitions), (TILES[0], 396), "k {k}");
        }
        let many = of(shape, 100, 32, &card).unwrap();
        assert_eq!((many.tile, many.group, many.partitions), (TILES[4], 32, 264));
    }

    /// The keys that one block of a merge reads, where one query is merged: of `partitions * k` about the root's share.
    #[test]
    fn merges_share_the_work() {
        let card = card(132, 227 << 10);
        let shape = Shape::new(10_000_000, 128, Precision::F32).unwrap();
        for (k, parts, share) in [(1, 1, 396), (10, 1, 396), (100, 19, 21), (1000, 19, 21), (65_536, 7, 7)] {
            let plan = of(shape, k, 1, &card).unwrap();
            assert_eq!((plan.merge.parts, plan.merge.share), (parts, share), "k {k}");
            assert_eq!(plan.merge.left, if parts > 1 { k } else { plan.merge.left });
        }
        // As many queries as multiprocessors need no help.
        assert_eq!(of(shape, 1000, 132, &card).unwrap().merge.parts, 1);
    }

    /// What the tests on the device rely on.
    #[test]
    fn plans_of_the_tests() {
        let (shape, one) = (Shape::new(3000, 1, Precision::F32).unwrap(), card(1, 48 << 10));
        let plan = Task { shape, k: 20, batch: 40, card: &one, workspace: 80_000 }.plan().unwrap();
        assert!(plan.group < 40 && !plan.group.is_multiple_of(7) && !plan.buffer.holds_all, "{plan:?}");
        let card = card(132, 48 << 10);
        let shape = Shape::new(22_000, 1, Precision::F32).unwrap();
        for k in [100, 300, 1000] {
            let Plan { merge, partitions, .. } = of(shape, k, 2, &card).unwrap();
            assert!(merge.parts > 1, "k {k}: {merge:?}");
            assert!(k == 1000 || !partitions.is_multiple_of(merge.share), "k {k}: {merge:?}");
        }
    }

    #[test]
    fn limits_are_refused() {
        let refused = |rows, dim| Shape::new(rows, dim, Precision::F32).unwrap_err();
        let (most, limit) = (u32::MAX as usize, u32::MAX as usize - 1);
        assert_eq!(refused(most, 1), CudaError::Limit { what: "rows", value: most, limit });
        assert_eq!(refused(1, 0), CudaError::Limit { what: "vector length", value: 0, limit: 4096 });
        assert_eq!(refused(1, 4097), CudaError::Limit { what: "vector length", value: 4097, limit: 4096 });
        let shape = Shape::new(5, 5, Precision::F32).unwrap();
        for k in [0, 65_537] {
            let refused = of(shape, k, 1, &card(4, 48 << 10)).unwrap_err();
            assert_eq!(refused, CudaError::Limit { what: "k", value: k, limit: 65_536 });
        }
    }
}
