//! Pooling against its f64 twin.
#![allow(clippy::panic, clippy::unwrap_used)] // a failed check ends the test

use mercer::cpu::OpError;
use mercer::cpu::conv::{Images, Pair};
use mercer::cpu::pool::{PoolKind, PoolShape, global_average, pool};
use mercer::cpu::simd::Isa;
use mercer::model::WindowError;
use oracle::{F32_TOLERANCE, Random, assert_bits, assert_close, with_threads};
use proptest::prelude::*;

#[cfg(feature = "cuda")]
mod device;
mod oracle;

const KINDS: [PoolKind; 3] = [
    PoolKind::Max,
    PoolKind::Average { count_include_pad: true },
    PoolKind::Average { count_include_pad: false },
];

fn shape(kernel: (usize, usize), stride: (usize, usize), padding: (usize, usize)) -> PoolShape {
    let pair = |(height, width)| Pair { height, width };
    PoolShape { kernel: pair(kernel), stride: pair(stride), padding: pair(padding) }
}

/// All kinds over `[batch, height, width, channels]` random values.
fn check(shape: PoolShape, [batch, height, width, channels]: [usize; 4]) {
    let data = Random::new(3).values(batch * height * width * channels);
    let input = Images { batch, height, width, data: &data };
    let out = shape.output(height, width).unwrap();
    let dimensions = [batch, out.height, out.width, channels];
    for kind in KINDS {
        let what = format!("{kind:?} {shape:?} over {:?}", [batch, height, width, channels]);
        let expected = oracle::pool(kind, &shape, channels, input);
        let run = |isa| {
            let mut output = vec![f32::NAN; expected.len()];
            pool(isa, kind, &shape, channels, input, &mut output).unwrap();
            output
        };
        let found = run(Isa::best());
        let tolerance = if kind == PoolKind::Max { 0.0 } else { F32_TOLERANCE };
        assert_close(&what, &found, &expected, &dimensions, tolerance);
        for isa in Isa::available() {
            assert_bits(&format!("{what} {isa:?}"), &run(isa), &found, &dimensions);
        }
    }
}

/// The one list: every pool that all backends compute, over `[batch, height, width, channels]`.
fn cases() -> Vec<(PoolShape, [usize; 4])> {
    let mut cases = Vec::new();
    // Channels that do not fill a vector.
    for channels in (1..=9).chain(15..=17).chain([24]).chain(31..=33) {
        cases.push((shape((3, 3), (2, 2), (1, 1)), [2, 7, 8, channels]));
    }
    // Windows over the border, and images smaller than the window.
    cases.extend([
        (shape((1, 1), (1, 1), (0, 0)), [1, 1, 1, 3]),
        (shape((2, 2), (1, 1), (1, 1)), [1, 1, 1, 3]),
        (shape((3, 3), (1, 1), (1, 1)), [1, 1, 2, 3]),
        (shape((7, 6), (1, 2), (3, 3)), [1, 2, 3, 3]),
        (shape((4, 5), (1, 1), (0, 0)), [1, 4, 5, 3]),
        (shape((2, 5), (1, 1), (1, 0)), [1, 4, 5, 3]),
        (shape((2, 5), (1, 1), (1, 0)), [1, 4, 5, 8]),
    ]);
    // Windows that overlap, touch, and leave pixels out.
    for stride in 1..=5 {
        cases.push((shape((3, 2), (stride, 6 - stride), (1, 0)), [2, 9, 11, 5]));
    }
    cases.push((shape((2, 2), (1 << 40, 1 << 40), (0, 0)), [3, 4, 4, 8]));
    // No images, many blocks.
    cases.extend([
        (shape((3, 3), (2, 2), (1, 1)), [0, 7, 8, 5]),
        (shape((2, 2), (1, 1), (0, 0)), [9, 12, 13, 8]),
    ]);
    cases
}

#[test]
fn cpu_agrees_with_f64() {
    cases().into_iter().for_each(|(shape, dimensions)| check(shape, dimensions));
}

/// Negative values: padding is not a zero that could win a maximum.
#[test]
fn padding_never_wins() {
    let data = [-5.0, -4.0, -3.0, -2.0];
    let input = Images { batch: 1, height: 2, width: 2, data: &data };
    let mut output = [0.0; 9];
    pool(Isa::best(), PoolKind::Max, &shape((2, 2), (1, 1), (1, 1)), 1, input, &mut output).unwrap();
    assert_eq!(output, [-5.0, -4.0, -4.0, -3.0, -2.0, -2.0, -3.0, -2.0, -2.0]);
}

/// NaN wins wherever it stands in the window, infinities are values, and other windows are untouched.
#[test]
fn nan_and_infinity() {
    for at in 0..4 {
        let mut data = [1.0, f32::INFINITY, f32::NEG_INFINITY, 2.0, 7.0, 7.0, 7.0, 7.0];
        data[at] = f32::NAN;
        let input = Images { batch: 2, height: 2, width: 2, data: &data };
        for kind in KINDS {
            let mut output = [0.0; 2];
            pool(Isa::best(), kind, &shape((2, 2), (2, 2), (0, 0)), 1, input, &mut output).unwrap();
            assert!(output[0].is_nan(), "{kind:?} with NaN at {at}: {}", output[0]);
            assert_eq!(output[1], 7.0, "{kind:?}");
        }
    }
    let data = [f32::NEG_INFINITY; 4];
    let input = Images { batch: 1, height: 2, width: 2, data: &data };
    let mut output = [0.0];
    pool(Isa::best(), PoolKind::Max, &shape((2, 2), (2, 2), (0, 0)), 1, input, &mut output).unwrap();
    assert_eq!(output, [f32::NEG_INFINITY]);
}

/// A mean over many values of one sign, where a single running sum would drift.
#[test]
fn global_average_of_large_images() {
    for [batch, height, width, channels] in [[2, 7, 7, 33], [1, 1, 1, 5], [1, 300, 301, 2], [0, 3, 3, 4]] {
        let mut random = Random::new(9);
        let data: Vec<f32> =
            random.values(batch * height * width * channels).iter().map(|x| x.abs() + 1.0).collect();
        let input = Images { batch, height, width, data: &data };
        let mut output = vec![f32::NAN; batch * channels];
        global_average(Isa::best(), channels, input, &mut output).unwrap();
        let whole = shape((height, width), (1, 1), (0, 0));
        let expected = oracle::pool(KINDS[1], &whole, channels, input);
        assert_close("global average", &output, &expected, &[batch, channels], F32_TOLERANCE);
    }
}

/// An image has the same bits alone, in a batch, and on any number of threads.
#[test]
fn batch_and_thread_invariance() {
    let (shape, pixels) = (shape((3, 3), (2, 2), (1, 1)), 9 * 8 * 5);
    let data = Random::new(4).values(37 * pixels);
    let out = shape.output(9, 8).unwrap();
    let dimensions = [37, out.height, out.width, 5];
    for kind in KINDS {
        let run = |data: &[f32]| {
            let batch = data.len() / pixels;
            let mut output = vec![f32::NAN; batch * out.height * out.width * 5];
            let input = Images { batch, height: 9, width: 8, data };
            pool(Isa::best(), kind, &shape, 5, input, &mut output).unwrap();
            output
        };
        let together = with_threads(1, || run(&data));
        for threads in [2, 5] {
            assert_bits("threads", &with_threads(threads, || run(&data)), &together, &dimensions);
        }
        let alone: Vec<f32> = data.chunks_exact(pixels).flat_map(run).collect();
        assert_bits("alone", &alone, &together, &dimensions);
    }
}

/// Every way a shape or a slice can be wrong.
#[test]
fn refusals() {
    let message = |shape: PoolShape, height, width| shape.output(height, width).unwrap_err().to_string();
    assert_eq!(message(shape((0, 2), (1, 1), (0, 0)), 4, 4), "kernel is 0");
    assert_eq!(message(shape((2, 2), (1, 0), (0, 0)), 4, 4), "stride is 0");
    assert_eq!(message(shape((2, 2), (1, 1), (1, 1)), 0, 4), "image side is 0");
    assert_eq!(
        message(shape((2, 3), (1, 1), (0, 2)), 4, 4),
        "padding of 2 along the width is more than half the window of 3"
    );
    assert_eq!(
        message(shape((5, 2), (1, 1), (0, 0)), 4, 4),
        "a window of 5 does not fit a height of 4 (padding included)"
    );
    // The divisor of an average is the area of its window.
    let (far, half) = (1 << 40, 1 << 39);
    assert_eq!(
        message(shape((far, far), (1, 1), (half, half)), 4, 4),
        format!("area: a window of {far} (padding {half}, dilation 1) is too large")
    );
    let input = Images { batch: 1, height: 2, width: 2, data: &[0.0; 4] };
    let huge = shape((far, far), (far, far), (half, half));
    let error = pool(Isa::best(), KINDS[1], &huge, 1, input, &mut [0.0]).unwrap_err();
    assert!(matches!(error, OpError::Window(WindowError::Overflow { .. })), "{error}");
    let run = |channels, output: &mut [f32]| {
        pool(Isa::best(), PoolKind::Max, &shape((2, 2), (1, 1), (0, 0)), channels, input, output)
    };
    assert!(matches!(run(0, &mut []), Err(OpError::Zero { .. })));
    assert!(matches!(run(2, &mut [0.0; 2]), Err(OpError::Length { .. })));
    assert!(matches!(run(1, &mut [0.0; 2]), Err(OpError::Length { .. })));
    let none = Images { batch: 1, height: 0, width: 2, data: &[] };
    let error = global_average(Isa::best(), 1, none, &mut [0.0]).unwrap_err();
    assert_eq!(error, OpError::Window(WindowError::Zero { what: "image side" }));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_shape(
        kernel in (1usize..=5, 1usize..=5), stride in (1usize..=6, 1usize..=6), padding in (0usize..=2, 0usize..=2),
        batch in 0usize..3, height in 1usize..10, width in 1usize..10, channels in 1usize..20,
    ) {
        let shape = shape(kernel, stride, padding);
        prop_assume!(shape.output(height, width).is_ok());
        check(shape, [batch, height, width, channels]);
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    use mercer::cuda::{CudaError, Precision, Rows, Stream, Tensor, pool as device_pool};
    use mercer::model::MapShape;

    use super::device::{MARK, device, device_with, marked, round, rows, tolerance};
    use super::*;

    /// The device's output for `batch` images in buffers that hold one more. Behind the last image the input is NaN, and the
    /// output must stay as it was. Without a kind it is the global mean.
    fn run(
        stream: &Stream,
        precision: Precision,
        pool: Option<(PoolKind, PoolShape)>,
        dimensions @ [batch, ..]: [usize; 4],
        data: &[f32],
    ) -> Vec<f32> {
        run_rows(&rows(stream, batch + 1, batch), stream, precision, pool, dimensions, data)
    }

    /// As [`run`], with another number of images, of which the most are the tensors'.
    fn run_rows(
        images: &Rows,
        stream: &Stream,
        precision: Precision,
        pool: Option<(PoolKind, PoolShape)>,
        [batch, height, width, channels]: [usize; 4],
        data: &[f32],
    ) -> Vec<f32> {
        let map = MapShape { height, width, channels };
        let part = |all: &Tensor, per_image: usize| all.part(0..images.most() * per_image).unwrap();
        let mut data = data.to_vec();
        data.resize((batch + 1) * map.len(), f32::NAN);
        let input = part(&Tensor::upload(stream, "input", precision, &data).unwrap(), map.len());
        let out = pool.map_or(Pair::square(1), |(_, shape)| shape.output(height, width).unwrap());
        let per_image = out.height * out.width * channels;
        let output = marked(stream, precision, (batch + 1) * per_image);
        let to = part(&output, per_image);
        match pool {
            Some((kind, shape)) => {
                device_pool::enqueue(stream, images, kind, &shape, map, &input, &to).unwrap();
            }
            None => device_pool::enqueue_global_average(stream, images, map, &input, &to).unwrap(),
        }
        let mut found = output.download(stream).unwrap();
        let behind = found.split_off(batch * per_image);
        assert!(behind.iter().all(|&x| x == MARK), "{pool:?} {precision:?}: writes behind the last image");
        found
    }

    fn rounded(precision: Precision, values: Vec<f32>) -> Vec<f32> {
        values.into_iter().map(|x| round(precision, x)).collect()
    }

    /// Windows are summed in the CPU's order: the device's output is the CPU's, rounded.
    #[test]
    fn device_equals_cpu() {
        let Some(device) = device() else { return };
        let stream = device.stream().unwrap();
        for precision in Precision::ALL {
            for (shape, dimensions @ [batch, height, width, channels]) in cases() {
                let values = Random::new(3).values(dimensions.iter().product());
                let data = rounded(precision, values);
                let input = Images { batch, height, width, data: &data };
                let out = shape.output(height, width).unwrap();
                let outputs = [batch, out.height, out.width, channels];
                for kind in KINDS {
                    let mut expected = vec![f32::NAN; outputs.iter().product()];
                    pool(Isa::best(), kind, &shape, channels, input, &mut expected).unwrap();
                    let found = run(&stream, precision, Some((kind, shape)), dimensions, &data);
                    let what = format!("{kind:?} {shape:?} over {dimensions:?} in {precision:?}");
                    assert_bits(&what, &found, &rounded(precision, expected), &outputs);
                }
            }
        }
    }

    /// Sums of multiples of 1/16 are exact in any order, others close.
    #[test]
    fn global_average_agrees_with_f64() {
        let Some(device) = device() else { return };
        let stream = device.stream().unwrap();
        for precision in Precision::ALL {
            // Lines per warp, lanes per group of channels, one pixel, one long line, none.
            for dimensions @ [batch, height, width, channels] in [
                [2, 7, 7, 33],
                [3, 8, 1, 32],
                [2, 9, 5, 31],
                [1, 17, 2, 64],
                [2, 1, 1, 5],
                [1, 1, 999, 2],
                [0, 3, 3, 4],
            ] {
                let mut random = Random::new(9);
                let len = dimensions.iter().product();
                let whole = shape((height, width), (1, 1), (0, 0));
                let exact: Vec<f32> = (0..len).map(|_| random.sixteenth()).collect();
                for (data, exact) in [(exact, true), (rounded(precision, random.values(len)), false)] {
                    let input = Images { batch, height, width, data: &data };
                    let expected = oracle::pool(KINDS[1], &whole, channels, input);
                    let found = run(&stream, precision, None, dimensions, &data);
                    let what = format!("global average of {dimensions:?} in {precision:?}");
                    assert_close(&what, &found, &expected, &[batch, channels], tolerance(precision));
                    if exact {
                        let mut expected = vec![f32::NAN; batch * channels];
                        global_average(Isa::best(), channels, input, &mut expected).unwrap();
                        assert_bits(&what, &found, &rounded(precision, expected), &[batch, channels]);
                    }
                }
            }
        }
    }

    /// An image has the same bits alone, in a batch, and in every run.
    #[test]
    fn an_image_has_its_own_bits() {
        let Some(device) = device() else { return };
        let stream = device.stream().unwrap();
        let (window, len) = (shape((3, 3), (2, 2), (1, 1)), 9 * 8 * 5);
        let data = Random::new(4).values(7 * len);
        for pool in KINDS.map(|kind| Some((kind, window))).into_iter().chain([None]) {
            let run = |batch: usize, data: &[f32]| run(&stream, Precision::F32, pool, [batch, 9, 8, 5], data);
            let together = run(7, &data);
            assert_bits("again", &run(7, &data), &together, &[together.len()]);
            let alone: Vec<f32> = data.chunks_exact(len).flat_map(|image| run(1, image)).collect();
            assert_bits("alone", &alone, &together, &[7, together.len() / 7]);
        }
    }

    /// A number of images beyond the most is the most.
    #[test]
    fn more_images_than_there_is_room_for() {
        let Some(device) = device() else { return };
        let stream = device.stream().unwrap();
        let window = shape((3, 3), (2, 2), (1, 1));
        for dimensions in [[2, 7, 8, 5], [2, 7, 8, 8]] {
            let data = Random::new(4).values(dimensions.iter().product());
            for pool in KINDS.map(|kind| Some((kind, window))).into_iter().chain([None]) {
                let expected = run(&stream, Precision::F32, pool, dimensions, &data);
                for count in [3, u32::MAX as usize] {
                    let images = rows(&stream, 2, count);
                    let found = run_rows(&images, &stream, Precision::F32, pool, dimensions, &data);
                    let what = format!("{pool:?} over {dimensions:?}, {count} images");
                    assert_bits(&what, &found, &expected, &[expected.len()]);
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
        let (window, dimensions) = (shape((1, 2), (1, 1), (0, 0)), [1, 1, threads + 6, 1]);
        let data: Vec<f32> = (0..threads + 6).map(|x| (x % 1024) as f32).collect();
        let found = run(&stream, Precision::F16, Some((PoolKind::Max, window)), dimensions, &data);
        let expected: Vec<f32> = data.windows(2).map(|pair| pair[0].max(pair[1])).collect();
        assert_bits("maximum", &found, &expected, &[threads + 5]);
    }

    /// NaN wins wherever it stands in the window, infinities are values, and other windows are untouched.
    #[test]
    fn nan_and_infinity() {
        let Some(device) = device() else { return };
        let stream = device.stream().unwrap();
        let window = shape((2, 2), (2, 2), (0, 0));
        for precision in Precision::ALL {
            let run = |pool, data: &[f32]| run(&stream, precision, pool, [data.len() / 4, 2, 2, 1], data);
            for at in 0..4 {
                let mut data = [1.0, f32::INFINITY, f32::NEG_INFINITY, 2.0, 7.0, 7.0, 7.0, 7.0];
                data[at] = f32::NAN;
                for pool in KINDS.map(|kind| Some((kind, window))).into_iter().chain([None]) {
                    let found = run(pool, &data);
                    assert!(found[0].is_nan(), "{pool:?} with NaN at {at}: {}", found[0]);
                    assert_eq!(found[1], 7.0, "{pool:?}");
                }
            }
            let lowest = run(Some((PoolKind::Max, window)), &[f32::NEG_INFINITY; 4]);
            assert_eq!(lowest, [f32::NEG_INFINITY]);
        }
    }

    /// Every way a shape or a tensor can be wrong.
    #[test]
    fn refusals() {
        let Some(device) = device() else { return };
        let stream = device.stream().unwrap();
        let images = Rows::exactly(&stream, 2).unwrap();
        let tensor = |precision, len| Tensor::new(&device, "values", precision, len).unwrap();
        let map = |height, width| MapShape { height, width, channels: 8 };
        let run = |window: PoolShape, map: MapShape, input: &Tensor, output: &Tensor| {
            device_pool::enqueue(&stream, &images, PoolKind::Max, &window, map, input, output)
        };
        let (window, half) = (shape((2, 2), (1, 1), (0, 0)), |len| tensor(Precision::F16, len));
        let (input, output) = (half(2 * 4 * 4 * 8), half(2 * 3 * 3 * 8));
        assert_eq!(run(window, map(4, 4), &input, &output), Ok(()));
        assert!(matches!(run(window, map(4, 5), &input, &output), Err(CudaError::Length { .. })));
        assert!(matches!(run(window, map(4, 4), &input, &half(1)), Err(CudaError::Length { .. })));
        let single = tensor(Precision::F32, output.len());
        assert!(matches!(run(window, map(4, 4), &input, &single), Err(CudaError::Precision { .. })));
        let shifted = half(output.len() + 1).part(1..output.len() + 1).unwrap();
        assert!(matches!(run(window, map(4, 4), &input, &shifted), Err(CudaError::Alignment { .. })));
        let wide = shape((2, 2), (1, 1), (0, 2));
        assert!(matches!(run(wide, map(4, 4), &input, &output), Err(CudaError::Shape { .. })));
        let far = shape((1 << 20, 1 << 20), (1 << 20, 1 << 20), (1 << 19, 1 << 19));
        assert!(matches!(
            run(far, map(4, 4), &input, &half(2 * 4 * 8)),
            Err(CudaError::Limit { .. } | CudaError::Length { .. })
        ));
        let global = |map, input: &Tensor, output: &Tensor| {
            device_pool::enqueue_global_average(&stream, &images, map, input, output)
        };
        assert_eq!(global(map(4, 4), &input, &half(16)), Ok(()));
        assert!(matches!(global(map(4, 4), &input, &half(15)), Err(CudaError::Length { .. })));
        assert!(matches!(global(map(0, 4), &half(0), &half(16)), Err(CudaError::Shape { .. })));
    }
}
