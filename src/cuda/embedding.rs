//! Embedding lookups: the row of an id, and the pooled rows of a bag of ids; `kernels/embedding.cu`.

use super::memory::Pointer;
use super::{Arguments, CudaError, Kernel, Precision, Rows, Slice, Stream, Tensor, expect, to_u32};
pub use crate::cpu::embedding::{Pooling, UnknownId};

/// One table's part of the work.
#[derive(Debug, Clone)]
pub struct Lookup {
    /// `[table_rows, width]`, as the checkpoint stores it.
    pub table: Tensor,
    /// Number of rows of the table.
    pub table_rows: usize,
    /// Length of a row.
    pub width: usize,
    /// How many entries the batch has.
    pub items: Rows,
    /// One id per entry, `[items.most()]`; or the ids of all bags, with room for as many as there may be.
    pub ids: Slice<i64>,
    /// How the ids are put into bags, if an entry has more than one.
    pub bags: Option<Bags>,
    /// What happens to an id outside the table.
    pub unknown: UnknownId,
    /// `[items.most(), width]`; no other lookup reads or writes it.
    pub output: Tensor,
    /// What this lookup is called in the fault record.
    pub stage: u16,
}

/// One bag of ids per entry, under the EmbeddingBag convention with a final offset.
#[derive(Debug, Clone)]
pub struct Bags {
    /// `[items.most() + 1]`: bag `b` is `ids[offsets[b]..offsets[b + 1]]`. They must ascend: whoever writes them checks
    /// that, on the device what points behind the ids is cut off and a bag that ends before it starts is empty.
    pub offsets: Slice<u64>,
    /// One weight per id, for sums only. Recorded work either has weights or not; with weights of 1 it gives what it
    /// would give without, bit for bit, so a tower that may see weights records them.
    pub weights: Option<Slice<f32>>,
    /// How rows become one.
    pub pooling: Pooling,
    /// The id that does not count.
    pub padding_id: Option<i64>,
}

/// Lookups of one launch.
const LOOKUPS: usize = 16;

/// Threads of a block that gathers.
const GATHER_THREADS: usize = 256;

/// Vectors that a thread gathers at a time.
const GATHER_ROUNDS: usize = 4;

/// Threads of a block that pools.
const POOL_THREADS: usize = 128;

/// Blocks of a lookup for each multiprocessor at most: several times what it can have at once, so that bags of uneven
/// lengths even out; a thread takes further vectors after its first.
const BLOCKS: usize = 32;

/// Blocks that each multiprocessor gets before a thread gathers several vectors at a time.
const SPREAD: usize = 4;

/// The longest row: column arithmetic is 32 bits wide.
const MOST_WIDTH: usize = 1 << 31;

/// Bytes of a vector.
const VECTOR: usize = 16;

/// `unknown_row` where unknown ids are refused.
const REFUSED: u64 = u64::MAX;

/// A lookup as the kernels take it.
#[repr(C)]
#[derive(Clone, Copy)]
struct LookupArgs {
    table: Pointer,
    output: Pointer,
    count: Pointer,
    ids: Pointer,
    offsets: Pointer,
    weights: Pointer,
    ids_len: u64,
    table_rows: u64,
    unknown_row: u64,
    padding_id: i64,
    width: u32,
    most: u32,
    first_block: u32,
    blocks: u32,
    stage: u16,
    table_type: u8,
    output_type: u8,
    pooling: u8,
    padded: u8,
    vector: u8,
    unused: u8,
}
const _: () = assert!(size_of::<LookupArgs>() == 104);

impl LookupArgs {
    /// What stands in the places of a launch that are not used.
    const NONE: LookupArgs = LookupArgs {
        table: Pointer::NULL,
        output: Pointer::NULL,
        count: Pointer::NULL,
        ids: Pointer::NULL,
        offsets: Pointer::NULL,
        weights: Pointer::NULL,
        ids_len: 0,
        table_rows: 0,
        unknown_row: REFUSED,
        padding_id: 0,
        width: 1,
        most: 0,
        first_block: 0,
        blocks: 0,
        stage: 0,
        table_type: 0,
        output_type: 0,
        pooling: 0,
        padded: 0,
        vector: 0,
        unused: 0,
    };
}

/// The struct of `embedding_gather` and `embedding_bags`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct EmbeddingArgs {
    lookups: [LookupArgs; LOOKUPS],
    fault: Pointer,
    lookup_count: u32,
    unused: u32,
}
const _: () = assert!(size_of::<EmbeddingArgs>() == 1680);

// SAFETY: `repr(C)`, with the fields of the struct in `kernels/embedding.cu`.
unsafe impl Arguments for EmbeddingArgs {}

/// Lookups of one id per entry, and of bags.
pub(crate) const KERNELS: [Kernel<EmbeddingArgs>; 2] =
    [Kernel::new("embedding", "embedding_gather", 256), Kernel::new("embedding", "embedding_bags", 128)];

/// How a lookup is spread over threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    /// Whether threads read 16 bytes of a row at a time, or else one element.
    vector: bool,
    blocks: usize,
}

/// The plan of a lookup of `most` entries in rows of `width` on a card with so many multiprocessors; `aligned` says whether
/// table and output start at multiples of 16 bytes.
fn plan(
    most: usize,
    width: usize,
    precision: Precision,
    aligned: bool,
    bags: bool,
    multiprocessors: u32,
) -> Plan {
    let multiprocessors = multiprocessors.max(1) as usize;
    let bytes = width * precision.bytes();
    let vector = aligned && bytes.is_multiple_of(VECTOR);
    let vectors = most.saturating_mul(if vector { bytes / VECTOR } else { width });
    let blocks = if bags {
        vectors.div_ceil(POOL_THREADS)
    } else {
        let spread = vectors.div_ceil(GATHER_THREADS).min(SPREAD * multiprocessors);
        vectors.div_ceil(GATHER_THREADS * GATHER_ROUNDS).max(spread)
    };
    Plan { vector, blocks: blocks.min(BLOCKS * multiprocessors) }
}

/// Puts the lookups on the stream, up to 16 in a launch: those of one id per entry, then those of bags. Each does what
/// [`crate::cpu::embedding`] does: an f32 output has its bits, another is that rounded once.
///
/// The least entry with an id that is refused is reported, as that lookup's stage, in `fault` (one number, all ones
/// before); its output row is written, with unspecified values. [`first_unknown`] tells which id of it was meant.
///
/// # Errors
/// [`CudaError::Length`] if a slice does not fit the shape it is said to have, or for weights with a mean or a maximum;
/// [`CudaError::Limit`] for a width of 0 or beyond 2^31, and for a default row that the table does not have; what the
/// launch fails with. Nothing is launched if a lookup is refused.
pub fn enqueue(stream: &Stream, lookups: &[Lookup], fault: &Slice<u64>) -> Result<(), CudaError> {
    expect("fault record", fault.len(), &[1])?;
    let multiprocessors = stream.device().info().multiprocessors;
    let lookups = lookups.iter().map(|lookup| arguments(stream, lookup, multiprocessors));
    let lookups = lookups.collect::<Result<Vec<LookupArgs>, CudaError>>()?;
    let with_work = lookups.into_iter().filter(|lookup| lookup.blocks > 0);
    let (gathers, bags): (Vec<LookupArgs>, Vec<LookupArgs>) =
        with_work.partition(|lookup| lookup.offsets == Pointer::NULL);
    for (kernel, of_kind) in KERNELS.iter().zip([gathers, bags]) {
        for group in of_kind.chunks(LOOKUPS) {
            let mut lookups = [LookupArgs::NONE; LOOKUPS];
            let mut blocks = 0u32;
            for (to, &lookup) in lookups.iter_mut().zip(group) {
                *to = LookupArgs { first_block: blocks, ..lookup };
                blocks = blocks.saturating_add(lookup.blocks);
            }
            let lookup_count = to_u32("lookups", group.len())?;
            let arguments =
                EmbeddingArgs { lookups, fault: fault.pointer_on(stream)?, lookup_count, unused: 0 };
            // SAFETY: the pointers are of this stream; the lookups were checked, each slice against its shape.
            unsafe { stream.launch(kernel, [blocks, 1, 1], 0, &arguments) }?;
        }
    }
    Ok(())
}

/// Checks a lookup and describes it; its first block is not known yet.
fn arguments(stream: &Stream, lookup: &Lookup, multiprocessors: u32) -> Result<LookupArgs, CudaError> {
    let Lookup { table, table_rows, width, items, ids, bags, unknown, output, stage } = lookup;
    if !(1..=MOST_WIDTH).contains(width) {
        return Err(CudaError::Limit { what: "embedding width", value: *width, limit: MOST_WIDTH });
    }
    expect("embedding table", table.len(), &[*table_rows, *width])?;
    expect("embedding output", output.len(), &[items.most(), *width])?;
    let unknown_row = match *unknown {
        UnknownId::Refuse => REFUSED,
        UnknownId::Row(row) if row < *table_rows => row as u64,
        UnknownId::Row(row) => {
            let limit = table_rows.saturating_sub(1);
            return Err(CudaError::Limit { what: "default row", value: row, limit });
        }
    };
    let (mut offsets, mut weights, mut pooling, mut padding_id) = (None, None, Pooling::Sum, None);
    match bags {
        None => expect("ids", ids.len(), &[items.most()])?,
        Some(bags) => {
            expect("bag offsets", bags.offsets.len(), &[items.most().saturating_add(1)])?;
            if let Some(weights) = &bags.weights {
                let of_sums = if bags.pooling == Pooling::Sum { ids.len() } else { 0 };
                expect("bag weights, which only sums take,", weights.len(), &[of_sums])?;
            }
            offsets = Some(bags.offsets.pointer_on(stream)?);
            weights = bags.weights.as_ref().map(|weights| weights.pointer_on(stream)).transpose()?;
            (pooling, padding_id) = (bags.pooling, bags.padding_id);
        }
    }
    let aligned = [table, output].iter().all(|tensor| tensor.is_aligned(VECTOR));
    let plan = plan(items.most(), *width, table.precision(), aligned, bags.is_some(), multiprocessors);
    Ok(LookupArgs {
        table: table.pointer_on(stream)?,
        output: output.pointer_on(stream)?,
        count: items.pointer_on(stream)?,
        ids: ids.pointer_on(stream)?,
        offsets: offsets.unwrap_or(Pointer::NULL),
        weights: weights.unwrap_or(Pointer::NULL),
        ids_len: ids.len() as u64,
        table_rows: *table_rows as u64,
        unknown_row,
        padding_id: padding_id.unwrap_or(0),
        width: to_u32("embedding width", *width)?,
        most: to_u32("rows", items.most())?,
        first_block: 0,
        blocks: to_u32("blocks", plan.blocks)?,
        stage: *stage,
        table_type: code(table.precision()),
        output_type: code(output.precision()),
        pooling: match pooling {
            Pooling::Sum => 0,
            Pooling::Mean => 1,
            Pooling::Max => 2,
        },
        padded: padding_id.is_some().into(),
        vector: plan.vector.into(),
        unused: 0,
    })
}

/// The number by which the kernels know a precision.
#[allow(clippy::cast_possible_truncation)] // below 3
fn code(precision: Precision) -> u8 {
    precision.index() as u8
}

/// The first of an entry's ids that is neither padding nor a row of the table, and its position among them. For the
/// entry of the fault record, whose ids the caller still has.
pub fn first_unknown(ids: &[i64], table_rows: usize, padding_id: Option<i64>) -> Option<(usize, i64)> {
    let known = |id: i64| padding_id == Some(id) || usize::try_from(id).is_ok_and(|row| row < table_rows);
    ids.iter().copied().enumerate().find(|&(_, id)| !known(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every vector of every row has a thread, in one turn where blocks are not capped, and no block is without any.
    #[test]
    fn plans_cover_the_rows() {
        for precision in Precision::ALL {
            for width in (1..=33).chain([64, 100, 128, 257, 768, 1024, MOST_WIDTH]) {
                for most in [0, 1, 2, 31, 1000, 65_535, 65_536, u32::MAX as usize] {
                    for (bags, threads, rounds) in
                        [(false, GATHER_THREADS, GATHER_ROUNDS), (true, POOL_THREADS, 1)]
                    {
                        for multiprocessors in [1, 4, 132] {
                            let plan = |aligned| plan(most, width, precision, aligned, bags, multiprocessors);
                            let Plan { vector, blocks } = plan(true);
                            let vectors = if vector { width * precision.bytes() / 16 } else { width };
                            assert_eq!(vector, width * precision.bytes() % 16 == 0, "{precision:?}, {width}");
                            assert!(!plan(false).vector);
                            let (work, most_blocks) = (most * vectors, BLOCKS * multiprocessors as usize);
                            let reach = blocks * threads * rounds;
                            assert!(blocks == most_blocks || reach >= work, "{most} rows of {width}");
                            assert!(blocks <= most_blocks && blocks <= work.div_ceil(threads));
                        }
                    }
                }
            }
        }
    }

    /// A small gather is spread over the card; a larger one has several loads of each thread in flight; a vast one turns.
    #[test]
    fn gathers_fill_the_card_first() {
        let blocks = |rows| plan(rows, 4, Precision::F32, true, false, 10).blocks;
        for (rows, expected) in [
            (1, 1),
            (256, 1),
            (257, 2),
            (40 * 256, 40),
            (40 * 256 + 1, 40),
            (160 * 256, 40),
            (160 * 256 + 1, 41),
            (1280 * 256, 320),
            (1 << 31, 320),
        ] {
            assert_eq!(blocks(rows), expected, "{rows} rows");
        }
    }

    #[test]
    fn unknown_ids_are_found() {
        assert_eq!(first_unknown(&[0, 1, 2], 3, None), None);
        assert_eq!(first_unknown(&[0, 3, -1], 3, None), Some((1, 3)));
        assert_eq!(first_unknown(&[0, 3, -1], 3, Some(3)), Some((2, -1)));
        assert_eq!(first_unknown(&[i64::MIN], usize::MAX, None), Some((0, i64::MIN)));
        assert_eq!(first_unknown(&[], 0, None), None);
    }
}
