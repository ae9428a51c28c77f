//! A JPEG, PNG or WebP file to 8-bit RGB, as Pillow's `Image.open(file).convert("RGB")`.
//!
//! The format is the one that the bytes show, whatever the file is called. Transparency is dropped, not composited;
//! grey becomes three equal channels; 16-bit colour keeps the high byte, 16-bit grey without alpha is clipped at 255;
//! EXIF orientation is not applied; of an animation, the first frame counts. A JPEG without its end marker is refused
//! even if every pixel is there. Lossless formats and WebP give Pillow's bytes; JPEG decoders differ in rounding and in how
//! they enlarge chroma.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::InputError;
use crate::model::Pair;

/// Longest side, in pixels, of an image that is decoded; checked against the header before decoding.
pub const MAX_IMAGE_SIDE: u32 = 16_384;
/// Most bytes that a decoded image may take, in the decoder's own pixel format; checked before decoding.
pub const MAX_IMAGE_ALLOC: u64 = 256 << 20;
/// Most bytes of an image file that are read.
pub const MAX_IMAGE_FILE_BYTES: u64 = 64 << 20;

/// Decoded pixels.
pub(super) struct Rgb {
    pub size: Pair,
    /// `[size.height, size.width, 3]`
    pub pixels: Vec<u8>,
}

/// Decodes an image file's bytes.
///
/// # Errors
/// [`InputError::NotAnImage`], [`InputError::ImageFormat`], [`InputError::ImageSide`], [`InputError::ImageBytes`],
/// [`InputError::ImageTruncated`] and [`InputError::ImageDecode`].
pub(super) fn decode(bytes: &[u8]) -> Result<Rgb, InputError> {
    let format = image::guess_format(bytes).map_err(|_| InputError::NotAnImage { found: opening(bytes) })?;
    let name = match format {
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::Png => "PNG",
        ImageFormat::WebP => "WebP",
        other => return Err(InputError::ImageFormat { format: format!("{other:?}").to_uppercase() }),
    };
    let broken = |source| InputError::ImageDecode { format: name, source };
    if let Some((width, height)) = png_size(bytes) {
        check_side(width, height)?;
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_IMAGE_ALLOC);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(broken)?;
    let (width, height) = decoder.dimensions();
    check_side(width, height)?;
    if decoder.total_bytes() > MAX_IMAGE_ALLOC {
        return Err(InputError::ImageBytes { width, height, bytes: decoder.total_bytes() });
    }
    if format == ImageFormat::Jpeg && !jpeg_has_end(bytes) {
        return Err(InputError::ImageTruncated { format: name, bytes: bytes.len() });
    }
    let decoded = DynamicImage::from_decoder(decoder).map_err(broken)?;
    // u32 fits usize on every target this library builds for.
    let size = Pair { height: height as usize, width: width as usize };
    Ok(Rgb { size, pixels: to_rgb(decoded) })
}

fn check_side(width: u32, height: u32) -> Result<(), InputError> {
    if width > MAX_IMAGE_SIDE || height > MAX_IMAGE_SIDE {
        return Err(InputError::ImageSide { width, height });
    }
    Ok(())
}

/// The size in a PNG's header: its decoder allocates rows before it tells the size.
fn png_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let header = bytes.strip_prefix(b"\x89PNG\r\n\x1a\n")?.get(4..16)?.strip_prefix(b"IHDR")?;
    let (width, height) = header.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*width), u32::from_be_bytes(height.try_into().ok()?)))
}

/// Reads a file of at most `limit` bytes whole.
pub(super) fn read_capped(path: &Path, limit: u64) -> Result<Vec<u8>, InputError> {
    let failed = |source| InputError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    let length = file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    match u64::try_from(length) {
        Ok(length) if length <= limit => Ok(bytes),
        _ => Err(InputError::FileTooLarge { path: path.to_owned(), limit }),
    }
}

/// How bytes of no known format begin.
fn opening(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "no bytes".to_owned();
    }
    let hex: Vec<String> = bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{} bytes that begin {}", bytes.len(), hex.join(" "))
}

fn to_rgb(image: DynamicImage) -> Vec<u8> {
    let high = |value: u16| value.to_be_bytes()[0];
    match image {
        DynamicImage::ImageRgb8(image) => image.into_raw(),
        DynamicImage::ImageRgba8(image) => image.pixels().flat_map(|p| [p[0], p[1], p[2]]).collect(),
        DynamicImage::ImageLuma8(image) => image.pixels().flat_map(|p| [p[0]; 3]).collect(),
        DynamicImage::ImageLumaA8(image) => image.pixels().flat_map(|p| [p[0]; 3]).collect(),
        DynamicImage::ImageRgb16(image) => image.pixels().flat_map(|p| p.0.map(high)).collect(),
        DynamicImage::ImageRgba16(image) => {
            image.pixels().flat_map(|p| [p[0], p[1], p[2]].map(high)).collect()
        }
        DynamicImage::ImageLumaA16(image) => image.pixels().flat_map(|p| [high(p[0]); 3]).collect(),
        DynamicImage::ImageLuma16(image) => {
            image.pixels().flat_map(|p| [u8::try_from(p[0]).unwrap_or(u8::MAX); 3]).collect()
        }
        other => other.into_rgb8().into_raw(),
    }
}

/// Whether the segments of a JPEG lead to its end-of-image marker. The decoder paints what is missing grey instead.
fn jpeg_has_end(bytes: &[u8]) -> bool {
    let mut at = 2; // past start-of-image
    while let Some(skipped) = bytes.get(at..).and_then(|rest| rest.iter().position(|&byte| byte == 0xff)) {
        at += skipped + 1;
        match bytes.get(at) {
            Some(0xd9) => return true,
            // Another fill byte, whose turn is next.
            Some(0xff) => {}
            // A stuffed byte of compressed data, or a marker without a length: temporary, restart, start.
            Some(0x00 | 0x01 | 0xd0..=0xd8) => at += 1,
            // A segment, whose length counts itself but not the marker.
            Some(_) => match bytes.get(at + 1..at + 3) {
                Some(length) => at += 1 + usize::from(u16::from_be_bytes([length[0], length[1]])),
                None => return false,
            },
            None => return false,
        }
    }
    false
}
