//! Linear layers and the fused head: one case list on the f64 oracle, the CPU and the CUDA device, each held bit for bit
//! against itself too.
#![allow(clippy::panic, clippy::unwrap_used)] // a failed check ends the test

use mercer::cpu::activation::Activation;
use oracle::{Random, relu, wide};

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
#[path = "../device/mod.rs"]
mod device;
#[path = "../oracle/mod.rs"]
mod oracle;
#[cfg(feature = "cuda")]
mod order;

/// A layer of a head.
struct Layer {
    outputs: usize,
    inputs: usize,
    /// `[outputs, inputs]`
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    activation: Activation,
}

/// A head over segments, with the rows that have each.
struct Case {
    what: String,
    widths: Vec<usize>,
    batch: usize,
    /// Per segment, the rows that have it.
    rows: Vec<Vec<usize>>,
    /// `[rows, width]` per segment.
    data: Vec<Vec<f32>>,
    layers: Vec<Layer>,
    /// Sums are exact in f32, in whatever order.
    exact: bool,
}

/// What a layer of a case has besides its values: outputs, whether a bias, activation.
type Shape = (usize, bool, Activation);

/// A layer of that many outputs with a bias.
fn linear(outputs: usize) -> Shape {
    (outputs, true, Activation::Identity)
}

impl Case {
    /// A segment has row `r` if `has(r, segment)`. With `exact`, values are multiples of 1/16 below 1.
    fn new(
        widths: &[usize],
        batch: usize,
        shapes: &[Shape],
        exact: bool,
        has: impl Fn(usize, usize) -> bool,
    ) -> Case {
        let mut random = Random::new(29);
        let mut values = |len: usize| -> Vec<f32> {
            (0..len)
                .map(|_| if exact { random.below(31) as f32 / 16.0 - 15.0 / 16.0 } else { random.value() })
                .collect()
        };
        let rows: Vec<Vec<usize>> =
            (0..widths.len()).map(|s| (0..batch).filter(|&row| has(row, s)).collect()).collect();
        let data = rows.iter().zip(widths).map(|(rows, width)| values(rows.len() * width)).collect();
        let mut inputs = widths.iter().sum();
        let layers = shapes.iter().map(|&(outputs, bias, activation)| {
            let weight = values(outputs * inputs);
            let bias = bias.then(|| values(outputs));
            Layer { outputs, inputs: std::mem::replace(&mut inputs, outputs), weight, bias, activation }
        });
        let layers = layers.collect();
        let what = format!("widths {widths:?}, batch {batch}, layers {shapes:?}");
        Case { what, widths: widths.to_vec(), batch, rows, data, layers, exact }
    }

    fn total(&self) -> usize {
        self.widths.iter().sum()
    }

    fn outputs(&self) -> usize {
        self.layers.last().map_or(self.total(), |layer| layer.outputs)
    }

    fn is_linear(&self) -> bool {
        self.layers.iter().map(|layer| layer.activation).all(|a| a == Activation::Identity)
            && self.layers.len() <= 1
    }

    /// Whether the output is exact in f32: no layer rounds, and none follows another.
    fn sums_are_exact(&self) -> bool {
        let rounds = |layer: &Layer| matches!(layer.activation, Activation::Sigmoid | Activation::Tanh);
        self.exact && self.layers.len() <= 1 && !self.layers.iter().any(rounds)
    }

    /// The case with other values: data and weights mapped by the one function, biases by the other.
    #[cfg(feature = "cuda")]
    fn map(&self, value: impl Fn(f32) -> f32, bias: impl Fn(f32) -> f32) -> Case {
        let values = |values: &Vec<f32>| values.iter().map(|&x| value(x)).collect();
        let layers = self.layers.iter().map(|layer| Layer {
            weight: values(&layer.weight),
            bias: layer.bias.as_ref().map(|values| values.iter().map(|&x| bias(x)).collect()),
            ..*layer
        });
        Case {
            what: self.what.clone(),
            widths: self.widths.clone(),
            rows: self.rows.clone(),
            data: self.data.iter().map(values).collect(),
            layers: layers.collect(),
            ..*self
        }
    }

    /// The concatenation, absent segments as zeros.
    fn concatenated(&self) -> Vec<f32> {
        let mut output = vec![0.0; self.batch * self.total()];
        let mut first = 0;
        for ((rows, data), &width) in self.rows.iter().zip(&self.data).zip(&self.widths) {
            for (at, row) in rows.iter().enumerate() {
                let to = row * self.total() + first;
                output[to..to + width].copy_from_slice(&data[at * width..(at + 1) * width]);
            }
            first += width;
        }
        output
    }

    /// The output of the head in f64.
    fn expected(&self) -> Vec<f64> {
        let mut values = wide(&self.concatenated());
        for layer in &self.layers {
            values = (0..self.batch * layer.outputs)
                .map(|at| {
                    let (row, o) = (at / layer.outputs, at % layer.outputs);
                    let x = &values[row * layer.inputs..(row + 1) * layer.inputs];
                    let weights = &layer.weight[o * layer.inputs..(o + 1) * layer.inputs];
                    let sum: f64 = x.iter().zip(weights).map(|(x, &w)| x * f64::from(w)).sum();
                    let sum = sum + layer.bias.as_ref().map_or(0.0, |bias| f64::from(bias[o]));
                    match layer.activation {
                        Activation::Identity => sum,
                        Activation::Relu => relu(sum),
                        Activation::Sigmoid => 1.0 / (1.0 + (-sum).exp()),
                        Activation::Tanh => sum.tanh(),
                    }
                })
                .collect();
        }
        values
    }
}

/// Rows with every subset of up to five segments, the empty one too.
fn every_pattern(row: usize, segment: usize) -> bool {
    (row * 7 + row / 3) >> (segment % 5) & 1 == 1
}

/// Every case, by the fault that it hunts. Each comes with exact sums, which show a wrong index whatever its size, and
/// with random values.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |widths: &[usize], batch: usize, shapes: &[Shape], has: fn(usize, usize) -> bool| {
        for exact in [true, false] {
            cases.push(Case::new(widths, batch, shapes, exact, has));
        }
    };
    // Rows that have different segments in one tile; rows around the heights of the tiles.
    for batch in (0..=9).chain([13, 14, 15, 16, 17, 37, 63, 64, 65, 130]) {
        add(&[5, 16, 1, 33], batch, &[linear(7)], every_pattern);
    }
    // Everything present, nothing present, and a segment that no row has.
    add(&[5, 16], 20, &[linear(40)], |_, _| true);
    add(&[5, 16], 20, &[linear(40)], |_, _| false);
    add(&[5, 16, 3], 20, &[linear(40)], |_, s| s != 1);
    // Outputs around the widths of the tiles, in few and in many rows.
    for outputs in [1, 2, 8, 9, 63, 64, 65, 127, 128, 129, 200] {
        add(&[9, 24], 3, &[linear(outputs)], |_, _| true);
        add(&[9, 24], 120, &[linear(outputs)], every_pattern);
    }
    // Widths around a load, a step and a chunk of the sum, and none at all.
    for width in [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257] {
        add(&[width, 4], 5, &[linear(5)], every_pattern);
    }
    add(&[1030, 3, 600], 5, &[linear(3)], every_pattern);
    add(&[768, 512, 256], 19, &[linear(70)], every_pattern);
    add(&[0, 4, 0], 9, &[linear(3)], every_pattern);
    add(&[0], 3, &[linear(3)], every_pattern);
    add(&[], 3, &[linear(3)], every_pattern);
    // As many segments as the device takes.
    add(&[3; 32], 20, &[linear(5)], every_pattern);
    // Every activation, with and without a bias, also where the sum is the bias alone.
    for activation in [Activation::Identity, Activation::Relu, Activation::Sigmoid, Activation::Tanh] {
        for bias in [true, false] {
            add(&[6, 9], 17, &[(33, bias, activation)], every_pattern);
        }
    }
    // Further layers over the fused one, and no layer at all: the concatenation.
    let tanh = |outputs| (outputs, true, Activation::Tanh);
    add(&[6, 9], 17, &[tanh(33), linear(8)], every_pattern);
    add(&[6, 9], 70, &[linear(130), (8, false, Activation::Relu), tanh(65), linear(1)], every_pattern);
    add(&[6, 9, 1], 37, &[], every_pattern);
    cases
}
