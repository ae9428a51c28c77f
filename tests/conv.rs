//! Convolution and batch norm against their f64 twins, and bit for bit against themselves.
#![allow(clippy::panic, clippy::unwrap_used)] // a failed check ends the test

use mercer::cpu::OpError;
use mercer::cpu::activation::{Activation, add};
use mercer::cpu::batch_norm::{BatchNorm, ScaleShift};
use mercer::cpu::conv::{Conv, ConvShape, Images, Pair};
use mercer::cpu::simd::Isa;
use oracle::{F32_TOLERANCE, Random, assert_bits, assert_close, relu, wide, with_threads};
use proptest::prelude::*;

#[cfg(feature = "cuda")]
mod device;
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

/// The one list: every convolution that all backends compute.
fn cases() -> Vec<Case> {
    [
        channel_tails(),
        tile_edges(),
        borders(),
        strides(),
        dilations(),
        groups(),
        long_sums(),
        blocks(),
        device_tiles(),
        vec![case(3, 4).batch(0), case(4, 4).groups(4).batch(0)], // no images
    ]
    .concat()
}

/// Channels that do not fill a vector, a panel or a chunk, on both sides.
fn channel_tails() -> Vec<Case> {
    let tails = (1..=9).chain(15..=17).chain(31..=33);
    let mut cases: Vec<Case> =
        tails.flat_map(|channels| [case(channels, 5), case(3, channels), case(8, channels)]).collect();
    cases.extend([case(33, 65), case(64, 64), case(65, 33)]);
    cases
}

/// Output pixels around the heights of the CPU's tiles (4, 6 and 14 rows).
fn tile_edges() -> Vec<Case> {
    let widths = [1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 14, 15, 27, 28, 29];
    let point = |width| case(4, 8).image(width, 1).kernel(1, 1).padding(0, 0);
    widths.into_iter().flat_map(|width| [case(4, 8).image(1, width), point(width)]).collect()
}

/// Images of one pixel, and windows that are mostly or wholly padding.
fn borders() -> Vec<Case> {
    vec![
        case(3, 4).image(1, 1),
        case(3, 4).image(1, 1).kernel(1, 1).padding(0, 0),
        case(3, 4).image(1, 1).padding(3, 3),
        case(3, 4).image(2, 3).kernel(7, 7).padding(3, 3),
        case(3, 4).image(2, 3).kernel(1, 1).padding(2, 5),
        case(3, 4).image(4, 4).kernel(4, 2).padding(0, 0),
        case(3, 4).image(4, 5).kernel(3, 3).padding(2, 0),
        case(3, 4).image(4, 5).kernel(3, 3).padding(0, 2),
        case(3, 4).image(4, 5).padding(9, 7).stride(2, 3),
        case(8, 4).image(1, 1),
        case(8, 4).image(1, 1).padding(3, 3).batch(3),
        case(8, 4).image(2, 3).kernel(5, 5).padding(4, 4),
        case(8, 4).image(4, 5).padding(9, 7).stride(2, 3),
        case(8, 4).image(2, 3).kernel(1, 1).padding(0, 0).stride(1 << 40, 1 << 40),
    ]
}

/// Steps that skip pixels, or end before the last ones.
fn strides() -> Vec<Case> {
    let mut cases: Vec<Case> = (1..=5)
        .flat_map(|stride| {
            [
                case(3, 4).image(9, 11).stride(stride, 6 - stride),
                case(8, 4).image(9, 11).kernel(1, 1).padding(0, 0).stride(stride, stride),
                case(8, 9).image(8, 9).kernel(2, 2).padding(0, 0).stride(stride, stride),
            ]
        })
        .collect();
    cases.push(case(3, 64).image(31, 29).kernel(7, 7).padding(3, 3).stride(2, 2)); // the stem of a ResNet
    cases
}

/// Taps apart from each other, on one axis or both.
fn dilations() -> Vec<Case> {
    vec![
        case(5, 6).image(9, 10).dilation(2, 2).padding(2, 2),
        case(5, 6).image(9, 10).dilation(3, 1).padding(1, 2).stride(2, 1),
        case(5, 6).image(9, 10).dilation(1, 4).padding(0, 1),
        case(8, 6).image(9, 10).dilation(1, 4).padding(0, 1),
        case(16, 6).image(9, 10).dilation(3, 2).padding(3, 2),
        case(6, 6).image(9, 10).dilation(2, 3).padding(2, 2).groups(3),
        case(6, 6).image(9, 10).dilation(2, 3).padding(2, 2).groups(6),
    ]
}

/// Groups of one and of several channels in and out.
fn groups() -> Vec<Case> {
    let shapes = [(4, 4, 2), (6, 9, 3), (8, 66, 2), (70, 4, 2), (5, 5, 5), (33, 33, 33), (3, 12, 3)];
    let shapes = shapes.into_iter().flat_map(|(ins, outs, groups)| {
        let case = case(ins, outs).groups(groups);
        let (point, strided) = (case.clone(), case.clone());
        [case, point.kernel(1, 1).padding(0, 0), strided.stride(2, 2).padding(2, 0)]
    });
    shapes.collect()
}

/// Sums long enough to be taken in several runs, and pieces longer than a run.
fn long_sums() -> Vec<Case> {
    vec![case(512, 3).image(2, 2), case(1500, 3).image(1, 2).kernel(1, 1).padding(0, 0)]
}

/// Images of more than one block, with the last one shorter.
fn blocks() -> Vec<Case> {
    let case = case(64, 8).image(41, 37).batch(2);
    vec![case.clone(), case.kernel(1, 1).padding(0, 0).stride(2, 2)]
}

/// Pixels, channels and sums around the device's tiles: 64 and 128 pixels, 64 and 128 channels, sums of 32 (16 in f32), and
/// of fewer tiles than the pipeline has stages; tiles of two images.
fn device_tiles() -> Vec<Case> {
    let point = |ins, outs| case(ins, outs).kernel(1, 1).padding(0, 0);
    let mut cases = Vec::new();
    for pixels in [63, 64, 65, 127, 128, 129] {
        cases.extend([
            point(8, 9).image(1, pixels),
            point(8, 70).image(pixels, 1),
            point(5, 9).image(1, pixels),
        ]);
    }
    for outs in [31, 32, 40, 63, 64, 65, 96, 127, 128, 129, 136] {
        cases.extend([point(8, outs).image(9, 9), point(16, outs).image(2, 2).batch(3)]);
    }
    for ins in [8, 16, 24, 32, 40, 64, 72, 96, 128, 136] {
        cases.push(point(ins, 8).image(3, 3));
    }
    cases.extend([
        case(8, 72).image(11, 12).batch(3),
        case(24, 8).image(5, 5).batch(6),
        case(7, 70).batch(9),
    ]);
    cases
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

#[cfg(feature = "cuda")]
mod cuda {
    use mercer::cuda::conv::Conv;
    use mercer::cuda::{CudaError, Precision, Rows, Stream, Tensor};

    use super::device::{device, device_with, poisoned, round, tolerance};
    use super::*;

    /// What a convolution reads, rounded to a precision.
    struct Values {
        data: Vec<f32>,
        weight: Vec<f32>,
        bias: Vec<f32>,
        residual: Vec<f32>,
    }

    impl Case {
        fn outputs(&self) -> [usize; 4] {
            let out = self.out();
            [self.batch, out.height, out.width, self.shape.out_channels]
        }

        fn values(&self, precision: Precision, mut values: impl FnMut(usize) -> Vec<f32>) -> Values {
            let mut rounded = |len| values(len).into_iter().map(|x| round(precision, x)).collect();
            let data = rounded(self.batch * self.height * self.width * self.shape.in_channels);
            let (weight, residual) =
                (rounded(self.shape.weights().unwrap()), self.outputs().iter().product());
            Values { data, weight, residual: rounded(residual), bias: values(self.shape.out_channels) }
        }

        /// The device's output for the first `self.batch` images of buffers that hold one more. Behind the last image the input
        /// is NaN, and the output must stay as it was.
        fn run(&self, stream: &Stream, precision: Precision, values: &Values, epilogue: bool) -> Vec<f32> {
            let size = Pair { height: self.height, width: self.width };
            let bias = epilogue.then_some(&values.bias[..]);
            let conv = Conv::new(stream, &self.shape, size, precision, &values.weight, bias).unwrap();
            let most = self.batch + 1;
            let upload = |values: &[f32], per_image: usize| {
                let mut values = values.to_vec();
                values.resize(most * per_image, f32::NAN);
                Tensor::upload(stream, "values", precision, &values).unwrap()
            };
            let per_image = self.outputs()[1..].iter().product();
            let input = upload(&values.data, self.height * self.width * self.shape.in_channels);
            let residual = epilogue.then(|| upload(&values.residual, per_image));
            let output = poisoned(stream, precision, most * per_image);
            let images =
                Rows::new(most, stream.upload("images", &[u32::try_from(self.batch).unwrap()]).unwrap())
                    .unwrap();
            conv.enqueue(stream, &images, &input, residual.as_ref(), epilogue, &output).unwrap();
            let mut found = output.download(stream).unwrap();
            let behind = found.split_off(self.batch * per_image);
            assert!(
                behind.iter().all(|x| x.is_nan()),
                "{self:?} {precision:?}: writes behind the last image"
            );
            found
        }

        fn expected(&self, values: &Values, epilogue: bool) -> Vec<f64> {
            let Case { shape, batch, height, width } = self.clone();
            let input = Images { batch, height, width, data: &values.data };
            if !epilogue {
                return oracle::conv(&shape, input, &values.weight, None);
            }
            let sums = oracle::conv(&shape, input, &values.weight, Some(&values.bias));
            sums.iter().zip(wide(&values.residual)).map(|(x, r)| relu(x + r)).collect()
        }

        /// Multiples of 1/16: every sum is exact in f32 whatever its order, so the output is the oracle's, rounded once.
        fn check_exactly(&self, stream: &Stream, precision: Precision) {
            let mut random = Random::new(21);
            let values = self.values(precision, |len| (0..len).map(|_| random.sixteenth()).collect());
            for epilogue in [false, true] {
                let found = self.run(stream, precision, &values, epilogue);
                let expected = self.expected(&values, epilogue);
                #[allow(clippy::cast_possible_truncation)] // exact
                let expected: Vec<f32> = expected.iter().map(|&x| round(precision, x as f32) + 0.0).collect();
                let found: Vec<f32> = found.iter().map(|x| x + 0.0).collect(); // -0 is 0
                let what = format!("{self:?} {precision:?}, epilogue {epilogue}");
                assert_bits(&what, &found, &expected, &self.outputs());
            }
        }

        fn check_closely(&self, stream: &Stream, precision: Precision) {
            let mut random = Random::new(22);
            let values = self.values(precision, |len| random.values(len));
            let found = self.run(stream, precision, &values, true);
            let what = format!("{self:?} {precision:?}");
            let expected = self.expected(&values, true);
            assert_close(&what, &found, &expected, &self.outputs(), tolerance(precision));
        }
    }

    fn check(precision: Precision) {
        // One multiprocessor takes the largest tile that a layer has, very many take the smallest; four take all three.
        for (multiprocessors, cases) in [(1, cases()), (4, device_tiles()), (1 << 20, device_tiles())] {
            let Some(device) = device_with(multiprocessors) else { return };
            let stream = device.stream().unwrap();
            for case in cases {
                case.check_exactly(&stream, precision);
                case.check_closely(&stream, precision);
            }
        }
    }

    #[test]
    fn f32_agrees_with_f64() {
        check(Precision::F32);
    }

    #[test]
    fn f16_agrees_with_f64() {
        check(Precision::F16);
    }

    #[test]
    fn bf16_agrees_with_f64() {
        check(Precision::Bf16);
    }

    /// An image has the same bits alone, in a batch, and in every run, although the size of the batch chooses the tile.
    #[test]
    fn an_image_has_its_own_bits() {
        let Some(device) = device_with(4) else { return };
        let stream = device.stream().unwrap();
        // With room for 8 images of that side the largest tile fills the card, with room for 2 it does not.
        let side = (16 * device.info().multiprocessors as usize).isqrt() + 1;
        for precision in Precision::ALL {
            for case in [
                case(8, 72).image(side, side),
                case(8, 40).image(side, side),
                case(9, 40).image(13, 11),
                case(24, 70).image(9, 8),
                case(40, 9).image(3, 3),
                case(8, 8).groups(2).stride(2, 1),
            ] {
                let case = case.batch(7);
                let mut random = Random::new(5);
                let values = case.values(precision, |len| random.values(len));
                let together = case.run(&stream, precision, &values, true);
                let what = format!("{case:?} {precision:?}");
                assert_bits(&what, &case.run(&stream, precision, &values, true), &together, &case.outputs());
                let (inputs, outputs) = (values.data.len() / 7, together.len() / 7);
                let alone = case.clone().batch(1);
                for image in [0, 3, 6] {
                    let one = Values {
                        data: values.data[image * inputs..][..inputs].to_vec(),
                        residual: values.residual[image * outputs..][..outputs].to_vec(),
                        weight: values.weight.clone(),
                        bias: values.bias.clone(),
                    };
                    let found = alone.run(&stream, precision, &one, true);
                    assert_bits(&what, &found, &together[image * outputs..][..outputs], &alone.outputs());
                }
            }
        }
    }

    /// A NaN reaches exactly the windows that hold it, and a ReLU keeps it.
    #[test]
    fn nan_stays_in_its_windows() {
        let Some(device) = device() else { return };
        let stream = device.stream().unwrap();
        for precision in Precision::ALL {
            for (channels, groups) in [(2, 1), (2, 2), (8, 1)] {
                let case = case(channels, channels).groups(groups);
                let mut random = Random::new(6);
                let mut values = case.values(precision, |len| random.values(len));
                values.data[(2 * case.width + 3) * channels] = f32::NAN;
                let found = case.run(&stream, precision, &values, true);
                for (at, x) in found.iter().enumerate() {
                    let (pixel, channel) = (at / channels, at % channels);
                    let (y, x_) = (pixel / case.width, pixel % case.width);
                    let hit = (1..=3).contains(&y) && (2..=4).contains(&x_) && (groups == 1 || channel == 0);
                    assert_eq!(
                        x.is_nan(),
                        hit,
                        "{precision:?}, groups {groups}, y {y}, x {x_}, channel {channel}"
                    );
                }
            }
        }
    }

    /// Every way a shape, a slice or a tensor can be wrong.
    #[test]
    fn refusals() {
        let Some(device) = device() else { return };
        let stream = device.stream().unwrap();
        let (shape, size) = (case(8, 6).shape, Pair { height: 5, width: 6 });
        let weight = vec![0.0; shape.weights().unwrap()];
        let new = |shape: ConvShape, weight: &[f32], bias| {
            Conv::new(&stream, &shape, size, Precision::F16, weight, bias).unwrap_err()
        };
        let zero = ConvShape { stride: Pair { height: 0, width: 1 }, ..shape };
        assert_eq!(new(zero, &weight, None), CudaError::Shape { reason: "stride is 0".into() });
        assert!(matches!(new(shape, &weight[1..], None), CudaError::Length { .. }));
        assert!(matches!(new(shape, &weight, Some(&[0.0; 5])), CudaError::Length { .. }));
        let (far, step) = (Pair::square(1 << 40), Pair::square(1 << 41));
        let padded = ConvShape { padding: far, stride: step, ..shape };
        assert!(matches!(new(padded, &weight, None), CudaError::Limit { .. }));

        let conv = Conv::new(&stream, &shape, size, Precision::F16, &weight, None).unwrap();
        let images = Rows::exactly(&stream, 1).unwrap();
        let tensor = |precision, len| Tensor::new(&device, "values", precision, len).unwrap();
        let half = |len| tensor(Precision::F16, len);
        let run = |input: &Tensor, residual: Option<&Tensor>, output: &Tensor| {
            conv.enqueue(&stream, &images, input, residual, false, output)
        };
        let (input, output) = (half(240), half(180));
        assert_eq!(run(&input, Some(&half(180)), &output), Ok(()));
        assert!(matches!(run(&half(239), None, &output), Err(CudaError::Length { .. })));
        assert!(matches!(run(&input, Some(&half(181)), &output), Err(CudaError::Length { .. })));
        assert!(matches!(run(&input, None, &half(179)), Err(CudaError::Length { .. })));
        let single = tensor(Precision::F32, 180);
        assert!(matches!(run(&input, None, &single), Err(CudaError::Precision { .. })));
        let shifted = half(241).part(1..241).unwrap();
        assert!(matches!(run(&shifted, None, &output), Err(CudaError::Alignment { .. })));
    }
}
