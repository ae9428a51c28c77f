//! What stands between convolutions and is in no epilogue: batch norm, sum, ReLU, copy; `kernels/elementwise.cu`.

use super::memory::Pointer;
use super::{Arguments, CudaError, Kernel, Rows, Slice, Stream, Tensor, expect, to_u32};

/// The struct of the kernels.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct ElementwiseArgs {
    input: Pointer,
    scale: Pointer,
    shift: Pointer,
    other: Pointer,
    output: Pointer,
    images: Pointer,
    values: u64,
    channels: u32,
    relu: u32,
    vector: u32,
    most: u32,
}
const _: () = assert!(size_of::<ElementwiseArgs>() == 72);

// SAFETY: `repr(C)`, with the fields of the struct in `kernels/elementwise.cu`.
unsafe impl Arguments for ElementwiseArgs {}

/// By precision: f32, f16, bf16.
pub(crate) const KERNELS: [Kernel<ElementwiseArgs>; 3] = [
    Kernel::new("elementwise", "elementwise_f32", 256),
    Kernel::new("elementwise", "elementwise_f16", 256),
    Kernel::new("elementwise", "elementwise_bf16", 256),
];

/// Blocks of 256 threads that a multiprocessor runs at a time at most.
const RESIDENT: u32 = 8;

/// Blocks of 256 threads for `threads` threads, for kernels whose threads take further work after their first: no more
/// than the card runs at a time.
pub(super) fn blocks(threads: usize, multiprocessors: u32) -> u32 {
    let most = multiprocessors.saturating_mul(RESIDENT);
    u32::try_from(threads.div_ceil(256)).map_or(most, |blocks| blocks.min(most))
}

/// As many blocks as a launch has in x, for kernels that need them all; `what` names them in an error.
pub(super) fn grid(what: &'static str, blocks: usize) -> Result<u32, CudaError> {
    let limit = i32::MAX as usize;
    if blocks > limit {
        return Err(CudaError::Limit { what, value: blocks, limit });
    }
    to_u32(what, blocks)
}

/// A batch norm's scale and shift on the device.
#[derive(Debug)]
pub struct ScaleShift {
    scale: Slice<f32>,
    shift: Slice<f32>,
}

impl ScaleShift {
    /// Uploads `scale` and `shift`, both `[channels]`; see
    /// [`BatchNorm::affine`](crate::cpu::batch_norm::BatchNorm::affine).
    ///
    /// # Errors
    /// [`CudaError::Length`] if they differ in length, [`CudaError::Shape`] if they are empty; as [`Stream::upload`].
    pub fn new(stream: &Stream, scale: &[f32], shift: &[f32]) -> Result<ScaleShift, CudaError> {
        expect("batch norm shift", shift.len(), &[scale.len()])?;
        if scale.is_empty() {
            return Err(CudaError::shape("a batch norm has no channels"));
        }
        let scale = stream.upload("batch norm scale", scale)?;
        Ok(ScaleShift { scale, shift: stream.upload("batch norm shift", shift)? })
    }
}

/// What is done to every value, in this order.
#[derive(Debug, Clone, Copy, Default)]
pub struct Elementwise<'a> {
    /// `x * scale + shift` per channel, the last dimension.
    pub batch_norm: Option<&'a ScaleShift>,
    /// `x + other`, of the input's shape.
    pub add: Option<&'a Tensor>,
    /// `max(x, 0)`; NaN stays.
    pub relu: bool,
}

impl Elementwise<'_> {
    /// Computes `output` from `input`, both `[images.most(), values]` of one precision at multiples of 16 bytes; they may be
    /// the same. Without any part it is a copy.
    ///
    /// # Errors
    /// [`CudaError::Length`], also for `values` that are no multiple of the channels; [`CudaError::Precision`],
    /// [`CudaError::Alignment`]; what the launch fails with.
    pub fn enqueue(
        &self,
        stream: &Stream,
        images: &Rows,
        values: usize,
        input: &Tensor,
        output: &Tensor,
    ) -> Result<(), CudaError> {
        let (precision, shape) = (input.precision(), [images.most(), values]);
        input.expect("element-wise input", precision, &shape)?;
        output.expect("element-wise output", precision, &shape)?;
        if let Some(other) = self.add {
            other.expect("other operand", precision, &shape)?;
        }
        let channels = self.batch_norm.map(|norm| norm.scale.len());
        if let Some(channels) = channels {
            expect("values of an image", values, &[values / channels, channels])?;
        }
        let arguments = ElementwiseArgs {
            input: input.pointer_on(stream)?,
            scale: self.batch_norm.map_or(Ok(Pointer::NULL), |norm| norm.scale.pointer_on(stream))?,
            shift: self.batch_norm.map_or(Ok(Pointer::NULL), |norm| norm.shift.pointer_on(stream))?,
            other: self.add.map_or(Ok(Pointer::NULL), |tensor| tensor.pointer_on(stream))?,
            output: output.pointer_on(stream)?,
            images: images.pointer_on(stream)?,
            values: values as u64,
            channels: to_u32("channels", channels.unwrap_or(1))?,
            relu: self.relu.into(),
            vector: channels.unwrap_or(values).is_multiple_of(8).into(),
            most: to_u32("images", images.most())?,
        };
        let threads = input.len() / if arguments.vector == 1 { 8 } else { 1 };
        let blocks = blocks(threads, stream.device().info().multiprocessors);
        // SAFETY: the pointers are of this stream; `expect` checked the operands, and the channels divide the values.
        unsafe { stream.launch(&KERNELS[precision.index()], [blocks, 1, 1], 0, &arguments) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_have_less_than_2_to_the_31_blocks() {
        assert_eq!(grid("blocks", 0), Ok(0));
        assert_eq!(grid("blocks", (1 << 31) - 1), Ok((1 << 31) - 1));
        for value in [1 << 31, usize::MAX] {
            let limit = (1 << 31) - 1;
            assert_eq!(grid("blocks", value), Err(CudaError::Limit { what: "blocks", value, limit }));
        }
    }

    #[test]
    fn blocks_cover_the_threads() {
        for (threads, multiprocessors, expected) in [
            (0, 132, 0),
            (1, 132, 1),
            (256, 132, 1),
            (257, 132, 2),
            (65_536, 132, 256),
            (1 << 31, 132, 1056),
            (usize::MAX, 1, 8),
            (usize::MAX, u32::MAX, u32::MAX),
        ] {
            assert_eq!(blocks(threads, multiprocessors), expected, "{threads} threads, {multiprocessors}");
        }
    }
}
