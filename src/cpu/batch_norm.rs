//! Batch normalisation in evaluation: `(x - mean) / sqrt(variance + eps) * gamma + beta` per channel.

use rayon::prelude::*;

use super::error::{OpError, expect, positive};
use super::simd::{Isa, Kernel, Simd, dispatch};

/// Pixels that one task handles.
const TASK_PIXELS: usize = 64;

/// The statistics and parameters of `torch.nn.BatchNorm2d`, each `[channels]`.
#[derive(Debug, Clone, Copy)]
pub struct BatchNorm<'a> {
    /// Scale, `weight` in a state dict.
    pub gamma: &'a [f32],
    /// Shift, `bias` in a state dict.
    pub beta: &'a [f32],
    /// Running mean.
    pub mean: &'a [f32],
    /// Running variance.
    pub variance: &'a [f32],
    /// Added to the variance.
    pub eps: f64,
}

impl BatchNorm<'_> {
    /// Per channel the f64 `(scale, shift)` with which the op is `scale * x + shift`.
    ///
    /// # Errors
    /// [`OpError::Length`] if the four slices differ in length.
    pub fn affine(&self) -> Result<Vec<(f64, f64)>, OpError> {
        let channels = self.gamma.len();
        expect("batch norm bias", self.beta.len(), &[channels])?;
        expect("batch norm mean", self.mean.len(), &[channels])?;
        expect("batch norm variance", self.variance.len(), &[channels])?;
        Ok((0..channels)
            .map(|c| {
                let scale = f64::from(self.gamma[c]) / (f64::from(self.variance[c]) + self.eps).sqrt();
                (scale, f64::from(self.beta[c]) - scale * f64::from(self.mean[c]))
            })
            .collect())
    }

    /// Folds the op into the convolution or linear layer before it: weights `[outputs, …]` and bias `[outputs]` of one
    /// layer that does both. Computed in f64, rounded once.
    ///
    /// # Errors
    /// [`OpError::Length`] if the weights are not a multiple of the channels, or a slice is not `[channels]`.
    #[allow(clippy::cast_possible_truncation)] // the rounding to f32 is the point
    pub fn fold(&self, weight: &[f32], bias: Option<&[f32]>) -> Result<(Vec<f32>, Vec<f32>), OpError> {
        let affine = self.affine()?;
        positive("batch norm channels", affine.len())?;
        let inputs = weight.len() / affine.len();
        expect("weight", weight.len(), &[affine.len(), inputs])?;
        if let Some(bias) = bias {
            expect("bias", bias.len(), &[affine.len()])?;
        }
        let folded =
            (0..weight.len()).map(|at| (f64::from(weight[at]) * affine[at / inputs].0) as f32).collect();
        let bias = affine
            .iter()
            .enumerate()
            .map(|(c, (scale, shift))| (scale * bias.map_or(0.0, |bias| f64::from(bias[c])) + shift) as f32)
            .collect();
        Ok((folded, bias))
    }
}

/// A batch norm that no convolution carries: one fused multiply-add per value.
#[derive(Debug, Clone)]
pub struct ScaleShift {
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl ScaleShift {
    /// Rounds the op's affine form to f32.
    ///
    /// # Errors
    /// As [`BatchNorm::affine`]; [`OpError::Zero`] if there are no channels.
    #[allow(clippy::cast_possible_truncation)] // the rounding to f32 is the point
    pub fn new(norm: &BatchNorm<'_>) -> Result<ScaleShift, OpError> {
        let affine = norm.affine()?;
        positive("batch norm channels", affine.len())?;
        let (scale, shift) = affine.into_iter().map(|(a, b)| (a as f32, b as f32)).unzip();
        Ok(ScaleShift { scale, shift })
    }

    /// Scale and shift, `[channels]` each.
    pub fn parts(&self) -> (&[f32], &[f32]) {
        (&self.scale, &self.shift)
    }

    /// Applies the op in place to `[pixels, channels]`.
    ///
    /// # Errors
    /// [`OpError::Length`] if the values are not a multiple of the channels.
    pub fn run(&self, values: &mut [f32]) -> Result<(), OpError> {
        let channels = self.scale.len();
        expect("values", values.len(), &[values.len() / channels, channels])?;
        values.par_chunks_mut(TASK_PIXELS * channels).for_each(|values| {
            dispatch(Isa::best(), Affine { scale: &self.scale, shift: &self.shift, values });
        });
        Ok(())
    }
}

/// [`ScaleShift::run`] over some pixels.
struct Affine<'a> {
    /// `[channels]`
    scale: &'a [f32],
    /// `[channels]`
    shift: &'a [f32],
    /// `[pixels, channels]`
    values: &'a mut [f32],
}

impl Kernel for Affine<'_> {
    type Output = ();

    // One operation per value and nothing to keep in registers: the compiler's own vectors do.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for pixel in self.values.chunks_exact_mut(self.scale.len()) {
            for (x, (scale, shift)) in pixel.iter_mut().zip(self.scale.iter().zip(self.shift)) {
                *x = x.mul_add(*scale, *shift);
            }
        }
    }
}
