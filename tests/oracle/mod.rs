//! Naive twins of the ops in f64: nested loops that follow the definition, allowed to be slow. And what tests share:
//! seeded values and comparisons that name the first bad coordinate.
#![allow(dead_code, missing_docs)] // every test and bench uses its own part
#![allow(clippy::panic, clippy::unwrap_used)] // a failed check ends the test

use mercer::cpu::conv::{ConvShape, Images, Pair};
use mercer::cpu::pool::{PoolKind, PoolShape};

/// Allowed error of an f32 layer against f64, relative to the layer's largest magnitude (the contract for encoders).
pub const F32_TOLERANCE: f64 = 2e-5;

/// A seeded source of test values (xorshift64*).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next()).unwrap() % bound
    }

    /// Uniform in [-1, 1).
    pub fn value(&mut self) -> f32 {
        self.below(1 << 24) as f32 / (1 << 23) as f32 - 1.0
    }

    /// A multiple of 1/16 in [-1/2, 1/2]: sums of products of a few thousand are exact in f32.
    pub fn sixteenth(&mut self) -> f32 {
        (self.below(17) as f32 - 8.0) / 16.0
    }

    pub fn values(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.value()).collect()
    }
}

/// Fails with the first coordinate that is further from `expected` than `tolerance` times the largest magnitude. NaN
/// must meet NaN, and an infinity itself.
#[track_caller]
pub fn assert_close(what: &str, found: &[f32], expected: &[f64], shape: &[usize], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}: lengths");
    let largest = expected.iter().filter(|x| x.is_finite()).fold(0.0f64, |m, x| m.max(x.abs()));
    for (at, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let found = f64::from(found);
        let same = found == expected || (found.is_nan() && expected.is_nan());
        let near = (found - expected).abs() <= tolerance * largest;
        if !same && !near {
            let error = (found - expected).abs() / largest;
            panic!(
                "{what}: {found} instead of {expected} at {:?} of {shape:?}, error {error:e}",
                place(at, shape)
            );
        }
    }
}

/// Fails with the first coordinate whose bits differ.
#[track_caller]
pub fn assert_bits(what: &str, found: &[f32], expected: &[f32], shape: &[usize]) {
    assert_eq!(found.len(), expected.len(), "{what}: lengths");
    if let Some(at) = (0..found.len()).find(|&at| found[at].to_bits() != expected[at].to_bits()) {
        panic!(
            "{what}: {:?} instead of {:?} at {:?} of {shape:?}",
            found[at],
            expected[at],
            place(at, shape)
        );
    }
}

fn place(at: usize, shape: &[usize]) -> Vec<usize> {
    let mut rest = at;
    let mut place: Vec<usize> = shape
        .iter()
        .rev()
        .map(|&side| {
            let coordinate = rest % side.max(1);
            rest /= side.max(1);
            coordinate
        })
        .collect();
    place.reverse();
    place
}

/// Runs `body` on a pool of `threads` threads.
pub fn with_threads<T: Send>(threads: usize, body: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(body)
}

pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

pub fn relu(x: f64) -> f64 {
    if x <= 0.0 { 0.0 } else { x }
}

/// `weight: [out, in / groups, kernel height, kernel width]`; every tap in the padding reads 0.
pub fn conv(shape: &ConvShape, input: Images<'_>, weight: &[f32], bias: Option<&[f32]>) -> Vec<f64> {
    let out = shape.output(input.height, input.width).unwrap();
    let (ins, outs) = (shape.in_channels / shape.groups, shape.out_channels / shape.groups);
    let Pair { height: kh, width: kw } = shape.kernel;
    let mut output = Vec::new();
    for image in 0..input.batch {
        for oy in 0..out.height {
            for ox in 0..out.width {
                for o in 0..shape.out_channels {
                    let mut sum = bias.map_or(0.0, |bias| f64::from(bias[o]));
                    for i in 0..ins {
                        for ky in 0..kh {
                            for kx in 0..kw {
                                let y = oy * shape.stride.height + ky * shape.dilation.height;
                                let x = ox * shape.stride.width + kx * shape.dilation.width;
                                let (Some(y), Some(x)) =
                                    (y.checked_sub(shape.padding.height), x.checked_sub(shape.padding.width))
                                else {
                                    continue;
                                };
                                if y >= input.height || x >= input.width {
                                    continue;
                                }
                                let pixel = (image * input.height + y) * input.width + x;
                                let value = input.data[pixel * shape.in_channels + o / outs * ins + i];
                                let weight = weight[((o * ins + i) * kh + ky) * kw + kx];
                                sum += f64::from(value) * f64::from(weight);
                            }
                        }
                    }
                    output.push(sum);
                }
            }
        }
    }
    output
}

pub fn pool(kind: PoolKind, shape: &PoolShape, channels: usize, input: Images<'_>) -> Vec<f64> {
    let out = shape.output(input.height, input.width).unwrap();
    let mut output = Vec::new();
    for image in 0..input.batch {
        for oy in 0..out.height {
            for ox in 0..out.width {
                for c in 0..channels {
                    let mut inside = Vec::new();
                    for ky in 0..shape.kernel.height {
                        for kx in 0..shape.kernel.width {
                            let y = (oy * shape.stride.height + ky).checked_sub(shape.padding.height);
                            let x = (ox * shape.stride.width + kx).checked_sub(shape.padding.width);
                            if let (Some(y), Some(x)) = (y, x)
                                && y < input.height
                                && x < input.width
                            {
                                let at = ((image * input.height + y) * input.width + x) * channels + c;
                                inside.push(f64::from(input.data[at]));
                            }
                        }
                    }
                    let taps = shape.kernel.height * shape.kernel.width;
                    let sum: f64 = inside.iter().sum();
                    output.push(match kind {
                        PoolKind::Max if inside.iter().any(|x| x.is_nan()) => f64::NAN,
                        PoolKind::Max => inside.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                        PoolKind::Average { count_include_pad: true } => sum / taps as f64,
                        PoolKind::Average { count_include_pad: false } => sum / inside.len() as f64,
                    });
                }
            }
        }
    }
    output
}

/// `weight: [outputs, inputs]`; columns `first..first + input.len()` of it for one row.
pub fn row_product(weight: &[f32], inputs: usize, first: usize, input: &[f32]) -> Vec<f64> {
    weight
        .chunks_exact(inputs)
        .map(|weight| {
            input.iter().zip(&weight[first..]).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum::<f64>()
        })
        .collect()
}
