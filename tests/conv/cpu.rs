//! The CPU backend, and what batch norms do beside a convolution.

use mercer::cpu::OpError;
use mercer::cpu::activation::Activation;
use mercer::cpu::batch_norm::{BatchNorm, ScaleShift};
use mercer::cpu::conv::{Conv, ConvShape, Images, Pair};
use mercer::cpu::simd::Isa;
use proptest::prelude::*;

use super::cases::{Case, case, cases};
use super::oracle::{self, F32_TOLERANCE, Random, assert_bits, assert_close, relu, wide, with_threads};

impl Case {
    /// The CPU against the oracle.
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

#[test]
fn cpu_agrees_with_f64() {
    cases().iter().for_each(Case::check);
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
