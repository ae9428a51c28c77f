//! Antialiased resampling of 8-bit RGB, bit for bit as Pillow's `Image.resize`.
//!
//! Along one axis, output `i` has its centre at `c = (i + 0.5) * scale` in the input, `scale = input / output`, and is
//! the weighted mean of the inputs within `support * max(scale, 1)` of it, weighted by the filter stretched by
//! `max(scale, 1)`. Weights are normalised in f64, then rounded to 22 fractional bits; sums are 32-bit integers, rounded
//! and clipped to 8 bits. The intermediate image between the two axes has 8 bits too, so their order shows in the result:
//! it is the order of Pillow 13, see [`rows_first`].

use std::ops::Range;

use super::InputError;
use crate::model::{Filter, Pair};

/// Fractional bits of a weight: 8 for a pixel and 2 for the filter's overshoot leave 22 of 32.
const PRECISION: u32 = 32 - 8 - 2;
const ROUNDING: i32 = 1 << (PRECISION - 1);

/// A part of a resized image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Window {
    /// The size of the whole resized image.
    pub full: Pair,
    /// The first row of the part.
    pub top: usize,
    /// The first column of the part.
    pub left: usize,
    /// The part's size; it lies within `full`.
    pub size: Pair,
}

/// Resizes `pixels` (`[from.height, from.width, 3]`) to `[to.height, to.width, 3]`.
///
/// # Errors
/// [`InputError::ImagePixels`] if `pixels` does not fill `from`, or if a side of either size is 0.
pub fn resize_rgb(pixels: &[u8], from: Pair, to: Pair, filter: Filter) -> Result<Vec<u8>, InputError> {
    check_pixels(pixels, from)?;
    if to.height == 0 || to.width == 0 {
        return Err(InputError::ImagePixels { width: to.width, height: to.height, bytes: 0 });
    }
    Ok(resize_window(pixels, from, Window { full: to, top: 0, left: 0, size: to }, filter))
}

/// Refuses pixels that do not fill their size, and empty sizes.
pub(super) fn check_pixels(pixels: &[u8], size: Pair) -> Result<(), InputError> {
    let bytes = size.height.checked_mul(size.width).and_then(|n| n.checked_mul(3));
    if bytes == Some(pixels.len()) && !pixels.is_empty() {
        return Ok(());
    }
    Err(InputError::ImagePixels { width: size.width, height: size.height, bytes: pixels.len() })
}

/// The pixels of `window` in `pixels` (`[from.height, from.width, 3]`, no side 0) resized to `window.full`. Only what
/// the window needs is computed. `[window.size.height, window.size.width, 3]`
pub(super) fn resize_window(pixels: &[u8], from: Pair, window: Window, filter: Filter) -> Vec<u8> {
    let Window { full, top, left, size } = window;
    let rows = Taps::new(from.height, full.height, top..top + size.height, filter);
    let columns = Taps::new(from.width, full.width, left..left + size.width, filter);
    let (needed_rows, needed_columns) = (rows.reach(), columns.reach());
    let source = Plane { pixels, width: from.width };
    if rows_first(from, full) {
        let pixels = &resample_rows(source, needed_columns.clone(), &rows, 0); // [size.height, needed_columns, 3]
        let source = Plane { pixels, width: needed_columns.len() };
        resample_columns(source, 0..size.height, &columns, needed_columns.start)
    } else {
        let pixels = &resample_columns(source, needed_rows.clone(), &columns, 0); // [needed_rows, size.width, 3]
        resample_rows(Plane { pixels, width: size.width }, 0..size.width, &rows, needed_rows.start)
    }
}

/// Whether rows are resampled before columns: where the image loses rows, and more than twice as many as columns.
/// Pillow 10 to 12 always start with the columns; with them, such images differ in rounding and, for the cubic filter,
/// in what is clipped in between.
fn rows_first(from: Pair, to: Pair) -> bool {
    // lost rows > 2 * (from.width - to.width), which may be negative
    from.height > to.height && from.height - to.height + 2 * to.width > 2 * from.width
}

/// Rows of RGB pixels.
#[derive(Clone, Copy)]
struct Plane<'a> {
    pixels: &'a [u8],
    width: usize,
}

impl<'a> Plane<'a> {
    fn row(self, y: usize, columns: Range<usize>) -> &'a [u8] {
        let start = y * self.width;
        &self.pixels[(start + columns.start) * 3..(start + columns.end) * 3]
    }
}

/// The inputs that each output of one axis sums, and their weights.
struct Taps {
    /// Per output: the first input, and where its weights lie in `weights`.
    outputs: Vec<(usize, Range<usize>)>,
    weights: Vec<i32>,
}

impl Taps {
    /// The outputs `window` of an axis of `input` samples resized to `output`.
    // Positions are below 2^53 and never negative where it matters: a cast of a negative one gives 0, the clip wanted.
    // Weights are within (-2, 2), so 22 fractional bits fit in i32.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn new(input: usize, output: usize, window: Range<usize>, filter: Filter) -> Taps {
        let (radius, weight): (f64, fn(f64) -> f64) = match filter {
            Filter::Bilinear => (1.0, triangle),
            Filter::Bicubic => (2.0, cubic),
        };
        let scale = input as f64 / output as f64;
        let stretch = scale.max(1.0);
        let support = radius * stretch;
        let shrink = 1.0 / stretch;
        let mut taps = Taps { outputs: Vec::with_capacity(window.len()), weights: Vec::new() };
        let mut exact = Vec::new();
        for i in window {
            let centre = (i as f64 + 0.5) * scale;
            let first = (centre - support + 0.5) as usize;
            let end = ((centre + support + 0.5) as usize).min(input);
            exact.clear();
            exact.extend((first..end).map(|x| weight((x as f64 - centre + 0.5) * shrink)));
            let sum: f64 = exact.iter().sum();
            let start = taps.weights.len();
            taps.weights.extend(exact.iter().map(|w| {
                let fixed = w / sum * f64::from(1 << PRECISION);
                (if fixed < 0.0 { fixed - 0.5 } else { fixed + 0.5 }) as i32
            }));
            taps.outputs.push((first, start..taps.weights.len()));
        }
        taps
    }

    /// The inputs that any output needs.
    fn reach(&self) -> Range<usize> {
        let ends = self.outputs.iter().map(|(first, weights)| (*first, first + weights.len()));
        ends.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))).map_or(0..0, |(first, end)| first..end)
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        self.outputs.iter().map(|(first, weights)| (*first, &self.weights[weights.clone()]))
    }
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

/// Keys' cubic convolution kernel with a = -0.5.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// `[rows, outputs, 3]`; the first column of `source` is column `origin` of the axis.
fn resample_columns(source: Plane, rows: Range<usize>, taps: &Taps, origin: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(rows.len() * taps.outputs.len() * 3);
    for y in rows {
        for (first, weights) in taps.iter() {
            let first = first - origin;
            let mut sum = [ROUNDING; 3];
            for (pixel, &weight) in source.row(y, first..first + weights.len()).chunks_exact(3).zip(weights) {
                for (sum, &value) in sum.iter_mut().zip(pixel) {
                    *sum += i32::from(value) * weight;
                }
            }
            out.extend(sum.map(clip));
        }
    }
    out
}

/// `[outputs, columns, 3]`; the first row of `source` is row `origin` of the axis.
fn resample_rows(source: Plane, columns: Range<usize>, taps: &Taps, origin: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(taps.outputs.len() * columns.len() * 3);
    let mut sums = vec![0; columns.len() * 3];
    for (first, weights) in taps.iter() {
        sums.fill(ROUNDING);
        for (y, &weight) in (first - origin..).zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(source.row(y, columns.clone())) {
                *sum += i32::from(value) * weight;
            }
        }
        out.extend(sums.iter().map(|&sum| clip(sum)));
    }
    out
}

// Clamped to a byte's range before the cast.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn clip(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}
