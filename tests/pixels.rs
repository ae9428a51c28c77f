//! Pixels on the device against the CPU's scaling, bit for bit.
#![cfg(feature = "cuda")]
#![allow(clippy::panic, clippy::unwrap_used)] // a failed check ends the test

use device::{device, poisoned, round};
use mercer::cuda::pixels::{PixelTable, enqueue_cast};
use mercer::cuda::{CudaError, Precision, Rows, Stream, Tensor};
use mercer::input::PixelScaling;
use mercer::model::Pair;
use oracle::{Random, assert_bits};

mod device;
mod oracle;

const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Sizes whose values end in every place of a group of eight, start at every channel, fill several blocks, and are more than the
/// stand-in's grid takes at once.
const SIZES: [(usize, usize, usize); 9] =
    [(0, 3, 3), (1, 1, 1), (3, 1, 1), (1, 2, 2), (5, 1, 3), (2, 5, 7), (4, 3, 11), (1, 40, 41), (3, 91, 90)];

/// `batch` of `batch + 1` images.
fn images(stream: &Stream, batch: usize) -> Rows {
    Rows::new(batch + 1, stream.upload("images", &[u32::try_from(batch).unwrap()]).unwrap()).unwrap()
}

/// The first `len` values; the others must be poison.
fn download(stream: &Stream, output: &Tensor, len: usize) -> Vec<f32> {
    let mut found = output.download(stream).unwrap();
    assert!(found.split_off(len).iter().all(|x| x.is_nan()), "writes behind the last image");
    found
}

#[test]
fn normalised_pixels_are_the_cpus() {
    let Some(device) = device() else { return };
    let stream = device.stream().unwrap();
    let scaling = PixelScaling::new(MEAN, STD);
    let table = PixelTable::new(&stream, &scaling).unwrap();
    for (batch, height, width) in SIZES {
        let len = height * width * 3;
        let mut random = Random::new(2);
        let pixels: Vec<u8> =
            (0..(batch + 1) * len).map(|_| u8::try_from(random.below(256)).unwrap()).collect();
        let expected = scaling.scale(&pixels[..batch * len]);
        let (count, pixels) = (images(&stream, batch), stream.upload("pixels", &pixels).unwrap());
        for precision in Precision::ALL {
            let output = poisoned(&stream, precision, (batch + 1) * len);
            table.enqueue(&stream, &count, Pair { height, width }, &pixels, &output).unwrap();
            let found = download(&stream, &output, batch * len);
            let expected: Vec<f32> = expected.iter().map(|&x| round(precision, x)).collect();
            let what = format!("{batch} images of {height}x{width} in {precision:?}");
            assert_bits(&what, &found, &expected, &[batch, height, width, 3]);
        }
    }
}

#[test]
fn cast_pixels_are_rounded_to_nearest_even() {
    let Some(device) = device() else { return };
    let stream = device.stream().unwrap();
    for (batch, height, width) in SIZES {
        let len = height * width * 3;
        let mut values = Random::new(3).values((batch + 1) * len);
        // Halves of the last place, subnormal, too large.
        let special =
            [1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, 1.0 + 1.0 / 256.0, 3e-6, -7e4, f32::INFINITY, -0.0];
        values.iter_mut().zip(special).for_each(|(to, x)| *to = x);
        let (count, input) = (images(&stream, batch), stream.upload("values", &values).unwrap());
        for precision in Precision::ALL {
            let output = poisoned(&stream, precision, (batch + 1) * len);
            enqueue_cast(&stream, &count, len, &input, &output).unwrap();
            let found = download(&stream, &output, batch * len);
            let expected: Vec<f32> = values[..batch * len].iter().map(|&x| round(precision, x)).collect();
            assert_bits(&format!("{batch} of {len} in {precision:?}"), &found, &expected, &[batch, len]);
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
    let output = Tensor::new(&device, "output", Precision::F16, 28).unwrap();
    let (size, [input, to]) = (Pair { height: 3, width: 3 }, [0..27, 0..27]);
    let run = |pixels, output| table.enqueue(&stream, &count, size, &pixels, &output);
    let cast = |values, output| enqueue_cast(&stream, &count, 27, &values, &output);
    let part = |range| output.part(range).unwrap();
    assert_eq!(run(pixels.part(input.clone()).unwrap(), part(to.clone())), Ok(()));
    assert_eq!(cast(values.part(input.clone()).unwrap(), part(to.clone())), Ok(()));
    assert!(matches!(run(pixels.clone(), part(to.clone())), Err(CudaError::Length { .. })));
    assert!(matches!(cast(values.clone(), part(to.clone())), Err(CudaError::Length { .. })));
    assert!(matches!(run(pixels.part(input.clone()).unwrap(), part(0..28)), Err(CudaError::Length { .. })));
    assert!(matches!(run(pixels.part(4..31).unwrap(), part(to.clone())), Err(CudaError::Alignment { .. })));
    assert!(matches!(cast(values.part(1..28).unwrap(), part(to)), Err(CudaError::Alignment { .. })));
    assert!(matches!(cast(values.part(input).unwrap(), part(1..28)), Err(CudaError::Alignment { .. })));
}
