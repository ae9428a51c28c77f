//! Embedding lookups: the row of an id, and the pooled rows of a bag of ids. Tables are read where they lie.

use half::{bf16, f16};
use rayon::prelude::*;

use super::error::{OpError, expect};
pub use crate::model::Pooling;

/// Output values that a task handles at least, so that small lookups stay on one thread.
const TASK: usize = 1 << 14;

/// An embedding table `[rows, width]` in the checkpoint's own type.
#[derive(Debug, Clone, Copy)]
pub struct Table<'a> {
    rows: usize,
    width: usize,
    values: Values<'a>,
}

/// The values of a table, row after row.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Values<'a> {
    /// IEEE single precision.
    F32(&'a [f32]),
    /// IEEE half precision; every value is exact in f32.
    F16(&'a [f16]),
    /// The upper half of an f32; every value is exact in f32.
    Bf16(&'a [bf16]),
}

impl<'a> Table<'a> {
    /// A table over borrowed values; nothing is copied.
    ///
    /// # Errors
    /// [`OpError::Length`] or [`OpError::Overflow`] if the values do not fill `[rows, width]`.
    pub fn new(rows: usize, width: usize, values: Values<'a>) -> Result<Table<'a>, OpError> {
        let found = match values {
            Values::F32(values) => values.len(),
            Values::F16(values) => values.len(),
            Values::Bf16(values) => values.len(),
        };
        expect("embedding table", found, &[rows, width])?;
        Ok(Table { rows, width, values })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Length of a row.
    pub fn width(&self) -> usize {
        self.width
    }
}

/// What happens to an id outside the table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UnknownId {
    /// It is an error.
    #[default]
    Refuse,
    /// It reads this row of the table instead.
    Row(usize),
}

/// Jagged lists of ids, one bag per row, under the EmbeddingBag convention with a final offset.
#[derive(Debug, Clone, Copy)]
pub struct Bags<'a> {
    /// `bags + 1` positions in `ids`: bag `b` is `ids[offsets[b]..offsets[b + 1]]`; first 0, last `ids.len()`.
    pub offsets: &'a [usize],
    /// The ids of all bags.
    pub ids: &'a [i64],
    /// One weight per id, for sum pooling only.
    pub weights: Option<&'a [f32]>,
}

/// Copies the row of each id: `output: [ids.len(), width]`.
///
/// # Errors
/// [`OpError::UnknownId`] for the first id outside the table if `unknown` refuses it, [`OpError::DefaultRow`],
/// [`OpError::Length`] or [`OpError::Overflow`]; the output is then unchanged.
pub fn gather(table: &Table<'_>, ids: &[i64], unknown: UnknownId, output: &mut [f32]) -> Result<(), OpError> {
    let resolver = Resolver::new(table, None, unknown)?;
    expect("embedding output", output.len(), &[ids.len(), table.width])?;
    for (row, &id) in ids.iter().enumerate() {
        resolver.check(row, 0, id)?;
    }
    if table.width == 0 {
        return Ok(());
    }
    match table.values {
        Values::F32(values) => gather_rows(values, table.width, &resolver, ids, output),
        Values::F16(values) => gather_rows(values, table.width, &resolver, ids, output),
        Values::Bf16(values) => gather_rows(values, table.width, &resolver, ids, output),
    }
    Ok(())
}

/// Pools the rows of each bag, as `torch.nn.EmbeddingBag` does: `output: [bags, width]`. Ids equal to `padding_id` do not
/// count, not in the divisor of a mean either; a bag without other ids gives zeros. Sums are taken in the order of the
/// ids, in f32.
///
/// # Errors
/// As [`gather`]; [`OpError::Offset`] if the offsets are not a partition of the ids, [`OpError::WeightedPooling`] for
/// weights with a mean or a maximum. The output is then unchanged.
pub fn bags(
    table: &Table<'_>,
    bags: Bags<'_>,
    pooling: Pooling,
    padding_id: Option<i64>,
    unknown: UnknownId,
    output: &mut [f32],
) -> Result<(), OpError> {
    let resolver = Resolver::new(table, padding_id, unknown)?;
    check_bags(&bags, pooling)?;
    expect("embedding output", output.len(), &[bags.offsets.len() - 1, table.width])?;
    for (row, bag) in bags.offsets.windows(2).enumerate() {
        for (position, &id) in bags.ids[bag[0]..bag[1]].iter().enumerate() {
            resolver.check(row, position, id)?;
        }
    }
    if table.width == 0 {
        return Ok(());
    }
    match table.values {
        Values::F32(values) => pool_bags(values, table.width, &resolver, bags, pooling, output),
        Values::F16(values) => pool_bags(values, table.width, &resolver, bags, pooling, output),
        Values::Bf16(values) => pool_bags(values, table.width, &resolver, bags, pooling, output),
    }
    Ok(())
}

fn check_bags(bags: &Bags<'_>, pooling: Pooling) -> Result<(), OpError> {
    if bags.offsets.is_empty() {
        return Err(OpError::Length { what: "bag offsets", found: 0, expected: 1 });
    }
    let last = bags.offsets.len() - 1;
    for (position, &offset) in bags.offsets.iter().enumerate() {
        let low = match position {
            0 => 0,
            _ if position == last => bags.ids.len(),
            _ => bags.offsets[position - 1],
        };
        let high = if position == 0 { 0 } else { bags.ids.len() };
        if offset < low || offset > high {
            return Err(OpError::Offset { position, offset, low, high });
        }
    }
    if let Some(weights) = bags.weights {
        expect("bag weights", weights.len(), &[bags.ids.len()])?;
        if pooling != Pooling::Sum {
            return Err(OpError::WeightedPooling);
        }
    }
    Ok(())
}

/// From ids to rows of the table.
struct Resolver {
    rows: usize,
    padding_id: Option<i64>,
    default: Option<usize>,
}

impl Resolver {
    fn new(table: &Table<'_>, padding_id: Option<i64>, unknown: UnknownId) -> Result<Resolver, OpError> {
        let default = match unknown {
            UnknownId::Refuse => None,
            UnknownId::Row(default) if default < table.rows => Some(default),
            UnknownId::Row(default) => return Err(OpError::DefaultRow { default, rows: table.rows }),
        };
        Ok(Resolver { rows: table.rows, padding_id, default })
    }

    fn check(&self, row: usize, position: usize, id: i64) -> Result<(), OpError> {
        if self.padding_id == Some(id) || self.default.is_some() || self.row(id).is_some() {
            return Ok(());
        }
        Err(OpError::UnknownId { row, position, id, rows: self.rows })
    }

    /// The row of an id that is not padding; `None` only for an id that `check` refuses.
    #[inline(always)]
    fn row(&self, id: i64) -> Option<usize> {
        usize::try_from(id).ok().filter(|&row| row < self.rows).or(self.default)
    }
}

/// A type that tables are stored in.
trait Element: Copy + Sync {
    /// The value; exact.
    fn to_f32(self) -> f32;
}

impl Element for f32 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
}

impl Element for f16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
}

fn gather_rows<E: Element>(values: &[E], width: usize, resolver: &Resolver, ids: &[i64], output: &mut [f32]) {
    let rows = output.par_chunks_exact_mut(width).zip(ids).with_min_len(TASK.div_ceil(width));
    rows.for_each(|(output, &id)| {
        let Some(row) = resolver.row(id) else { return };
        for (out, value) in output.iter_mut().zip(&values[row * width..(row + 1) * width]) {
            *out = value.to_f32();
        }
    });
}

fn pool_bags<E: Element>(
    values: &[E],
    width: usize,
    resolver: &Resolver,
    bags: Bags<'_>,
    pooling: Pooling,
    output: &mut [f32],
) {
    let rows = output.par_chunks_exact_mut(width).zip(bags.offsets.par_windows(2)).with_min_len(64);
    rows.for_each(|(output, bag)| {
        output.fill(0.0);
        let mut counted = 0.0f32;
        for at in bag[0]..bag[1] {
            let id = bags.ids[at];
            if resolver.padding_id == Some(id) {
                continue;
            }
            let Some(row) = resolver.row(id) else { continue };
            let row = output.iter_mut().zip(&values[row * width..(row + 1) * width]);
            match (pooling, bags.weights) {
                (Pooling::Sum, Some(weights)) => row.for_each(|(out, x)| *out += weights[at] * x.to_f32()),
                (Pooling::Max, _) if counted > 0.0 => row.for_each(|(out, x)| {
                    let x = x.to_f32();
                    if x > *out || x.is_nan() {
                        *out = x;
                    }
                }),
                _ => row.for_each(|(out, x)| *out += x.to_f32()),
            }
            counted += 1.0;
        }
        if pooling == Pooling::Mean && counted > 0.0 {
            output.iter_mut().for_each(|x| *x /= counted);
        }
    });
}
