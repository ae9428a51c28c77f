//! Exact top-k over rows on the device; `kernels/topk.cu`.

use bytemuck::Pod;
use half::{bf16, f16};

use super::memory::Pointer;
use super::{
    Arguments, CudaError, DeviceInfo, Kernel, Precision, Rows, Slice, Stream, Tensor, expect, to_u32,
};
use crate::catalogue::{Hit, MAX_DIM, MAX_K};

/// The struct of `topk_scan_*`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct TopkScanArgs {
    rows: Pointer,
    rank: Pointer,
    queries: Pointer,
    batch: Pointer,
    bounds: Pointer,
    keys: Pointer,
    n: u32,
    dim: u32,
    first: u32,
    group: u32,
    groups: u32,
    kept: u32,
    capacity: u32,
    limit: u32,
}
const _: () = assert!(size_of::<TopkScanArgs>() == 80);

// SAFETY: `repr(C)`, with the fields of the struct in `kernels/topk.cu`.
unsafe impl Arguments for TopkScanArgs {}

/// The struct of `topk_merge`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct TopkMergeArgs {
    keys: Pointer,
    sorted: Pointer,
    out: Pointer,
    batch: Pointer,
    first: u32,
    partitions: u32,
    kept: u32,
    capacity: u32,
    padded: u32,
    k: u32,
}
const _: () = assert!(size_of::<TopkMergeArgs>() == 56);

// SAFETY: `repr(C)`, with the fields of the struct in `kernels/topk.cu`.
unsafe impl Arguments for TopkMergeArgs {}

const fn scan(name: &'static str) -> Kernel<TopkScanArgs> {
    Kernel::new("topk", name, 256)
}

/// The scans of rows of one precision, with 1, 4 and 8 queries per warp.
pub(crate) const SCAN_F32: [Kernel<TopkScanArgs>; 3] =
    [scan("topk_scan_f32_1"), scan("topk_scan_f32_4"), scan("topk_scan_f32_8")];
pub(crate) const SCAN_F16: [Kernel<TopkScanArgs>; 3] =
    [scan("topk_scan_f16_1"), scan("topk_scan_f16_4"), scan("topk_scan_f16_8")];
pub(crate) const SCAN_BF16: [Kernel<TopkScanArgs>; 3] =
    [scan("topk_scan_bf16_1"), scan("topk_scan_bf16_4"), scan("topk_scan_bf16_8")];

pub(crate) const MERGE: Kernel<TopkMergeArgs> = Kernel::new("topk", "topk_merge", 1024);

/// Bytes of workspace that a plan asks for at most.
pub const MOST_WORKSPACE: usize = 64 << 20;

/// Rows that a block scores between two looks at its buffers; `STEP` of the kernel.
const STEP: usize = 128;

/// Keys that a buffer holds at least beyond those that are kept, where a block has more rows.
const SPARE: usize = 512;

/// Shared memory of a scan beside the queries, with what the driver takes of a block's.
const FIXED_SHARED: usize = 3 << 10;

/// The most blocks of one launch along the axis of query tiles.
const MOST_TILES: usize = 65_535;

/// Rows in the memory of a device, ready to be searched.
#[derive(Debug, Clone)]
pub struct Corpus {
    shape: Shape,
    rows: Tensor, // [rows, dim]
    order: Option<Order>,
}

/// The order of rows by their ids, where that is not the order of rows.
#[derive(Debug, Clone)]
struct Order {
    /// The place of each row's id among all ids, on the device.
    rank: Slice<u32>,
    /// The row at each place.
    rows: Vec<u32>,
}

/// What is searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    rows: usize,
    dim: usize,
    precision: Precision,
}

impl Shape {
    fn new(rows: usize, dim: usize, precision: Precision) -> Result<Shape, CudaError> {
        let limit = u32::MAX as usize - 1;
        if rows > limit {
            return Err(CudaError::Limit { what: "rows", value: rows, limit });
        }
        if !(1..=MAX_DIM).contains(&dim) {
            return Err(CudaError::Limit { what: "vector length", value: dim, limit: MAX_DIM });
        }
        Ok(Shape { rows, dim, precision })
    }
}

impl Corpus {
    /// Uploads `vectors`, `[ids.len(), dim]`, rounded to `precision`, and the order of their `ids`, which are distinct.
    /// Beside the memory on the device, rounding takes a few megabytes on the host, and ids that do not ascend 8 bytes
    /// per row. The stream is synchronised.
    ///
    /// # Errors
    /// [`CudaError::Length`] if `vectors` has another length; [`CudaError::Limit`] for a `dim` of 0 or beyond 4096, for
    /// 2^32 - 1 rows or more, and for a value that rounds to an infinity; as [`Stream::upload`].
    pub fn upload(
        stream: &Stream,
        dim: usize,
        vectors: &[f32],
        ids: &[i64],
        precision: Precision,
    ) -> Result<Corpus, CudaError> {
        let shape = Shape::new(ids.len(), dim, precision)?;
        expect("vectors", vectors.len(), &[ids.len(), dim])?;
        let rows = match precision {
            Precision::F32 => stream.upload("rows of a catalogue", vectors)?.cast()?,
            Precision::F16 => {
                upload_rounded(stream, vectors, f16::from_f32, f16::is_infinite, f16::MAX.to_f32())?
            }
            Precision::Bf16 => {
                upload_rounded(stream, vectors, bf16::from_f32, bf16::is_infinite, bf16::MAX.to_f32())?
            }
        };
        let rows = Tensor::over(rows, precision)?;
        Ok(Corpus { shape, rows, order: Order::upload(stream, ids)? })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.shape.rows
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.shape.rows == 0
    }

    /// Length of a row.
    pub fn dim(&self) -> usize {
        self.shape.dim
    }

    /// The hits of one query from the keys that [`enqueue`] wrote for it, best first; `ids` are those of the upload.
    pub fn hits(&self, ids: &[i64], keys: &[u64]) -> Vec<Hit> {
        let hits = keys.iter().take_while(|&&key| key != 0).filter_map(|&key| {
            let (score, rank) = decode(key);
            let row = match &self.order {
                None => rank as usize,
                Some(order) => *order.rows.get(rank as usize)? as usize,
            };
            Some(Hit { id: *ids.get(row)?, row, score })
        });
        hits.collect()
    }
}

impl Order {
    fn upload(stream: &Stream, ids: &[i64]) -> Result<Option<Order>, CudaError> {
        if ids.is_sorted() {
            return Ok(None);
        }
        let mut rows: Vec<u32> = (0..to_u32("rows", ids.len())?).collect();
        // Not in parallel: a thread that waits for others may take up other work, and callers hold locks.
        rows.sort_unstable_by_key(|&row| (ids[row as usize], row));
        let mut rank = vec![0; rows.len()];
        for (place, &row) in (0..).zip(&rows) {
            rank[row as usize] = place;
        }
        Ok(Some(Order { rank: stream.upload("order of a catalogue's ids", &rank)?, rows }))
    }
}

/// Uploads values rounded to `T`, in pieces: no second copy of them all is made.
fn upload_rounded<T: Pod>(
    stream: &Stream,
    values: &[f32],
    round: impl Fn(f32) -> T,
    is_infinite: impl Fn(T) -> bool,
    largest: f32,
) -> Result<Slice<u8>, CudaError> {
    const PIECE: usize = 1 << 20;
    let to = Slice::<T>::new(stream.device(), "rows of a catalogue", values.len())?;
    for (piece, values) in values.chunks(PIECE).enumerate() {
        let rounded: Vec<T> = values.iter().map(|&x| round(x)).collect();
        if let Some(at) = rounded.iter().position(|&x| is_infinite(x)) {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            // saturates, in an error's words
            let (value, limit) = (values[at].abs() as usize, largest as usize);
            return Err(CudaError::Limit { what: "magnitude of a stored value", value, limit });
        }
        stream.upload_to(&rounded, &to.part(piece * PIECE..piece * PIECE + rounded.len())?)?;
    }
    to.cast()
}

/// Where the keys of zeros start; as in `kernels/device/keys.cuh`.
const ZERO_KEYS: u64 = 0x7FFF_FFFF << 32;

/// The score and the rank of a key.
#[allow(clippy::cast_possible_truncation)] // the halves of a key
fn decode(key: u64) -> (f32, u32) {
    if let Some(zero) = key.checked_sub(ZERO_KEYS).filter(|zero| zero >> 33 == 0) {
        let score = if zero & 1 == 1 { 0.0 } else { -0.0 };
        return (score, !((zero >> 1) as u32));
    }
    let code = (key >> 32) as u32;
    let bits = if code >> 31 == 1 { code & 0x7FFF_FFFF } else { !code };
    (f32::from_bits(bits), !(key as u32))
}

/// How a number of queries search a corpus on a card: a pure function of the shapes and the card. The answer does not
/// depend on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    shape: Shape,
    k: usize,
    /// The most queries.
    batch: usize,
    tile: Tile,
    /// Blocks that share the rows.
    partitions: usize,
    /// Queries of one pair of launches.
    group: usize,
    buffer: Buffer,
    /// Keys that are sorted.
    padded: usize,
}

/// The queries of a block of the scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tile {
    /// Which of the kernels: 1, 4 or 8 queries per warp.
    kernel: usize,
    /// Groups of warps with queries of their own.
    groups: usize,
    /// Blocks that a multiprocessor runs at once, as far as registers allow.
    resident: usize,
}

const QUERIES_PER_WARP: [usize; 3] = [1, 4, 8];

/// In order of their queries. The first fits any card.
const TILES: [Tile; 5] = [
    Tile { kernel: 0, groups: 1, resident: 3 },
    Tile { kernel: 1, groups: 1, resident: 2 },
    Tile { kernel: 2, groups: 1, resident: 2 },
    Tile { kernel: 2, groups: 2, resident: 2 },
    Tile { kernel: 2, groups: 4, resident: 2 },
];

impl Tile {
    const fn queries(self) -> usize {
        QUERIES_PER_WARP[self.kernel] * self.groups
    }

    const fn shared(self, dim: usize) -> usize {
        self.queries() * dim * size_of::<f32>()
    }
}

/// The best keys of one query in one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Buffer {
    /// Keys that the answer may need.
    kept: usize,
    /// Keys that there is room for.
    capacity: usize,
    /// Whether all rows of a block have room.
    holds_all: bool,
}

impl Buffer {
    /// The buffer of a block that scores `rows` rows.
    fn new(rows: usize, k: usize) -> Buffer {
        let kept = k.min(rows).max(1);
        let roomy = kept + (kept / 2).max(SPARE);
        Buffer { kept, capacity: roomy.min(rows.max(1)), holds_all: roomy >= rows }
    }
}

impl Plan {
    /// The plan of up to `batch` queries for their best `k` rows of `corpus` on a card.
    ///
    /// # Errors
    /// [`CudaError::Limit`] for a `k` of 0 or beyond 65,536, or a `batch` beyond u32.
    pub fn new(corpus: &Corpus, k: usize, batch: usize, card: &DeviceInfo) -> Result<Plan, CudaError> {
        Plan::of(corpus.shape, k, batch, card)
    }

    /// Of all tiles, and numbers of partitions that halve, the pair whose blocks are done first.
    fn of(shape: Shape, k: usize, batch: usize, card: &DeviceInfo) -> Result<Plan, CudaError> {
        if !(1..=MAX_K).contains(&k) {
            return Err(CudaError::Limit { what: "k", value: k, limit: MAX_K });
        }
        to_u32("queries", batch)?;
        let available = (card.shared_memory as usize).saturating_sub(FIXED_SHARED);
        let fits = |tile: &&Tile| tile.shared(shape.dim) <= available;
        // One tile that has room for all queries is enough.
        let enough = TILES.iter().filter(|tile| tile.queries() < batch).count() + 1;
        let mut best: Option<(f64, Plan)> = None;
        for tile in TILES.iter().take(enough).filter(fits).chain(&TILES[..1]) {
            let resident = (available / tile.shared(shape.dim)).clamp(1, tile.resident);
            let slots = card.multiprocessors as usize * resident;
            let mut partitions =
                (slots / batch.div_ceil(tile.queries()).max(1)).clamp(1, shape.rows.div_ceil(STEP).max(1));
            loop {
                if let Some(plan) = Plan::with(shape, k, batch, *tile, partitions) {
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
        let limit = MOST_WORKSPACE;
        best.map(|(_, plan)| plan).ok_or(CudaError::Limit { what: "workspace", value: usize::MAX, limit })
    }

    /// With `partitions` blocks per tile, if the workspace has room for a query.
    fn with(shape: Shape, k: usize, batch: usize, tile: Tile, partitions: usize) -> Option<Plan> {
        let steps = shape.rows.div_ceil(STEP).div_ceil(partitions);
        let buffer = Buffer::new((steps * STEP).min(shape.rows), k);
        let padded = k.min(shape.rows).max(1).next_power_of_two();
        let mut plan = Plan { shape, k, batch, tile, partitions, group: 1, buffer, padded };
        let most = (MOST_WORKSPACE / plan.workspace()).min(MOST_TILES * tile.queries());
        plan.group = match most {
            0 => return None,
            most if most >= batch => batch.max(1),
            most if most >= tile.queries() => most - most % tile.queries(),
            most => most,
        };
        Some(plan)
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

    /// Bytes of device memory that [`enqueue`] works in, at most [`MOST_WORKSPACE`].
    pub fn workspace(&self) -> usize {
        let per_query = 1 + self.partitions * self.buffer.capacity + self.padded;
        self.group * per_query * size_of::<u64>()
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

/// Puts a search on the stream: the best `k` rows of `corpus` for each of the queries `[batch.most(), dim]`, whose number
/// is `batch`. What is launched depends on the plan alone. `keys`, `[batch.most(), k]`, gets the hits of each query, best
/// first, as [`Corpus::hits`] reads them; 0 where there are no more rows. A score that is NaN is no hit.
///
/// # Errors
/// [`CudaError::Length`] if the corpus or `batch` is not the plan's, or a slice does not have its shape; what the launches
/// fail with.
pub fn enqueue(
    stream: &Stream,
    plan: &Plan,
    corpus: &Corpus,
    batch: &Rows,
    queries: &Slice<f32>,
    workspace: &Slice<u8>,
    keys: &Slice<u64>,
) -> Result<(), CudaError> {
    let Shape { rows, dim, precision } = plan.shape;
    expect("corpus", corpus.rows.len(), &[rows, dim])?;
    expect(
        "bytes of the corpus",
        corpus.rows.len() * corpus.shape.precision.bytes(),
        &[rows, dim, precision.bytes()],
    )?;
    expect("most queries", batch.most(), &[plan.batch])?;
    expect("queries", queries.len(), &[plan.batch, dim])?;
    expect("workspace", workspace.len(), &[plan.workspace()])?;
    expect("keys", keys.len(), &[plan.batch, plan.k])?;

    let words: Slice<u64> = workspace.cast()?;
    let Buffer { kept, capacity, holds_all } = plan.buffer;
    let bounds = words.part(0..plan.group)?;
    let sorted_at = plan.group * (1 + plan.partitions * capacity);
    let buffers = words.part(plan.group..sorted_at)?;
    let sorted = words.part(sorted_at..words.len())?;
    let kernels = match precision {
        Precision::F32 => &SCAN_F32,
        Precision::F16 => &SCAN_F16,
        Precision::Bf16 => &SCAN_BF16,
    };
    let mut scan = TopkScanArgs {
        rows: corpus.rows.pointer_on(stream)?,
        rank: corpus.order.as_ref().map_or(Ok(Pointer::NULL), |order| order.rank.pointer_on(stream))?,
        queries: queries.pointer_on(stream)?,
        batch: batch.pointer_on(stream)?,
        bounds: bounds.pointer_on(stream)?,
        keys: buffers.pointer_on(stream)?,
        n: to_u32("rows", rows)?,
        dim: to_u32("vector length", dim)?,
        first: 0,
        group: 0,
        groups: to_u32("groups of warps", plan.tile.groups)?,
        kept: to_u32("kept keys", kept)?,
        capacity: to_u32("keys of a buffer", capacity)?,
        limit: if holds_all { u32::MAX } else { to_u32("keys of a buffer", capacity - STEP)? },
    };
    let mut merge = TopkMergeArgs {
        keys: buffers.pointer_on(stream)?,
        sorted: sorted.pointer_on(stream)?,
        out: keys.pointer_on(stream)?,
        batch: batch.pointer_on(stream)?,
        first: 0,
        partitions: to_u32("partitions", plan.partitions)?,
        kept: scan.kept,
        capacity: scan.capacity,
        padded: to_u32("sorted keys", plan.padded)?,
        k: to_u32("k", plan.k)?,
    };
    let shared = to_u32("shared memory", plan.tile.shared(dim))?;
    for first in (0..plan.batch).step_by(plan.group) {
        let group = plan.group.min(plan.batch - first);
        (scan.first, scan.group) = (to_u32("queries", first)?, to_u32("queries", group)?);
        merge.first = scan.first;
        let tiles = to_u32("tiles of queries", group.div_ceil(plan.tile.queries()))?;
        stream.fill(&bounds, 0)?;
        // SAFETY: the pointers are of this stream; the lengths were checked, and the workspace is cut as the plan says.
        unsafe { stream.launch(&kernels[plan.tile.kernel], [merge.partitions, tiles, 1], shared, &scan) }?;
        // SAFETY: the pointers are of this stream; the lengths were checked, and the workspace is cut as the plan says.
        unsafe { stream.launch(&MERGE, [scan.group, 1, 1], 0, &merge) }?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed check ends the test
mod tests {
    use super::*;

    fn card(multiprocessors: u32, shared_memory: u32) -> DeviceInfo {
        let (name, capability, memory) = (String::new(), (8, 0), 80 << 30);
        DeviceInfo { ordinal: 0, name, capability, memory, multiprocessors, shared_memory }
    }

    /// What every plan keeps: the workspace and the launch limits, room for a step in every buffer that is cut, an answer
    /// in the buffers together.
    fn check(shape: Shape, k: usize, batch: usize, card: &DeviceInfo) {
        let what = format!("{shape:?}, k {k}, batch {batch}, {} multiprocessors", card.multiprocessors);
        let plan = Plan::of(shape, k, batch, card).unwrap();
        let Buffer { kept, capacity, holds_all } = plan.buffer;
        let rows = shape.rows.div_ceil(STEP).div_ceil(plan.partitions) * STEP; // of a block
        assert!(plan.workspace() <= MOST_WORKSPACE, "{what}: {} bytes", plan.workspace());
        assert!(plan.tile.shared(shape.dim) + FIXED_SHARED <= card.shared_memory as usize, "{what}");
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
        assert!(plan.padded >= k.min(shape.rows) && plan.padded.is_power_of_two(), "{what}");
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

    /// One query streams the rows through every multiprocessor; a batch that fits a tile reads them once.
    #[test]
    fn plans_fill_the_card() {
        let card = card(132, 227 << 10);
        let shape = Shape::new(10_000_000, 128, Precision::F16).unwrap();
        for k in [1, 100, 1000] {
            let one = Plan::of(shape, k, 1, &card).unwrap();
            assert_eq!((one.tile, one.partitions), (TILES[0], 396), "k {k}");
        }
        let many = Plan::of(shape, 100, 32, &card).unwrap();
        assert_eq!((many.tile, many.group, many.partitions), (TILES[4], 32, 264));
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
            let refused = Plan::of(shape, k, 1, &card(4, 48 << 10)).unwrap_err();
            assert_eq!(refused, CudaError::Limit { what: "k", value: k, limit: 65_536 });
        }
    }

    /// The kernel's key, in the same words.
    fn encode(score: f32, rank: u32) -> u64 {
        let late = u64::from(!rank);
        if score == 0.0 {
            return ZERO_KEYS + (late << 1 | u64::from(score.is_sign_positive()));
        }
        let bits = score.to_bits();
        let code = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
        u64::from(code) << 32 | late
    }

    /// Keys descend with the score, then ascend with the rank, whatever the sign of a zero; and nothing is lost.
    #[test]
    fn keys_keep_order_and_bits() {
        let tiny = f32::from_bits(1);
        let scores =
            [f32::NEG_INFINITY, f32::MIN, -1.0, -tiny, -0.0, 0.0, tiny, 1.0, f32::MAX, f32::INFINITY];
        let ranks = [0, 1, 0x7FFF_FFFF, 0x8000_0000, u32::MAX - 2];
        let all = || scores.iter().flat_map(|&score| ranks.map(|rank| (score, rank)));
        for (score, rank) in all() {
            let (found, at) = decode(encode(score, rank));
            assert_eq!((found.to_bits(), at), (score.to_bits(), rank), "{score} at {rank}");
            for (other, other_rank) in all().filter(|&(_, other_rank)| other_rank != rank) {
                let better = score > other || (score == other && rank < other_rank);
                assert_eq!(
                    encode(score, rank) > encode(other, other_rank),
                    better,
                    "{score} at {rank}, {other} at {other_rank}"
                );
            }
        }
    }
}
