//! Batch norm, sum and ReLU beside convolutions: one case list on the f64 oracle, the CPU and the CUDA device.
#![allow(clippy::panic, clippy::unwrap_used)] // a failed check ends the test

use mercer::cpu::activation::{Activation, add};
use mercer::cpu::batch_norm::{BatchNorm, ScaleShift};
use oracle::{F32_TOLERANCE, Random, assert_close, relu, wide};

#[cfg(feature = "cuda")]
mod device;
mod oracle;

/// Which parts are computed.
#[derive(Debug, Clone, Copy)]
struct Parts {
    batch_norm: bool,
    add: bool,
    relu: bool,
}

/// All parts and none.
fn parts() -> impl Iterator<Item = Parts> {
    (0..8).map(|set| Parts { batch_norm: set & 1 != 0, add: set & 2 != 0, relu: set & 4 != 0 })
}

/// `[images, pixels, channels]`.
type Shape = [usize; 3];

/// The one list.
fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    // Channels and images that do not fill a vector, values that do though their channels do not.
    shapes.extend((1..=9).map(|channels| [2, 1, channels]));
    shapes.extend([[3, 4, 5], [2, 8, 3], [1, 8, 12], [2, 3, 16], [2, 3, 17], [2, 5, 24]]);
    // No images; around the values and the vectors of a block.
    shapes.push([0, 3, 8]);
    shapes.extend([[1, 255, 1], [1, 256, 1], [1, 257, 1], [1, 255, 8], [1, 257, 8], [2, 99, 40]]);
    shapes
}

struct Values {
    input: Vec<f32>,
    other: Vec<f32>,
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl Values {
    /// Made by `values`, inputs through `rounded`.
    fn new(
        [images, pixels, channels]: Shape,
        mut values: impl FnMut(usize) -> Vec<f32>,
        rounded: impl Fn(f32) -> f32,
    ) -> Values {
        let mut input = || values(images * pixels * channels).into_iter().map(&rounded).collect();
        let (input, other) = (input(), input());
        Values { input, other, scale: values(channels), shift: values(channels) }
    }

    fn expected(&self, parts: Parts) -> Vec<f64> {
        let channels = self.scale.len();
        let value = |(at, (x, other)): (usize, (f64, f64))| {
            let (scale, shift) = (f64::from(self.scale[at % channels]), f64::from(self.shift[at % channels]));
            let x = if parts.batch_norm { x * scale + shift } else { x };
            let x = if parts.add { x + other } else { x };
            if parts.relu { relu(x) } else { x }
        };
        wide(&self.input).into_iter().zip(wide(&self.other)).enumerate().map(value).collect()
    }

    fn on_cpu(&self, parts: Parts) -> Vec<f32> {
        let mut x = self.input.clone();
        if parts.batch_norm {
            // A variance of 1 and no mean leave scale and shift as they are.
            let (zeros, ones) = (vec![0.0; self.scale.len()], vec![1.0; self.scale.len()]);
            let norm =
                BatchNorm { gamma: &self.scale, beta: &self.shift, mean: &zeros, variance: &ones, eps: 0.0 };
            ScaleShift::new(&norm).unwrap().run(&mut x).unwrap();
        }
        let activation = if parts.relu { Activation::Relu } else { Activation::Identity };
        if parts.add {
            add(&mut x, &self.other, activation).unwrap();
        } else {
            activation.run(&mut x);
        }
        x
    }
}

#[test]
fn cpu_agrees_with_f64() {
    for shape in shapes() {
        let mut random = Random::new(1);
        let values = Values::new(shape, |len| random.values(len), |x| x);
        for parts in parts() {
            let (found, expected) = (values.on_cpu(parts), values.expected(parts));
            assert_close(&format!("{parts:?}"), &found, &expected, &shape, F32_TOLERANCE);
        }
    }
}

/// Activations are rounded once.
#[test]
fn activations() {
    let mut values = [1.0, -2.0, f32::NAN, 0.5, -0.0];
    add(&mut values, &[1.0, 1.0, 1.0, -2.5, 0.0], Activation::Relu).unwrap();
    assert_eq!(&values[..2], &[2.0, 0.0]);
    assert!(values[2].is_nan());
    assert_eq!(&values[3..], &[0.0, 0.0]);
    assert!(add(&mut values, &[1.0], Activation::Relu).is_err());

    let inputs: Vec<f32> =
        (-400..=400).map(|i| i as f32 / 4.0).chain([f32::INFINITY, -f32::INFINITY]).collect();
    let check = |activation: Activation, f: fn(f64) -> f64| {
        let mut found = inputs.clone();
        activation.run(&mut found);
        for (&x, &y) in inputs.iter().zip(&found) {
            let expected = f(f64::from(x));
            // Rounded once: within half a unit in the last place.
            assert!(
                f64::from(y) == expected
                    || (f64::from(y) - expected).abs() <= expected.abs() * 2f64.powi(-24) + 1e-45,
                "{x}: {y}"
            );
        }
    };
    check(Activation::Identity, |x| x);
    check(Activation::Relu, relu);
    check(Activation::Sigmoid, |x| 1.0 / (1.0 + (-x).exp()));
    check(Activation::Tanh, f64::tanh);
    assert!(
        [Activation::Relu, Activation::Sigmoid, Activation::Tanh].iter().all(|a| a.apply(f32::NAN).is_nan())
    );
}

#[cfg(feature = "cuda")]
mod cuda {
    use mercer::cuda::elementwise::{Elementwise, ScaleShift};
    use mercer::cuda::{CudaError, Precision, Rows, Stream, Tensor};

    use super::device::{device, device_with, marked, round, rows};
    use super::oracle::assert_bits;
    use super::*;

    /// Where the output goes.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Place {
        Apart,
        OverInput,
        OverOther,
    }

    struct Run<'a> {
        stream: &'a Stream,
        precision: Precision,
        shape: Shape,
        place: Place,
    }

    impl Run<'_> {
        /// The output for the images of buffers that hold one more. Behind the last image the operands are NaN, and the output
        /// must stay as it was.
        fn of(&self, parts: Parts, values: &Values) -> Vec<f32> {
            let [images, ..] = self.shape;
            self.rows(&rows(self.stream, images + 1, images), parts, values)
        }

        /// As [`Run::of`], with another number of images, of which the most are the tensors'.
        fn rows(&self, rows: &Rows, parts: Parts, values: &Values) -> Vec<f32> {
            let Run { stream, precision, shape: [images, pixels, channels], place } = *self;
            let (len, most) = (pixels * channels, rows.most());
            let part = |all: &Tensor| all.part(0..most * len).unwrap();
            let upload = |values: &[f32]| {
                let mut values = values.to_vec();
                values.resize((images + 1) * len, f32::NAN);
                Tensor::upload(stream, "operand", precision, &values).unwrap()
            };
            let (input, other) = (upload(&values.input), upload(&values.other));
            let output = match place {
                Place::Apart => marked(stream, precision, (images + 1) * len),
                Place::OverInput => input.clone(),
                Place::OverOther => other.clone(),
            };
            let norm = ScaleShift::new(stream, &values.scale, &values.shift).unwrap();
            let add = part(&other);
            let op = Elementwise {
                batch_norm: parts.batch_norm.then_some(&norm),
                add: parts.add.then_some(&add),
                relu: parts.relu,
            };
            let untouched = output.download(stream).unwrap().split_off(images * len);
            op.enqueue(stream, rows, len, &part(&input), &part(&output)).unwrap();
            let mut found = output.download(stream).unwrap();
            let what = format!("{parts:?} {place:?} in {precision:?}: behind the last image");
            let behind: Vec<u32> = found.split_off(images * len).iter().map(|x| x.to_bits()).collect();
            assert!(behind.into_iter().eq(untouched.iter().map(|x| x.to_bits())), "{what}");
            found
        }
    }

    fn rounded(precision: Precision, values: &[f32]) -> Vec<f32> {
        values.iter().map(|&x| round(precision, x)).collect()
    }

    /// One fused multiply-add, one sum: the device's output is the CPU's, rounded.
    #[test]
    fn device_equals_cpu() {
        let Some(device) = device() else { return };
        let stream = device.stream().unwrap();
        for precision in Precision::ALL {
            for shape in shapes() {
                let mut random = Random::new(2);
                let values = Values::new(shape, |len| random.values(len), |x| round(precision, x));
                for parts in parts() {
                    let expected = rounded(precision, &values.on_cpu(parts));
                    for place in [Place::Apart, Place::OverInput, Place::OverOther] {
                        let found = Run { stream: &stream, precision, shape, place }.of(parts, &values);
                        let what = format!("{parts:?} {place:?} in {precision:?}");
                        assert_bits(&what, &found, &expected, &shape);
                    }
                }
            }
        }
    }

    /// A number of images beyond the most is the most.
    #[test]
    fn more_images_than_there_is_room_for() {
        let Some(device) = device() else { return };
        let stream = device.stream().unwrap();
        for shape in [[2, 3, 5], [2, 3, 8]] {
            let mut random = Random::new(3);
            let values = Values::new(shape, |len| random.values(len), |x| x);
            let run = Run { stream: &stream, precision: Precision::F32, shape, place: Place::Apart };
            for parts in parts() {
                let expected = run.of(parts, &values);
                for count in [3, u32::MAX as usize] {
                    let found = run.rows(&rows(&stream, 2, count), parts, &values);
                    assert_bits(&format!("{parts:?}, {count} images"), &found, &expected, &shape);
                }
            }
        }
    }

    /// Values beyond those that the grid has threads for.
    #[test]
    fn threads_take_further_values() {
        let Some(device) = device_with(1) else { return };
        let stream = device.stream().unwrap();
        let threads = device.info().multiprocessors as usize * 8 * 256;
        let parts = Parts { batch_norm: true, add: true, relu: true };
        for shape in [[1, threads + 5, 1], [1, threads + 5, 8]] {
            let mut random = Random::new(4);
            let values = Values::new(shape, |len| random.values(len), |x| round(Precision::F16, x));
            let run = Run { stream: &stream, precision: Precision::F16, shape, place: Place::Apart };
            let expected = rounded(Precision::F16, &values.on_cpu(parts));
            assert_bits("second turn", &run.of(parts, &values), &expected, &shape);
        }
    }

    /// NaN stays NaN through every part, also a ReLU; infinities are values.
    #[test]
    fn nan_and_infinity() {
        let Some(device) = device() else { return };
        let stream = device.stream().unwrap();
        for shape in [[1, 1, 7], [1, 1, 8]] {
            let [.., channels] = shape;
            let mut values = Values::new(shape, |len| vec![1.0; len], |x| x);
            values.input[..4].copy_from_slice(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -5.0]);
            values.other[4] = f32::NAN;
            for precision in Precision::ALL {
                for parts in parts() {
                    let found =
                        Run { stream: &stream, precision, shape, place: Place::Apart }.of(parts, &values);
                    let low = if parts.relu { 0.0 } else { f32::NEG_INFINITY };
                    assert!(found[0].is_nan(), "{parts:?} in {precision:?}: {found:?}");
                    assert_eq!(found[1..3], [f32::INFINITY, low], "{parts:?} in {precision:?}");
                    assert_eq!(found[4].is_nan(), parts.add, "{parts:?} in {precision:?}: {found:?}");
                    assert!(found[5..channels].iter().all(|x| x.is_finite()), "{parts:?}: {found:?}");
                }
            }
        }
    }

    /// Every way a slice can be wrong.
    #[test]
    fn refusals() {
        let Some(device) = device() else { return };
        let stream = device.stream().unwrap();
        let images = Rows::exactly(&stream, 2).unwrap();
        let tensor = |precision, len| Tensor::new(&device, "values", precision, len).unwrap();
        let half = |len| tensor(Precision::F16, len);
        let norm = ScaleShift::new(&stream, &[1.0; 3], &[0.0; 3]).unwrap();
        let run = |values: usize, add: Option<&Tensor>, input: &Tensor, output: &Tensor| {
            let op = Elementwise { batch_norm: Some(&norm), add, relu: false };
            op.enqueue(&stream, &images, values, input, output)
        };
        let (good, short, single) = (half(12), half(11), tensor(Precision::F32, 12));
        let shifted = half(13).part(1..13).unwrap();
        assert_eq!(run(6, Some(&good), &good, &good), Ok(()));
        for (add, input, output) in [(&short, &good, &good), (&good, &short, &good), (&good, &good, &short)] {
            assert!(matches!(run(6, Some(add), input, output), Err(CudaError::Length { .. })));
        }
        assert!(matches!(run(4, None, &half(8), &half(8)), Err(CudaError::Length { .. })), "3 channels");
        assert!(matches!(run(6, Some(&single), &good, &good), Err(CudaError::Precision { .. })));
        assert!(matches!(run(6, None, &good, &single), Err(CudaError::Precision { .. })));
        assert!(matches!(run(6, None, &shifted, &good), Err(CudaError::Alignment { .. })));
        assert!(matches!(run(6, Some(&shifted), &good, &good), Err(CudaError::Alignment { .. })));
        let error = |scale: &[f32], shift: &[f32]| ScaleShift::new(&stream, scale, shift).unwrap_err();
        assert!(matches!(error(&[1.0], &[]), CudaError::Length { .. }));
        assert!(matches!(error(&[], &[]), CudaError::Shape { .. }));
    }
}
