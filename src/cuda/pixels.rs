//! Pixels to the values that a network reads, in its precision; `kernels/pixels.cu`.

use super::memory::Pointer;
use super::{Arguments, CudaError, Kernel, Rows, Slice, Stream, Tensor, elementwise, expect, to_u32};
use crate::input::PixelScaling;
use crate::model::MapShape;

/// The struct of the kernels.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct PixelsArgs {
    input: Pointer,
    table: Pointer,
    output: Pointer,
    images: Pointer,
    most: u32,
    pixels: u32,
    channels: u32,
    stored: u32,
}
const _: () = assert!(size_of::<PixelsArgs>() == 48);

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

    /// Looks up `pixels: [images.most(), height, width, 3]` and rounds to the precision of
    /// `output: [images.most(), height, width, stored.channels]`, at a multiple of 16 bytes; channels behind the third are
    /// zeros.
    ///
    /// # Errors
    /// [`CudaError::Shape`] for a `stored` of fewer than 3 channels; [`CudaError::Length`], [`CudaError::Alignment`];
    /// [`CudaError::Limit`] for images of 2^32 pixels; what the launch fails with.
    pub fn enqueue(
        &self,
        stream: &Stream,
        images: &Rows,
        stored: MapShape,
        pixels: &Slice<u8>,
        output: &Tensor,
    ) -> Result<(), CudaError> {
        expect("pixels", pixels.len(), &[images.most(), stored.height, stored.width, 3])?;
        launch(
            stream,
            &NORMALIZE,
            images,
            3,
            stored,
            [pixels.pointer_on(stream)?, self.0.pointer_on(stream)?],
            output,
        )
    }
}

/// Rounds `values: [images.most(), height, width, channels]` to the precision of
/// `output: [images.most(), height, width, stored.channels]`, at a multiple of 16 bytes; channels that only `stored` has are
/// zeros.
///
/// # Errors
/// [`CudaError::Shape`] for a `stored` of fewer channels; [`CudaError::Length`], [`CudaError::Alignment`];
/// [`CudaError::Limit`] for images of 2^32 pixels; what the launch fails with.
pub fn enqueue_cast(
    stream: &Stream,
    images: &Rows,
    channels: usize,
    stored: MapShape,
    values: &Slice<f32>,
    output: &Tensor,
) -> Result<(), CudaError> {
    expect("pixels", values.len(), &[images.most(), stored.height, stored.width, channels])?;
    launch(stream, &CAST, images, channels, stored, [values.pointer_on(stream)?, Pointer::NULL], output)
}

fn launch(
    stream: &Stream,
    kernels: &[Kernel<PixelsArgs>; 3],
    images: &Rows,
    channels: usize,
    stored: MapShape,
    [input, table]: [Pointer; 2],
    output: &Tensor,
) -> Result<(), CudaError> {
    let MapShape { height, width, channels: of } = stored;
    output.expect("pixel values", output.precision(), &[images.most(), height, width, of])?;
    if channels > of {
        return Err(CudaError::shape(format_args!("{channels} channels do not fit {of}")));
    }
    let arguments = PixelsArgs {
        input,
        table,
        output: output.pointer_on(stream)?,
        images: images.pointer_on(stream)?,
        most: to_u32("images", images.most())?,
        pixels: to_u32("pixels of an image", height.saturating_mul(width))?,
        channels: to_u32("channels of an image", channels)?,
        stored: to_u32("channels of an image", of)?,
    };
    let blocks = elementwise::blocks(output.len().div_ceil(8), stream.device().info().multiprocessors);
    // SAFETY: the pointers are of this stream; both callers checked input and output.
    unsafe { stream.launch(&kernels[output.precision().index()], [blocks, 1, 1], 0, &arguments) }
}
