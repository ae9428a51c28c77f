//! Two-dimensional convolution (cross-correlation, as `torch.nn.Conv2d`) over NHWC images, as an indirect matrix
//! product: an output pixel is a row, the lines of its window are its pieces.

use std::fmt;
use std::ops::Range;

use super::activation::Activation;
use super::depthwise::Depthwise;
use super::error::{OpError, expect, size};
use super::matmul::{Epilogue, Operand, Packed, Pieces, Rows, multiply};
use super::simd::Isa;
pub use crate::model::{ConvShape, Pair};

/// Input values that a task reads at most where it can choose: a share of a core's second-level cache, beside a panel
/// of weights.
const BLOCK: usize = 1 << 16;

/// The most values of the padded lines under one line of windows, 1 GiB: padding, dilation and stride are numbers in a
/// file that could ask for any amount of zeros.
const MAX_WINDOW: usize = 1 << 28;

/// A batch of images or feature maps of one size.
#[derive(Debug, Clone, Copy)]
pub struct Images<'a> {
    /// Number of images.
    pub batch: usize,
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
    /// `[batch, height, width, channels]`
    pub data: &'a [f32],
}

/// A convolution, its weights packed for the kernel.
#[derive(Clone)]
pub struct Conv {
    shape: ConvShape,
    weights: Weights,
    bias: Option<Vec<f32>>,
}

#[derive(Clone)]
enum Weights {
    /// One matrix per group: `[out_channels / groups, kernel height * kernel width * in_channels / groups]`.
    Dense(Vec<Packed>),
    /// One filter per channel.
    Depthwise(Depthwise),
}

impl fmt::Debug for Conv {
    /// The shape; there can be millions of weights.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Conv { shape, bias, .. } = self;
        f.debug_struct("Conv").field("shape", shape).field("bias", &bias.is_some()).finish_non_exhaustive()
    }
}

impl Conv {
    /// Packs `weight: [out_channels, in_channels / groups, kernel height, kernel width]`, the layout of
    /// `torch.nn.Conv2d`, and keeps `bias: [out_channels]`. A batch norm is folded in with
    /// [`BatchNorm::fold`](super::batch_norm::BatchNorm::fold) first.
    ///
    /// # Errors
    /// [`OpError::Window`] for a shape that cannot be; [`OpError::Length`] if a slice does not fit it.
    pub fn new(shape: ConvShape, weight: &[f32], bias: Option<&[f32]>) -> Result<Conv, OpError> {
        let expected = shape.weights()?;
        expect("convolution weight", weight.len(), &[expected])?;
        if let Some(bias) = bias {
            expect("convolution bias", bias.len(), &[shape.out_channels])?;
        }
        let inputs = shape.in_channels / shape.groups;
        let outputs = shape.out_channels / shape.groups;
        let taps = shape.kernel.height * shape.kernel.width;
        let weights = if inputs == 1 && outputs == 1 {
            Weights::Depthwise(Depthwise::new(shape, weight))
        } else {
            // From [out, in, taps] to [out, taps, in]: a window's values lie in that order in NHWC.
            let group = |group: usize| {
                Packed::new(outputs, taps * inputs, |output, at| {
                    weight[((group * outputs + output) * inputs + at % inputs) * taps + at / inputs]
                })
            };
            Weights::Dense((0..shape.groups).map(group).collect())
        };
        Ok(Conv { shape, weights, bias: bias.map(<[f32]>::to_vec) })
    }

    /// The shape it was made with.
    pub fn shape(&self) -> &ConvShape {
        &self.shape
    }

    /// Computes `activation(conv(input) + bias + residual)` into `output: [batch, out height, out width, out_channels]`;
    /// the residual has the output's shape.
    ///
    /// # Errors
    /// [`OpError::Window`] in the words of [`ConvShape::output`]; [`OpError::Length`] or [`OpError::Overflow`]
    /// if a slice does not fit its shape, or if the padded lines under a line of windows take more than 1 GiB.
    pub fn run(
        &self,
        isa: Isa,
        input: Images<'_>,
        residual: Option<&[f32]>,
        activation: Activation,
        output: &mut [f32],
    ) -> Result<(), OpError> {
        let Images { batch, height, width, data } = input;
        let shape = &self.shape;
        let out = shape.output(height, width)?;
        expect("convolution input", data.len(), &[batch, height, width, shape.in_channels])?;
        expect("convolution output", output.len(), &[batch, out.height, out.width, shape.out_channels])?;
        if let Some(residual) = residual {
            expect("convolution residual", residual.len(), &[output.len()])?;
        }
        let epilogue = Epilogue { bias: self.bias.as_deref(), residual, activation };
        match &self.weights {
            Weights::Depthwise(depthwise) => depthwise.run(isa, input, out, epilogue, output),
            Weights::Dense(weights) => {
                let windows = Windows::new(shape, input, out)?;
                multiply(isa, weights, &windows.blocks(), &windows, epilogue, output);
            }
        }
        Ok(())
    }
}

/// The windows of all output pixels.
struct Windows<'a> {
    shape: &'a ConvShape,
    input: Images<'a>,
    out: Pair,
    /// Channels of one group.
    channels: usize,
    /// Input columns, with padding, that windows cover.
    columns: usize,
    /// Whether blocks are copied: with zeros around them where there is padding, and the channels of one group only.
    copied: bool,
    /// Values from one line of a block to the next.
    pitch: usize,
    pieces: Pieces,
}

/// A thread's buffers.
#[derive(Default)]
struct Scratch {
    /// `[lines, columns, channels]`
    lines: Vec<f32>,
    starts: Vec<usize>,
}

impl<'a> Windows<'a> {
    fn new(shape: &'a ConvShape, input: Images<'a>, out: Pair) -> Result<Windows<'a>, OpError> {
        let channels = shape.in_channels / shape.groups;
        let copied = shape.padding != Pair::square(0) || shape.groups > 1;
        let columns =
            (out.width - 1) * shape.stride.width + (shape.kernel.width - 1) * shape.dilation.width + 1;
        let lines = (shape.kernel.height - 1) * shape.dilation.height + 1;
        let (what, padded) = ("padded convolution window", [lines, columns, channels]);
        if copied && size(what, &padded)? > MAX_WINDOW {
            return Err(OpError::Overflow { what, shape: padded.to_vec() });
        }
        let pitch = if copied { columns * channels } else { input.width * channels };
        let mut pieces = Pieces::default();
        let kernel = shape.kernel;
        for line in 0..kernel.height {
            let (offset, tap) = (line * shape.dilation.height * pitch, line * kernel.width);
            if shape.dilation.width == 1 {
                pieces.push(offset, tap * channels, kernel.width * channels);
            } else {
                for column in 0..kernel.width {
                    let offset = offset + column * shape.dilation.width * channels;
                    pieces.push(offset, (tap + column) * channels, channels);
                }
            }
        }
        Ok(Windows { shape, input, out, channels, columns, copied, pitch, pieces })
    }

    /// Whole output lines of one image each, few enough that the input of a block stays in cache.
    fn blocks(&self) -> Vec<Range<usize>> {
        let Pair { height, width } = self.out;
        let window = (self.shape.kernel.height - 1) * self.shape.dilation.height + 1;
        let lines = (BLOCK / self.pitch.max(1)).saturating_sub(window) / self.shape.stride.height + 1;
        let lines = lines.min(height);
        // Blocks of about equal height.
        let lines = height.div_ceil(height.div_ceil(lines));
        let block = |image: usize, line: usize| {
            let first = (image * height + line) * width;
            first..first + lines.min(height - line) * width
        };
        (0..self.input.batch)
            .flat_map(|image| (0..height).step_by(lines).map(move |line| block(image, line)))
            .collect()
    }

    /// Copies the input of output lines from `line` on, of one group of channels, with zeros for the padding.
    fn copy(&self, image: usize, line: usize, lines: usize, group: usize, copy: &mut Vec<f32>) {
        let Images { height, width, data, .. } = self.input;
        let (shape, channels) = (self.shape, self.channels);
        let window = (shape.kernel.height - 1) * shape.dilation.height + 1;
        let lines = (lines - 1) * shape.stride.height + window;
        copy.resize(lines * self.pitch, 0.0);
        let left = shape.padding.width.min(self.columns);
        let inside = width.min(self.columns - left);
        for (at, to) in copy.chunks_exact_mut(self.pitch).enumerate() {
            let from = (line * shape.stride.height + at).checked_sub(shape.padding.height);
            let Some(from) = from.filter(|&from| from < height) else {
                to.fill(0.0);
                continue;
            };
            let first = (image * height + from) * width * shape.in_channels;
            let from = &data[first..first + inside * shape.in_channels];
            let (before, to) = to.split_at_mut(left * channels);
            let (to, after) = to.split_at_mut(inside * channels);
            before.fill(0.0);
            after.fill(0.0);
            if shape.groups == 1 {
                to.copy_from_slice(from);
            } else {
                let pixels = from.chunks_exact(shape.in_channels);
                for (to, from) in to.chunks_exact_mut(channels).zip(pixels) {
                    to.copy_from_slice(&from[group * channels..(group + 1) * channels]);
                }
            }
        }
    }
}

impl Rows for Windows<'_> {
    type Scratch = Scratch;

    fn with_block(
        &self,
        rows: Range<usize>,
        group: usize,
        scratch: &mut Scratch,
        body: impl FnOnce(&[Operand<'_>]),
    ) {
        let Pair { height, width } = self.out;
        let (image, line) = (rows.start / width / height, rows.start / width % height);
        let lines = rows.len() / width;
        let stride = self.shape.stride;
        let data = if self.copied {
            self.copy(image, line, lines, group, &mut scratch.lines);
            &scratch.lines[..]
        } else {
            &self.input.data[(image * self.input.height + line * stride.height) * self.pitch..]
        };
        scratch.starts.clear();
        for line in 0..lines {
            let first = line * stride.height * self.pitch;
            scratch.starts.extend((0..width).map(|column| first + column * stride.width * self.channels));
        }
        body(&[Operand { data, starts: &scratch.starts, pieces: &self.pieces }]);
    }
}
