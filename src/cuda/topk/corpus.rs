//! Rows on the device: how they are arranged, in which order their ids come.

use bytemuck::Pod;
use half::{bf16, f16};

use crate::catalogue::{Hit, MAX_DIM};
use crate::cuda::{CudaError, Precision, Slice, Stream, Tensor, expect, to_u32};

/// Rows that a warp scores at once, `R` of the kernel: there are zeros up to a multiple of them.
const ROWS_AT_ONCE: usize = 8;

/// Elements of a group, `SCORE_GROUP` of `kernels/device/score.cuh`: four terms of each lane.
pub(super) const GROUP: usize = 128;

/// Bytes that a row is a multiple of: those of one load.
const UNIT: usize = 16;

/// Rows in the memory of a device, ready to be searched.
#[derive(Debug, Clone)]
pub struct Corpus {
    pub(super) shape: Shape,
    /// `[rows rounded up to 8, pitch]`, each row arranged as `kernels/device/score.cuh` says.
    pub(super) rows: Tensor,
    pub(super) order: Option<Order>,
}

/// The order of rows by their ids, where that is not the order of rows.
#[derive(Debug, Clone)]
pub(super) struct Order {
    /// The place of each row's id among all ids, on the device.
    pub(super) rank: Slice<u32>,
    /// The row at each place.
    rows: Vec<u32>,
}

/// What is searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) rows: usize,
    pub(super) dim: usize,
    pub(super) precision: Precision,
}

impl Shape {
    pub(super) fn new(rows: usize, dim: usize, precision: Precision) -> Result<Shape, CudaError> {
        let limit = u32::MAX as usize - 1;
        if rows > limit {
            return Err(CudaError::Limit { what: "rows", value: rows, limit });
        }
        if !(1..=MAX_DIM).contains(&dim) {
            return Err(CudaError::Limit { what: "vector length", value: dim, limit: MAX_DIM });
        }
        Ok(Shape { rows, dim, precision })
    }

    /// Values from one row on the device to the next.
    fn pitch(self) -> usize {
        self.dim.next_multiple_of(UNIT / self.precision.bytes())
    }

    /// Values on the device.
    fn stored(self) -> Option<usize> {
        self.rows.next_multiple_of(ROWS_AT_ONCE).checked_mul(self.pitch())
    }
}

impl Corpus {
    /// Uploads `vectors`, `[ids.len(), dim]`, rounded to `precision`, and the order of their `ids`, which are distinct. A
    /// row takes `dim` values, rounded up to 16 bytes. Arranging them takes a few megabytes on the host, and ids that do
    /// not ascend 8 bytes per row. The stream is synchronised.
    ///
    /// # Errors
    /// [`CudaError::Length`] if `vectors` has another length; [`CudaError::Limit`] for a `dim` of 0 or beyond 4096, for more
    /// than 2^32 - 2 rows, which keys count in 32 bits, and for a value that rounds to an infinity; as [`Stream::upload`].
    pub fn upload(
        stream: &Stream,
        dim: usize,
        vectors: &[f32],
        ids: &[i64],
        precision: Precision,
    ) -> Result<Corpus, CudaError> {
        let shape = Shape::new(ids.len(), dim, precision)?;
        expect("vectors", vectors.len(), &[ids.len(), dim])?;
        let rows = match precision {
            Precision::F32 => upload_rows(stream, shape, vectors, |x| x, |_| false, f32::MAX)?,
            Precision::F16 => {
                let largest = f16::MAX.to_f32();
                upload_rows(stream, shape, vectors, f16::from_f32, f16::is_infinite, largest)?
            }
            Precision::Bf16 => {
                let largest = bf16::MAX.to_f32();
                upload_rows(stream, shape, vectors, bf16::from_f32, bf16::is_infinite, largest)?
            }
        };
        let rows = Tensor::over(rows, precision)?;
        Ok(Corpus { shape, rows, order: Order::upload(stream, ids)? })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.shape.rows
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.shape.rows == 0
    }

    /// Length of a row.
    pub fn dim(&self) -> usize {
        self.shape.dim
    }

    /// The hits of one query from the keys that [`enqueue`](super::enqueue) wrote for it, or the first of
    /// them, best first; `ids` are those of the upload.
    pub fn hits(&self, ids: &[i64], keys: &[u64]) -> Vec<Hit> {
        let hits = keys.iter().take_while(|&&key| key != 0).filter_map(|&key| {
            let (score, rank) = decode(key);
            let row = match &self.order {
                None => rank as usize,
                Some(order) => *order.rows.get(rank as usize)? as usize,
            };
            Some(Hit { id: *ids.get(row)?, row, score })
        });
        hits.collect()
    }
}

impl Order {
    fn upload(stream: &Stream, ids: &[i64]) -> Result<Option<Order>, CudaError> {
        if ids.is_sorted() {
            return Ok(None);
        }
        let mut rows: Vec<u32> = (0..to_u32("rows", ids.len())?).collect();
        // Not in parallel: a thread that waits for others may take up other work, and callers hold locks.
        rows.sort_unstable_by_key(|&row| (ids[row as usize], row));
        let mut rank = vec![0; rows.len()];
        for (place, &row) in (0..).zip(&rows) {
            rank[row as usize] = place;
        }
        Ok(Some(Order { rank: stream.upload("order of a catalogue's ids", &rank)?, rows }))
    }
}

/// Uploads rows rounded to `T` and arranged, in pieces: no second copy of them all is made.
fn upload_rows<T: Pod>(
    stream: &Stream,
    shape: Shape,
    vectors: &[f32],
    round: impl Fn(f32) -> T,
    is_infinite: impl Fn(T) -> bool,
    largest: f32,
) -> Result<Slice<u8>, CudaError> {
    const PIECE: usize = 1 << 20;
    let (dim, pitch) = (shape.dim, shape.pitch());
    let to = Slice::<T>::new(stream.device(), "rows of a catalogue", shape.stored().unwrap_or(usize::MAX))?;
    let at_once = (PIECE / pitch).next_multiple_of(ROWS_AT_ONCE);
    let mut from = 0;
    for vectors in vectors.chunks(at_once * dim) {
        let rows = (vectors.len() / dim).next_multiple_of(ROWS_AT_ONCE);
        let mut piece = vec![T::zeroed(); rows * pitch];
        for (row, stored) in vectors.chunks_exact(dim).zip(piece.chunks_exact_mut(pitch)) {
            arrange(row, &round, stored);
            if stored.iter().any(|&x| is_infinite(x)) {
                let greatest = row.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                // saturates, in an error's words
                let (value, limit) = (greatest as usize, largest as usize);
                return Err(CudaError::Limit { what: "magnitude of a stored value", value, limit });
            }
        }
        stream.upload_to(&piece, &to.part(from..from + piece.len())?)?;
        from += piece.len();
    }
    to.cast()
}

/// Stores a row as `kernels/device/score.cuh` reads it; what `stored` has beyond the row stays as it is.
fn arrange<T>(row: &[f32], round: impl Fn(f32) -> T, stored: &mut [T]) {
    let groups = row.chunks_exact(GROUP);
    let rest = groups.remainder();
    for (group, stored) in groups.zip(stored.chunks_exact_mut(GROUP)) {
        for (lane, terms) in stored.chunks_exact_mut(4).enumerate() {
            for (term, to) in terms.iter_mut().enumerate() {
                *to = round(group[32 * term + lane]);
            }
        }
    }
    for (&from, to) in rest.iter().zip(&mut stored[row.len() - rest.len()..]) {
        *to = round(from);
    }
}

/// Where the keys of zeros start; as in `kernels/device/keys.cuh`.
const ZERO_KEYS: u64 = 0x7FFF_FFFF << 32;

/// The score and the rank of a key.
#[allow(clippy::cast_possible_truncation)] // the halves of a key
fn decode(key: u64) -> (f32, u32) {
    if let Some(zero) = key.checked_sub(ZERO_KEYS).filter(|zero| zero >> 33 == 0) {
        let score = if zero & 1 == 1 { 0.0 } else { -0.0 };
        return (score, !((zero >> 1) as u32));
    }
    let code = (key >> 32) as u32;
    let bits = if code >> 31 == 1 { code & 0x7FFF_FFFF } else { !code };
    (f32::from_bits(bits), !(key as u32))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed check ends the test
mod tests {
    use super::*;

    /// As `lane_sums` of the kernel reads it: every element once, in its own lane, terms in order; the rest as it is.
    #[test]
    fn rows_are_arranged_by_lanes() {
        for dim in [1, 31, 127, 128, 129, 255, 256, 300, 4096] {
            let row: Vec<f32> = (0..dim).map(|i| i as f32).collect();
            let mut stored = vec![f32::NAN; dim + 3];
            arrange(&row, |x| x, &mut stored);
            let whole = dim / GROUP * GROUP;
            let groups = stored[..whole].chunks(4).enumerate();
            let lanes = groups.flat_map(|(at, terms)| {
                let first = at / 32 * GROUP + at % 32;
                terms.iter().enumerate().map(move |(term, &x)| (x, first + 32 * term))
            });
            let rest = (whole..dim).map(|i| (stored[i], i));
            for (x, i) in lanes.chain(rest) {
                assert_eq!(x, i as f32, "element {i} of {dim}");
            }
            assert!(stored[dim..].iter().all(|x| x.is_nan()), "{dim}");
        }
    }

    /// Rows and elements around 2^31 and 2^32, to the most that there can be.
    #[test]
    fn elements_are_counted_in_64_bits() {
        for (rows, dim, precision, stored) in [
            (1, 1, Precision::F32, 8 * 4),
            (9, 9, Precision::F16, 16 * 16),
            ((1 << 31) / 256 + 1, 256, Precision::F32, (1 << 31) + 8 * 256),
            ((1 << 32) / 100, 100, Precision::F16, 42_949_672 * 104),
            ((1 << 32) - 2, 4096, Precision::Bf16, 1u64 << 44),
        ] {
            let shape = Shape::new(rows, dim, precision).unwrap();
            assert_eq!(shape.stored(), usize::try_from(stored).ok(), "{shape:?}");
        }
    }

    /// The kernel's key, in the same words.
    fn encode(score: f32, rank: u32) -> u64 {
        let late = u64::from(!rank);
        if score == 0.0 {
            return ZERO_KEYS + (late << 1 | u64::from(score.is_sign_positive()));
        }
        let bits = score.to_bits();
        let code = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
        u64::from(code) << 32 | late
    }

    /// Keys descend with the score, then ascend with the rank, whatever the sign of a zero; and nothing is lost.
    #[test]
    fn keys_keep_order_and_bits() {
        let tiny = f32::from_bits(1);
        let scores =
            [f32::NEG_INFINITY, f32::MIN, -1.0, -tiny, -0.0, 0.0, tiny, 1.0, f32::MAX, f32::INFINITY];
        let ranks = [0, 1, 0x7FFF_FFFF, 0x8000_0000, u32::MAX - 2];
        let all = || scores.iter().flat_map(|&score| ranks.map(|rank| (score, rank)));
        for (score, rank) in all() {
            let (found, at) = decode(encode(score, rank));
            assert_eq!((found.to_bits(), at), (score.to_bits(), rank), "{score} at {rank}");
            for (other, other_rank) in all().filter(|&(_, other_rank)| other_rank != rank) {
                let better = score > other || (score == other && rank < other_rank);
                assert_eq!(
                    encode(score, rank) > encode(other, other_rank),
                    better,
                    "{score} at {rank}, {other} at {other_rank}"
                );
            }
        }
    }
}
