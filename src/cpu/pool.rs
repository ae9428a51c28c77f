//! Pooling over NHWC images: maximum, average, and the average of all pixels.

use rayon::prelude::*;

use super::conv::{Images, Pair};
use super::error::{OpError, expect, positive};
use super::simd::{Isa, Kernel, Simd, dispatch};
pub use crate::model::PoolShape;

/// How a window becomes one value per channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolKind {
    /// The largest value; padding never wins, NaN always does.
    Max,
    /// The mean, as `torch.nn.AvgPool2d`.
    Average {
        /// Whether padding counts in the divisor.
        count_include_pad: bool,
    },
}

/// Pools `input: [batch, height, width, channels]` into `output: [batch, out height, out width, channels]`.
///
/// # Errors
/// [`OpError::Window`] in the words of [`PoolShape::output`]; [`OpError::Zero`] for no channels; [`OpError::Length`] or
/// [`OpError::Overflow`] if a slice does not fit its shape.
pub fn pool(
    isa: Isa,
    kind: PoolKind,
    shape: &PoolShape,
    channels: usize,
    input: Images<'_>,
    output: &mut [f32],
) -> Result<(), OpError> {
    positive("channels", channels)?;
    let Images { batch, height, width, data } = input;
    let out = shape.output(height, width)?;
    expect("pool input", data.len(), &[batch, height, width, channels])?;
    expect("pool output", output.len(), &[batch, out.height, out.width, channels])?;
    let lines = output.par_chunks_exact_mut(out.width * channels).enumerate();
    lines.for_each(|(at, output)| {
        let (image, line) = (at / out.height, at % out.height);
        let data = &data[image * height * width * channels..][..height * width * channels];
        dispatch(isa, Line { kind, shape, channels, height, width, data, line, output });
    });
    Ok(())
}

/// The mean over all pixels: `[batch, height, width, channels]` to `output: [batch, channels]`. Lines are summed first,
/// then their sums, so that the error grows with the side of the image and not with its area.
///
/// # Errors
/// As [`pool`].
pub fn global_average(
    isa: Isa,
    channels: usize,
    input: Images<'_>,
    output: &mut [f32],
) -> Result<(), OpError> {
    let kernel = Pair { height: input.height, width: input.width };
    let shape = PoolShape { kernel, stride: Pair::square(1), padding: Pair::square(0) };
    pool(isa, PoolKind::Average { count_include_pad: true }, &shape, channels, input, output)
}

/// One output line.
struct Line<'a> {
    kind: PoolKind,
    shape: &'a PoolShape,
    channels: usize,
    height: usize,
    width: usize,
    /// One image.
    data: &'a [f32],
    line: usize,
    /// `[out width, channels]`
    output: &'a mut [f32],
}

impl Kernel for Line<'_> {
    type Output = ();

    // The vectors are the compiler's: the loops over channels have no dependence between lanes.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let PoolShape { kernel, stride, padding } = *self.shape;
        let top = self.line * stride.height;
        let ys = top.saturating_sub(padding.height)..(top + kernel.height - padding.height).min(self.height);
        let mut sums = vec![0.0f32; self.channels];
        for (column, output) in self.output.chunks_exact_mut(self.channels).enumerate() {
            let left = column * stride.width;
            let xs =
                left.saturating_sub(padding.width)..(left + kernel.width - padding.width).min(self.width);
            let line = |y: usize| {
                let first = (y * self.width + xs.start) * self.channels;
                self.data[first..first + xs.len() * self.channels].chunks_exact(self.channels)
            };
            match self.kind {
                PoolKind::Max => {
                    output.fill(f32::NEG_INFINITY);
                    for pixel in ys.clone().flat_map(line) {
                        for (out, &x) in output.iter_mut().zip(pixel) {
                            *out = if x > *out || x.is_nan() { x } else { *out };
                        }
                    }
                }
                PoolKind::Average { count_include_pad } => {
                    output.fill(0.0);
                    for y in ys.clone() {
                        sums.fill(0.0);
                        for pixel in line(y) {
                            sums.iter_mut().zip(pixel).for_each(|(sum, x)| *sum += x);
                        }
                        output.iter_mut().zip(&sums).for_each(|(out, sum)| *out += sum);
                    }
                    let window =
                        if count_include_pad { kernel.height * kernel.width } else { ys.len() * xs.len() };
                    // Rounds only beyond 2^24 pixels, once.
                    #[allow(clippy::cast_precision_loss)]
                    let window = window as f32;
                    output.iter_mut().for_each(|out| *out /= window);
                }
            }
        }
    }
}
