//! Element-wise functions.

use rayon::prelude::*;

use super::error::{OpError, expect};
pub use crate::model::Activation;

/// Values that one task handles.
const CHUNK: usize = 1 << 14;

impl Activation {
    /// The function of one value. Sigmoid and tanh are computed in f64 and rounded once; relu keeps NaN.
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation)] // the rounding to f32 is the point
    pub fn apply(self, x: f32) -> f32 {
        match self {
            Activation::Identity => x,
            Activation::Relu => {
                if x <= 0.0 {
                    0.0
                } else {
                    x
                }
            }
            Activation::Sigmoid => (1.0 / (1.0 + (-f64::from(x)).exp())) as f32,
            Activation::Tanh => f64::from(x).tanh() as f32,
        }
    }

    /// The function of every value of a slice, in place.
    #[inline(always)]
    pub fn apply_all(self, values: &mut [f32]) {
        // The match stands outside the loops, so that each loop is over one function.
        match self {
            Activation::Identity => {}
            Activation::Relu => values.iter_mut().for_each(|x| *x = Activation::Relu.apply(*x)),
            Activation::Sigmoid => values.iter_mut().for_each(|x| *x = Activation::Sigmoid.apply(*x)),
            Activation::Tanh => values.iter_mut().for_each(|x| *x = Activation::Tanh.apply(*x)),
        }
    }

    /// [`Activation::apply_all`] on rayon's threads.
    pub fn run(self, values: &mut [f32]) {
        values.par_chunks_mut(CHUNK).for_each(|chunk| self.apply_all(chunk));
    }
}

/// `values += other`, element by element, then the activation: a residual sum that no convolution carries.
///
/// # Errors
/// [`OpError::Length`] if the lengths differ.
pub fn add(values: &mut [f32], other: &[f32], activation: Activation) -> Result<(), OpError> {
    expect("other operand", other.len(), &[values.len()])?;
    values.par_chunks_mut(CHUNK).zip(other.par_chunks(CHUNK)).for_each(|(values, other)| {
        for (x, y) in values.iter_mut().zip(other) {
            *x += y;
        }
        activation.apply_all(values);
    });
    Ok(())
}
