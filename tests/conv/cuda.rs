//! The CUDA backend.

use mercer::cpu::conv::{ConvShape, Images, Pair};
use mercer::cuda::conv::Conv;
use mercer::cuda::{CudaError, Precision, Rows, Stream, Tensor};

use super::cases::{Case, case, cases, device_tiles};
use super::device::{MARK, device, device_with, marked, round, rows, tolerance};
use super::oracle::{self, Random, assert_bits, assert_close, relu, wide};

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
        let (weight, residual) = (rounded(self.shape.weights().unwrap()), self.outputs().iter().product());
        Values { data, weight, residual: rounded(residual), bias: values(self.shape.out_channels) }
    }

    /// The device's output for the first `self.batch` images of buffers that hold one more. Behind the last image the input
    /// is NaN, and the output must stay as it was.
    fn run(&self, stream: &Stream, precision: Precision, values: &Values, epilogue: bool) -> Vec<f32> {
        self.run_rows(&rows(stream, self.batch + 1, self.batch), stream, precision, values, epilogue)
    }

    /// As [`Case::run`], with another number of images, of which the most are the tensors'.
    fn run_rows(
        &self,
        images: &Rows,
        stream: &Stream,
        precision: Precision,
        values: &Values,
        epilogue: bool,
    ) -> Vec<f32> {
        let size = Pair { height: self.height, width: self.width };
        let bias = epilogue.then_some(&values.bias[..]);
        let conv = Conv::new(stream, &self.shape, size, precision, &values.weight, bias).unwrap();
        let part = |all: &Tensor, per_image: usize| all.part(0..images.most() * per_image).unwrap();
        let upload = |values: &[f32], per_image: usize| {
            let mut values = values.to_vec();
            values.resize((self.batch + 1) * per_image, f32::NAN);
            part(&Tensor::upload(stream, "values", precision, &values).unwrap(), per_image)
        };
        let per_image = self.outputs()[1..].iter().product();
        let input = upload(&values.data, self.height * self.width * self.shape.in_channels);
        let residual = epilogue.then(|| upload(&values.residual, per_image));
        let output = marked(stream, precision, (self.batch + 1) * per_image);
        let to = part(&output, per_image);
        conv.enqueue(stream, images, &input, residual.as_ref(), epilogue, &to).unwrap();
        let mut found = output.download(stream).unwrap();
        let behind = found.split_off(self.batch * per_image);
        assert!(behind.iter().all(|&x| x == MARK), "{self:?} {precision:?}: writes behind the last image");
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

/// A number of images beyond the most is the most.
#[test]
fn more_images_than_there_is_room_for() {
    let Some(device) = device() else { return };
    let stream = device.stream().unwrap();
    for precision in Precision::ALL {
        for case in [case(8, 9), case(4, 9), case(3, 9), case(8, 8).groups(2)] {
            let case = case.batch(2);
            let mut random = Random::new(7);
            let values = case.values(precision, |len| random.values(len));
            let expected = case.run(&stream, precision, &values, true);
            for count in [3, u32::MAX as usize] {
                let images = rows(&stream, 2, count);
                let found = case.run_rows(&images, &stream, precision, &values, true);
                let what = format!("{case:?} {precision:?}, {count} images");
                assert_bits(&what, &found, &expected, &case.outputs());
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
    let case = case(2, 4).groups(2).image(1, threads / 4 + 5);
    for precision in Precision::ALL {
        case.check_exactly(&stream, precision);
    }
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
