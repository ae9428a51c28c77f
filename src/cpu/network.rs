//! A convolutional network packed for the CPU: runs the steps of a [`Network`] over a batch of images.

use std::borrow::Cow;
use std::fmt;

use super::activation::{Activation, add};
use super::batch_norm::{BatchNorm, ScaleShift};
use super::conv::{Conv, Images};
use super::error::expect;
use super::pool::{PoolKind, PoolShape, global_average, pool};
use super::{Isa, OpError};
use crate::input::PixelScaling;
use crate::model::{self, MapShape, Network, Op};
use crate::weights::{Checkpoint, WeightsError};

/// Values that all feature maps of one step hold at most, unless one image alone needs more: bounds the memory of a
/// large batch.
const VALUES_AT_ONCE: usize = 1 << 24;

/// A network with its weights packed. A row's result does not depend on the other images of the batch.
pub struct PackedNetwork {
    network: Network,
    /// What each step computes.
    packed: Vec<Packed>,
    /// For each value, the last step that reads it.
    last_reads: Vec<usize>,
}

impl fmt::Debug for PackedNetwork {
    /// The network; there can be millions of weights.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedNetwork").field("network", &self.network).finish_non_exhaustive()
    }
}

/// An operation with its weights; values are numbered as in [`Network`].
enum Packed {
    Conv { conv: Conv, residual: Option<usize>, activation: Activation },
    BatchNorm(ScaleShift),
    Relu,
    Add { with: usize },
    Pool { kind: PoolKind, shape: PoolShape },
    GlobalAvgPool,
}

impl Packed {
    fn new(op: &Op, checkpoint: &Checkpoint) -> Result<Packed, PackError> {
        Ok(match op {
            Op::Conv(plan) => Packed::Conv {
                conv: pack_conv(plan, checkpoint)?,
                residual: plan.residual,
                activation: if plan.relu { Activation::Relu } else { Activation::Identity },
            },
            Op::BatchNorm(norm) => Packed::BatchNorm(with_batch_norm(norm, checkpoint, ScaleShift::new)?),
            Op::Relu => Packed::Relu,
            Op::Add { with } => Packed::Add { with: *with },
            Op::MaxPool(shape) => Packed::Pool { kind: PoolKind::Max, shape: *shape },
            Op::AvgPool { pool, count_include_pad } => {
                let kind = PoolKind::Average { count_include_pad: *count_include_pad };
                Packed::Pool { kind, shape: *pool }
            }
            Op::GlobalAvgPool => Packed::GlobalAvgPool,
        })
    }
}

impl PackedNetwork {
    /// Packs the weights of `network`; batch norms that follow a convolution are folded into it in f64.
    ///
    /// # Errors
    /// [`PackError`] if the checkpoint lacks a tensor of the network or has it in another shape.
    pub fn new(network: &Network, checkpoint: &Checkpoint) -> Result<PackedNetwork, PackError> {
        let packed = network.steps.iter().map(|step| Packed::new(&step.op, checkpoint));
        let packed = packed.collect::<Result<_, _>>()?;
        Ok(PackedNetwork { packed, last_reads: network.last_reads(), network: network.clone() })
    }

    /// The shape of an image.
    pub fn input(&self) -> MapShape {
        self.network.input
    }

    /// Computes `output: [batch, width]` from `pixels: [batch, height, width, channels]`.
    ///
    /// # Errors
    /// [`OpError::Length`] if a slice does not fit its shape.
    pub fn run(&self, isa: Isa, batch: usize, pixels: &[f32], output: &mut [f32]) -> Result<(), OpError> {
        let (image, width) = (self.network.input.len(), self.network.width());
        expect("pixels", pixels.len(), &[batch, image])?;
        expect("network output", output.len(), &[batch, width])?;
        let at_once = self.images_at_once();
        for (pixels, output) in pixels.chunks(at_once * image).zip(output.chunks_mut(at_once * width)) {
            self.run_part(isa, pixels.len() / image, pixels, output)?;
        }
        Ok(())
    }

    /// [`PackedNetwork::run`] over 8-bit `photos: [batch, height, width, 3]`, scaled to the network's values.
    ///
    /// # Errors
    /// [`OpError::Length`] if a slice does not fit its shape, or if the network does not read three channels.
    pub fn run_photos(
        &self,
        isa: Isa,
        batch: usize,
        scaling: &PixelScaling,
        photos: &[u8],
        output: &mut [f32],
    ) -> Result<(), OpError> {
        let (image, width) = (self.network.input.len(), self.network.width());
        expect("channels of a photo", 3, &[self.network.input.channels])?;
        expect("photos", photos.len(), &[batch, image])?;
        expect("network output", output.len(), &[batch, width])?;
        let at_once = self.images_at_once();
        for (photos, output) in photos.chunks(at_once * image).zip(output.chunks_mut(at_once * width)) {
            self.run_part(isa, photos.len() / image, &scaling.scale(photos), output)?;
        }
        Ok(())
    }

    /// Images whose feature maps are held together.
    fn images_at_once(&self) -> usize {
        let Network { input, steps } = &self.network;
        let largest = steps.iter().map(|step| step.output.len()).fold(input.len(), usize::max);
        (VALUES_AT_ONCE / largest.max(1)).max(1)
    }

    fn run_part(&self, isa: Isa, batch: usize, pixels: &[f32], output: &mut [f32]) -> Result<(), OpError> {
        // Value i + 1 of the network; dropped after its last read.
        let mut values: Vec<Vec<f32>> = Vec::with_capacity(self.network.steps.len());
        for (index, (step, packed)) in self.network.steps.iter().zip(&self.packed).enumerate() {
            let value = |at: usize| if at == 0 { pixels } else { &values[at - 1][..] };
            let shape =
                if step.input == 0 { self.network.input } else { self.network.steps[step.input - 1].output };
            let input = value(step.input);
            let images = Images { batch, height: shape.height, width: shape.width, data: input };
            let zeros = || vec![0.0; batch * step.output.len()]; // [batch, height, width, channels]
            let mut result;
            match packed {
                Packed::Conv { conv, residual, activation } => {
                    result = zeros();
                    conv.run(isa, images, residual.map(value), *activation, &mut result)?;
                }
                Packed::BatchNorm(norm) => {
                    result = input.to_vec();
                    norm.run(&mut result)?;
                }
                Packed::Relu => {
                    result = input.to_vec();
                    Activation::Relu.run(&mut result);
                }
                Packed::Add { with } => {
                    result = input.to_vec();
                    add(&mut result, value(*with), Activation::Identity)?;
                }
                Packed::Pool { kind, shape: window } => {
                    result = zeros();
                    pool(isa, *kind, window, shape.channels, images, &mut result)?;
                }
                Packed::GlobalAvgPool => {
                    result = zeros();
                    global_average(isa, shape.channels, images, &mut result)?;
                }
            }
            values.push(result);
            for read in step.reads().filter(|&read| read > 0 && self.last_reads[read] == index) {
                values[read - 1] = Vec::new();
            }
        }
        output.copy_from_slice(values.last().map_or(pixels, Vec::as_slice));
        Ok(())
    }
}

fn pack_conv(plan: &model::Conv, checkpoint: &Checkpoint) -> Result<Conv, PackError> {
    #[allow(clippy::cast_possible_truncation)] // the rounding to f32 is the point
    let (weight, bias) = conv_weights(plan, checkpoint, |x| x as f32)?;
    Ok(Conv::new(plan.shape(), &weight, bias.as_deref())?)
}

/// A tensor's values: the checkpoint's own, or changed.
type Values<'a> = Cow<'a, [f32]>;

/// The weight and the bias of a convolution, its batch norm folded in as [`BatchNorm::fold_with`] does.
pub(crate) fn conv_weights<'a>(
    plan: &model::Conv,
    checkpoint: &'a Checkpoint,
    round: impl Fn(f64) -> f32,
) -> Result<(Values<'a>, Option<Values<'a>>), PackError> {
    let weight = checkpoint.tensor(&plan.weight)?.to_f32()?;
    let bias = match &plan.bias {
        Some(bias) => Some(checkpoint.tensor(bias)?.to_f32()?),
        None => None,
    };
    let Some(norm) = &plan.batch_norm else { return Ok((weight, bias)) };
    let fold = |norm: &BatchNorm<'_>| norm.fold_with(&weight, bias.as_deref(), round);
    let (weight, bias) = with_batch_norm(norm, checkpoint, fold)?;
    Ok((weight.into(), Some(bias.into())))
}

pub(crate) fn with_batch_norm<T>(
    plan: &model::BatchNorm,
    checkpoint: &Checkpoint,
    make: impl FnOnce(&BatchNorm<'_>) -> Result<T, OpError>,
) -> Result<T, PackError> {
    let [gamma, beta, mean, variance] = &plan.tensors;
    let tensor = |name: &str| checkpoint.tensor(name).and_then(|view| view.to_f32());
    let (gamma, beta, mean, variance) = (tensor(gamma)?, tensor(beta)?, tensor(mean)?, tensor(variance)?);
    let norm = BatchNorm { gamma: &gamma, beta: &beta, mean: &mean, variance: &variance, eps: plan.eps };
    Ok(make(&norm)?)
}

/// Why a network cannot be packed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// A tensor is missing or cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A tensor has another shape than the network's.
    #[error(transparent)]
    Op(#[from] OpError),
}
