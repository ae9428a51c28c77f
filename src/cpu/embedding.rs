//! Embedding lookups: the row of an id, and the pooled rows of a bag of ids. Tables are read where they lie.

#![allow(unsafe_code)] // vector loads and stores; see each SAFETY note

use std::ops::Range;

use half::{bf16, f16};
use rayon::prelude::*;

use super::error::{OpError, expect};
use super::simd::{Isa, Kernel, Simd, dispatch};
pub use crate::model::Pooling;

/// Output values of a task, so that small lookups stay on one thread.
const TASK: usize = 1 << 14;

/// The most bags of a task.
const TASK_BAGS: usize = 64;

/// Vectors that are pooled side by side.
const BLOCK: usize = 4;

/// The most lanes of a vector.
const MAX_LANES: usize = 32;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Ids between a row's prefetch and its use.
const AHEAD: usize = 16;

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
pub fn gather(
    isa: Isa,
    table: &Table<'_>,
    ids: &[i64],
    unknown: UnknownId,
    output: &mut [f32],
) -> Result<(), OpError> {
    let resolver = Resolver::new(table, None, unknown)?;
    expect("embedding output", output.len(), &[ids.len(), table.width])?;
    for (row, &id) in ids.iter().enumerate() {
        resolver.check(row, 0, id)?;
    }
    if table.width == 0 {
        return Ok(());
    }
    let bags = Bags { offsets: &[], ids, weights: None };
    let (width, resolver, pooling) = (table.width, &resolver, Pooling::Sum);
    match table.values {
        Values::F32(values) => Lookup { isa, values, width, resolver, bags, pooling }.gather(output),
        Values::F16(values) => Lookup { isa, values, width, resolver, bags, pooling }.gather(output),
        Values::Bf16(values) => Lookup { isa, values, width, resolver, bags, pooling }.gather(output),
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
    isa: Isa,
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
    let (width, resolver) = (table.width, &resolver);
    match table.values {
        Values::F32(values) => Lookup { isa, values, width, resolver, bags, pooling }.pool(output),
        Values::F16(values) => Lookup { isa, values, width, resolver, bags, pooling }.pool(output),
        Values::Bf16(values) => Lookup { isa, values, width, resolver, bags, pooling }.pool(output),
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
trait Element: Copy + Default + Sync {
    /// Reads a vector of values, exactly.
    ///
    /// # Safety
    /// `from` is valid for reads of `S::LANES` elements.
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::F32;
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const f32) -> S::F32 {
        // SAFETY: the caller's contract.
        unsafe { simd.load(from) }
    }
}

impl Element for f16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const f16) -> S::F32 {
        // SAFETY: the caller's contract.
        unsafe { simd.load_f16(from) }
    }
}

impl Element for bf16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const bf16) -> S::F32 {
        // SAFETY: the caller's contract.
        unsafe { simd.load_bf16(from) }
    }
}

/// Reads up to `V` vectors; what `from` does not have is 0.
#[inline(always)]
fn load<S: Simd, E: Element, const V: usize>(simd: S, from: &[E]) -> [S::F32; V] {
    const { assert!(S::LANES <= MAX_LANES) };
    std::array::from_fn(|v| match from.get(v * S::LANES..(v + 1) * S::LANES) {
        // SAFETY: LANES elements, as just sliced.
        Some(from) => unsafe { E::load(simd, from.as_ptr()) },
        None => {
            let rest = &from[from.len().min(v * S::LANES)..];
            let mut padded = [E::default(); MAX_LANES];
            padded[..rest.len()].copy_from_slice(rest);
            // SAFETY: MAX_LANES elements, at least LANES.
            unsafe { E::load(simd, padded.as_ptr()) }
        }
    })
}

/// Writes as much of `V` vectors as `to` has room for.
#[inline(always)]
fn store<S: Simd, const V: usize>(simd: S, values: [S::F32; V], to: &mut [f32]) {
    for (value, to) in values.into_iter().zip(to.chunks_mut(S::LANES)) {
        // SAFETY: a chunk has at most LANES values, and only those are written.
        unsafe { simd.store_first(to.len(), value, to.as_mut_ptr()) }
    }
}

/// What every task reads.
#[derive(Clone, Copy)]
struct Lookup<'a, E> {
    isa: Isa,
    values: &'a [E],
    width: usize,
    resolver: &'a Resolver,
    bags: Bags<'a>,
    pooling: Pooling,
}

impl<E: Element> Lookup<'_, E> {
    /// The row of an id; empty for an id that the checks refuse.
    #[inline(always)]
    fn row(&self, id: i64) -> &[E] {
        match self.resolver.row(id) {
            Some(row) => &self.values[row * self.width..(row + 1) * self.width],
            None => &[],
        }
    }

    /// Asks for the row that is read [`AHEAD`] ids later, which may belong to another bag.
    #[inline(always)]
    fn prefetch<S: Simd>(&self, simd: S, at: usize, columns: Range<usize>) {
        if let Some(row) = self.bags.ids.get(at + AHEAD).and_then(|&id| self.resolver.row(id)) {
            let line = LINE / size_of::<E>();
            for column in columns.step_by(line) {
                simd.prefetch(self.values.as_ptr().wrapping_add(row * self.width + column));
            }
        }
    }

    /// One value per id and column.
    fn gather(&self, output: &mut [f32]) {
        let tasks = output.par_chunks_mut(self.width * TASK.div_ceil(self.width)).enumerate();
        tasks.for_each(|(task, output)| {
            let first = task * TASK.div_ceil(self.width);
            dispatch(self.isa, Gather { lookup: *self, first, output });
        });
    }

    /// One value per bag and column.
    fn pool(&self, output: &mut [f32]) {
        // Bags of any length: small tasks even out.
        let bags = TASK_BAGS.min(TASK.div_ceil(self.width));
        output.par_chunks_mut(self.width * bags).enumerate().for_each(|(task, output)| {
            dispatch(self.isa, Pool { lookup: *self, first: task * bags, output });
        });
    }
}

struct Gather<'a, E> {
    lookup: Lookup<'a, E>,
    /// Position of the first id.
    first: usize,
    /// `[ids, width]`
    output: &'a mut [f32],
}

impl<E: Element> Kernel for Gather<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Gather { lookup, first, output } = self;
        for (at, output) in (first..).zip(output.chunks_exact_mut(lookup.width)) {
            lookup.prefetch(simd, at, 0..lookup.width);
            let row = lookup.row(lookup.bags.ids[at]);
            let block = S::LANES * BLOCK;
            for (output, row) in output.chunks_mut(block).zip(row.chunks(block)) {
                store::<S, BLOCK>(simd, load(simd, row), output);
            }
        }
    }
}

struct Pool<'a, E> {
    lookup: Lookup<'a, E>,
    /// The first bag.
    first: usize,
    /// `[bags, width]`
    output: &'a mut [f32],
}

impl<E: Element> Kernel for Pool<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Pool { lookup, first, output } = self;
        for (bag, output) in
            lookup.bags.offsets[first..].windows(2).zip(output.chunks_exact_mut(lookup.width))
        {
            for (block, output) in output.chunks_mut(S::LANES * BLOCK).enumerate() {
                let column = block * S::LANES * BLOCK;
                pool_columns(simd, &lookup, bag[0]..bag[1], column, output);
            }
        }
    }
}

/// Pools the columns of a bag from `column` on, as many as `output` has; the sums stay in registers.
#[inline(always)]
fn pool_columns<S: Simd, E: Element>(
    simd: S,
    lookup: &Lookup<'_, E>,
    bag: Range<usize>,
    column: usize,
    output: &mut [f32],
) {
    let mut pooled = [simd.splat(0.0); BLOCK];
    let mut counted = 0usize;
    let columns = column..column + output.len();
    for at in bag {
        lookup.prefetch(simd, at, columns.clone());
        let id = lookup.bags.ids[at];
        if lookup.resolver.padding_id == Some(id) {
            continue;
        }
        let row: [S::F32; BLOCK] = load(simd, &lookup.row(id)[columns.clone()]);
        let weight = simd.splat(lookup.bags.weights.map_or(1.0, |weights| weights[at]));
        for (pooled, value) in pooled.iter_mut().zip(row) {
            *pooled = match lookup.pooling {
                Pooling::Sum => simd.mul_add(weight, value, *pooled),
                Pooling::Mean => simd.add(value, *pooled),
                Pooling::Max if counted == 0 => value,
                Pooling::Max => simd.max_or_nan(*pooled, value),
            };
        }
        counted += 1;
    }
    store(simd, pooled, output);
    if lookup.pooling == Pooling::Mean && counted > 0 {
        let counted = counted as f32; // one rounding; a sum of ones in f32 would end at 2^24
        output.iter_mut().for_each(|x| *x /= counted);
    }
}
