//! What a request costs before the model: a photo to pixels of the model's size, a text to token ids.
//!
//! Each benchmark first checks its answer: a decoded PNG against the pixels it was made of, the photo against the same
//! steps done apart, token ids against the golden ones.

use std::hint::black_box;
use std::io::Cursor;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use image::{ImageFormat, RgbImage};
use mercer::input::{Image, ImagePreprocessor, TextPreprocessor, resize_rgb};
use mercer::model::{Crop, Filter, ImageInput, Pair, Resize, TextInput, Truncation};

const PHOTO: Pair = Pair { height: 3000, width: 4000 };

/// Shades, edges and a little noise.
fn photo(size: Pair) -> Vec<u8> {
    let mut state = 1u32;
    let mut pixels = Vec::with_capacity(size.height * size.width * 3);
    for y in 0..size.height {
        for x in 0..size.width {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let noise = (state >> 29) as usize;
            let edge = if (x / 97 + y / 61) % 2 == 0 { 60 } else { 0 };
            pixels.extend(
                [x / 32 + noise, y / 32 + edge, (x + y) / 64 + noise + edge]
                    .map(|v| u8::try_from(v).unwrap_or(255)),
            );
        }
    }
    pixels
}

fn encode(pixels: &[u8], size: Pair, format: ImageFormat) -> Image {
    let side = |n: usize| u32::try_from(n).expect("a side");
    let image = RgbImage::from_raw(side(size.width), side(size.height), pixels.to_vec())
        .expect("pixels of this size");
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).expect("an encoder in memory");
    Image::Encoded(bytes.into_inner())
}

fn config(resize: Resize, resize_size: Option<usize>, size: Pair) -> ImageInput {
    ImageInput {
        height: size.height,
        width: size.width,
        resize,
        resize_size,
        filter: Filter::Bilinear,
        crop: Crop::Center,
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
    }
}

fn write(preprocessor: &ImagePreprocessor, image: &Image) -> Vec<u8> {
    let mut out = vec![0; preprocessor.bytes()];
    preprocessor.write(image, &mut out).expect("a good image");
    out
}

fn images(c: &mut Criterion) {
    let size = Pair::square(224);
    let preprocessor =
        ImagePreprocessor::new(&config(Resize::ShortestSide, Some(256), size)).expect("a good configuration");
    let pixels = photo(PHOTO);
    let raw = Image::Rgb { width: PHOTO.width, height: PHOTO.height, data: pixels.clone() };

    // The same steps apart: the whole resized photo, cropped in the middle.
    let whole =
        resize_rgb(&pixels, PHOTO, Pair { height: 256, width: 341 }, Filter::Bilinear).expect("a good size");
    let cropped: Vec<u8> = (16..240).flat_map(|y| &whole[(y * 341 + 58) * 3..][..224 * 3]).copied().collect();
    let plain = ImagePreprocessor::new(&config(Resize::None, None, size)).expect("a good configuration");
    let expected = write(&plain, &Image::Rgb { width: 224, height: 224, data: cropped });
    assert_eq!(write(&preprocessor, &raw), expected);
    let png = encode(&pixels, PHOTO, ImageFormat::Png);
    assert_eq!(write(&preprocessor, &png), expected);
    let jpeg = encode(&pixels, PHOTO, ImageFormat::Jpeg);
    let apart =
        write(&preprocessor, &jpeg).into_iter().zip(&expected).map(|(a, b)| u64::from(a.abs_diff(*b)));
    let mean = apart.sum::<u64>() as f32 / expected.len() as f32;
    assert!(mean < 3.0, "JPEG is {mean} of 255 from the original on average");

    let mut group = c.benchmark_group("image_4000x3000_to_224");
    group.sample_size(10);
    group.throughput(Throughput::Elements((PHOTO.height * PHOTO.width) as u64));
    for (name, image) in [("resize", &raw), ("png", &png), ("jpeg", &jpeg)] {
        let mut out = vec![0; preprocessor.bytes()];
        group.bench_function(name, |b| b.iter(|| preprocessor.write(black_box(image), &mut out)));
    }
    group.finish();

    let small = Pair { height: 480, width: 640 };
    let jpeg = encode(&photo(small), small, ImageFormat::Jpeg);
    let mut out = vec![0; preprocessor.bytes()];
    c.bench_function("image_640x480_to_224/jpeg", |b| {
        b.iter(|| preprocessor.write(black_box(&jpeg), &mut out))
    });
}

fn texts(c: &mut Criterion) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/preprocess");
    let golden = std::fs::read(folder.join("tokens.json")).expect("the golden file");
    let golden: serde_json::Value = serde_json::from_slice(&golden).expect("JSON");
    for (file, cases) in golden.as_object().expect("an object") {
        let config = TextInput {
            tokenizer: format!("tokenizers/{file}"),
            max_tokens: 256,
            truncation: Truncation::Refuse,
            special_tokens: false,
        };
        let tokenizer = TextPreprocessor::open(&folder, &config).expect("a tokenizer");
        let texts: Vec<&str> =
            cases.as_array().expect("cases").iter().filter_map(|case| case["text"].as_str()).collect();
        for (text, case) in texts.iter().zip(cases.as_array().expect("cases")) {
            assert_eq!(serde_json::json!(tokenizer.ids(text).expect("a good text")), case["ids"], "{text}");
        }
        let mut group = c.benchmark_group("text");
        group.throughput(Throughput::Elements(texts.len() as u64));
        group.bench_function(file.trim_end_matches(".json"), |b| {
            b.iter(|| {
                texts
                    .iter()
                    .map(|text| tokenizer.ids(black_box(text)).map_or(0, |ids| ids.len()))
                    .sum::<usize>()
            })
        });
        group.finish();
    }
}

criterion_group!(benches, images, texts);
criterion_main!(benches);
