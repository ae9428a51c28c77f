//! Pixels to the values that a network reads, in its precision; `kernels/pixels.cu`.

use super::memory::Pointer;
use super::{Arguments, CudaError, Kernel, Rows, Slice, Stream, Tensor, expect, to_u32};
use crate::input::PixelScaling;
use crate::model::Pair;

/// The struct of the kernels.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct PixelsArgs {
    input: Pointer,
    table: Pointer,
    output: Pointer,
    images: Pointer,
    values: u64,
}
const _: () = assert!(size_of::<PixelsArgs>() == 40);

// SAFETY: `repr(C)`, with the fields of the struct in `kernels/pixels.cu`.
unsafe impl Arguments for PixelsArgs {}

/// By precision: f32, f16, bf16.
pub(crate) const NORMALIZE: [Kernel<PixelsArgs>; 3] = [
    Kernel::new("pixels", "pixels_normalize_f32", 256),
    Kernel::new("pixels", "pixels_normalize_f16", 256),
    Kernel::new("pixels", "pixels_normalize_bf16", 256),
];
/// As [`NORMALIZE`].
pub(crate) const CAST: [Kernel<PixelsArgs>; 3] = [
    Kernel::new("pixels", "pixels_cast_f32", 256),
    Kernel::new("pixels", "pixels_cast_f16", 256),
    Kernel::new("pixels", "pixels_cast_bf16", 256),
];

/// Blocks of [`NORMALIZE`] that a multiprocessor runs at a time: more would only load the table again.
const RESIDENT: usize = 8;

/// `(value / 255 - mean) / std` per channel and 8-bit value, on the device.
#[derive(Debug)]
pub struct PixelTable(Slice<f32>);

impl PixelTable {
    /// Uploads the table.
    ///
    /// # Errors
    /// As [`Stream::upload`].
    pub fn new(stream: &Stream, scaling: &PixelScaling) -> Result<PixelTable, CudaError> {
        Ok(PixelTable(stream.upload("pixel table", scaling.table().as_flattened())?))
    }

    /// Looks up `pixels: [images.most(), height, width, 3]` and rounds to the precision of `output`, of the same shape; both
    /// at multiples of 16 bytes.
    ///
    /// # Errors
    /// [`CudaError::Length`], [`CudaError::Alignment`]; what the launch fails with.
    pub fn enqueue(
        &self,
        stream: &Stream,
        images: &Rows,
        size: Pair,
        pixels: &Slice<u8>,
        output: &Tensor,
    ) -> Result<(), CudaError> {
        let shape = [images.most(), size.height, size.width, 3];
        expect("pixels", pixels.len(), &shape)?;
        output.expect("pixel values", output.precision(), &shape)?;
        let arguments = PixelsArgs {
            input: aligned(pixels.pointer_on(stream)?)?,
            table: self.0.pointer_on(stream)?,
            output: output.pointer_on(stream)?,
            images: images.pointer_on(stream)?,
            values: (output.len() / images.most().max(1)) as u64,
        };
        let most = stream.device().info().multiprocessors as usize * RESIDENT;
        launch(stream, &NORMALIZE[output.precision().index()], output.len(), most, &arguments)
    }
}

/// Rounds `values: [images.most(), per_image]` to the precision of `output`, of the same shape; both at multiples of 16
/// bytes.
///
/// # Errors
/// [`CudaError::Length`], [`CudaError::Alignment`]; what the launch fails with.
pub fn enqueue_cast(
    stream: &Stream,
    images: &Rows,
    per_image: usize,
    values: &Slice<f32>,
    output: &Tensor,
) -> Result<(), CudaError> {
    expect("pixels", values.len(), &[images.most(), per_image])?;
    output.expect("pixel values", output.precision(), &[images.most(), per_image])?;
    let arguments = PixelsArgs {
        input: aligned(values.pointer_on(stream)?)?,
        table: Pointer::NULL,
        output: output.pointer_on(stream)?,
        images: images.pointer_on(stream)?,
        values: per_image as u64,
    };
    launch(stream, &CAST[output.precision().index()], output.len(), usize::MAX, &arguments)
}

fn aligned(input: Pointer) -> Result<Pointer, CudaError> {
    if input.is_aligned(16) { Ok(input) } else { Err(CudaError::Alignment { what: "pixels", bytes: 16 }) }
}

fn launch(
    stream: &Stream,
    kernel: &Kernel<PixelsArgs>,
    values: usize,
    most_blocks: usize,
    arguments: &PixelsArgs,
) -> Result<(), CudaError> {
    let blocks = to_u32("blocks", super::elementwise::blocks(values.div_ceil(8)).min(most_blocks))?;
    // SAFETY: the pointers are of this stream; both callers checked input and output.
    unsafe { stream.launch(kernel, [blocks, 1, 1], 0, arguments) }
}
