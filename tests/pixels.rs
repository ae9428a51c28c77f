//! Pixels on the device against the CPU's scaling, bit for bit.
#![cfg(feature = "cuda")]
#![allow(clippy::panic, clippy::unwrap_used)] // a failed check ends the test

use device::{device, device_with, poisoned, round, rows};
use mercer::cuda::pixels::{PixelTable, enqueue_cast};
use mercer::cuda::{CudaError, Precision, Rows, Stream, Tensor};
use mercer::input::PixelScaling;
use mercer::model::MapShape;
use oracle::{Random, assert_bits};

mod device;
mod oracle;

const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Images whose values end in every place of a group of eight, start at every channel, and fill several blocks.
const SIZES: [(usize, usize, usize); 8] =
    [(0, 3, 3), (1, 1, 1), (3, 1, 1), (1, 2, 2), (5, 1, 3), (2, 5, 7), (4, 3, 11), (1, 40, 41)];

fn map((height, width): (usize, usize), channels: usize) -> MapShape {
    MapShape { height, width, channels }
}

/// Runs on the first `batch` of `batch + 1` images, with room for all and for these, and gives what both computed. What is
/// behind them must be poison still.
fn run(
    stream: &Stream,
    precision: Precision,
    batch: usize,
    len: usize,
    enqueue: impl Fn(&Rows, &Tensor),
) -> Vec<f32> {
    let found = [(batch + 1, batch), (batch, batch), (batch, batch + 1), (batch, u32::MAX as usize)].map(
        |(most, count)| {
            let output = poisoned(stream, precision, (batch + 1) * len);
            enqueue(&rows(stream, most, count), &output.part(0..most * len).unwrap());
            let mut found = output.download(stream).unwrap();
            let behind = found.split_off(batch * len);
            assert!(behind.iter().all(|x| x.is_nan()), "{count} of {most} images: writes behind the last");
            found
        },
    );
    for other in &found[1..] {
        assert_bits("room", other, &found[0], &[batch, len]);
    }
    found.into_iter().next().unwrap()
}

/// `values: [pixels, channels]` in the precision, with zeros up to `stored` channels.
fn padded(precision: Precision, values: &[f32], channels: usize, stored: usize) -> Vec<f32> {
    let pixel = |x: &[f32]| [x, &vec![0.0; stored - channels]].concat();
    values.chunks_exact(channels).flat_map(pixel).map(|x| round(precision, x)).collect()
}

fn check_normalised(
    stream: &Stream,
    precision: Precision,
    batch: usize,
    size: (usize, usize),
    stored: usize,
) {
    let scaling = PixelScaling::new(MEAN, STD);
    let table = PixelTable::new(stream, &scaling).unwrap();
    let (height, width) = size;
    let len = height * width * 3;
    let mut random = Random::new(2);
    let pixels: Vec<u8> = (0..(batch + 1) * len).map(|_| u8::try_from(random.below(256)).unwrap()).collect();
    let expected = padded(precision, &scaling.scale(&pixels[..batch * len]), 3, stored);
    let pixels = stream.upload("pixels", &pixels).unwrap();
    let found = run(stream, precision, batch, height * width * stored, |images, output| {
        let pixels = pixels.part(0..images.most() * len).unwrap();
        table.enqueue(stream, images, map(size, stored), &pixels, output).unwrap();
    });
    let what = format!("{batch} images of {height}x{width} in {precision:?}");
    assert_bits(&what, &found, &expected, &[batch, height, width, stored]);
}

#[test]
fn normalised_pixels_are_the_cpus() {
    let Some(device) = device() else { return };
    let stream = device.stream().unwrap();
    for (batch, height, width) in SIZES {
        for precision in Precision::ALL {
            for stored in [3, 4, 8] {
                check_normalised(&stream, precision, batch, (height, width), stored);
            }
        }
    }
}

/// Values beyond those that the grid has threads for.
#[test]
fn threads_take_further_pixels() {
    let Some(device) = device_with(1) else { return };
    let stream = device.stream().unwrap();
    let threads = device.info().multiprocessors as usize * 8 * 256;
    check_normalised(&stream, Precision::F16, 1, (1, threads * 2 + 3), 4);
}

#[test]
fn cast_pixels_are_rounded_to_nearest_even() {
    let Some(device) = device() else { return };
    let stream = device.stream().unwrap();
    for (batch, height, width) in SIZES {
        for (channels, stored) in [(1, 1), (1, 4), (3, 3), (3, 4), (5, 8), (9, 12)] {
            let len = height * width * channels;
            let mut values = Random::new(3).values((batch + 1) * len);
            // Halves of the last place, subnormal, too large.
            let special =
                [1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, 1.0 + 1.0 / 256.0, 3e-6, -7e4, f32::INFINITY, -0.0];
            values.iter_mut().zip(special).for_each(|(to, x)| *to = x);
            let input = stream.upload("values", &values).unwrap();
            for precision in Precision::ALL {
                let expected = padded(precision, &values[..batch * len], channels, stored);
                let found = run(&stream, precision, batch, height * width * stored, |images, output| {
                    let values = input.part(0..images.most() * len).unwrap();
                    let stored = map((height, width), stored);
                    enqueue_cast(&stream, images, channels, stored, &values, output).unwrap();
                });
                let what = format!("{batch} images of {height}x{width} in {precision:?}");
                assert_bits(&what, &found, &expected, &[batch, height, width, stored]);
            }
        }
    }
}

/// Every way a slice can be wrong.
#[test]
fn refusals() {
    let Some(device) = device() else { return };
    let stream = device.stream().unwrap();
    let table = PixelTable::new(&stream, &PixelScaling::new(MEAN, STD)).unwrap();
    let count = Rows::exactly(&stream, 1).unwrap();
    let pixels = stream.upload("pixels", &[0u8; 31]).unwrap();
    let values = stream.upload("values", &[0.0f32; 31]).unwrap();
    let output = Tensor::new(&device, "output", Precision::F16, 37).unwrap();
    let (stored, [input, to]) = (map((3, 3), 4), [0..27, 0..36]);
    let run = |pixels, output| table.enqueue(&stream, &count, stored, &pixels, &output);
    let cast = |values, output| enqueue_cast(&stream, &count, 3, stored, &values, &output);
    let part = |range| output.part(range).unwrap();
    assert_eq!(run(pixels.part(input.clone()).unwrap(), part(to.clone())), Ok(()));
    assert_eq!(cast(values.part(input.clone()).unwrap(), part(to.clone())), Ok(()));
    assert!(matches!(run(pixels.clone(), part(to.clone())), Err(CudaError::Length { .. })));
    assert!(matches!(cast(values.clone(), part(to.clone())), Err(CudaError::Length { .. })));
    assert!(matches!(run(pixels.part(input.clone()).unwrap(), part(0..37)), Err(CudaError::Length { .. })));
    assert!(matches!(cast(values.part(input).unwrap(), part(1..37)), Err(CudaError::Alignment { .. })));
    let few = table.enqueue(&stream, &count, map((3, 3), 2), &pixels.part(0..27).unwrap(), &part(0..18));
    assert!(matches!(few, Err(CudaError::Shape { .. })), "{few:?}");
    let few = enqueue_cast(&stream, &count, 2, map((3, 3), 1), &values.part(0..18).unwrap(), &part(0..9));
    assert!(matches!(few, Err(CudaError::Shape { .. })), "{few:?}");
}
