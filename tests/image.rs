//! Photos: decoding and resizing against Pillow, normalisation against torchvision, and files that lie.
//! `tools/golden/preprocess.py` makes the golden files.
#![allow(clippy::panic, clippy::unwrap_used, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use mercer::ErrorKind;
use mercer::input::{
    Image, ImagePreprocessor, InputError, MAX_IMAGE_FILE_BYTES, MAX_IMAGE_SIDE, Modality, PixelScaling,
    Preprocessor, Request, Values, resize_rgb,
};
use mercer::model::{Crop, Filter, ImageInput, Inputs, Pair, Resize};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use safetensors::SafeTensors;

const FILTERS: [(Filter, &str); 2] = [(Filter::Bilinear, "bilinear"), (Filter::Bicubic, "bicubic")];

fn golden(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/preprocess")).join(name)
}

fn image_bytes(name: &str) -> Vec<u8> {
    std::fs::read(golden("images").join(name)).unwrap()
}

/// No change of size, and 255 becomes 1.
fn plain(size: Pair) -> ImageInput {
    ImageInput {
        height: size.height,
        width: size.width,
        resize: Resize::None,
        resize_size: None,
        filter: Filter::Bilinear,
        crop: Crop::Center,
        mean: [0.0; 3],
        std: [1.0; 3],
    }
}

fn exact(height: usize, width: usize) -> ImageInput {
    ImageInput { resize: Resize::Exact, ..plain(Pair { height, width }) }
}

fn write(config: &ImageInput, image: &Image) -> Result<Vec<u8>, InputError> {
    let preprocessor = ImagePreprocessor::new(config).unwrap();
    let mut out = vec![0x55; preprocessor.bytes()];
    preprocessor.write(image, &mut out)?;
    Ok(out)
}

/// The 8-bit pixels of a file of this size.
fn decode(bytes: &[u8], size: Pair) -> Result<Vec<u8>, InputError> {
    write(&plain(size), &Image::Encoded(bytes.to_vec()))
}

fn size_of(shape: &[usize]) -> Pair {
    assert_eq!(shape[2], 3);
    Pair { height: shape[0], width: shape[1] }
}

/// Panics with the first coordinate where two images differ by more than `tolerance`.
fn assert_pixels(name: &str, found: &[u8], expected: &[u8], width: usize, tolerance: u8) {
    assert_eq!(found.len(), expected.len(), "{name}");
    for (at, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let (y, x, channel) = (at / 3 / width, at / 3 % width, at % 3);
        assert!(
            found.abs_diff(expected) <= tolerance,
            "{name}: row {y}, column {x}, channel {channel}: {found}, expected {expected} within {tolerance}"
        );
    }
}

#[test]
fn resizing_is_pillows_bit_for_bit() {
    let bytes = std::fs::read(golden("resize.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let cases: Vec<String> =
        tensors.names().iter().filter_map(|name| Some(name.strip_suffix(".input")?.to_owned())).collect();
    assert_eq!(cases.len(), 16);
    for case in cases {
        let input = tensors.tensor(&format!("{case}.input")).unwrap();
        for (filter, name) in FILTERS {
            let expected = tensors.tensor(&format!("{case}.{name}")).unwrap();
            let to = size_of(expected.shape());
            let found = resize_rgb(input.data(), size_of(input.shape()), to, filter).unwrap();
            assert_pixels(&format!("{case}.{name}"), &found, expected.data(), to.width, 0);
        }
    }
}

/// JPEG leaves the rounding of the inverse transform and the way chroma is enlarged to the decoder. In these smooth
/// drawings, chroma at half the resolution comes out up to 4 apart, at full resolution up to 2.
const JPEG_TOLERANCE: u8 = 4;

#[test]
fn decoding_is_pillows() {
    let bytes = std::fs::read(golden("decoded.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.len(), 34);
    for (file, expected) in tensors.tensors() {
        let size = size_of(expected.shape());
        let found = decode(&image_bytes(&file), size).unwrap_or_else(|error| panic!("{file}: {error}"));
        let tolerance = if file.ends_with(".jpg") { JPEG_TOLERANCE } else { 0 };
        assert_pixels(&file, &found, expected.data(), size.width, tolerance);
    }
}

#[derive(serde::Deserialize)]
struct Case {
    file: String,
    config: ImageInput,
}

#[test]
fn transforms_are_torchvisions_bit_for_bit() {
    let cases: BTreeMap<String, Case> =
        serde_json::from_slice(&std::fs::read(golden("transforms.json")).unwrap()).unwrap();
    let bytes = std::fs::read(golden("transforms.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(cases.len(), tensors.len());
    for (name, Case { file, config }) in cases {
        let scaling = ImagePreprocessor::new(&config).unwrap().scaling().clone();
        let found = scaling.scale(&write(&config, &Image::Path(golden("images").join(file))).unwrap());
        let expected = tensors.tensor(&name).unwrap();
        assert_eq!(expected.shape(), [config.height, config.width, 3], "{name}");
        let expected = expected.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
            let (y, x, channel) = (at / 3 / config.width, at / 3 % config.width, at % 3);
            assert_eq!(
                found.to_bits(),
                expected.to_bits(),
                "{name}: row {y}, column {x}, channel {channel}: {found}, expected {expected}"
            );
        }
    }
}

#[test]
fn every_byte_is_scaled_as_it_is_alone() {
    let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    let scaling = PixelScaling::new(mean, std);
    // More pixels than one task scales, and two bytes of another pixel, which are left out.
    let photos: Vec<u8> = (0..=u8::MAX).cycle().take(3 * 20_000 + 2).collect();
    let found = scaling.scale(&photos);
    assert_eq!(found.len(), 3 * 20_000);
    for (at, (&found, &value)) in found.iter().zip(&photos).enumerate() {
        let channel = at % 3;
        let expected: f32 = (f32::from(value) / 255.0 - mean[channel]) / std[channel];
        assert_eq!(found.to_bits(), expected.to_bits(), "pixel {}, channel {channel}, value {value}", at / 3);
        assert_eq!(found.to_bits(), scaling.table()[channel][usize::from(value)].to_bits());
    }
    assert!(scaling.scale(&[]).is_empty());
}

/// A PNG chunk.
fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut checksum = u32::MAX;
    for byte in kind.iter().chain(data) {
        checksum ^= u32::from(*byte);
        for _ in 0..8 {
            checksum = (checksum >> 1) ^ (0xedb8_8320 * (checksum & 1));
        }
    }
    let length = u32::try_from(data.len()).unwrap();
    [&length.to_be_bytes()[..], kind, data, &(!checksum).to_be_bytes()].concat()
}

/// An RGB PNG that states a size and has no pixels.
fn png_header(width: u32, height: u32, depth: u8) -> Vec<u8> {
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[depth, 2, 0, 0, 0]].concat();
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    png.extend(chunk(b"IHDR", &header));
    png.extend(chunk(b"IDAT", b"\x78\x9c\x03\x00\x00\x00\x00\x01"));
    png.extend(chunk(b"IEND", b""));
    png
}

/// `444.jpg` with another size in its frame header.
fn jpeg_with_size(width: u16, height: u16) -> Vec<u8> {
    let mut jpeg = image_bytes("444.jpg");
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
    jpeg[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
    jpeg
}

fn refused(bytes: Vec<u8>) -> InputError {
    write(&exact(4, 4), &Image::Encoded(bytes)).expect_err("a lying image passed")
}

#[test]
fn files_that_are_no_images_are_refused() {
    let error = refused(b"hello world".to_vec());
    assert_eq!(
        error.to_string(),
        "not a JPEG, PNG or WebP image: 11 bytes that begin 68 65 6c 6c 6f 20 77 6f"
    );
    assert_eq!(error.kind(), ErrorKind::CorruptData);
    assert_eq!(refused(Vec::new()).to_string(), "not a JPEG, PNG or WebP image: no bytes");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("photo.png");
    std::fs::write(&path, "hello").unwrap();
    let error = write(&exact(4, 4), &Image::Path(path.clone())).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{}: not a JPEG, PNG or WebP image: 5 bytes that begin 68 65 6c 6c 6f", path.display())
    );
    assert!(std::error::Error::source(&error).is_some());

    let missing = folder.path().join("missing.png");
    let error = write(&exact(4, 4), &Image::Path(missing.clone())).unwrap_err();
    assert!(error.to_string().starts_with(&format!("{}: No such file", missing.display())), "{error}");
    assert_eq!(error.kind(), ErrorKind::Caller);
    assert_eq!(
        write(&exact(4, 4), &Image::Path(folder.path().to_owned())).unwrap_err().kind(),
        ErrorKind::Io
    );

    let huge = folder.path().join("huge.png");
    std::fs::File::create(&huge).unwrap().set_len(MAX_IMAGE_FILE_BYTES + 1).unwrap();
    let error = write(&exact(4, 4), &Image::Path(huge)).unwrap_err();
    assert!(
        error.to_string().ends_with("huge.png: larger than 67108864 bytes, the most that is read"),
        "{error}"
    );
}

#[test]
fn the_bytes_decide_the_format_not_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("photo.jpg");
    std::fs::write(&path, image_bytes("rgb.png")).unwrap();
    let by_path = write(&exact(4, 4), &Image::Path(path)).unwrap();
    assert_eq!(by_path, write(&exact(4, 4), &Image::Encoded(image_bytes("rgb.png"))).unwrap());
}

#[test]
fn other_image_formats_are_refused_by_name() {
    let error = refused(image_bytes("animated.gif"));
    assert_eq!(error.to_string(), "a GIF image; JPEG, PNG and WebP are read");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(refused(b"BM".repeat(40)).to_string(), "a BMP image; JPEG, PNG and WebP are read");
}

#[test]
fn decompression_bombs_are_refused_by_their_headers() {
    let error = refused(png_header(u32::MAX >> 1, 1, 8));
    assert_eq!(error.to_string(), "image of 2147483647x1 pixels, at most 16384 per side are decoded");
    assert_eq!(error.kind(), ErrorKind::Caller);
    assert_eq!(
        refused(png_header(1, MAX_IMAGE_SIDE + 1, 8)).to_string(),
        "image of 1x16385 pixels, at most 16384 per side are decoded"
    );
    assert_eq!(
        refused(png_header(MAX_IMAGE_SIDE, MAX_IMAGE_SIDE, 16)).to_string(),
        "image of 16384x16384 pixels decodes to 1610612736 bytes, at most 268435456 are decoded"
    );
    assert_eq!(
        refused(jpeg_with_size(65535, 65535)).to_string(),
        "image of 65535x65535 pixels, at most 16384 per side are decoded"
    );
    assert_eq!(
        refused(jpeg_with_size(16384, 16384)).to_string(),
        "image of 16384x16384 pixels decodes to 805306368 bytes, at most 268435456 are decoded"
    );
    let mut webp = image_bytes("animated.webp");
    assert_eq!(&webp[12..16], b"VP8X");
    webp[24..27].copy_from_slice(&[0x1f, 0x4e, 0]); // the canvas's width - 1, least byte first
    assert_eq!(refused(webp).to_string(), "image of 20000x11 pixels, at most 16384 per side are decoded");
}

#[test]
fn empty_images_are_refused() {
    for (width, height) in [(0, 4), (4, 0), (0, 0)] {
        let error = refused(png_header(width, height, 8));
        assert!(error.to_string().starts_with("broken PNG image: "), "{error}");
        assert_eq!(error.kind(), ErrorKind::CorruptData);
    }
    for (width, height) in [(0, 4), (4, 0)] {
        let error = refused(jpeg_with_size(width, height));
        assert!(error.to_string().starts_with("broken JPEG image: "), "{error}");
    }
    for (width, height, data) in
        [(0, 0, vec![]), (2, 2, vec![0; 11]), (2, 2, vec![0; 13]), (usize::MAX, 2, vec![])]
    {
        let bytes = data.len();
        let error = write(&exact(4, 4), &Image::Rgb { width, height, data }).unwrap_err();
        assert_eq!(error.to_string(), format!("{bytes} bytes of pixels for {width}x{height} RGB"));
    }
}

/// A file cut short is refused, or what is missing did not matter; nothing is painted in.
#[test]
fn no_truncated_file_gives_other_pixels() {
    let bytes = std::fs::read(golden("decoded.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    for (file, expected) in tensors.tensors() {
        let size = size_of(expected.shape());
        let whole = image_bytes(&file);
        let pixels = decode(&whole, size).unwrap();
        for length in 0..whole.len() {
            if let Ok(found) = decode(&whole[..length], size) {
                let name = format!("{file} cut to {length} of {} bytes", whole.len());
                assert_pixels(&name, &found, &pixels, size.width, 0);
            }
        }
    }
    let mut jpeg = image_bytes("420.jpg");
    jpeg.truncate(jpeg.len() - 20);
    let error = refused(jpeg);
    assert_eq!(error.to_string(), "truncated JPEG image: no end marker in 912 bytes");
    assert_eq!(error.kind(), ErrorKind::CorruptData);
    let mut png = image_bytes("rgb.png");
    png.truncate(200);
    let error = refused(png).to_string();
    assert!(error.starts_with("broken PNG image: "), "{error}");
}

#[test]
fn a_model_that_does_not_resize_refuses_other_sizes() {
    let config = plain(Pair { height: 8, width: 9 });
    let error = write(&config, &Image::Rgb { width: 8, height: 9, data: vec![0; 216] }).unwrap_err();
    assert_eq!(error.to_string(), "image of 8x9 pixels, the model takes 9x8 and does not resize");
    assert_eq!(error.kind(), ErrorKind::Caller);
}

#[test]
fn the_output_slice_must_fit() {
    let preprocessor = ImagePreprocessor::new(&exact(4, 5)).unwrap();
    let image = Image::Rgb { width: 1, height: 1, data: vec![1, 2, 3] };
    let error = preprocessor.write(&image, &mut [0; 59]).unwrap_err();
    assert_eq!(error.to_string(), "output slice of 59 values, 60 are written");
}

fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed | 1;
    (0..bytes)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        })
        .collect()
}

fn any_size(most: usize) -> impl Strategy<Value = Pair> {
    (1..=most, 1..=most).prop_map(|(height, width)| Pair { height, width })
}

fn any_filter() -> impl Strategy<Value = Filter> {
    prop_oneof![Just(Filter::Bilinear), Just(Filter::Bicubic)]
}

type Lines = Vec<Vec<[f64; 3]>>;

/// The definition of one axis in f64, clipped as an 8-bit image is but not rounded.
fn resize_lines(lines: &Lines, to: usize, filter: Filter) -> Lines {
    let weight = |x: f64| match (filter, x.abs()) {
        (Filter::Bilinear, x) => (1.0 - x).max(0.0),
        (Filter::Bicubic, x) if x < 1.0 => 1.5 * x.powi(3) - 2.5 * x.powi(2) + 1.0,
        (Filter::Bicubic, x) if x < 2.0 => -0.5 * x.powi(3) + 2.5 * x.powi(2) - 4.0 * x + 2.0,
        (Filter::Bicubic, _) => 0.0,
    };
    let from = lines[0].len();
    let scale = from as f64 / to as f64;
    let pixel = |line: &Vec<[f64; 3]>, i: usize| {
        let centre = (i as f64 + 0.5) * scale;
        let weights = (0..from).map(|x| weight((x as f64 + 0.5 - centre) / scale.max(1.0)));
        let sum: f64 = weights.clone().sum();
        std::array::from_fn(|channel| {
            let value: f64 = weights.clone().zip(line).map(|(w, pixel)| w / sum * pixel[channel]).sum();
            value.clamp(0.0, 255.0)
        })
    };
    lines.iter().map(|line| (0..to).map(|i| pixel(line, i)).collect()).collect()
}

fn transposed(lines: &Lines) -> Lines {
    (0..lines[0].len()).map(|x| lines.iter().map(|line| line[x]).collect()).collect()
}

fn resize_by_definition(pixels: &[u8], from: Pair, to: Pair, filter: Filter) -> Vec<f64> {
    let pixels: Vec<[f64; 3]> = pixels.chunks(3).map(|p| [p[0], p[1], p[2]].map(f64::from)).collect();
    let lines: Lines = pixels.chunks(from.width).map(<[_]>::to_vec).collect();
    let columns = |lines: &Lines| resize_lines(lines, to.width, filter);
    let rows = |lines: &Lines| transposed(&resize_lines(&transposed(lines), to.height, filter));
    let lost = |from: usize, to: usize| i64::try_from(from).unwrap() - i64::try_from(to).unwrap();
    let lost_rows = lost(from.height, to.height);
    let rows_first = lost_rows > 0 && lost_rows > 2 * lost(from.width, to.width);
    let lines = if rows_first { columns(&rows(&lines)) } else { rows(&columns(&lines)) };
    lines.into_iter().flatten().flatten().collect()
}

fn seeded(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(7),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(seeded(64))]

    #[test]
    fn resizing_follows_the_definition(
        from in any_size(24), to in any_size(24), filter in any_filter(), seed: u64
    ) {
        let pixels = noise(seed, from.height * from.width * 3);
        let found = resize_rgb(&pixels, from, to, filter).unwrap();
        let expected = resize_by_definition(&pixels, from, to, filter);
        // Half a step for each pass; the first one's is stretched by the second's weights, of absolute sum below 1.5.
        const TOLERANCE: f64 = 0.5 * 1.5 + 0.5 + 0.01;
        for (at, (&found, expected)) in found.iter().zip(expected).enumerate() {
            prop_assert!((f64::from(found) - expected).abs() <= TOLERANCE, "at {at}: {found}, expected {expected}");
        }
    }

    #[test]
    fn resizing_to_the_same_size_changes_nothing(size in any_size(40), filter in any_filter(), seed: u64) {
        let pixels = noise(seed, size.height * size.width * 3);
        prop_assert_eq!(&resize_rgb(&pixels, size, size, filter).unwrap(), &pixels);
    }

    #[test]
    fn a_constant_image_stays_constant(
        from in any_size(60), to in any_size(60), filter in any_filter(), colour: [u8; 3]
    ) {
        let pixels = colour.repeat(from.height * from.width);
        prop_assert_eq!(resize_rgb(&pixels, from, to, filter).unwrap(), colour.repeat(to.height * to.width));
    }

    /// Only the crop's pixels are computed; they are those of the whole resized image.
    #[test]
    fn cropping_is_exact(
        from in any_size(50), crop in any_size(12), more in 0usize..9, filter in any_filter(), seed: u64
    ) {
        let side = crop.height.max(crop.width) + more;
        let config = ImageInput {
            resize: Resize::ShortestSide, resize_size: Some(side), filter, ..exact(crop.height, crop.width)
        };
        let pixels = noise(seed, from.height * from.width * 3);
        let image = Image::Rgb { width: from.width, height: from.height, data: pixels.clone() };
        let found = write(&config, &image).unwrap();

        let short = from.height.min(from.width);
        let scaled = |length: usize| if length == short { side } else { side * length / short };
        let full = Pair { height: scaled(from.height), width: scaled(from.width) };
        let whole = resize_rgb(&pixels, from, full, filter).unwrap();
        let half_to_even = |rest: usize| ((rest as f64) / 2.0).round_ties_even() as usize;
        let (top, left) = (half_to_even(full.height - crop.height), half_to_even(full.width - crop.width));
        let expected: Vec<u8> = (0..crop.height)
            .flat_map(|y| {
                let first = ((top + y) * full.width + left) * 3;
                &whole[first..first + crop.width * 3]
            })
            .copied()
            .collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn neither_batch_nor_threads_nor_order_matter(seed: u64, threads in 1usize..4, rows in 1usize..7) {
        let config = ImageInput { mean: [0.5; 3], std: [0.25; 3], ..exact(6, 7) };
        let inputs = Inputs { image: Some(config.clone()), ..Inputs::default() };
        let preprocessor = Preprocessor::open(&PathBuf::new(), &inputs).unwrap();
        let images: Vec<Image> = (0..rows)
            .map(|row| {
                let (width, height) = (5 + row, 9 - row);
                Image::Rgb { width, height, data: noise(seed ^ row as u64, width * height * 3) }
            })
            .collect();
        let mut requests: Vec<Request> =
            images.iter().map(|image| Request { image: Some(image.clone()), ..Request::default() }).collect();
        requests.reverse();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let features = pool.install(|| preprocessor.features(&requests)).unwrap();
        let column = features.column(Modality::Image).unwrap();
        let Values::Photos { height: 6, width: 7, data } = column.values() else { panic!("{column:?}") };
        let alone: Vec<u8> = images.iter().rev().flat_map(|image| write(&config, image).unwrap()).collect();
        prop_assert_eq!(data, &alone);
    }
}

proptest! {
    #![proptest_config(seeded(2000))]

    #[test]
    fn damaged_files_never_panic(file in 0usize..8, damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let files = [
            "rgb.png", "palette.png", "animated.png", "420.jpg", "progressive.jpg", "lossless.webp", "lossy.webp",
            "animated_alpha.webp",
        ];
        let mut bytes = image_bytes(files[file]);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = write(&exact(3, 3), &Image::Encoded(bytes));
    }
}
