//! The defined normalisation of rows; `kernels/normalize.cu`.

use super::memory::Pointer;
use super::{Arguments, CudaError, Kernel, Rows, Slice, Stream, expect, to_u32};

/// The struct of `normalize_f32`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct NormalizeArgs {
    x: Pointer,
    fault: Pointer,
    count: Pointer,
    most: u32,
    dim: u32,
    stage: u32,
    unused: u32,
}
const _: () = assert!(size_of::<NormalizeArgs>() == 40);

// SAFETY: `repr(C)`, with the fields of the struct in `kernels/normalize.cu`.
unsafe impl Arguments for NormalizeArgs {}

pub(crate) const F32: Kernel<NormalizeArgs> = Kernel::new("normalize", "normalize_f32", 256);

/// Rows of a block, one per warp.
const ROWS: usize = 8;

/// Blocks for each multiprocessor at most: as many threads as it can have; a warp takes further rows after its first.
const BLOCKS: usize = 8;

/// The number of blocks for `rows` rows on a card with so many multiprocessors.
fn blocks(rows: usize, multiprocessors: u32) -> usize {
    rows.div_ceil(ROWS).min(BLOCKS * multiprocessors.max(1) as usize)
}

/// Normalises the rows of `x`, `[rows.most(), dim]`, in place, as [`crate::cpu::normalize`] does, bit for bit. A row that is all
/// zeros or not finite stays as it is and is reported as stage `stage` in `fault`.
///
/// # Errors
/// [`CudaError::Length`] if `x` is not of that shape, [`CudaError::Limit`] for a `dim` of 0 or beyond u32; what the
/// launch fails with.
pub fn enqueue(
    stream: &Stream,
    rows: &Rows,
    dim: usize,
    x: &Slice<f32>,
    stage: u16,
    fault: &Slice<u64>,
) -> Result<(), CudaError> {
    expect("rows to normalise", x.len(), &[rows.most(), dim])?;
    expect("fault record", fault.len(), &[1])?;
    if dim == 0 {
        return Err(CudaError::Limit { what: "row length", value: 0, limit: u32::MAX as usize });
    }
    let arguments = NormalizeArgs {
        x: x.pointer_on(stream)?,
        fault: fault.pointer_on(stream)?,
        count: rows.pointer_on(stream)?,
        most: to_u32("rows", rows.most())?,
        dim: to_u32("row length", dim)?,
        stage: stage.into(),
        unused: 0,
    };
    let blocks = blocks(rows.most(), stream.device().info().multiprocessors);
    let blocks = to_u32("blocks", blocks)?;
    // SAFETY: the pointers are of this stream; `expect` checked `x` and the fault record.
    unsafe { stream.launch(&F32, [blocks, 1, 1], 0, &arguments) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_the_rows() {
        for (rows, multiprocessors, expected) in
            [(0, 132, 0), (1, 132, 1), (8, 1, 1), (9, 1, 2), (65_536, 132, 1056), (1 << 31, 1, 8), (1, 0, 1)]
        {
            assert_eq!(blocks(rows, multiprocessors), expected, "{rows} rows, {multiprocessors}");
        }
        assert!(blocks(usize::MAX, u32::MAX) < usize::MAX);
    }
}
