//! Convolution and batch norm against their f64 twins, and bit for bit against themselves.
#![allow(clippy::panic, clippy::unwrap_used)] // a failed check ends the test

use mercer::cpu::OpError;
use mercer::cpu::activation::{Activation, add};
use mercer::cpu::batch_norm::{BatchNorm, ScaleShift};
use mercer::cpu::conv::{Conv, ConvShape, Images, Pair};
use mercer::cpu::simd::Isa;
use oracle::{F32_TOLERANCE, Random, assert_bits, assert_close, relu, wide, with_threads};
use proptest::prelude::*;

mod oracle;

/// A convolution with values.
#[derive(Debug, Clone)]
struct Case {
    shape: ConvShape,
    batch: usize,
    height: usize,
    width: usize,
}

/// 3×3, stride 1, padding 1 over 5×6 pixels.
fn case(in_channels: usize, out_channels: usize) -> Case {
    let shape = ConvShape {
        in_channels,
        out_channels,
        kernel: Pair::square(3),
        stride: Pair::square(1),
        padding: Pair::square(1),
        dilation: Pair::square(1),
        groups: 1,
    };
    Case { shape, batch: 1, height: 5, width: 6 }
}

impl Case {
    fn kernel(mut self, height: usize, width: usize) -> Case {
        self.shape.kernel = Pair { height, width };
        self
    }
    fn stride(mut self, height: usize, width: usize) -> Case {
        self.shape.stride = Pair { height, width };
        self
    }
    fn padding(mut self, height: usize, width: usize) -> Case {
        self.shape.padding = Pair { height, width };
        self
    }
    fn dilation(mut self, height: usize, width: usize) -> Case {
        self.shape.dilation = Pair { height, width };
        self
    }
    fn groups(mut self, groups: usize) -> Case {
        self.shape.groups = groups;
        self
    }
    fn image(mut self, height: usize, width: usize) -> Case {
        (self.height, self.width) = (height, width);
        self
    }
    fn batch(mut self, batch: usize) -> Case {
        self.batch = batch;
        self
    }

    fn out(&self) -> Pair {
        self.shape.output(self.height, self.width).unwrap()
    }

    fn check(&self) {
        let mut random = Random::new(11);
        let Case { shape, batch, height, width } = self.clone();
        let data = random.values(batch * height * width * shape.in_channels);
        let weight = random.values(shape.weights().unwrap());
        let bias = random.values(shape.out_channels);
        let input = Images { batch, height, width, data: &data };
        let out = self.out();
        let dimensions = [batch, out.height, out.width, shape.out_channels];
        let len = dimensions.iter().product();
        let residual = random.values(len);

        let conv = Conv::new(shape, &weight, Some(&bias)).unwrap();
        let plain = Conv::new(shape, &weight, None).unwrap();
        let run = |conv: &Conv, isa, residual, activation| {
            let mut output = vec![f32::NAN; len];
            conv.run(isa, input, residual, activation, &mut output).unwrap();
            output
        };
        let what = format!("{self:?}");
        let expected = oracle::conv(&shape, input, &weight, None);
        let found = run(&plain, Isa::best(), None, Activation::Identity);
        assert_close(&what, &found, &expected, &dimensions, F32_TOLERANCE);

        let sum = oracle::conv(&shape, input, &weight, Some(&bias));
        let expected: Vec<f64> = sum.iter().zip(wide(&residual)).map(|(x, r)| relu(x + r)).collect();
        let found = run(&conv, Isa::best(), Some(&residual), Activation::Relu);
        assert_close(&format!("{what} epilogue"), &found, &expected, &dimensions, F32_TOLERANCE);
        for isa in Isa::available() {
            let other = run(&conv, isa, Some(&residual), Activation::Relu);
            assert_bits(&format!("{what} {isa:?}"), &other, &found, &dimensions);
        }
    }
}

/// Channels that do not fill a vector or a panel, on both sides.
#[test]
fn channel_tails() {
    for channels in (1..=9).chain(15..=17).chain(31..=33) {
        case(channels, 5).check();
        case(3, channels).check();
    }
    case(33, 65).check();
}

/// Output pixels around the heights of the tiles (4, 6 and 14 rows).
#[test]
fn tile_edges() {
    for width in [1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 14, 15, 27, 28, 29] {
        case(4, 8).image(1, width).check();
        case(4, 8).image(width, 1).kernel(1, 1).padding(0, 0).check();
    }
}

/// Images of one pixel, and windows that are mostly or wholly padding.
#[test]
fn borders() {
    case(3, 4).image(1, 1).check();
    case(3, 4).image(1, 1).kernel(1, 1).padding(0, 0).check();
    case(3, 4).image(1, 1).padding(3, 3).check();
    case(3, 4).image(2, 3).kernel(7, 7).padding(3, 3).check();
    case(3, 4).image(2, 3).kernel(1, 1).padding(2, 5).check();
    case(3, 4).image(4, 4).kernel(4, 2).padding(0, 0).check();
    case(3, 4).image(4, 5).kernel(3, 3).padding(2, 0).check();
    case(3, 4).image(4, 5).kernel(3, 3).padding(0, 2).check();
    case(3, 4).image(4, 5).padding(9, 7).stride(2, 3).check();
}

/// Steps that skip pixels, or end before the last ones.
#[test]
fn strides() {
    for stride in 1..=5 {
        case(3, 4).image(9, 11).stride(stride, 6 - stride).check();
        case(3, 4).image(9, 11).kernel(1, 1).padding(0, 0).stride(stride, stride).check();
        case(3, 4).image(8, 9).kernel(2, 2).padding(0, 0).stride(stride, stride).check();
    }
    case(3, 64).image(31, 29).kernel(7, 7).padding(3, 3).stride(2, 2).check();
}

/// Taps apart from each other, on one axis or both.
#[test]
fn dilations() {
    case(5, 6).image(9, 10).dilation(2, 2).padding(2, 2).check();
    case(5, 6).image(9, 10).dilation(3, 1).padding(1, 2).stride(2, 1).check();
    case(5, 6).image(9, 10).dilation(1, 4).padding(0, 1).check();
    case(6, 6).image(9, 10).dilation(2, 3).padding(2, 2).groups(3).check();
    case(6, 6).image(9, 10).dilation(2, 3).padding(2, 2).groups(6).check();
}

/// Groups of one and of several channels in and out.
#[test]
fn groups() {
    for (ins, outs, groups) in
        [(4, 4, 2), (6, 9, 3), (8, 66, 2), (70, 4, 2), (5, 5, 5), (33, 33, 33), (3, 12, 3)]
    {
        case(ins, outs).groups(groups).check();
        case(ins, outs).groups(groups).kernel(1, 1).padding(0, 0).check();
        case(ins, outs).groups(groups).stride(2, 2).padding(2, 0).check();
    }
}

/// Sums long enough to be taken in several runs, and pieces longer than a run.
#[test]
fn long_sums() {
    case(512, 3).image(2, 2).check();
    case(1500, 3).image(1, 2).kernel(1, 1).padding(0, 0).check();
}

/// Images of more than one block, with the last one shorter.
#[test]
fn blocks() {
    case(64, 8).image(41, 37).batch(2).check();
    case(64, 8).image(41, 37).kernel(1, 1).padding(0, 0).stride(2, 2).batch(2).check();
}

#[test]
fn empty_batch() {
    case(3, 4).batch(0).check();
    case(4, 4).groups(4).batch(0).check();
}

/// An image has the same bits alone, in a batch, and on any number of threads.
#[test]
fn batch_and_thread_invariance() {
    for case in [case(9, 40).image(13, 11), case(8, 8).groups(8), case(8, 8).groups(2).stride(2, 1)] {
        let mut random = Random::new(5);
        let Case { shape, height, width, .. } = case;
        let (batch, pixels, out) = (37, height * width * shape.in_channels, case.out());
        let per_image = out.height * out.width * shape.out_channels;
        let dimensions = [batch, out.height, out.width, shape.out_channels];
        let data = random.values(batch * pixels);
        let conv = Conv::new(shape, &random.values(shape.weights().unwrap()), None).unwrap();
        let run = |batch, data: &[f32]| {
            let mut output = vec![f32::NAN; batch * per_image];
            let input = Images { batch, height, width, data };
            conv.run(Isa::best(), input, None, Activation::Identity, &mut output).unwrap();
            output
        };
        let together = with_threads(1, || run(batch, &data));
        for threads in [2, 5] {
            assert_bits("threads", &with_threads(threads, || run(batch, &data)), &together, &dimensions);
        }
        let alone: Vec<f32> = data.chunks_exact(pixels).flat_map(|image| run(1, image)).collect();
        assert_bits("alone", &alone, &together, &dimensions);
    }
}

/// A NaN reaches exactly the windows that hold it.
#[test]
fn nan_stays_in_its_windows() {
    for groups in [1, 2] {
        let case = case(2, 2).groups(groups);
        let mut data = vec![1.0; case.height * case.width * 2];
        data[(2 * case.width + 3) * 2] = f32::NAN;
        let conv = Conv::new(case.shape, &vec![1.0; case.shape.weights().unwrap()], None).unwrap();
        let mut output = vec![0.0; data.len()];
        let input = Images { batch: 1, height: case.height, width: case.width, data: &data };
        conv.run(Isa::best(), input, None, Activation::Relu, &mut output).unwrap();
        for (at, x) in output.iter().enumerate() {
            let (y, x_, channel) = (at / 2 / case.width, at / 2 % case.width, at % 2);
            let hit = (1..=3).contains(&y) && (2..=4).contains(&x_) && (groups == 1 || channel == 0);
            assert_eq!(x.is_nan(), hit, "groups {groups}, y {y}, x {x_}, channel {channel}");
        }
    }
}

/// Every way a shape or a slice can be wrong.
#[test]
fn refusals() {
    let shape = case(4, 6).shape;
    let with = |change: fn(&mut ConvShape)| {
        let mut shape = shape;
        change(&mut shape);
        shape.output(5, 6).unwrap_err().to_string()
    };
    assert_eq!(with(|s| s.stride.width = 0), "stride is 0");
    assert_eq!(with(|s| s.kernel.height = 0), "kernel is 0");
    assert_eq!(with(|s| s.dilation.height = 0), "dilation is 0");
    assert_eq!(with(|s| s.in_channels = 0), "in_channels is 0");
    assert_eq!(with(|s| s.groups = 0), "groups is 0");
    assert_eq!(with(|s| s.groups = 3), "3 groups do not divide 4 input and 6 output channels");
    assert_eq!(with(|s| s.kernel.width = 9), "a window of 9 does not fit a width of 8 (padding included)");
    assert!(with(|s| s.padding.width = usize::MAX).contains("is too large"));
    assert!(with(|s| s.dilation.height = usize::MAX).contains("is too large"));

    let weight = vec![0.0; shape.weights().unwrap()];
    assert!(matches!(Conv::new(shape, &weight[1..], None), Err(OpError::Length { .. })));
    assert!(matches!(Conv::new(shape, &weight, Some(&[0.0; 5])), Err(OpError::Length { .. })));
    let conv = Conv::new(shape, &weight, None).unwrap();
    let run = |data: usize, residual: usize, output: usize| {
        let (data, residual) = (vec![0.0; data], vec![0.0; residual]);
        let input = Images { batch: 1, height: 5, width: 6, data: &data };
        conv.run(Isa::best(), input, Some(&residual), Activation::Identity, &mut vec![0.0; output])
    };
    assert_eq!(run(120, 180, 180), Ok(()));
    for (data, residual, output) in [(119, 180, 180), (120, 181, 180), (120, 180, 179)] {
        assert!(matches!(run(data, residual, output), Err(OpError::Length { .. })));
    }
    // A file may claim any padding; the zeros are not laid out.
    let (far, step) = (Pair::square(1 << 40), Pair::square(1 << 41));
    let padded = Conv::new(ConvShape { padding: far, stride: step, ..shape }, &weight, None).unwrap();
    let data = [0.0; 120];
    let input = Images { batch: 1, height: 5, width: 6, data: &data };
    let error = padded.run(Isa::best(), input, None, Activation::Identity, &mut [0.0; 24]).unwrap_err();
    assert!(matches!(error, OpError::Overflow { .. }), "{error}");
    let input = Images { batch: usize::MAX, height: 5, width: 6, data: &[] };
    let error = conv.run(Isa::best(), input, None, Activation::Identity, &mut []).unwrap_err();
    assert!(matches!(error, OpError::Overflow { .. }), "{error}");
}

/// Folded into a convolution or on its own, batch norm is its definition.
#[test]
fn batch_norm() {
    let case = case(5, 7).padding(0, 0);
    let mut random = Random::new(3);
    let [gamma, beta, mean] = std::array::from_fn(|_| random.values(7));
    let variance: Vec<f32> = random.values(7).iter().map(|x| x * x + 1e-4).collect();
    let norm = BatchNorm { gamma: &gamma, beta: &beta, mean: &mean, variance: &variance, eps: 1e-5 };
    let data = random.values(case.height * case.width * 5);
    let weight = random.values(case.shape.weights().unwrap());
    let bias = random.values(7);
    let input = Images { batch: 1, height: case.height, width: case.width, data: &data };
    for bias in [None, Some(&bias[..])] {
        let sum = oracle::conv(&case.shape, input, &weight, bias);
        let expected: Vec<f64> = sum
            .iter()
            .enumerate()
            .map(|(at, x)| {
                let c = at % 7;
                let spread = (f64::from(variance[c]) + 1e-5).sqrt();
                (x - f64::from(mean[c])) / spread * f64::from(gamma[c]) + f64::from(beta[c])
            })
            .collect();
        let out = case.out();
        let dimensions = [1, out.height, out.width, 7];
        let mut found = vec![0.0; expected.len()];
        let (folded, shift) = norm.fold(&weight, bias).unwrap();
        let conv = Conv::new(case.shape, &folded, Some(&shift)).unwrap();
        conv.run(Isa::best(), input, None, Activation::Identity, &mut found).unwrap();
        assert_close("folded", &found, &expected, &dimensions, F32_TOLERANCE);

        let conv = Conv::new(case.shape, &weight, bias).unwrap();
        conv.run(Isa::best(), input, None, Activation::Identity, &mut found).unwrap();
        ScaleShift::new(&norm).unwrap().run(&mut found).unwrap();
        assert_close("apart", &found, &expected, &dimensions, F32_TOLERANCE);
    }
    assert!(matches!(norm.fold(&weight[1..], None), Err(OpError::Length { .. })));
    assert!(matches!(BatchNorm { beta: &[], ..norm }.affine(), Err(OpError::Length { .. })));
    assert!(matches!(ScaleShift::new(&norm).unwrap().run(&mut [0.0; 8]), Err(OpError::Length { .. })));
}

/// Residual sums and activations outside a convolution.
#[test]
fn element_wise() {
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

fn pair(range: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Pair> {
    (range.clone(), range).prop_map(|(height, width)| Pair { height, width })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_shape(
        groups in 1usize..4, ins in 1usize..12, outs in 1usize..36,
        kernel in pair(1..=4), stride in pair(1..=3), padding in pair(0..=3), dilation in pair(1..=3),
        image in pair(1..=9), batch in 1usize..3,
    ) {
        let (in_channels, out_channels) = (ins * groups, outs * groups);
        let shape = ConvShape { in_channels, out_channels, kernel, stride, padding, dilation, groups };
        let case = Case { shape, batch, height: image.height, width: image.width };
        prop_assume!(shape.output(image.height, image.width).is_ok());
        case.check();
    }
}
