//! The device's order of operations, spelled out: what `kernels/head.cu` computes in f32 bit for bit, and how far the
//! tensor cores, whose order is their own, may be from the exact sum.

use std::ops::Range;

use mercer::cpu::activation::Activation;

use super::{Case, Layer};

/// Elements of a segment that are summed by themselves.
const CHUNK: usize = 256;

impl Case {
    /// The output of an f32 head, `[batch, outputs]`.
    pub fn in_order(&self) -> Vec<f32> {
        let Some((first, further)) = self.layers.split_first() else { return self.concatenated() };
        let mut values = first.finished(self.sums(first, 0..self.widths.len()));
        for layer in further {
            let sums = values.chunks_exact(layer.inputs).flat_map(|x| layer.rows().map(|w| add(0.0, x, w)));
            values = layer.finished(sums.collect());
        }
        values
    }

    /// The sums of the first layer over some of the segments, before bias and activation: `[batch, outputs]`.
    pub fn sums(&self, layer: &Layer, segments: Range<usize>) -> Vec<f32> {
        let mut sums = vec![0.0; self.batch * layer.outputs];
        for s in segments {
            let (first, width) = (self.widths[..s].iter().sum::<usize>(), self.widths[s]);
            for (at, row) in self.rows[s].iter().enumerate() {
                let x = &self.data[s][at * width..][..width];
                let sums = &mut sums[row * layer.outputs..][..layer.outputs];
                sums.iter_mut().zip(layer.rows()).for_each(|(sum, w)| *sum = add(*sum, x, &w[first..]));
            }
        }
        sums
    }

    /// How far an output of at most one layer may be from the exact one over the same stored values, `[batch, outputs]`.
    ///
    /// The longest sum is of n additions one after the other: the products of a chunk, the chunks, the bias. Products of
    /// 16-bit values are exact in f32. A tensor core aligns what it adds to the largest of them and may cut off what is
    /// below, two units in the last place of f32 at most; so no addition errs by more than 2^-22 of the sum of the
    /// magnitudes. Activations do not stretch a distance; sigmoid and tanh, at most 1, are rounded once more.
    pub fn bounds(&self) -> Vec<f64> {
        let Some(layer) = self.layers.first() else { return vec![0.0; self.batch * self.total()] };
        let mut magnitudes = self.map(f32::abs, f32::abs);
        magnitudes.layers[0].activation = Activation::Identity;
        let chunks: usize = self.widths.iter().map(|width| width.div_ceil(CHUNK)).sum();
        let additions = (self.total().min(CHUNK) + chunks + 1) as f64;
        let rounding = match layer.activation {
            Activation::Identity | Activation::Relu => 0.0,
            Activation::Sigmoid | Activation::Tanh => f64::from(f32::EPSILON) / 2.0,
        };
        magnitudes.expected().iter().map(|m| m * additions / f64::from(1 << 22) + rounding).collect()
    }
}

impl Layer {
    /// The weights of each output.
    fn rows(&self) -> impl Iterator<Item = &[f32]> {
        (0..self.outputs).map(|o| &self.weight[o * self.inputs..][..self.inputs])
    }

    /// Sums with bias and activation.
    fn finished(&self, mut sums: Vec<f32>) -> Vec<f32> {
        for (at, y) in sums.iter_mut().enumerate() {
            *y = self.activation.apply(self.bias.as_ref().map_or(*y, |bias| *y + bias[at % self.outputs]));
        }
        sums
    }
}

/// A total and the sums of the chunks of a segment, each from +0.
fn add(mut total: f32, x: &[f32], weights: &[f32]) -> f32 {
    for (x, weights) in x.chunks(CHUNK).zip(weights.chunks(CHUNK)) {
        total += x.iter().zip(weights).fold(0.0f32, |sum, (x, w)| w.mul_add(*x, sum));
    }
    total
}
