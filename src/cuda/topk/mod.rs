//! Exact top-k over rows on the device; `kernels/topk.cu`.
//!
//! [`Corpus`] is the rows, [`Plan`] how a search is cut into launches, [`enqueue`] puts it on a stream. The launches of a
//! search: a fill of the bounds, then for each group of queries a scan, and one or two merges.
//!
//! Rows are counted in 32 bits, since a key has room for no more: a corpus has up to 2^32 - 2 of them. A row takes 16 bytes
//! or more, so that so many need 64 GiB, and rows of 256 f16 values 2 TiB. Elements are counted in 64 bits.

mod corpus;
mod plan;

pub use corpus::Corpus;
pub use plan::{MOST_WORKSPACE, Plan};

use corpus::Shape;
use plan::{Buffer, STEP};

use super::memory::Pointer;
use super::{Arguments, CudaError, Kernel, Precision, Rows, Slice, Stream, expect, to_u32};

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
    best: Pointer,
    out: Pointer,
    batch: Pointer,
    first: u32,
    runs: u32,
    share: u32,
    kept: u32,
    stride: u32,
    length: u32,
    k: u32,
}
const _: () = assert!(size_of::<TopkMergeArgs>() == 64);

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

/// Puts a search on the stream: the best `k` rows of `corpus` for each of the queries `[batch.most(), dim]`, whose number
/// is `batch`. What is launched depends on the plan alone. `keys`, `[batch.most(), k]`, gets the hits of each query, best
/// first, as [`Corpus::hits`] reads them; 0 where there are no more rows. A score that is NaN is no hit.
///
/// # Errors
/// [`CudaError::Length`] or [`CudaError::Precision`] if the corpus or `batch` is not the plan's, [`CudaError::Length`] if a
/// slice does not have its shape; what the launches fail with.
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
    expect("corpus", corpus.len(), &[rows])?;
    expect("row of the corpus", corpus.dim(), &[dim])?;
    if corpus.shape.precision != precision {
        let found = corpus.shape.precision;
        return Err(CudaError::Precision { what: "corpus", found, expected: precision });
    }
    expect("most queries", batch.most(), &[plan.batch])?;
    expect("queries", queries.len(), &[plan.batch, dim])?;
    expect("workspace", workspace.len(), &[plan.workspace()])?;
    expect("keys", keys.len(), &[plan.batch, plan.k])?;

    let Plan { partitions, group, merge, .. } = *plan;
    let Buffer { kept, capacity, holds_all } = plan.buffer;
    let words: Slice<u64> = workspace.cast()?;
    let mut from = 0;
    let mut next = |length: usize| {
        from += length;
        words.part(from - length..from)
    };
    let bounds = next(plan.batch)?;
    let buffers = next(group * partitions * capacity)?;
    let sorted = next(group * merge.sorted)?;
    let parts = if merge.parts > 1 { Some(next(group * merge.parts * merge.left)?) } else { None };

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
    let mut last = TopkMergeArgs {
        keys: buffers.pointer_on(stream)?,
        best: sorted.pointer_on(stream)?,
        out: keys.pointer_on(stream)?,
        batch: batch.pointer_on(stream)?,
        first: 0,
        runs: to_u32("partitions", partitions)?,
        share: to_u32("partitions", partitions)?,
        kept: scan.kept,
        stride: scan.capacity,
        length: to_u32("sorted keys", merge.sorted)?,
        k: to_u32("k", plan.k)?,
    };
    let grid = [last.runs, to_u32("parts", merge.parts)?];
    let mut part = None;
    if let Some(parts) = parts {
        let (best, length) = (parts.pointer_on(stream)?, to_u32("keys of a part", merge.left)?);
        let share = to_u32("partitions of a part", merge.share)?;
        part = Some(TopkMergeArgs { best, out: Pointer::NULL, share, length, ..last });
        last =
            TopkMergeArgs { keys: best, runs: grid[1], share: grid[1], kept: length, stride: length, ..last };
    }
    let shared = to_u32("shared memory", plan.tile.shared(dim))?;
    stream.fill(&bounds, 0)?;
    for first in (0..plan.batch).step_by(group) {
        let queries = group.min(plan.batch - first);
        (scan.first, scan.group) = (to_u32("queries", first)?, to_u32("queries", queries)?);
        let tiles = to_u32("tiles of queries", queries.div_ceil(plan.tile.queries()))?;
        // SAFETY: the pointers are of this stream; the lengths were checked, and the workspace is cut as the plan says.
        unsafe { stream.launch(&kernels[plan.tile.kernel], [grid[0], tiles, 1], shared, &scan) }?;
        if let Some(part) = &mut part {
            part.first = scan.first;
            // SAFETY: the pointers are of this stream; the lengths were checked, and the workspace is cut as the plan says.
            unsafe { stream.launch(&MERGE, [scan.group, grid[1], 1], 0, part) }?;
        }
        last.first = scan.first;
        // SAFETY: the pointers are of this stream; the lengths were checked, and the workspace is cut as the plan says.
        unsafe { stream.launch(&MERGE, [scan.group, 1, 1], 0, &last) }?;
    }
    Ok(())
}
