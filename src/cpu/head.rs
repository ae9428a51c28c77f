//! The fused concat-linear head: a linear layer over the concatenation of the towers' outputs, which is never built.
//! A row that lacks a segment skips its columns of the weights.

use std::cmp::Ordering;
use std::ops::Range;

use super::activation::Activation;
use super::error::{OpError, expect, size};
use super::linear::{Dense, Linear, blocks};
use super::matmul::{Epilogue, Operand, Pieces, Rows, multiply};
use super::simd::Isa;

/// The output of one tower for the rows of a batch that have its modality.
#[derive(Debug, Clone, Copy, Default)]
pub struct Segment<'a> {
    /// The batch rows, strictly ascending; empty where no row has it.
    pub rows: &'a [usize],
    /// `[rows.len(), width]`, with the width that the head was made for.
    pub data: &'a [f32],
}

/// Linear layers over the concatenation of segments; without layers, the concatenation itself.
#[derive(Debug, Clone)]
pub struct Head {
    segments: Vec<Columns>,
    layers: Vec<Linear>,
    outputs: usize,
}

/// Where a segment lies in the concatenation.
#[derive(Debug, Clone)]
struct Columns {
    width: usize,
    first: usize,
    pieces: Pieces,
}

/// Stands for a row that a segment does not have.
const ABSENT: usize = usize::MAX;

impl Head {
    /// A head over segments of the given widths. The first layer reads their concatenation, each further one the layer
    /// before.
    ///
    /// # Errors
    /// [`OpError::Length`] if a layer's inputs are not what it reads, [`OpError::Overflow`] for widths beyond memory.
    pub fn new(widths: &[usize], layers: Vec<Linear>) -> Result<Head, OpError> {
        let overflow = || OpError::Overflow { what: "head segments", shape: widths.to_vec() };
        let total = widths.iter().try_fold(0usize, |total, &width| total.checked_add(width));
        let total = total.ok_or_else(overflow)?;
        let mut outputs = total;
        for layer in &layers {
            expect("inputs of a head layer", layer.inputs(), &[outputs])?;
            outputs = layer.outputs();
        }
        let mut first = 0;
        let segments = widths.iter().map(|&width| {
            let pieces = if layers.is_empty() { Pieces::default() } else { Pieces::one(first, width) };
            first += width;
            Columns { width, first: first - width, pieces }
        });
        Ok(Head { segments: segments.collect(), layers, outputs })
    }

    /// Length of an output row.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Whether the output is a linear function of the segments: at most one layer, without activation. Then the
    /// [`parts`](Head::parts) of a row and the [`bias`](Head::bias) add up to its output.
    pub fn is_linear(&self) -> bool {
        match self.layers.as_slice() {
            [] => true,
            [layer] => layer.activation == Activation::Identity,
            _ => false,
        }
    }

    /// The first layer's bias, `[outputs]`.
    pub fn bias(&self) -> Option<&[f32]> {
        self.layers.first().and_then(|layer| layer.bias.as_deref())
    }

    /// Length of a row of [`Head::parts`]: the first layer's outputs.
    pub fn part_outputs(&self) -> usize {
        self.layers.first().map_or(self.outputs, Linear::outputs)
    }

    /// Computes `output: [batch, outputs]`. `segments` are in the order of the widths; a row that no segment has is the
    /// head of nothing: `activation(bias)`.
    ///
    /// # Errors
    /// [`OpError::Segments`], [`OpError::Rows`], [`OpError::Length`] or [`OpError::Overflow`] if the arguments disagree.
    pub fn run(
        &self,
        isa: Isa,
        batch: usize,
        segments: &[Segment<'_>],
        output: &mut [f32],
    ) -> Result<(), OpError> {
        self.check(batch, segments)?;
        expect("head output", output.len(), &[batch, self.outputs])?;
        let Some((last, hidden)) = self.layers.split_last() else {
            self.concatenate(segments, output);
            return Ok(());
        };
        let Some((first, hidden)) = hidden.split_first() else {
            self.fused(isa, batch, segments, last, output);
            return Ok(());
        };
        let mut input = vec![0.0; size("hidden layer", &[batch, first.outputs()])?];
        self.fused(isa, batch, segments, first, &mut input);
        for layer in hidden {
            let mut next = vec![0.0; size("hidden layer", &[batch, layer.outputs()])?];
            layer.run(isa, batch, &input, &mut next)?;
            input = next;
        }
        last.run(isa, batch, &input, output)
    }

    /// What one segment alone brings to the first layer, before bias and activation: `output: [rows.len(), part_outputs]`.
    ///
    /// # Errors
    /// [`OpError::Segments`] if there is no such segment; [`OpError::Length`] or [`OpError::Overflow`] if a slice does
    /// not fit.
    pub fn parts(
        &self,
        isa: Isa,
        segment: usize,
        values: Segment<'_>,
        output: &mut [f32],
    ) -> Result<(), OpError> {
        let found = segment.saturating_add(1);
        let columns =
            self.segments.get(segment).ok_or(OpError::Segments { found, expected: self.segments.len() })?;
        let rows = values.rows.len();
        expect("segment", values.data.len(), &[rows, columns.width])?;
        expect("parts", output.len(), &[rows, self.part_outputs()])?;
        let Some(layer) = self.layers.first() else {
            output.fill(0.0);
            columns.copy(0..rows, values.data, self.outputs, output);
            return Ok(());
        };
        let source = Dense { data: values.data, width: columns.width, pieces: &columns.pieces };
        let epilogue = Epilogue { bias: None, residual: None, activation: Activation::Identity };
        multiply(isa, &layer.weights, &blocks(0..rows), &source, epilogue, output);
        Ok(())
    }

    fn check(&self, batch: usize, segments: &[Segment<'_>]) -> Result<(), OpError> {
        if segments.len() != self.segments.len() {
            return Err(OpError::Segments { found: segments.len(), expected: self.segments.len() });
        }
        for (at, (segment, columns)) in segments.iter().zip(&self.segments).enumerate() {
            let ascends = |i: usize| i == 0 || segment.rows[i - 1] < segment.rows[i];
            let bad = (0..segment.rows.len()).find(|&i| segment.rows[i] >= batch || !ascends(i));
            if let Some(position) = bad {
                return Err(OpError::Rows { segment: at, position, row: segment.rows[position], batch });
            }
            expect("segment", segment.data.len(), &[segment.rows.len(), columns.width])?;
        }
        Ok(())
    }

    fn concatenate(&self, segments: &[Segment<'_>], output: &mut [f32]) {
        output.fill(0.0);
        for (segment, columns) in segments.iter().zip(&self.segments) {
            columns.copy(segment.rows.iter().copied(), segment.data, self.outputs, output);
        }
    }

    /// One layer over the segments.
    fn fused(&self, isa: Isa, batch: usize, segments: &[Segment<'_>], layer: &Linear, output: &mut [f32]) {
        let grouped = Grouped::new(batch, segments, &self.segments);
        let blocks: Vec<Range<usize>> = grouped.runs.iter().cloned().flat_map(blocks).collect();
        if grouped.runs.len() <= 1 {
            multiply(isa, &layer.weights, &blocks, &grouped, layer.epilogue(), output);
            return;
        }
        // Rows of one pattern lie apart: they are computed side by side and then put in their places.
        let width = layer.outputs();
        let mut sorted = vec![0.0; output.len()];
        multiply(isa, &layer.weights, &blocks, &grouped, layer.epilogue(), &mut sorted);
        for (at, &row) in grouped.order.iter().enumerate() {
            output[row * width..(row + 1) * width].copy_from_slice(&sorted[at * width..(at + 1) * width]);
        }
    }
}

impl Columns {
    /// Copies rows of a segment to their places in the concatenation.
    fn copy(&self, rows: impl Iterator<Item = usize>, data: &[f32], pitch: usize, output: &mut [f32]) {
        if self.width == 0 {
            return;
        }
        for (row, values) in rows.zip(data.chunks_exact(self.width)) {
            let at = row * pitch + self.first;
            output[at..at + self.width].copy_from_slice(values);
        }
    }
}

/// The rows of a batch, sorted so that rows that have the same segments stand together: a tile has one list of pieces.
struct Grouped<'a> {
    segments: &'a [Segment<'a>],
    columns: &'a [Columns],
    batch: usize,
    /// `[segments, batch]`: a row's place in the segment, or [`ABSENT`].
    places: Vec<usize>,
    /// Batch rows in the order of computation.
    order: Vec<usize>,
    /// Ranges of `order` with the same segments.
    runs: Vec<Range<usize>>,
}

impl<'a> Grouped<'a> {
    fn new(batch: usize, segments: &'a [Segment<'a>], columns: &'a [Columns]) -> Grouped<'a> {
        let mut places = vec![ABSENT; batch * segments.len()];
        for (segment, places) in segments.iter().zip(places.chunks_exact_mut(batch.max(1))) {
            for (place, &row) in segment.rows.iter().enumerate() {
                places[row] = place;
            }
        }
        let mut order: Vec<usize> = (0..batch).collect();
        let mut runs: Vec<Range<usize>> = Vec::new();
        if segments.iter().all(|segment| segment.rows.is_empty() || segment.rows.len() == batch) {
            if batch > 0 {
                runs.push(0..batch);
            }
        } else {
            let pattern = |row: usize| places.iter().skip(row).step_by(batch).map(|&place| place == ABSENT);
            order.sort_by(|&a, &b| pattern(a).cmp(pattern(b)));
            for (at, &row) in order.iter().enumerate() {
                match runs.last_mut() {
                    Some(run) if pattern(order[run.start]).cmp(pattern(row)) == Ordering::Equal => {
                        run.end = at + 1
                    }
                    _ => runs.push(at..at + 1),
                }
            }
        }
        Grouped { segments, columns, batch, places, order, runs }
    }

    /// A batch row's place in a segment.
    fn place(&self, segment: usize, row: usize) -> usize {
        self.places[segment * self.batch + row]
    }
}

impl Rows for Grouped<'_> {
    type Scratch = Vec<usize>;

    fn with_block(
        &self,
        rows: Range<usize>,
        _group: usize,
        starts: &mut Vec<usize>,
        body: impl FnOnce(&[Operand<'_>]),
    ) {
        let rows = &self.order[rows];
        // A width of 0 brings nothing, and its rows have no starts to tell apart.
        let present = |&s: &usize| {
            self.columns[s].width > 0 && rows.first().is_some_and(|&row| self.place(s, row) != ABSENT)
        };
        let present: Vec<usize> = (0..self.segments.len()).filter(present).collect();
        starts.clear();
        for &s in &present {
            starts.extend(rows.iter().map(|&row| self.place(s, row) * self.columns[s].width));
        }
        let operands: Vec<Operand<'_>> = present
            .iter()
            .zip(starts.chunks_exact(rows.len().max(1)))
            .map(|(&s, starts)| Operand {
                data: self.segments[s].data,
                starts,
                pieces: &self.columns[s].pieces,
            })
            .collect();
        body(&operands);
    }
}
