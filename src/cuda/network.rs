//! A convolutional network on the device: runs the steps of a [`model::Network`] over a batch of images.

use std::borrow::Cow;
use std::fmt;

use super::conv::Conv;
use super::elementwise::{Elementwise, ScaleShift};
use super::{CudaError, Precision, Rows, Slice, Stream, Tensor, expect, pool};
use crate::cpu::batch_norm;
use crate::cpu::conv::ConvShape;
use crate::cpu::network::{PackError, conv_weights, with_batch_norm};
use crate::cpu::pool::{PoolKind, PoolShape};
use crate::model::{self, MapShape, Op, Pair, Step};
use crate::weights::Checkpoint;

/// A network with its weights on the device. An image's result does not depend on the others of the batch.
pub struct Network {
    network: model::Network,
    /// The shape in which an image lies in memory.
    stored: MapShape,
    precision: Precision,
    /// What each step computes.
    layers: Vec<Layer>,
    plan: Plan,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Network { network, precision, plan, .. } = self;
        let mut f = f.debug_struct("Network");
        f.field("network", network).field("precision", precision).field("plan", plan).finish_non_exhaustive()
    }
}

/// An operation with its weights; values are numbered as in [`model::Network`].
enum Layer {
    Conv { conv: Box<Conv>, residual: Option<usize>, relu: bool },
    BatchNorm(ScaleShift),
    Relu,
    Add { with: usize },
    Pool { kind: PoolKind, shape: PoolShape },
    GlobalAvgPool,
}

/// Why a network cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The checkpoint does not fit the network.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The device cannot hold it.
    #[error(transparent)]
    Cuda(#[from] CudaError),
}

impl Network {
    /// Folds batch norms into the convolutions before them, in f64, rounds the weights once, to `precision`, and uploads them.
    ///
    /// # Errors
    /// [`LoadError::Pack`] if the checkpoint lacks a tensor of the network or has it in another shape,
    /// [`LoadError::Cuda`] if the device has no room or a layer is beyond a kernel's limits.
    pub fn new(
        stream: &Stream,
        network: &model::Network,
        checkpoint: &Checkpoint,
        precision: Precision,
    ) -> Result<Network, LoadError> {
        let stored = stored(network);
        let layer = |step: &Step| {
            let map = if step.input == 0 { stored } else { shape(network, step.input) };
            Layer::new(stream, step, map, checkpoint, precision)
        };
        let layers = network.steps.iter().map(layer).collect::<Result<_, _>>()?;
        let plan = Plan::new(network, precision);
        Ok(Network { network: network.clone(), stored, precision, layers, plan })
    }

    /// The shape of an image.
    pub fn input(&self) -> MapShape {
        self.network.input
    }

    /// The shape in which [`enqueue`](Network::enqueue) takes an image: that of [`input`](Network::input), but for channels
    /// behind its own, which are zeros.
    pub fn stored(&self) -> MapShape {
        self.stored
    }

    /// Values of an image's output.
    pub fn width(&self) -> usize {
        self.network.width()
    }

    /// How feature maps are stored.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Bytes that the feature maps of `images` images take; `usize::MAX` if no memory holds them.
    pub fn workspace(&self, images: usize) -> usize {
        self.plan.bytes.saturating_mul(images)
    }

    /// Computes `output: [images.most(), width]` from `input: [images.most(), height, width, channels]`, of the shape
    /// [`stored`](Network::stored), both in the network's precision and at multiples of 16 bytes. Feature maps lie in
    /// `workspace`, of at least [`workspace(images.most())`](Network::workspace) bytes, at a multiple of 16 bytes.
    /// Allocates nothing and does not wait: it can be recorded.
    ///
    /// # Errors
    /// [`CudaError::Length`], [`CudaError::Precision`], [`CudaError::Alignment`]; [`CudaError::Limit`] for a workspace that
    /// is too small or more images than a grid has blocks for; what a launch fails with.
    pub fn enqueue(
        &self,
        stream: &Stream,
        images: &Rows,
        input: &Tensor,
        workspace: &Slice<u8>,
        output: &Tensor,
    ) -> Result<(), CudaError> {
        let most = images.most();
        expect("images", input.len(), &[most, self.stored.len()])?;
        expect("network output", output.len(), &[most, self.width()])?;
        let needed = self.workspace(most);
        if workspace.len() < needed {
            return Err(CudaError::Limit { what: "workspace", value: needed, limit: workspace.len() });
        }
        let value = |at: usize| -> Result<Tensor, CudaError> {
            if at == 0 {
                return Ok(input.clone());
            }
            if at == self.layers.len() {
                return Ok(output.clone());
            }
            let first = self.plan.offsets[at] * most;
            let bytes = self.network.steps[at - 1].output.len() * self.precision.bytes() * most;
            Tensor::over(workspace.part(first..first + bytes)?, self.precision)
        };
        for (index, (step, layer)) in self.network.steps.iter().zip(&self.layers).enumerate() {
            let (from, to) = (value(step.input)?, value(index + 1)?);
            let map = shape(&self.network, step.input);
            let elementwise = |op: Elementwise<'_>| op.enqueue(stream, images, map.len(), &from, &to);
            match layer {
                Layer::Conv { conv, residual, relu } => {
                    let residual = residual.map(value).transpose()?;
                    conv.enqueue(stream, images, &from, residual.as_ref(), *relu, &to)?;
                }
                Layer::BatchNorm(norm) => {
                    elementwise(Elementwise { batch_norm: Some(norm), ..Elementwise::default() })?;
                }
                Layer::Relu => elementwise(Elementwise { relu: true, ..Elementwise::default() })?,
                Layer::Add { with } => {
                    let with = value(*with)?;
                    elementwise(Elementwise { add: Some(&with), ..Elementwise::default() })?;
                }
                Layer::Pool { kind, shape } => pool::enqueue(stream, images, *kind, shape, map, &from, &to)?,
                Layer::GlobalAvgPool => pool::enqueue_global_average(stream, images, map, &from, &to)?,
            }
        }
        if self.layers.is_empty() {
            Elementwise::default().enqueue(stream, images, self.width(), input, output)?;
        }
        Ok(())
    }
}

impl Layer {
    /// `map` is what the step reads.
    fn new(
        stream: &Stream,
        step: &Step,
        map: MapShape,
        checkpoint: &Checkpoint,
        precision: Precision,
    ) -> Result<Layer, LoadError> {
        Ok(match &step.op {
            Op::Conv(plan) => {
                let (weight, bias) = conv_weights(plan, checkpoint, |x| narrow(x, precision))?;
                let size = Pair { height: map.height, width: map.width };
                let mut shape = plan.shape();
                let weight = with_channels(&mut shape, map.channels, &weight);
                let conv = Conv::new(stream, &shape, size, precision, &weight, bias.as_deref())?;
                Layer::Conv { conv: Box::new(conv), residual: plan.residual, relu: plan.relu }
            }
            Op::BatchNorm(norm) => {
                let norm = with_batch_norm(norm, checkpoint, batch_norm::ScaleShift::new)?;
                let (scale, shift) = norm.parts();
                Layer::BatchNorm(ScaleShift::new(stream, scale, shift)?)
            }
            Op::Relu => Layer::Relu,
            Op::Add { with } => Layer::Add { with: *with },
            Op::MaxPool(shape) => Layer::Pool { kind: PoolKind::Max, shape: *shape },
            Op::AvgPool { pool, count_include_pad } => {
                let kind = PoolKind::Average { count_include_pad: *count_include_pad };
                Layer::Pool { kind, shape: *pool }
            }
            Op::GlobalAvgPool => Layer::GlobalAvgPool,
        })
    }
}

/// How the network's image lies in memory: where only convolutions read it, with as many channels as fill the least copy
/// that a convolution makes asynchronously in every precision, four.
fn stored(network: &model::Network) -> MapShape {
    let reads_dense = |step: &Step| {
        step.reads().enumerate().all(|(operand, value)| {
            value != 0 || matches!(&step.op, Op::Conv(conv) if operand == 0 && conv.groups == 1)
        })
    };
    let channels = network.input.channels;
    let dense = !network.steps.is_empty() && network.steps.iter().all(reads_dense);
    MapShape { channels: if dense { channels.next_multiple_of(4) } else { channels }, ..network.input }
}

/// An f32 that is rounded to `precision` as `x` would be. For the narrow precisions it is the next towards 0, made odd where
/// `x` is not exact: on the same side as `x` of all that they hold and of all that lies half-way between.
#[allow(clippy::cast_possible_truncation)] // the rounding to f32 is the point
fn narrow(x: f64, precision: Precision) -> f32 {
    let near = x as f32;
    if precision == Precision::F32 || f64::from(near) == x {
        return near;
    }
    let towards_zero = if f64::from(near).abs() > x.abs() { near.to_bits() - 1 } else { near.to_bits() };
    f32::from_bits(towards_zero | 1)
}

/// Gives a convolution over `shape.in_channels` so many, with weights of zero for the others.
fn with_channels<'a>(shape: &mut ConvShape, channels: usize, weight: &'a [f32]) -> Cow<'a, [f32]> {
    if shape.in_channels == channels {
        return weight.into();
    }
    let taps = shape.kernel.height * shape.kernel.width;
    let (own, all) = (shape.in_channels * taps, channels * taps);
    shape.in_channels = channels;
    let mut padded = vec![0.0; shape.out_channels * all]; // [out_channels, channels, kernel height, kernel width]
    for (to, from) in padded.chunks_exact_mut(all).zip(weight.chunks_exact(own)) {
        to[..own].copy_from_slice(from);
    }
    padded.into()
}

/// The shape of value `at`.
fn shape(network: &model::Network, at: usize) -> MapShape {
    if at == 0 { network.input } else { network.steps[at - 1].output }
}

/// Where the feature maps lie in the workspace, in bytes per image: with `n` images every number is `n` times as large, and
/// a map of all images lies where one image's would.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// For each value, where it starts. The input and the output lie elsewhere.
    offsets: Vec<usize>,
    /// Bytes in all.
    bytes: usize,
}

/// Maps start at multiples of this, so that rows of vectors do.
const ALIGN: usize = 256;

impl Plan {
    /// Gives each map, in the order of the steps, the first place that is free while it lives: from the step that writes
    /// it to the last that reads it.
    fn new(network: &model::Network, precision: Precision) -> Plan {
        let last_reads = network.last_reads();
        let size = |at: usize| (shape(network, at).len() * precision.bytes()).next_multiple_of(ALIGN);
        let mut plan = Plan { offsets: vec![0; last_reads.len()], bytes: 0 };
        let mut live: Vec<usize> = Vec::new(); // by offset
        for at in 1..network.steps.len() {
            let step = at - 1; // writes the value
            live.retain(|&other| last_reads[other] >= step);
            let (mut offset, mut place) = (0, 0);
            for &other in &live {
                if offset + size(at) <= plan.offsets[other] {
                    break;
                }
                offset = plan.offsets[other] + size(other);
                place += 1;
            }
            plan.offsets[at] = offset;
            plan.bytes = plan.bytes.max(offset + size(at));
            live.insert(place, at);
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Architecture, Layer as ModelLayer};

    fn named(architecture: Architecture) -> model::Network {
        let input = MapShape { height: 224, width: 224, channels: 3 };
        model::Network::compile(input, &architecture.layers(), "").unwrap()
    }

    /// No map overlaps another that lives at the same time.
    fn check(network: &model::Network) -> Plan {
        let plan = Plan::new(network, Precision::F16);
        let last = network.last_reads();
        let place = |at: usize| (plan.offsets[at], plan.offsets[at] + shape(network, at).len() * 2);
        for later in 1..network.steps.len() {
            let (start, end) = place(later);
            assert!(start.is_multiple_of(ALIGN) && end <= plan.bytes);
            for earlier in (1..later).filter(|&earlier| last[earlier] >= later - 1) {
                let (first, behind) = place(earlier);
                assert!(end <= first || behind <= start, "values {earlier} and {later}");
            }
        }
        plan
    }

    #[test]
    fn maps_that_live_together_lie_apart() {
        let map = 56 * 56 * 64 * 2;
        // The stem's map of 112x112x64 and what its pool makes of it.
        assert_eq!(check(&named(Architecture::Resnet18)).bytes, 5 * map);
        assert_eq!(check(&named(Architecture::Vgg16)).bytes, 2 * 224 * 224 * 64 * 2);
    }

    #[test]
    fn narrow_values_are_rounded_once() {
        let power = |exponent: i32| 2f64.powi(exponent);
        for (x, single, half, brain) in [
            (1.0, 1.0, 1.0, 1.0),
            // Just above a tie, and just below; ties go to even.
            (1.0 + power(-11) + power(-40), 1.0 + power(-11), 1.0 + power(-10), 1.0),
            (1.0 + power(-11), 1.0 + power(-11), 1.0, 1.0),
            (1.0 + 3.0 * power(-11) - power(-40), 1.0 + 3.0 * power(-11), 1.0 + power(-10), 1.0),
            (-1.0 - power(-8) - power(-40), -1.0 - power(-8), -1.0 - power(-8), -1.0 - power(-7)),
            // Too small and too large for one or all.
            (power(-200), 0.0, 0.0, 0.0),
            (power(-25) + power(-60), power(-25), power(-24), power(-25)),
            (65520.0 - power(-20), 65520.0, 65504.0, 65536.0),
            (1e300, f64::INFINITY, f64::INFINITY, f64::INFINITY),
            (f64::NEG_INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY),
        ] {
            let found = [
                f64::from(narrow(x, Precision::F32)),
                half::f16::from_f32(narrow(x, Precision::F16)).to_f64(),
                half::bf16::from_f32(narrow(x, Precision::Bf16)).to_f64(),
            ];
            assert_eq!(found, [single, half, brain], "{x:e}");
        }
        assert!(narrow(f64::NAN, Precision::F16).is_nan());
    }

    #[test]
    fn networks_of_none_and_one_step_need_no_workspace() {
        let pixel = MapShape { height: 1, width: 1, channels: 5 };
        let relu = [ModelLayer::Relu { name: None }];
        for layers in [&[][..], &relu[..]] {
            let network = model::Network::compile(pixel, layers, "").unwrap();
            assert_eq!(check(&network).bytes, 0);
        }
    }
}
