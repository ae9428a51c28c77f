//! The defined normalisation of rows; `kernels/normalize.cu`.

use super::memory::Pointer;
use super::{Arguments, CudaError, Kernel, Rows, Slice, Stream, expect, to_u32};

/// The struct of `normalize_f32`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct NormalizeArgs {
    x: Pointer,
    fault: Pointer,
    rows: Pointer,
    dim: u32,
    stage: u32,
}
const _: () = assert!(size_of::<NormalizeArgs>() == 32);

// SAFETY: `repr(C)`, with the fields of the struct in `kernels/normalize.cu`.
unsafe impl Arguments for NormalizeArgs {}

pub(crate) const F32: Kernel<NormalizeArgs> = Kernel::new("normalize", "normalize_f32", 256);

/// Rows of a block, one per warp.
const ROWS: usize = 8;

/// Blocks at most: enough to fill any card several times over; a warp takes further rows after its first.
const MOST_BLOCKS: usize = 1 << 16;

/// The number of blocks for `rows` rows.
fn blocks(rows: usize) -> usize {
    rows.div_ceil(ROWS).min(MOST_BLOCKS)
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
    let dim = to_u32("row length", dim)?;
    let (x, fault, count) = (x.pointer_on(stream)?, fault.pointer_on(stream)?, rows.pointer_on(stream)?);
    let arguments = NormalizeArgs { x, fault, rows: count, dim, stage: stage.into() };
    // SAFETY: the pointers are of this stream; `expect` checked `x` and the fault record.
    unsafe { stream.launch(&F32, [to_u32("blocks", blocks(rows.most()))?, 1, 1], 0, &arguments) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_the_rows() {
        for (rows, expected) in [(0, 0), (1, 1), (8, 1), (9, 2), (65_536, 8_192), (1 << 31, 1 << 16)] {
            assert_eq!(blocks(rows), expected, "{rows} rows");
        }
    }
}
