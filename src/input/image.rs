//! A photo to 8-bit pixels of the size that the towers read.

use super::decode::{MAX_IMAGE_FILE_BYTES, decode, read_capped};
use super::resize::{Window, check_pixels, resize_window};
use super::{Image, InputError, PixelScaling};
use crate::model::{ImageInput, Pair, Resize};

/// Decodes, resizes and crops one image at a time, as torchvision's `Resize` and `CenterCrop` do with a Pillow image.
/// [`ImagePreprocessor::scaling`] is what `ToTensor` and `Normalize` do with the result.
#[derive(Debug, Clone)]
pub struct ImagePreprocessor {
    config: ImageInput,
    scaling: PixelScaling,
}

impl ImagePreprocessor {
    /// Prepares `config`.
    ///
    /// # Errors
    /// [`InputError::Config`] if `config` contradicts itself.
    pub fn new(config: &ImageInput) -> Result<ImagePreprocessor, InputError> {
        super::check::first(super::check::image(config))?;
        let scaling = PixelScaling::new(config.mean, config.std);
        Ok(ImagePreprocessor { config: config.clone(), scaling })
    }

    /// The size that images are brought to.
    pub fn size(&self) -> Pair {
        Pair { height: self.config.height, width: self.config.width }
    }

    /// Bytes of one image: `height * width * 3`.
    pub fn bytes(&self) -> usize {
        self.config.height * self.config.width * 3
    }

    /// From the bytes that are written to the values that the towers read.
    pub fn scaling(&self) -> &PixelScaling {
        &self.scaling
    }

    /// Writes the image to `out`, `[height, width, 3]`, red first.
    ///
    /// # Errors
    /// - [`InputError::OutputLength`] if `out` has not [`ImagePreprocessor::bytes`] bytes.
    /// - [`InputError::Read`] and [`InputError::FileTooLarge`] for a file; what follows comes in [`InputError::File`]
    ///   then.
    /// - [`InputError::NotAnImage`], [`InputError::ImageFormat`], [`InputError::ImageSide`],
    ///   [`InputError::ImageBytes`], [`InputError::ImageTruncated`] and [`InputError::ImageDecode`] for a file's bytes.
    /// - [`InputError::ImagePixels`] for decoded pixels that do not fill their size.
    /// - [`InputError::ImageSize`] if the model does not resize and the image has another size.
    pub fn write(&self, image: &Image, out: &mut [u8]) -> Result<(), InputError> {
        if out.len() != self.bytes() {
            return Err(InputError::OutputLength { found: out.len(), expected: self.bytes() });
        }
        match image {
            Image::Path(path) => {
                let bytes = read_capped(path, MAX_IMAGE_FILE_BYTES)?;
                self.write_encoded(&bytes, out)
                    .map_err(|source| InputError::File { path: path.clone(), source: Box::new(source) })
            }
            Image::Encoded(bytes) => self.write_encoded(bytes, out),
            Image::Rgb { width, height, data } => {
                let size = Pair { height: *height, width: *width };
                check_pixels(data, size)?;
                self.write_rgb(data, size, out)
            }
        }
    }

    fn write_encoded(&self, bytes: &[u8], out: &mut [u8]) -> Result<(), InputError> {
        let image = decode(bytes)?;
        self.write_rgb(&image.pixels, image.size, out)
    }

    /// `pixels` fills `from`, which is not empty.
    fn write_rgb(&self, pixels: &[u8], from: Pair, out: &mut [u8]) -> Result<(), InputError> {
        let size = self.size();
        let window = match (self.config.resize, self.config.resize_size) {
            (Resize::ShortestSide, Some(side)) => {
                let full = shortest_side(from, side);
                Window {
                    full,
                    top: centre(full.height, size.height),
                    left: centre(full.width, size.width),
                    size,
                }
            }
            (Resize::None, _) if from != size => {
                return Err(InputError::ImageSize {
                    width: from.width,
                    height: from.height,
                    expected_width: size.width,
                    expected_height: size.height,
                });
            }
            _ => Window { full: size, top: 0, left: 0, size },
        };
        if window.full == from {
            for (y, out) in (window.top..).zip(out.chunks_exact_mut(size.width * 3)) {
                let first = (y * from.width + window.left) * 3;
                out.copy_from_slice(&pixels[first..first + size.width * 3]);
            }
        } else {
            out.copy_from_slice(&resize_window(pixels, from, window, self.config.filter));
        }
        Ok(())
    }
}

/// The size with `side` as its shortest side and the proportions of `from`, rounded down as torchvision does: its
/// `int(side * long / short)` in f64 equals the integer quotient, as `side * long` is far below 2^53.
fn shortest_side(from: Pair, side: usize) -> Pair {
    if from.width <= from.height {
        Pair { height: side * from.height / from.width, width: side }
    } else {
        Pair { height: side, width: side * from.width / from.height }
    }
}

/// The offset of the middle `kept` of `length`: half the rest, halves rounded to even as Python's `round` does.
fn centre(length: usize, kept: usize) -> usize {
    let rest = length - kept;
    let half = rest / 2;
    if rest % 2 == 1 && half % 2 == 1 { half + 1 } else { half }
}
