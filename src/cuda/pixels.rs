//! Pixels to the values that a network reads, in its precision; `kernels/pixels.cu`.

use super::memory::Pointer;
use super::{Arguments, CudaError, Kernel, Rows, Slice, Stream, Tensor, elementwise, expect, to_u32};
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
    values: u32,
    most: u32,
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
        let values = size.height.saturating_mul(size.width).saturating_mul(3);
        launch(stream, &NORMALIZE, images, values, pixels.pointer(), self.0.pointer(), output)
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
    launch(stream, &CAST, images, per_image, values.pointer(), Pointer::NULL, output)
}

fn launch(
    stream: &Stream,
    kernels: &[Kernel<PixelsArgs>; 3],
    images: &Rows,
    values: usize,
    input: Pointer,
    table: Pointer,
    output: &Tensor,
) -> Result<(), CudaError> {
    if !input.is_aligned(16) {
        return Err(CudaError::Alignment { what: "pixels", bytes: 16 });
    }
    let arguments = PixelsArgs {
        input,
        table,
        output: output.pointer(),
        images: images.pointer(),
        values: to_u32("values of an image", values)?,
        most: to_u32("images", images.most())?,
    };
    let blocks = elementwise::blocks(output.len().div_ceil(8), stream.device().info().multiprocessors);
    stream.launch(&kernels[output.precision().index()], [blocks, 1, 1], 0, &arguments)
}
