//! The defined normalisation: a row is scaled by the power of two that brings its largest magnitude into [1, 2), each
//! product rounded once to f32; then every element is divided by the square root of the scaled row's score with
//! itself. Scaling first keeps the score far from overflow and underflow, so rows of subnormals and rows near the
//! largest f32 are normalised like any other.

use super::score::scores_of_whole_rows;
use super::simd::Isa;
use rayon::prelude::*;

/// Why a row has no direction.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NormalizeError {
    /// Every element is zero.
    #[error("row {row} is all zeros")]
    Zero {
        /// The row.
        row: usize,
    },
    /// An element is NaN or infinite.
    #[error("row {row} has {value} at position {position}")]
    NotFinite {
        /// The row.
        row: usize,
        /// Where in the row.
        position: usize,
        /// What is there.
        value: f32,
    },
}

/// Normalises one vector in place.
///
/// # Errors
/// [`NormalizeError`], for row 0, if the vector has no direction; it is then unchanged.
pub fn normalize(vector: &mut [f32]) -> Result<(), NormalizeError> {
    normalize_row(0, vector)
}

/// Normalises the rows of `data`, `[n, dim]`, in place, on the threads of the current rayon pool. The callers have
/// checked the shape, and that `dim` is not 0.
///
/// # Errors
/// The first row that has no direction, as [`NormalizeError`]; the other rows are then normalised or not.
pub(crate) fn normalize_rows(dim: usize, data: &mut [f32]) -> Result<(), NormalizeError> {
    debug_assert!(data.len().is_multiple_of(dim), "{} elements in rows of {dim}", data.len());
    data.par_chunks_mut(dim)
        .enumerate()
        .map(|(at, row)| normalize_row(at, row))
        .find_map_first(Result::err)
        .map_or(Ok(()), Err)
}

/// Normalises row number `at`.
fn normalize_row(at: usize, row: &mut [f32]) -> Result<(), NormalizeError> {
    let largest = check_row(at, row)?;
    let scale = power_of_two_below_reciprocal(largest);
    for x in row.iter_mut() {
        *x = round(f64::from(*x) * scale);
    }
    let mut square = [0.0];
    scores_of_whole_rows(Isa::best(), row.len(), row, row, &mut square);
    let norm = square[0].sqrt();
    for x in row.iter_mut() {
        *x /= norm;
    }
    Ok(())
}

/// The largest magnitude of row number `at`, which is positive and finite.
///
/// # Errors
/// [`NormalizeError`], if the row has no direction.
pub(crate) fn check_row(at: usize, row: &[f32]) -> Result<f32, NormalizeError> {
    let not_finite = row.iter().fold(false, |found, x| found | !x.is_finite());
    if let Some(position) = not_finite.then(|| row.iter().position(|x| !x.is_finite())).flatten() {
        return Err(NormalizeError::NotFinite { row: at, position, value: row[position] });
    }
    let largest = row.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    if largest == 0.0 {
        return Err(NormalizeError::Zero { row: at });
    }
    Ok(largest)
}

/// 2^-e for the e with 2^e <= x < 2^(e + 1). `x` is positive and finite; as an f64 it is normal, and so is the result.
fn power_of_two_below_reciprocal(x: f32) -> f64 {
    const BIAS: u64 = 1023;
    const MANTISSA_BITS: u32 = 52;
    let biased = f64::from(x).to_bits() >> MANTISSA_BITS; // e + BIAS; the sign is 0
    f64::from_bits((2 * BIAS - biased) << MANTISSA_BITS)
}

/// The nearest f32. A product of an f32 and a power of two between 2^-127 and 2^149 is exact in f64, so this is its
/// only rounding.
#[allow(clippy::cast_possible_truncation)] // to round is the point
fn round(x: f64) -> f32 {
    x as f32
}
