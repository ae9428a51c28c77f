//! Linear layers: `activation(weight * x + bias)`.

use std::ops::Range;

use super::activation::Activation;
use super::error::{OpError, expect};
use super::matmul::{Epilogue, Operand, Packed, Pieces, Rows, multiply};
use super::simd::Isa;

/// Rows that one task handles: few enough to stay in a core's cache beside a panel of weights.
const BLOCK: usize = 112;

/// A linear layer, its weights packed for the kernel.
#[derive(Debug, Clone)]
pub struct Linear {
    pub(super) weights: [Packed; 1],
    pub(super) bias: Option<Vec<f32>>,
    pub(super) activation: Activation,
    pieces: Pieces,
}

impl Linear {
    /// Packs `weight: [outputs, inputs]`, the layout of `torch.nn.Linear`, and keeps `bias: [outputs]`.
    ///
    /// # Errors
    /// [`OpError::Length`] or [`OpError::Overflow`] if a slice does not fit the shape.
    pub fn new(
        outputs: usize,
        inputs: usize,
        weight: &[f32],
        bias: Option<&[f32]>,
        activation: Activation,
    ) -> Result<Linear, OpError> {
        expect("weight", weight.len(), &[outputs, inputs])?;
        if let Some(bias) = bias {
            expect("bias", bias.len(), &[outputs])?;
        }
        Ok(Linear {
            weights: [Packed::new(outputs, inputs, |output, input| weight[output * inputs + input])],
            bias: bias.map(<[f32]>::to_vec),
            activation,
            pieces: Pieces::one(0, inputs),
        })
    }

    /// Length of an output row.
    pub fn outputs(&self) -> usize {
        self.weights[0].outputs()
    }

    /// Length of an input row.
    pub fn inputs(&self) -> usize {
        self.weights[0].inputs()
    }

    /// Maps `input: [rows, inputs]` to `output: [rows, outputs]`.
    ///
    /// # Errors
    /// [`OpError::Length`] or [`OpError::Overflow`] if a slice does not fit `rows`.
    pub fn run(&self, isa: Isa, rows: usize, input: &[f32], output: &mut [f32]) -> Result<(), OpError> {
        expect("linear input", input.len(), &[rows, self.inputs()])?;
        expect("linear output", output.len(), &[rows, self.outputs()])?;
        let source = Dense { data: input, width: self.inputs(), pieces: &self.pieces };
        multiply(isa, &self.weights, &blocks(0..rows), &source, self.epilogue(), output);
        Ok(())
    }

    pub(super) fn epilogue(&self) -> Epilogue<'_> {
        Epilogue { bias: self.bias.as_deref(), residual: None, activation: self.activation }
    }
}

/// Cuts a range of rows into blocks.
pub(super) fn blocks(rows: Range<usize>) -> Vec<Range<usize>> {
    rows.clone().step_by(BLOCK).map(|first| first..(first + BLOCK).min(rows.end)).collect()
}

/// The rows of a matrix `[rows, width]`.
pub(super) struct Dense<'a> {
    pub(super) data: &'a [f32],
    pub(super) width: usize,
    pub(super) pieces: &'a Pieces,
}

impl Rows for Dense<'_> {
    type Scratch = Vec<usize>;

    fn with_block(
        &self,
        rows: Range<usize>,
        _group: usize,
        starts: &mut Vec<usize>,
        body: impl FnOnce(&[Operand<'_>]),
    ) {
        starts.clear();
        starts.extend(rows.map(|row| row * self.width));
        body(&[Operand { data: self.data, starts, pieces: self.pieces }]);
    }
}
