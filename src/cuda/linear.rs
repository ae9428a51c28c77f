//! Linear layers, and what the head shares with them: a linear layer over segments; `kernels/head.cu`.

mod kernels;
mod plan;

use super::elementwise::grid;
use super::memory::Pointer;
use super::{CudaError, Precision, Rows, Slice, Stream, Tensor, expect, to_u32};
use crate::model::Activation;
use kernels::number;
pub(super) use kernels::{BF16, F16, F32, HeadArgs, Kernels, MOST_SEGMENTS, Output, SegmentArgs};
use plan::{NARROW, Plan, Target};

/// Elements of a segment that are summed by themselves.
const CHUNK: usize = 256;

/// Bytes that a segment's columns of the weights are filled up to, and that the parts of a workspace begin at.
const UNIT: usize = 16;

/// The values of a linear layer, as a checkpoint has them.
#[derive(Debug, Clone, Copy)]
pub struct LayerWeights<'a> {
    /// Length of an output row.
    pub outputs: usize,
    /// Length of an input row.
    pub inputs: usize,
    /// `[outputs, inputs]`
    pub weight: &'a [f32],
    /// `[outputs]`
    pub bias: Option<&'a [f32]>,
    /// What follows the bias.
    pub activation: Activation,
}

/// Where a segment lies in the weights of a layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Columns {
    pub(super) width: u32,
    first: u32,
    chunk: u32,
}

/// A linear layer over segments, its weights on the device.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    weight: Tensor,
    bias: Option<Slice<f32>>,
    pub(super) activation: Activation,
    pub(super) outputs: usize,
    pitch: u32,
    chunks: usize,
    columns: Vec<Columns>,
    target: Target,
}

/// The batch of a launch and its workspace.
#[derive(Clone, Copy)]
pub(super) struct Run<'a> {
    pub(super) rows: &'a Rows,
    /// Zeros, [`Layer::counters`] of them or more.
    pub(super) counters: &'a Slice<u32>,
    /// Anything, [`Layer::partials`] or more.
    pub(super) partials: &'a Slice<f32>,
}

impl Layer {
    /// Packs and uploads the weights of a layer over the concatenation of segments of the given widths.
    pub(super) fn new(
        stream: &Stream,
        precision: Precision,
        widths: &[usize],
        values: &LayerWeights<'_>,
    ) -> Result<Layer, CudaError> {
        let &LayerWeights { outputs, inputs, weight, bias, activation } = values;
        expect("weight", weight.len(), &[outputs, inputs])?;
        expect("inputs of a layer", inputs, &[total(widths)?])?;
        if let Some(bias) = bias {
            expect("bias", bias.len(), &[outputs])?;
        }
        to_u32("outputs of a layer", outputs)?;
        let unit = UNIT / precision.bytes();
        let (mut columns, mut pitch, mut chunks) = (Vec::with_capacity(widths.len()), 0usize, 0usize);
        for &width in widths {
            let first = to_u32("weights of an output", pitch)?;
            columns.push(Columns {
                width: to_u32("segment", width)?,
                first,
                chunk: to_u32("chunks", chunks)?,
            });
            pitch = pitch.saturating_add(width.next_multiple_of(unit));
            chunks += width.div_ceil(CHUNK);
        }
        let pitch_u32 = to_u32("weights of an output", pitch)?;
        let mut packed = vec![0.0; outputs * pitch]; // [outputs, pitch]
        if inputs > 0 {
            for (to, from) in packed.chunks_exact_mut(pitch).zip(weight.chunks_exact(inputs)) {
                let mut from = from;
                for (columns, &width) in columns.iter().zip(widths) {
                    let (values, rest) = from.split_at(width);
                    to[columns.first as usize..][..width].copy_from_slice(values);
                    from = rest;
                }
            }
        }
        let weight = Tensor::upload(stream, "weights", precision, &packed)?;
        let bias = bias.map(|bias| stream.upload("bias", bias)).transpose()?;
        let target = Target::new(precision, widths.len(), stream.device().info());
        Ok(Layer { weight, bias, activation, outputs, pitch: pitch_u32, chunks, columns, target })
    }

    pub(super) fn precision(&self) -> Precision {
        self.weight.precision()
    }

    /// Counters of a launch for at most `most` rows, for the layer and for a part of it.
    pub(super) fn counters(&self, most: usize, normalize: bool) -> usize {
        self.plans(most).map(|plan| plan.counters(normalize)).max().unwrap_or(0)
    }

    /// Sums of chunks of a launch for at most `most` rows, for the layer and for a part of it.
    pub(super) fn partials(&self, most: usize) -> usize {
        self.plans(most).map(|plan| plan.partials()).max().unwrap_or(0)
    }

    fn plans(&self, most: usize) -> impl Iterator<Item = Plan> {
        let parts = self.columns.iter().map(|columns| (columns.width as usize).div_ceil(CHUNK));
        let plan = move |chunks| Plan::new(self.outputs, chunks, most, &self.target);
        parts.chain([self.chunks]).map(plan)
    }

    /// The segment number `at`, present at `index` of `data`: `[any, width]`; without an index, row for row.
    pub(super) fn segment(
        &self,
        stream: &Stream,
        at: usize,
        data: &Tensor,
        index: Option<&Slice<u32>>,
    ) -> Result<SegmentArgs, CudaError> {
        let Columns { width, first, chunk } = self.columns[at];
        let rows = rows_of(data, self.precision(), width as usize)?;
        let index = index.map_or(Ok(Pointer::NULL), |slice| slice.pointer_on(stream))?;
        Ok(SegmentArgs { data: data.pointer_on(stream)?, index, rows, width, first, chunk })
    }

    /// The layer over `segments`, one per width.
    pub(super) fn enqueue(
        &self,
        stream: &Stream,
        run: Run<'_>,
        segments: &[SegmentArgs],
        output: Output<'_>,
    ) -> Result<(), CudaError> {
        let arguments = HeadArgs {
            bias: self.bias.as_ref().map_or(Ok(Pointer::NULL), |slice| slice.pointer_on(stream))?,
            activation: number(self.activation),
            ..HeadArgs::over(stream, segments, run.rows, self.outputs, output)?
        };
        self.launch(stream, run, self.chunks, arguments)
    }

    /// What one segment brings to the sums of the layer.
    pub(super) fn enqueue_part(
        &self,
        stream: &Stream,
        run: Run<'_>,
        segment: SegmentArgs,
        output: &Slice<f32>,
    ) -> Result<(), CudaError> {
        let segment = SegmentArgs { chunk: 0, ..segment };
        let output = Output::plain(output.pointer_on(stream)?, Precision::F32);
        let arguments = HeadArgs::over(stream, &[segment], run.rows, self.outputs, output)?;
        self.launch(stream, run, (segment.width as usize).div_ceil(CHUNK), arguments)
    }

    fn launch(
        &self,
        stream: &Stream,
        run: Run<'_>,
        chunks: usize,
        arguments: HeadArgs,
    ) -> Result<(), CudaError> {
        let plan = Plan::new(self.outputs, chunks, run.rows.most(), &self.target);
        let normalize = arguments.normalize != 0;
        let arguments = HeadArgs {
            weight: self.weight.pointer_on(stream)?,
            partials: run.partials.part(0..plan.partials())?.pointer_on(stream)?,
            counters: run.counters.part(0..plan.counters(normalize))?.pointer_on(stream)?,
            pitch: self.pitch,
            chunks: to_u32("chunks", chunks)?,
            slices: to_u32("slices", plan.slices)?,
            ..arguments
        };
        let kernels = Kernels::of(self.precision());
        let kernel = if plan.tile == NARROW { &kernels.narrow } else { &kernels.wide };
        let shared = to_u32("shared memory", plan.shared(arguments.segments as usize))?;
        let blocks = grid("blocks of a layer", plan.blocks())?;
        // SAFETY: the pointers are of this stream; `segment` and the callers checked what they pass, `part` cut the
        // workspace to the plan.
        unsafe { stream.launch(kernel, [blocks, 1, 1], shared, &arguments) }
    }
}

/// Bytes up to the next multiple of [`UNIT`].
pub(super) fn units(bytes: usize) -> usize {
    bytes.saturating_add(UNIT - 1) / UNIT * UNIT
}

/// The sum of the widths.
pub(super) fn total(widths: &[usize]) -> Result<usize, CudaError> {
    let total = widths.iter().try_fold(0usize, |total, &width| total.checked_add(width));
    total.ok_or(CudaError::Limit { what: "widths in all", value: usize::MAX, limit: u32::MAX as usize })
}

/// Rows of `data`, `[any, width]` in the given precision; for a width of 0, none.
pub(super) fn rows_of(data: &Tensor, precision: Precision, width: usize) -> Result<u32, CudaError> {
    expect_precision("segment", data, precision)?;
    let rows = data.len().checked_div(width).unwrap_or(0);
    expect("segment", data.len(), &[rows, width])?;
    Ok(u32::try_from(rows).unwrap_or(u32::MAX))
}

/// Checks that `what` is stored in the precision `expected`.
pub(super) fn expect_precision(
    what: &'static str,
    values: &Tensor,
    expected: Precision,
) -> Result<(), CudaError> {
    match values.precision() {
        found if found == expected => Ok(()),
        found => Err(CudaError::Precision { what, found, expected }),
    }
}

/// A linear layer: `activation(weight * x + bias)`.
#[derive(Debug, Clone)]
pub struct Linear {
    layer: Layer,
    inputs: usize,
}

impl Linear {
    /// Uploads a layer that runs in `precision`.
    ///
    /// # Errors
    /// [`CudaError::Length`] if a slice does not fit the shape, [`CudaError::Limit`] for sizes beyond u32; as
    /// [`Stream::upload`].
    pub fn new(
        stream: &Stream,
        precision: Precision,
        values: &LayerWeights<'_>,
    ) -> Result<Linear, CudaError> {
        let layer = Layer::new(stream, precision, &[values.inputs], values)?;
        Ok(Linear { layer, inputs: values.inputs })
    }

    /// Length of an input row.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Length of an output row.
    pub fn outputs(&self) -> usize {
        self.layer.outputs
    }

    /// Bytes of workspace for batches of at most `most` rows.
    pub fn workspace(&self, most: usize) -> usize {
        let counters = units(self.layer.counters(most, false).saturating_mul(4));
        counters.saturating_add(self.layer.partials(most).saturating_mul(4))
    }

    /// Maps `input`, `[rows.most(), inputs]`, to `output`, `[rows.most(), outputs]`, both in the layer's precision. The
    /// workspace, [`Linear::workspace`] bytes or more from a multiple of 4 on, holds anything before and after.
    ///
    /// # Errors
    /// [`CudaError::Precision`] if input or output is stored in another one; [`CudaError::Length`] if one does not have its
    /// shape, or for a workspace at another address; [`CudaError::Limit`] for a workspace that is too small, or more
    /// blocks than a grid has; what the launch fails with.
    pub fn enqueue(
        &self,
        stream: &Stream,
        rows: &Rows,
        input: &Tensor,
        workspace: &Slice<u8>,
        output: &Tensor,
    ) -> Result<(), CudaError> {
        expect_precision("linear input", input, self.layer.precision())?;
        expect_precision("linear output", output, self.layer.precision())?;
        expect("linear input", input.len(), &[rows.most(), self.inputs])?;
        expect("linear output", output.len(), &[rows.most(), self.layer.outputs])?;
        let segment = self.layer.segment(stream, 0, input, None)?;
        let output = Output::plain(output.pointer_on(stream)?, output.precision());
        let counters = workspace.part(0..4 * self.layer.counters(rows.most(), false))?.cast()?;
        let partials = workspace.part(units(4 * counters.len())..self.workspace(rows.most()))?.cast()?;
        stream.fill(&counters, 0)?;
        self.layer.enqueue(stream, Run { rows, counters: &counters, partials: &partials }, &[segment], output)
    }
}
