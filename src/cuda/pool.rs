//! Pooling: maximum and mean per window, mean over the map; `kernels/pool.cu`.

use super::conv::{MOST_PADDED, check_padded};
use super::elementwise::{self, grid};
use super::memory::Pointer;
use super::{Arguments, CudaError, Kernel, Rows, Stream, Tensor, to_u32};
use crate::cpu::pool::{PoolKind, PoolShape};
use crate::model::{MapShape, Pair};

/// The struct of all pooling kernels.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct PoolArgs {
    input: Pointer,
    output: Pointer,
    images: Pointer,
    most: u32,
    height: u32,
    width: u32,
    channels: u32,
    out_height: u32,
    out_width: u32,
    kernel_height: u32,
    kernel_width: u32,
    stride_height: u32,
    stride_width: u32,
    padding_height: u32,
    padding_width: u32,
    count_include_pad: u32,
    zero: u32,
}
const _: () = assert!(size_of::<PoolArgs>() == 80);

// SAFETY: `repr(C)`, with the fields of the struct in `kernels/pool.cu`.
unsafe impl Arguments for PoolArgs {}

/// By precision: f32, f16, bf16.
pub(crate) const MAX: [Kernel<PoolArgs>; 3] = [
    Kernel::new("pool", "pool_max_f32", 256),
    Kernel::new("pool", "pool_max_f16", 256),
    Kernel::new("pool", "pool_max_bf16", 256),
];
/// As [`MAX`].
pub(crate) const AVERAGE: [Kernel<PoolArgs>; 3] = [
    Kernel::new("pool", "pool_average_f32", 256),
    Kernel::new("pool", "pool_average_f16", 256),
    Kernel::new("pool", "pool_average_bf16", 256),
];
/// As [`MAX`].
pub(crate) const GLOBAL_AVERAGE: [Kernel<PoolArgs>; 3] = [
    Kernel::new("pool", "pool_global_average_f32", 256),
    Kernel::new("pool", "pool_global_average_f16", 256),
    Kernel::new("pool", "pool_global_average_bf16", 256),
];

/// Channels of a block of the global mean.
const GLOBAL_CHANNELS: usize = 32;

/// Pools `input: [images.most(), height, width, channels]` into
/// `output: [images.most(), out height, out width, channels]`, both of one precision at multiples of 16 bytes.
///
/// # Errors
/// [`CudaError::Shape`] in the words of [`PoolShape::output`]; [`CudaError::Length`], [`CudaError::Precision`],
/// [`CudaError::Alignment`]; [`CudaError::Limit`] for a padded map of more than 2^28 values; what the launch fails with.
pub fn enqueue(
    stream: &Stream,
    images: &Rows,
    kind: PoolKind,
    shape: &PoolShape,
    map: MapShape,
    input: &Tensor,
    output: &Tensor,
) -> Result<(), CudaError> {
    let out = shape.output(map.height, map.width).map_err(CudaError::shape)?;
    let (kernels, count_include_pad) = match kind {
        PoolKind::Max => (&MAX, false),
        PoolKind::Average { count_include_pad } => (&AVERAGE, count_include_pad),
    };
    let arguments = arguments(stream, images, shape, map, out, count_include_pad, [input, output])?;
    let threads = output.len() / if map.channels.is_multiple_of(8) { 8 } else { 1 };
    let blocks = elementwise::blocks(threads, stream.device().info().multiprocessors);
    // SAFETY: the pointers are of this stream; `arguments` checked input and output.
    unsafe { stream.launch(&kernels[input.precision().index()], [blocks, 1, 1], 0, &arguments) }
}

/// The mean over all pixels: `input: [images.most(), height, width, channels]` to `output: [images.most(), channels]`, both of
/// one precision at multiples of 16 bytes. The order of the sum is a function of the map's height alone.
///
/// # Errors
/// [`CudaError::Shape`] for a map without values; [`CudaError::Length`], [`CudaError::Precision`],
/// [`CudaError::Alignment`]; [`CudaError::Limit`] for a map of more than 2^28 values or more blocks than a grid has; what
/// the launch fails with.
pub fn enqueue_global_average(
    stream: &Stream,
    images: &Rows,
    map: MapShape,
    input: &Tensor,
    output: &Tensor,
) -> Result<(), CudaError> {
    let MapShape { height, width, channels } = map;
    if [height, width, channels].contains(&0) {
        return Err(CudaError::shape(format_args!("a map of {height}x{width}x{channels} has no values")));
    }
    let one = Pair::square(1);
    let whole = PoolShape { kernel: Pair { height, width }, stride: one, padding: Pair::square(0) };
    let arguments = arguments(stream, images, &whole, map, one, false, [input, output])?;
    let blocks = global_blocks(images.most(), channels)?;
    // SAFETY: the pointers are of this stream; `arguments` checked input and output.
    unsafe { stream.launch(&GLOBAL_AVERAGE[input.precision().index()], [blocks, 1, 1], 0, &arguments) }
}

/// Checks the tensors and the size of the map.
fn arguments(
    stream: &Stream,
    images: &Rows,
    shape: &PoolShape,
    map: MapShape,
    out: Pair,
    count_include_pad: bool,
    [input, output]: [&Tensor; 2],
) -> Result<PoolArgs, CudaError> {
    let MapShape { height, width, channels } = map;
    let precision = input.precision();
    input.expect("pool input", precision, &[images.most(), height, width, channels])?;
    output.expect("pool output", precision, &[images.most(), out.height, out.width, channels])?;
    check_padded(Pair { height, width }, shape.padding, channels)?;
    let number = |value| to_u32("side of a pool", value);
    Ok(PoolArgs {
        input: input.pointer_on(stream)?,
        output: output.pointer_on(stream)?,
        images: images.pointer_on(stream)?,
        most: to_u32("images", images.most())?,
        height: number(height)?,
        width: number(width)?,
        channels: to_u32("channels of a pool", channels)?,
        out_height: number(out.height)?,
        out_width: number(out.width)?,
        kernel_height: number(shape.kernel.height)?,
        kernel_width: number(shape.kernel.width)?,
        // A step beyond the padded map is never taken.
        stride_height: number(shape.stride.height.min(MOST_PADDED))?,
        stride_width: number(shape.stride.width.min(MOST_PADDED))?,
        padding_height: number(shape.padding.height)?,
        padding_width: number(shape.padding.width)?,
        count_include_pad: count_include_pad.into(),
        zero: 0,
    })
}

/// Blocks of the global mean.
fn global_blocks(images: usize, channels: usize) -> Result<u32, CudaError> {
    grid("blocks of a global mean", images.saturating_mul(channels.div_ceil(GLOBAL_CHANNELS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn global_blocks_cover_images_and_channels() {
        for (images, channels, expected) in
            [(0, 5, 0), (1, 1, 1), (1, 32, 1), (3, 33, 6), (65_536, 2048, 1 << 22)]
        {
            assert_eq!(
                global_blocks(images, channels),
                Ok(expected),
                "{images} images of {channels} channels"
            );
        }
        assert!(matches!(global_blocks(1 << 31, 1), Err(CudaError::Limit { .. })));
        assert!(matches!(global_blocks(usize::MAX, 64), Err(CudaError::Limit { .. })));
    }
}
