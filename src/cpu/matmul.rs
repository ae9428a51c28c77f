//! The matrix product behind convolutions, linear layers and the fused head: an indirect GEMM.
//!
//! A row of the left operand is not a row of a matrix in memory but a list of pieces of the caller's own buffers: the
//! lines of a convolution's window, or the outputs of the towers. So nothing is unrolled or concatenated first. The
//! weights are packed once into panels of [`PANEL`] outputs.
//!
//! A tile is a few rows by one panel; its sums stay in registers while the pieces are walked. The sum over the inputs
//! is taken in one fixed order per row: fused multiply-add from +0 over a run of pieces that make [`CHUNK`] inputs or
//! more (fewer in the last), the runs added up in order. Neither the other rows, nor the tile's height, nor the vector width,
//! nor the thread enters into it, so a row has the same bits in every batch, on every instruction set.
#![allow(unsafe_code)] // the inner loop reads through pointers; see each SAFETY note

use std::ops::Range;

use rayon::prelude::*;

use super::activation::Activation;
use super::simd::{Isa, Kernel, Simd, dispatch};

/// Outputs in one panel of packed weights, whatever the instruction set.
pub(super) const PANEL: usize = 32;

/// Inputs that are summed before the sum joins the total. Bounds the length of a chain of roundings, and with it the
/// error of a long sum; the weights of a run stay in the second-level cache.
pub(super) const CHUNK: usize = 512;

/// Rows whose sums are held at once: a multiple of the tiles' heights where that can be, and few enough that the sums
/// stay in the first-level cache.
const STRIPE: usize = 112;

/// Tasks per thread that a product is cut into, so that threads end at about the same time.
const TASKS_PER_THREAD: usize = 4;

/// The weights of one input for the outputs of a panel; also the sums of one row.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Strip([f32; PANEL]);

/// A weight matrix `[outputs, inputs]` in the kernel's order: `[outputs / PANEL, inputs, PANEL]`, zeros after the last
/// output.
#[derive(Debug, Clone)]
pub(super) struct Packed {
    outputs: usize,
    inputs: usize,
    strips: Vec<Strip>,
}

impl Packed {
    /// Packs the matrix whose element is `weight(output, input)`.
    pub(super) fn new(outputs: usize, inputs: usize, weight: impl Fn(usize, usize) -> f32) -> Packed {
        // Without inputs there are no weights, however many outputs are claimed.
        let panels = if inputs == 0 { 0 } else { outputs.div_ceil(PANEL) };
        let mut strips = Vec::with_capacity(panels * inputs);
        for first in (0..panels).map(|panel| panel * PANEL) {
            for input in 0..inputs {
                strips.push(Strip(std::array::from_fn(|lane| {
                    if first + lane < outputs { weight(first + lane, input) } else { 0.0 }
                })));
            }
        }
        Packed { outputs, inputs, strips }
    }

    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    fn panels(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    /// `[inputs]` strips.
    fn panel(&self, panel: usize) -> &[Strip] {
        &self.strips[panel * self.inputs..(panel + 1) * self.inputs]
    }
}

/// `len` consecutive inputs at `offset` from the row's start, which meet the weights of the inputs from `input` on.
#[derive(Debug, Clone, Copy)]
struct Piece {
    offset: usize,
    input: usize,
    len: usize,
}

/// The pieces of a row within one buffer, in the order of the sum.
#[derive(Debug, Clone, Default)]
pub(super) struct Pieces {
    list: Vec<Piece>,
    /// Past the last value read, from a row's start.
    reach: usize,
    /// Past the last input whose weights are read.
    inputs: usize,
}

impl Pieces {
    /// A single run.
    pub(super) fn one(input: usize, len: usize) -> Pieces {
        let mut pieces = Pieces::default();
        pieces.push(0, input, len);
        pieces
    }

    /// Appends a run, cut so that no piece is longer than [`CHUNK`].
    pub(super) fn push(&mut self, offset: usize, input: usize, len: usize) {
        for at in (0..len).step_by(CHUNK) {
            let len = CHUNK.min(len - at);
            self.list.push(Piece { offset: offset + at, input: input + at, len });
        }
        self.reach = self.reach.max(offset + len);
        self.inputs = self.inputs.max(input + len);
    }
}

/// A part of the left operand of a block of rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operand<'a> {
    /// The buffer.
    pub(super) data: &'a [f32],
    /// Where each row of the block starts in it.
    pub(super) starts: &'a [usize],
    /// What is read from there.
    pub(super) pieces: &'a Pieces,
}

/// Where a product's left operand comes from.
pub(super) trait Rows: Sync {
    /// What a thread needs to lay out a block.
    type Scratch: Default + Send;

    /// Gives `body` the operands of the block of rows, for one group of channels.
    fn with_block(
        &self,
        rows: Range<usize>,
        group: usize,
        scratch: &mut Self::Scratch,
        body: impl FnOnce(&[Operand<'_>]),
    );
}

/// What is done to each sum on its way to the output: `activation(sum + bias + residual)`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Epilogue<'a> {
    /// `[groups * outputs]`
    pub(super) bias: Option<&'a [f32]>,
    /// The output's shape.
    pub(super) residual: Option<&'a [f32]>,
    /// Applied last.
    pub(super) activation: Activation,
}

impl Epilogue<'_> {
    /// Finishes the sums in `values`, which belong at position `at` of the output and to the channels from `column` on.
    #[inline(always)]
    pub(super) fn finish(&self, at: usize, column: usize, values: &mut [f32]) {
        if let Some(bias) = self.bias {
            let bias = &bias[column..column + values.len()];
            values.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias);
        }
        if let Some(residual) = self.residual {
            let residual = &residual[at..at + values.len()];
            values.iter_mut().zip(residual).for_each(|(x, residual)| *x += residual);
        }
        self.activation.apply_all(values);
    }
}

/// `output[row, group * outputs + o] = epilogue(sum over the row's pieces of input * weights[group][o])`, for the rows of
/// all `blocks`, which ascend without overlap. `output: [rows, groups * outputs]`.
///
/// # Panics
/// If the shapes disagree; the ops check them first.
pub(super) fn multiply<R: Rows>(
    isa: Isa,
    weights: &[Packed],
    blocks: &[Range<usize>],
    rows: &R,
    epilogue: Epilogue<'_>,
    output: &mut [f32],
) {
    let Some(first) = weights.first() else { return };
    let pitch = weights.len() * first.outputs;
    if pitch == 0 || blocks.is_empty() {
        return;
    }
    assert!(weights.iter().all(|w| w.outputs == first.outputs));
    assert!(blocks.windows(2).all(|pair| pair[0].end <= pair[1].start));
    assert!(blocks.iter().all(|block| block.start <= block.end && block.end <= output.len() / pitch));
    assert!(epilogue.bias.is_none_or(|bias| bias.len() == pitch));
    assert!(epilogue.residual.is_none_or(|residual| residual.len() == output.len()));

    let panels = first.panels();
    let wanted = TASKS_PER_THREAD * rayon::current_num_threads();
    let spans = wanted.div_ceil(blocks.len() * weights.len()).clamp(1, panels);
    let panels_per_span = panels.div_ceil(spans);
    let spans = panels.div_ceil(panels_per_span);
    let tasks = blocks.len() * weights.len() * spans;
    let output = Output { start: output.as_mut_ptr(), len: output.len(), pitch };
    (0..tasks).into_par_iter().for_each_init(R::Scratch::default, |scratch, task| {
        let (task, span) = (task / spans, task % spans);
        let (block, group) = (&blocks[task / weights.len()], task % weights.len());
        let span = span * panels_per_span..((span + 1) * panels_per_span).min(panels);
        rows.with_block(block.clone(), group, scratch, |operands| {
            let weights = &weights[group];
            let column = group * weights.outputs;
            let task =
                Task { weights, operands, rows: block.clone(), span, column, epilogue, output: &output };
            dispatch(isa, task);
        });
    });
}

/// The output matrix, of which every task writes its own rows and columns.
struct Output {
    start: *mut f32,
    len: usize,
    pitch: usize,
}

// SAFETY: `multiply` holds the only reference to the slice while its tasks run, and the tasks write disjoint parts: their
// blocks of rows are disjoint, or else their groups of columns are, or else their panels within the group.
unsafe impl Sync for Output {}

impl Output {
    /// The columns of a row from `column` on.
    ///
    /// # Safety
    /// No other reference to any of these values exists while this one lives.
    #[allow(clippy::mut_from_ref)] // the contract above is what makes it exclusive
    #[inline(always)]
    unsafe fn part(&self, row: usize, column: usize, len: usize) -> &mut [f32] {
        let at = row * self.pitch + column;
        assert!(at <= self.len && len <= self.len - at);
        // SAFETY: inside the slice, as just checked; exclusive by the caller's word.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}

/// A block of rows by a span of panels.
struct Task<'a> {
    weights: &'a Packed,
    operands: &'a [Operand<'a>],
    rows: Range<usize>,
    span: Range<usize>,
    /// First output column of the weights.
    column: usize,
    epilogue: Epilogue<'a>,
    output: &'a Output,
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut sums = [Strip([0.0; PANEL]); STRIPE];
        // A sum of one run needs no room beyond a tile, and is finished while it is in the first-level cache.
        let height = if self.runs().nth(1).is_some() { STRIPE } else { S::TILE_ROWS };
        for panel in self.span.clone() {
            let strips = self.weights.panel(panel);
            let column = panel * PANEL;
            let width = PANEL.min(self.weights.outputs - column);
            for first in (0..self.rows.len()).step_by(height) {
                let sums = &mut sums[..height.min(self.rows.len() - first)];
                self.sum(simd, strips, first, sums);
                for (row, Strip(sums)) in (self.rows.start + first..).zip(&*sums) {
                    // A full panel has a length that the compiler knows.
                    if width == PANEL {
                        self.finish(row, self.column + column, sums);
                    } else {
                        self.finish(row, self.column + column, &sums[..width]);
                    }
                }
            }
        }
    }
}

impl<'a> Task<'a> {
    fn runs(&self) -> Runs<'a> {
        Runs { operands: self.operands, next: (0, 0) }
    }

    /// The sums of a stripe of rows over one panel. A run of the sum is taken for all rows before the next one, while
    /// its weights are in cache.
    #[inline(always)]
    fn sum<S: Simd>(&self, simd: S, strips: &[Strip], first: usize, sums: &mut [Strip]) {
        const { assert!(S::TILE_ROWS <= 14, "the match below knows no taller tile") };
        let height = S::TILE_ROWS;
        let mut is_first = true;
        for (start, end) in self.runs() {
            let run = Run { start, end, is_first };
            is_first = false;
            for (sums, first) in sums.chunks_mut(height).zip((first..).step_by(height)) {
                // A shorter tile at the end of a stripe is the same arithmetic in fewer registers.
                match sums.len() {
                    14 if height >= 14 => tile::<S, 14>(simd, self.operands, run, first, strips, sums),
                    13 if height >= 13 => tile::<S, 13>(simd, self.operands, run, first, strips, sums),
                    12 if height >= 12 => tile::<S, 12>(simd, self.operands, run, first, strips, sums),
                    11 if height >= 11 => tile::<S, 11>(simd, self.operands, run, first, strips, sums),
                    10 if height >= 10 => tile::<S, 10>(simd, self.operands, run, first, strips, sums),
                    9 if height >= 9 => tile::<S, 9>(simd, self.operands, run, first, strips, sums),
                    8 if height >= 8 => tile::<S, 8>(simd, self.operands, run, first, strips, sums),
                    7 if height >= 7 => tile::<S, 7>(simd, self.operands, run, first, strips, sums),
                    6 if height >= 6 => tile::<S, 6>(simd, self.operands, run, first, strips, sums),
                    5 if height >= 5 => tile::<S, 5>(simd, self.operands, run, first, strips, sums),
                    4 => tile::<S, 4>(simd, self.operands, run, first, strips, sums),
                    3 => tile::<S, 3>(simd, self.operands, run, first, strips, sums),
                    2 => tile::<S, 2>(simd, self.operands, run, first, strips, sums),
                    _ => tile::<S, 1>(simd, self.operands, run, first, strips, sums),
                }
            }
        }
        if is_first {
            sums.fill(Strip([0.0; PANEL]));
        }
    }

    /// Writes one row's sums of a panel through the epilogue.
    #[inline(always)]
    fn finish(&self, row: usize, column: usize, sums: &[f32]) {
        // SAFETY: row and columns are this task's own (see `Output`), and the reference ends with this call.
        let output = unsafe { self.output.part(row, column, sums.len()) };
        output.copy_from_slice(sums);
        self.epilogue.finish(row * self.output.pitch + column, column, output);
    }
}

/// The runs of a row's sum: as many pieces as make [`CHUNK`] inputs. They depend on the pieces alone.
struct Runs<'a> {
    operands: &'a [Operand<'a>],
    next: Cursor,
}

/// An operand and a piece of it.
type Cursor = (usize, usize);

impl Iterator for Runs<'_> {
    /// The first piece, and the last one.
    type Item = (Cursor, Cursor);

    #[inline(always)]
    fn next(&mut self) -> Option<(Cursor, Cursor)> {
        let (mut first, mut inputs) = (None, 0);
        while let Some(operand) = self.operands.get(self.next.0) {
            let here = self.next;
            match operand.pieces.list.get(here.1) {
                Some(piece) => {
                    self.next.1 += 1;
                    inputs += piece.len;
                    let first = *first.get_or_insert(here);
                    if inputs >= CHUNK {
                        return Some((first, here));
                    }
                }
                None => self.next = (here.0 + 1, 0),
            }
        }
        // What is left after the last full run; its end is past the last piece.
        first.map(|first| (first, (self.operands.len(), 0)))
    }
}

/// A part of a row's sum.
#[derive(Clone, Copy)]
struct Run {
    /// The first piece.
    start: Cursor,
    /// The last piece.
    end: Cursor,
    /// Whether the sums begin with it.
    is_first: bool,
}

/// Adds one run to the sums of rows `first..first + M` of the block over one panel. `sums` has `M` entries.
#[inline(always)]
fn tile<S: Simd, const M: usize>(
    simd: S,
    operands: &[Operand<'_>],
    run: Run,
    first: usize,
    strips: &[Strip],
    sums: &mut [Strip],
) {
    const { assert!(PANEL.is_multiple_of(2 * S::LANES)) };
    for lane in (0..PANEL).step_by(2 * S::LANES) {
        let mut sum = [[simd.splat(0.0); 2]; M];
        for (o, operand) in operands.iter().enumerate().take(run.end.0 + 1).skip(run.start.0) {
            let (data, starts) = (operand.data.as_ptr(), &operand.starts[first..first + M]);
            assert!(operand.pieces.inputs <= strips.len());
            for &start in starts {
                assert!(start <= operand.data.len() && operand.pieces.reach <= operand.data.len() - start);
            }
            let from = if o == run.start.0 { run.start.1 } else { 0 };
            let to = if o == run.end.0 { run.end.1 + 1 } else { operand.pieces.list.len() };
            for piece in &operand.pieces.list[from..to] {
                // SAFETY: as just checked, each row's start plus `reach`, which is past every piece, is in the buffer.
                let rows: [*const f32; M] =
                    std::array::from_fn(|m| unsafe { data.add(starts[m] + piece.offset) });
                let weights = strips[piece.input..piece.input + piece.len].as_ptr().cast::<f32>();
                for k in 0..piece.len {
                    // SAFETY: k is inside the piece, so the strip is one of those just sliced and the row values are
                    // inside their buffers; the two vectors at `lane` are inside the strip, as 2 * LANES divides PANEL.
                    unsafe {
                        let strip = weights.add(k * PANEL + lane);
                        let low = simd.load(strip);
                        let high = simd.load(strip.add(S::LANES));
                        for m in 0..M {
                            let x = simd.splat(*rows[m].add(k));
                            sum[m][0] = simd.mul_add(x, low, sum[m][0]);
                            sum[m][1] = simd.mul_add(x, high, sum[m][1]);
                        }
                    }
                }
            }
        }
        for (mut sum, Strip(total)) in sum.into_iter().zip(&mut *sums) {
            let total = total[lane..lane + 2 * S::LANES].as_mut_ptr();
            // SAFETY: two vectors fit the slice just taken.
            unsafe {
                let high = total.add(S::LANES);
                if !run.is_first {
                    sum = [simd.add(simd.load(total), sum[0]), simd.add(simd.load(high), sum[1])];
                }
                simd.store(sum[0], total);
                simd.store(sum[1], high);
            }
        }
    }
}
