//! The defined score: an inner product whose order of operations is fixed, so that every device, instruction set and
//! batch size returns the same bits.
//!
//! Of two vectors of `d` elements, 32 partial sums are kept in f32: lane `l` takes the elements `l`, `l + 32`,
//! `l + 64`, … in order, each with one fused multiply-add, starting from +0. Then lane `l` is added to lane `l ^ 16`,
//! the result to that of lane `l ^ 8`, then `l ^ 4`, `l ^ 2`, `l ^ 1`. Addition commutes, so all lanes end equal.
#![allow(unsafe_code)] // vector loads; see each SAFETY note

use super::error::{OpError, expect, positive};
use super::simd::{Isa, Kernel, Simd, dispatch};

/// Number of partial sums in the definition.
pub const LANES: usize = 32;

/// The defined score of two vectors of one length, step by step as it is defined; the oracle of every faster form.
///
/// # Errors
/// [`OpError::Length`] if the lengths differ.
pub fn score_scalar(a: &[f32], b: &[f32]) -> Result<f32, OpError> {
    expect("second vector", b.len(), &[a.len()])?;
    let mut lanes = [0.0f32; LANES];
    for (i, (x, y)) in a.iter().zip(b).enumerate() {
        lanes[i % LANES] = x.mul_add(*y, lanes[i % LANES]);
    }
    for distance in [16, 8, 4, 2, 1] {
        lanes = std::array::from_fn(|l| lanes[l] + lanes[l ^ distance]);
    }
    Ok(lanes[0])
}

/// The defined score of two vectors of one length.
///
/// # Errors
/// [`OpError::Length`] if the lengths differ.
pub fn score(a: &[f32], b: &[f32]) -> Result<f32, OpError> {
    expect("second vector", b.len(), &[a.len()])?;
    let mut out = [0.0];
    if !a.is_empty() {
        scores_of_whole_rows(Isa::best(), a.len(), a, b, &mut out);
    }
    Ok(out[0])
}

/// The defined score of every query with every row: `queries` is `[q, dim]`, `rows` is `[r, dim]`, `out` is `[q, r]`.
/// The bits do not depend on `isa`.
///
/// # Errors
/// [`OpError::Zero`] if `dim` is 0, [`OpError::Length`] if a slice does not have its shape.
pub fn scores(isa: Isa, dim: usize, queries: &[f32], rows: &[f32], out: &mut [f32]) -> Result<(), OpError> {
    positive("vector length", dim)?;
    let (q, r) = (queries.len() / dim, rows.len() / dim);
    expect("queries", queries.len(), &[q, dim])?;
    expect("rows", rows.len(), &[r, dim])?;
    expect("scores", out.len(), &[q, r])?;
    scores_of_whole_rows(isa, dim, queries, rows, out);
    Ok(())
}

/// [`scores`] of slices whose lengths were checked.
pub(super) fn scores_of_whole_rows(isa: Isa, dim: usize, queries: &[f32], rows: &[f32], out: &mut [f32]) {
    dispatch(isa, Scores { dim, queries, rows, out });
}

/// The arguments of [`scores`], lengths checked.
struct Scores<'a> {
    dim: usize,
    queries: &'a [f32],
    rows: &'a [f32],
    out: &'a mut [f32],
}

/// Rows of a tile; divided by every number of rows that [`lane_sums`] takes.
const TILE_ROWS: usize = 8;

/// Elements of a cache line.
const LINE: usize = 16;

/// Bytes of queries that pass over a tile before the next rows are read: they and the rows fit the first-level cache.
const QUERY_GROUP_BYTES: usize = 16 << 10;

impl Kernel for Scores<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Scores { dim, queries, rows, out } = self;
        let count = rows.len() / dim;
        if count == 0 {
            return;
        }
        let group = (QUERY_GROUP_BYTES / (dim * size_of::<f32>())).max(4) / 4 * 4;
        for (queries, out) in queries.chunks(group * dim).zip(out.chunks_mut(group * count)) {
            for first in (0..count).step_by(TILE_ROWS) {
                // Past the last row the last row stands in; those scores are dropped.
                let mut tile = [&rows[..dim]; TILE_ROWS];
                for (i, row) in tile.iter_mut().enumerate() {
                    *row = &rows[(first + i).min(count - 1) * dim..][..dim];
                }
                let kept = TILE_ROWS.min(count - first);
                // The next tile arrives while this one is computed; past the rows lies, as a rule, the next block.
                let next = rows.as_ptr().wrapping_add((first + TILE_ROWS) * dim);
                for line in (0..TILE_ROWS * dim).step_by(LINE) {
                    simd.prefetch(next.wrapping_add(line));
                }
                let (mut done, total) = (0, queries.len() / dim);
                while done < total {
                    let left = &queries[done * dim..];
                    let out = &mut out[done * count + first..];
                    done += match total - done {
                        1 => keep(out, count, kept, tile_scores::<S, 1, 8>(simd, dim, left, &tile)),
                        2 | 3 => keep(out, count, kept, tile_scores::<S, 2, 4>(simd, dim, left, &tile)),
                        // The sums of 16 pairs fit 32 registers, those of 8 pairs 16 registers.
                        _ if S::LANES == 16 => {
                            keep(out, count, kept, tile_scores::<S, 4, 4>(simd, dim, left, &tile))
                        }
                        _ => keep(out, count, kept, tile_scores::<S, 4, 2>(simd, dim, left, &tile)),
                    };
                }
            }
        }
    }
}

/// Writes the first `kept` scores of each query to its row of `out`, `stride` apart; returns the number of queries.
#[inline(always)]
fn keep<const Q: usize>(out: &mut [f32], stride: usize, kept: usize, scores: [[f32; TILE_ROWS]; Q]) -> usize {
    for (i, scores) in scores.iter().enumerate() {
        match out[i * stride..].first_chunk_mut() {
            Some(whole) if kept == TILE_ROWS => *whole = *scores,
            _ => out[i * stride..][..kept].copy_from_slice(&scores[..kept]),
        }
    }
    Q
}

/// The scores of the first `Q` of `queries` with a tile of rows, `R` rows at a time; `Q * R` is a multiple of 8.
#[inline(always)]
fn tile_scores<S: Simd, const Q: usize, const R: usize>(
    simd: S,
    dim: usize,
    queries: &[f32],
    tile: &[&[f32]; TILE_ROWS],
) -> [[f32; TILE_ROWS]; Q] {
    let mut scores = [[0.0; TILE_ROWS]; Q];
    let mut q = [&queries[..dim]; Q];
    for (i, q) in q.iter_mut().enumerate() {
        *q = &queries[i * dim..][..dim];
    }
    for (part, rows) in tile.as_chunks::<R>().0.iter().enumerate() {
        let sums = lane_sums::<S, Q, R>(simd, dim, q, *rows);
        for first in (0..Q * R).step_by(8) {
            let mut eight = [simd.splat(0.0); 8];
            for (i, v) in eight.iter_mut().enumerate() {
                *v = sums[(first + i) / R][(first + i) % R];
            }
            for (i, sum) in simd.tree_sums(eight).into_iter().enumerate() {
                scores[(first + i) / R][part * R + (first + i) % R] = sum;
            }
        }
    }
    scores
}

/// The 32 partial sums of each pair, folded to one vector: lane `l` with `l ^ 16`, and with `l ^ 8` where a vector has
/// 8 lanes. All slices have `dim` elements.
#[inline(always)]
fn lane_sums<S: Simd, const Q: usize, const R: usize>(
    simd: S,
    dim: usize,
    queries: [&[f32]; Q],
    rows: [&[f32]; R],
) -> [[S::F32; R]; Q] {
    let part = |at: usize| partial_sums::<S, Q, R>(simd, dim, at * S::LANES, queries, rows);
    if S::LANES == 16 {
        add(simd, part(0), part(1))
    } else {
        const { assert!(S::LANES == 16 || S::LANES == 8) };
        add(simd, add(simd, part(0), part(2)), add(simd, part(1), part(3)))
    }
}

/// The pairwise sum of two sets of sums.
#[inline(always)]
fn add<S: Simd, const Q: usize, const R: usize>(
    simd: S,
    mut a: [[S::F32; R]; Q],
    b: [[S::F32; R]; Q],
) -> [[S::F32; R]; Q] {
    for (a, b) in a.iter_mut().zip(b) {
        for (a, b) in a.iter_mut().zip(b) {
            *a = simd.add(*a, b);
        }
    }
    a
}

/// The partial sums of lanes `first..first + S::LANES` of each pair. All slices have `dim` elements.
#[inline(always)]
fn partial_sums<S: Simd, const Q: usize, const R: usize>(
    simd: S,
    dim: usize,
    first: usize,
    queries: [&[f32]; Q],
    rows: [&[f32]; R],
) -> [[S::F32; R]; Q] {
    debug_assert!(queries.iter().chain(&rows).all(|x| x.len() == dim));
    let mut sums = [[simd.splat(0.0); R]; Q];
    let mut at = first;
    while at + S::LANES <= dim {
        let mut x = [simd.splat(0.0); R];
        for (x, row) in x.iter_mut().zip(&rows) {
            // SAFETY: the slice has `dim` elements, and `at + LANES <= dim`.
            *x = unsafe { simd.load(row.as_ptr().add(at)) };
        }
        for (sums, query) in sums.iter_mut().zip(&queries) {
            // SAFETY: as above.
            let q = unsafe { simd.load(query.as_ptr().add(at)) };
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = simd.mul_add(q, x, *sum);
            }
        }
        at += LANES;
    }
    if at < dim {
        // Lanes without an element stay as they are: adding a zero product would turn -0 into +0.
        let n = dim - at;
        for (sums, query) in sums.iter_mut().zip(&queries) {
            // SAFETY: the slice has `dim` elements, and `at + n == dim`.
            let q = unsafe { simd.load_first(n, query.as_ptr().add(at)) };
            for (sum, row) in sums.iter_mut().zip(&rows) {
                // SAFETY: as above.
                let x = unsafe { simd.load_first(n, row.as_ptr().add(at)) };
                *sum = simd.mul_add_first(n, q, x, *sum);
            }
        }
    }
    sums
}
