//! Linear layers, and what the head shares with them: a linear layer over segments; `kernels/head.cu`.

use super::memory::Pointer;
use super::{Arguments, CudaError, Kernel, Precision, Rows, Slice, Stream, Tensor, expect, to_u32};
use crate::model::Activation;

/// The most segments that a head takes.
pub(super) const MOST_SEGMENTS: usize = 32;

/// Elements of a segment that are summed by themselves.
const CHUNK: usize = 256;

/// Bytes that a segment's columns of the weights are filled up to.
const UNIT: usize = 16;

/// One segment as a kernel takes it.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct SegmentArgs {
    pub(super) data: Pointer,
    pub(super) index: Pointer,
    pub(super) rows: u32,
    pub(super) width: u32,
    pub(super) first: u32,
    pub(super) chunk: u32,
}

impl SegmentArgs {
    pub(super) const NONE: SegmentArgs =
        SegmentArgs { data: Pointer::NULL, index: Pointer::NULL, rows: 0, width: 0, first: 0, chunk: 0 };
}

/// The struct of every kernel in `kernels/head.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct HeadArgs {
    pub(super) weight: Pointer,
    pub(super) bias: Pointer,
    pub(super) output: Pointer,
    pub(super) rounded: Pointer,
    pub(super) partials: Pointer,
    pub(super) counters: Pointer,
    pub(super) fault: Pointer,
    pub(super) rows: Pointer,
    pub(super) outputs: u32,
    pub(super) pitch: u32,
    pub(super) segments: u32,
    pub(super) chunks: u32,
    pub(super) slices: u32,
    pub(super) activation: u32,
    pub(super) normalize: u32,
    pub(super) stage: u32,
    pub(super) segment: [SegmentArgs; MOST_SEGMENTS],
}
const _: () = assert!(size_of::<HeadArgs>() == 96 + 32 * MOST_SEGMENTS);

// SAFETY: `repr(C)`, with the fields of the struct in `kernels/head.cu`.
unsafe impl Arguments for HeadArgs {}

impl HeadArgs {
    /// Segments without a layer, an output or a batch.
    pub(super) fn over(segments: &[SegmentArgs]) -> Result<HeadArgs, CudaError> {
        let none = Pointer::NULL;
        let mut segment = [SegmentArgs::NONE; MOST_SEGMENTS];
        segment[..segments.len()].copy_from_slice(segments);
        Ok(HeadArgs {
            weight: none,
            bias: none,
            output: none,
            rounded: none,
            partials: none,
            counters: none,
            fault: none,
            rows: none,
            outputs: 0,
            pitch: 0,
            segments: to_u32("segments", segments.len())?,
            chunks: 0,
            slices: 1,
            activation: 0,
            normalize: 0,
            stage: 0,
            segment,
        })
    }
}

/// The kernels of one precision.
pub(super) struct Kernels {
    pub(super) narrow: Kernel<HeadArgs>,
    pub(super) wide: Kernel<HeadArgs>,
    pub(super) concatenate: Kernel<HeadArgs>,
}

pub(super) const F32: Kernels = Kernels {
    narrow: Kernel::new("head", "head_f32_64x16", 128),
    wide: Kernel::new("head", "head_f32_128x64", 256),
    concatenate: Kernel::new("head", "head_concatenate_f32", 256),
};
pub(super) const F16: Kernels = Kernels {
    narrow: Kernel::new("head", "head_f16_64x16", 128),
    wide: Kernel::new("head", "head_f16_128x64", 256),
    concatenate: Kernel::new("head", "head_concatenate_f16", 256),
};
pub(super) const BF16: Kernels = Kernels {
    narrow: Kernel::new("head", "head_bf16_64x16", 128),
    wide: Kernel::new("head", "head_bf16_128x64", 256),
    concatenate: Kernel::new("head", "head_concatenate_bf16", 256),
};

impl Kernels {
    pub(super) fn of(precision: Precision) -> &'static Kernels {
        match precision {
            Precision::F32 => &F32,
            Precision::F16 => &F16,
            Precision::Bf16 => &BF16,
        }
    }
}

/// The part of a layer's output that a block computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tile {
    outputs: usize,
    rows: usize,
    /// Steps of 128 bytes per line that are in shared memory at a time.
    stages: usize,
}

/// Few rows or outputs: what counts is that the weights arrive.
const NARROW: Tile = Tile { outputs: 64, rows: 16, stages: 4 };
/// Many of both.
const WIDE: Tile = Tile { outputs: 128, rows: 64, stages: 3 };

/// Blocks of either tile that a multiprocessor runs at a time, where its shared memory has room for two of the wide ones.
/// With fewer tiles than the card runs, the chunks of a tile are spread over several blocks.
const RESIDENT: usize = 2;

/// Bytes that the sums of spread chunks may take.
const MOST_PARTIALS: usize = 32 << 20;

/// How a layer is cut into blocks. It changes nothing in the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    tile: Tile,
    /// Tiles of rows.
    row_tiles: usize,
    tiles: usize,
    slices: usize,
    chunks: usize,
}

impl Plan {
    /// For a card that runs `slots` blocks at a time.
    fn new(outputs: usize, chunks: usize, most: usize, slots: usize) -> Plan {
        let tile = if most <= NARROW.rows || outputs <= NARROW.outputs { NARROW } else { WIDE };
        let row_tiles = most.div_ceil(tile.rows);
        let tiles = row_tiles.saturating_mul(outputs.div_ceil(tile.outputs));
        let slices = (slots / tiles.max(1)).clamp(1, chunks.max(1));
        let spread = Plan { tile, row_tiles, tiles, slices, chunks };
        if spread.partials().saturating_mul(4) <= MOST_PARTIALS {
            spread
        } else {
            Plan { slices: 1, ..spread }
        }
    }

    fn blocks(&self) -> usize {
        self.tiles.saturating_mul(self.slices)
    }

    /// Number of f32 sums that go through memory.
    fn partials(&self) -> usize {
        if self.slices == 1 {
            return 0;
        }
        self.tiles.saturating_mul(self.chunks).saturating_mul(self.tile.outputs * self.tile.rows)
    }

    /// Number of u32 counters that a launch finds as zeros.
    fn counters(&self, normalize: bool) -> usize {
        if self.slices > 1 || normalize { self.tiles.saturating_add(self.row_tiles) } else { 0 }
    }

    /// Bytes of dynamic shared memory.
    fn shared(&self, segments: usize) -> usize {
        let Tile { outputs, rows, stages } = self.tile;
        stages * (outputs + rows) * 128 + segments * (rows + 1) * 4
    }
}

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
    /// Blocks that the card runs at a time.
    slots: usize,
}

/// The batch of a launch, with what it needs besides its inputs and outputs.
#[derive(Clone, Copy)]
pub(super) struct Run<'a> {
    pub(super) rows: &'a Rows,
    /// At least [`Layer::workspace`] bytes.
    pub(super) workspace: &'a Slice<u8>,
    /// Normalises the f32 output: stage and fault record.
    pub(super) normalize: Option<(u16, &'a Slice<u64>)>,
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
        let slots = stream.device().info().multiprocessors as usize * RESIDENT;
        Ok(Layer { weight, bias, activation, outputs, pitch: pitch_u32, chunks, columns, slots })
    }

    pub(super) fn precision(&self) -> Precision {
        self.weight.precision()
    }

    /// Bytes of workspace for at most `most` rows, for the layer and for a part of it: counters, then the sums of chunks.
    pub(super) fn workspace(&self, most: usize, normalize: bool) -> usize {
        let parts = self.columns.iter().map(|columns| (columns.width as usize).div_ceil(CHUNK));
        let bytes = parts.chain([self.chunks]).map(|chunks| {
            let plan = Plan::new(self.outputs, chunks, most, self.slots);
            plan.counters(normalize).saturating_add(plan.partials()).saturating_mul(4)
        });
        bytes.max().unwrap_or(0).saturating_add(UNIT - 1) / UNIT * UNIT
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

    /// The layer over `segments`, one per width, into `output` or, in the model's precision, `rounded`.
    pub(super) fn enqueue(
        &self,
        stream: &Stream,
        run: Run<'_>,
        segments: &[SegmentArgs],
        output: Pointer,
        rounded: Pointer,
    ) -> Result<(), CudaError> {
        let bias = self.bias.as_ref().map_or(Ok(Pointer::NULL), |slice| slice.pointer_on(stream))?;
        self.launch(stream, run, segments, self.chunks, (bias, self.activation), output, rounded)
    }

    /// What one segment brings to the sums of the layer.
    pub(super) fn enqueue_part(
        &self,
        stream: &Stream,
        run: Run<'_>,
        segment: SegmentArgs,
        output: Pointer,
    ) -> Result<(), CudaError> {
        let chunks = (segment.width as usize).div_ceil(CHUNK);
        let segment = SegmentArgs { chunk: 0, ..segment };
        let plain = (Pointer::NULL, Activation::Identity);
        self.launch(stream, run, &[segment], chunks, plain, output, Pointer::NULL)
    }

    #[allow(clippy::too_many_arguments)] // two callers, above
    fn launch(
        &self,
        stream: &Stream,
        run: Run<'_>,
        segments: &[SegmentArgs],
        chunks: usize,
        (bias, activation): (Pointer, Activation),
        output: Pointer,
        rounded: Pointer,
    ) -> Result<(), CudaError> {
        let plan = Plan::new(self.outputs, chunks, run.rows.most(), self.slots);
        let counters = 4 * plan.counters(run.normalize.is_some());
        let counters = run.workspace.part(0..counters)?;
        let sums = counters.len()..counters.len() + 4 * plan.partials();
        let (counters, partials) = (counters.cast::<u32>()?, run.workspace.part(sums)?.cast::<f32>()?);
        stream.fill(&counters, 0)?;
        let arguments = HeadArgs {
            weight: self.weight.pointer_on(stream)?,
            bias,
            output,
            rounded,
            partials: partials.pointer_on(stream)?,
            counters: counters.pointer_on(stream)?,
            fault: run.normalize.map_or(Ok(Pointer::NULL), |(_, fault)| fault.pointer_on(stream))?,
            rows: run.rows.pointer_on(stream)?,
            outputs: to_u32("outputs", self.outputs)?,
            pitch: self.pitch,
            chunks: to_u32("chunks", chunks)?,
            slices: to_u32("slices", plan.slices)?,
            activation: number(activation),
            normalize: u32::from(run.normalize.is_some()),
            stage: run.normalize.map_or(0, |(stage, _)| stage.into()),
            ..HeadArgs::over(segments)?
        };
        let kernels = Kernels::of(self.precision());
        let kernel = if plan.tile == NARROW { &kernels.narrow } else { &kernels.wide };
        let shared = to_u32("shared memory", plan.shared(segments.len()))?;
        // SAFETY: the pointers are of this stream; `segment` and the callers checked what they pass, `part` cut the workspace to the plan.
        unsafe { stream.launch(kernel, [grid(plan.blocks())?, 1, 1], shared, &arguments) }
    }
}

/// The number by which the kernels know an activation.
fn number(activation: Activation) -> u32 {
    match activation {
        Activation::Identity => 0,
        Activation::Relu => 1,
        Activation::Sigmoid => 2,
        Activation::Tanh => 3,
    }
}

/// Blocks as a launch takes them.
pub(super) fn grid(blocks: usize) -> Result<u32, CudaError> {
    let limit = i32::MAX as usize;
    match u32::try_from(blocks) {
        Ok(blocks) if blocks as usize <= limit => Ok(blocks),
        _ => Err(CudaError::Limit { what: "blocks", value: blocks, limit }),
    }
}

/// The sum of the widths.
pub(super) fn total(widths: &[usize]) -> Result<usize, CudaError> {
    let total = widths.iter().try_fold(0usize, |total, &width| total.checked_add(width));
    total.ok_or(CudaError::Limit { what: "widths in all", value: usize::MAX, limit: u32::MAX as usize })
}

/// Rows of `data`, `[any, width]` in the given precision; for a width of 0, none.
pub(super) fn rows_of(data: &Tensor, precision: Precision, width: usize) -> Result<u32, CudaError> {
    let found = if data.precision() == precision { data.len() } else { 0 };
    let rows = data.len().checked_div(width).unwrap_or(0);
    expect("segment in the model's precision", found, &[rows, width])?;
    Ok(u32::try_from(rows).unwrap_or(u32::MAX))
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
        self.layer.workspace(most, false)
    }

    /// Maps `input`, `[rows.most(), inputs]`, to `output`, `[rows.most(), outputs]`, both in the layer's precision. The
    /// workspace, [`Linear::workspace`] bytes or more from a multiple of 4 on, holds anything before and after.
    ///
    /// # Errors
    /// [`CudaError::Length`] or [`CudaError::Limit`] if a slice does not fit; what the launch fails with.
    pub fn enqueue(
        &self,
        stream: &Stream,
        rows: &Rows,
        input: &Tensor,
        workspace: &Slice<u8>,
        output: &Tensor,
    ) -> Result<(), CudaError> {
        expect("linear input", input.len(), &[rows.most(), self.inputs])?;
        let found = if output.precision() == self.layer.precision() { output.len() } else { 0 };
        expect("linear output in the layer's precision", found, &[rows.most(), self.layer.outputs])?;
        let segment = self.layer.segment(stream, 0, input, None)?;
        let run = Run { rows, workspace, normalize: None };
        self.layer.enqueue(stream, run, &[segment], Pointer::NULL, output.pointer_on(stream)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_rows_spread_the_chunks_over_the_card() {
        let plan = Plan::new(512, 19, 1, 264);
        assert_eq!((plan.tile, plan.tiles, plan.slices), (NARROW, 8, 19));
        assert_eq!(plan.partials(), 8 * 19 * 64 * 16);
        // More chunks than blocks: several chunks a slice.
        assert_eq!(Plan::new(1024, 98, 1, 264).slices, 16);
        // The slices follow the card.
        assert_eq!(Plan::new(1024, 98, 1, 216).slices, 13);
        assert_eq!(Plan::new(1024, 98, 1, 8).slices, 1);
        assert_eq!(Plan::new(512, 19, 17, 264).tile, WIDE);
        assert_eq!(Plan::new(1, 19, 65_536, 264).tile, NARROW);
    }

    #[test]
    fn many_rows_keep_their_sums_in_registers() {
        let plan = Plan::new(512, 19, 65_536, 264);
        assert_eq!((plan.tile, plan.row_tiles, plan.tiles, plan.slices), (WIDE, 1024, 4096, 1));
        assert_eq!((plan.partials(), plan.counters(false), plan.counters(true)), (0, 0, 5120));
    }

    /// The tiles cover the output, every chunk has a slice, and limits hold, for any shape.
    #[test]
    fn plans_cover_any_shape() {
        for outputs in [1, 63, 64, 65, 127, 128, 129, 512, 4096] {
            for chunks in [0, 1, 2, 98, 1 << 20] {
                for most in [0, 1, 15, 16, 17, 63, 64, 65, 4096, 65_536, 1 << 20, 1 << 31] {
                    for slots in [0, 1, 40, 264, 1 << 20] {
                        let plan = Plan::new(outputs, chunks, most, slots);
                        assert!(plan.row_tiles * plan.tile.rows >= most);
                        assert!(plan.tiles * plan.tile.rows * plan.tile.outputs >= most * outputs);
                        assert!((1..=chunks.max(1)).contains(&plan.slices));
                        assert!(4 * plan.partials() <= MOST_PARTIALS);
                        assert!(plan.shared(MOST_SEGMENTS) <= 99 << 10, "sm_86 has no more");
                        assert!(grid(plan.blocks()).is_ok(), "{outputs} outputs, {most} rows");
                    }
                }
            }
        }
    }

    /// 2^31 elements of output and more.
    #[test]
    fn large_outputs() {
        let plan = Plan::new(4096, 19, 1 << 20, 264);
        assert_eq!((plan.tiles, plan.blocks()), (1 << 19, 1 << 19));
        assert!(matches!(grid(1 << 31), Err(CudaError::Limit { .. })));
    }
}
