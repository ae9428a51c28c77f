//! Convolution with one filter per channel: too few multiplications per value for the matrix kernel.

use rayon::prelude::*;

use super::conv::{ConvShape, Images, Pair};
use super::matmul::Epilogue;
use super::simd::{Isa, Kernel, Simd, dispatch};

/// The filters, channels inside: `[kernel height, kernel width, channels]`.
#[derive(Debug, Clone)]
pub(super) struct Depthwise {
    shape: ConvShape,
    taps: Vec<f32>,
}

impl Depthwise {
    /// From `[channels, 1, kernel height, kernel width]`, which has the length that the shape says.
    pub(super) fn new(shape: ConvShape, weight: &[f32]) -> Depthwise {
        let (channels, taps) = (shape.in_channels, shape.kernel.height * shape.kernel.width);
        let taps = (0..taps * channels).map(|at| weight[at % channels * taps + at / channels]).collect();
        Depthwise { shape, taps }
    }

    /// Lengths and sizes are checked by the caller. A tap in the padding is skipped; the others are added in order.
    pub(super) fn run(
        &self,
        isa: Isa,
        input: Images<'_>,
        out: Pair,
        epilogue: Epilogue<'_>,
        output: &mut [f32],
    ) {
        let lines = output.par_chunks_exact_mut(out.width * self.shape.in_channels).enumerate();
        lines.for_each(|(at, output)| {
            let (image, line) = (at / out.height, at % out.height);
            dispatch(isa, Line { op: self, input, image, line, at: at * output.len(), epilogue, output });
        });
    }
}

/// One output line.
struct Line<'a> {
    op: &'a Depthwise,
    input: Images<'a>,
    image: usize,
    line: usize,
    /// Position in the whole output.
    at: usize,
    epilogue: Epilogue<'a>,
    /// `[out width, channels]`
    output: &'a mut [f32],
}

impl Kernel for Line<'_> {
    type Output = ();

    // The vectors are the compiler's: the loops over channels have no dependence between lanes.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let ConvShape { in_channels: channels, kernel, stride, padding, dilation, .. } = self.op.shape;
        let Images { height, width, data, .. } = self.input;
        for (column, output) in self.output.chunks_exact_mut(channels).enumerate() {
            output.fill(0.0);
            for (tap, weights) in self.op.taps.chunks_exact(channels).enumerate() {
                let (down, right) =
                    (tap / kernel.width * dilation.height, tap % kernel.width * dilation.width);
                let y = (self.line * stride.height + down).wrapping_sub(padding.height);
                let x = (column * stride.width + right).wrapping_sub(padding.width);
                if y < height && x < width {
                    let at = ((self.image * height + y) * width + x) * channels;
                    let pixel = &data[at..at + channels];
                    for (out, (x, weight)) in output.iter_mut().zip(pixel.iter().zip(weights)) {
                        *out = x.mul_add(*weight, *out);
                    }
                }
            }
            self.epilogue.finish(self.at + column * channels, 0, output);
        }
    }
}
