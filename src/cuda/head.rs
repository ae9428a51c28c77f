//! The fused concat-linear head: linear layers over the concatenation of the towers' outputs, which is never built;
//! `kernels/head.cu`.

use super::linear::{HeadArgs, Kernels, Layer, MOST_SEGMENTS, Run, SegmentArgs, grid, rows_of, total};
use super::memory::Pointer;
use super::{CudaError, Precision, Rows, Slice, Stream, Tensor, expect, to_u32};
use crate::model::Activation;

pub use super::linear::LayerWeights;

/// Rows of a block that concatenates, one per warp.
const CONCATENATE_ROWS: usize = 8;

/// Its blocks at most: a warp takes further rows after its first.
const CONCATENATE_BLOCKS: usize = 1 << 16;

/// The output of one tower for the rows of a batch that have its modality.
#[derive(Debug, Clone)]
pub struct Segment {
    /// For each batch row its row in `data`, and any number beyond those, such as `u32::MAX`, where it has none:
    /// `[rows.most()]`.
    pub index: Slice<u32>,
    /// `[any, width]`, in the head's precision.
    pub data: Tensor,
}

/// Linear layers over the concatenation of segments; without layers, the concatenation itself. Its weights are on the
/// device.
#[derive(Debug, Clone)]
pub struct Head {
    precision: Precision,
    widths: Vec<usize>,
    layers: Vec<Layer>,
    outputs: usize,
    normalize: bool,
}

impl Head {
    /// Uploads a head over segments of the given widths that runs in `precision`. The first layer reads their
    /// concatenation, each further one the layer before, rounded to the precision; with `normalize`, the last output is
    /// normalised as [`crate::cpu::normalize`] does.
    ///
    /// # Errors
    /// [`CudaError::Length`] if a layer's inputs are not what it reads or a slice does not fit, [`CudaError::Limit`] for
    /// more than 32 segments, an output to normalise that has no elements, or sizes beyond u32; as [`Stream::upload`].
    pub fn new(
        stream: &Stream,
        precision: Precision,
        widths: &[usize],
        layers: &[LayerWeights<'_>],
        normalize: bool,
    ) -> Result<Head, CudaError> {
        if widths.len() > MOST_SEGMENTS {
            return Err(CudaError::Limit { what: "segments", value: widths.len(), limit: MOST_SEGMENTS });
        }
        let mut outputs = total(widths)?;
        let mut uploaded = Vec::with_capacity(layers.len());
        for (at, values) in layers.iter().enumerate() {
            let inputs = if at == 0 { widths } else { &[outputs][..] };
            uploaded.push(Layer::new(stream, precision, inputs, values)?);
            outputs = values.outputs;
        }
        to_u32("head outputs", outputs)?;
        if normalize && outputs == 0 {
            return Err(CudaError::Limit { what: "row length", value: 0, limit: u32::MAX as usize });
        }
        Ok(Head { precision, widths: widths.to_vec(), layers: uploaded, outputs, normalize })
    }

    /// Length of an output row.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Length of a row of [`Head::enqueue_parts`]: the first layer's outputs.
    pub fn part_outputs(&self) -> usize {
        self.layers.first().map_or(self.outputs, |layer| layer.outputs)
    }

    /// Whether the output before normalisation is a linear function of the segments: at most one layer, without
    /// activation.
    pub fn is_linear(&self) -> bool {
        match self.layers.as_slice() {
            [] => true,
            [layer] => layer.activation == Activation::Identity,
            _ => false,
        }
    }

    /// Bytes of workspace for batches of at most `most` rows, for the head and its parts.
    pub fn workspace(&self, most: usize) -> usize {
        let layers = self.layers.iter().enumerate().map(|(at, layer)| layer.workspace(most, self.last(at)));
        let hidden = self.hidden(most).into_iter().fold(0, usize::saturating_add);
        hidden.saturating_add(layers.max().unwrap_or(0))
    }

    /// Whether layer number `at` ends in the normalisation.
    fn last(&self, at: usize) -> bool {
        self.normalize && at + 1 == self.layers.len()
    }

    /// Bytes of the outputs of hidden layers, which take turns in two places.
    fn hidden(&self, most: usize) -> [usize; 2] {
        let mut bytes = [0; 2];
        for (at, layer) in self.layers.iter().enumerate().take(self.layers.len().saturating_sub(1)) {
            let values = most.saturating_mul(layer.outputs).saturating_mul(self.precision.bytes());
            bytes[at % 2] = bytes[at % 2].max(values.saturating_add(15) / 16 * 16);
        }
        bytes
    }

    /// Computes `output`, `[batch.most(), outputs]`. `segments` are in the order of the widths; a row that no segment
    /// has is the head of nothing: `activation(bias)`. A row that is to be normalised and is all zeros or not finite
    /// stays as it is and is reported as stage `stage` in `fault`. The workspace, [`Head::workspace`] bytes or more from
    /// a multiple of 16 on, holds anything before and after.
    ///
    /// # Errors
    /// [`CudaError::Length`] or [`CudaError::Limit`] if a slice does not fit; what the launches fail with.
    #[allow(clippy::too_many_arguments)] // the batch, what is read, where it goes, how it is reported
    pub fn enqueue(
        &self,
        stream: &Stream,
        batch: &Rows,
        segments: &[Segment],
        workspace: &Slice<u8>,
        output: &Slice<f32>,
        stage: u16,
        fault: &Slice<u64>,
    ) -> Result<(), CudaError> {
        expect("head segments", segments.len(), &[self.widths.len()])?;
        for (segment, &width) in segments.iter().zip(&self.widths) {
            self.check(batch, segment, width)?;
        }
        expect("head output", output.len(), &[batch.most(), self.outputs])?;
        expect("fault record", fault.len(), &[1])?;
        let normalize = self.normalize.then_some((stage, fault));
        let Some(first) = self.layers.first() else {
            let columns = segments.iter().enumerate().map(|(at, segment)| self.column(stream, at, segment));
            let columns = columns.collect::<Result<Vec<_>, _>>()?;
            return self.concatenate(stream, batch, &columns, normalize, output);
        };
        let [even, odd] = self.hidden(batch.most());
        let both = even.saturating_add(odd);
        let places = [workspace.part(0..even)?, workspace.part(even..both)?];
        let workspace = workspace.part(both..workspace.len())?;
        let mut input: Vec<SegmentArgs> = segments
            .iter()
            .enumerate()
            .map(|(at, segment)| first.segment(stream, at, &segment.data, Some(&segment.index)))
            .collect::<Result<_, _>>()?;
        for (at, layer) in self.layers.iter().enumerate() {
            let normalize = if self.last(at) { normalize } else { None };
            let run = Run { rows: batch, workspace: &workspace, normalize };
            let Some(next) = self.layers.get(at + 1) else {
                return layer.enqueue(stream, run, &input, output.pointer_on(stream)?, Pointer::NULL);
            };
            let bytes = batch.most() * layer.outputs * self.precision.bytes();
            let values = Tensor::over(places[at % 2].part(0..bytes)?, self.precision)?;
            layer.enqueue(stream, run, &input, Pointer::NULL, values.pointer_on(stream)?)?;
            input = vec![next.segment(stream, 0, &values, None)?];
        }
        Ok(())
    }

    /// What segment number `segment` alone brings to the first layer, before bias and activation: `output`,
    /// `[batch.most(), part_outputs]`, zeros for rows without it. For a linear head, the parts of a row and the bias add
    /// up to its output before normalisation.
    ///
    /// # Errors
    /// [`CudaError::Length`] or [`CudaError::Limit`] if there is no such segment or a slice does not fit; what the
    /// launch fails with.
    pub fn enqueue_parts(
        &self,
        stream: &Stream,
        batch: &Rows,
        segment: usize,
        values: &Segment,
        workspace: &Slice<u8>,
        output: &Slice<f32>,
    ) -> Result<(), CudaError> {
        let limit = self.widths.len();
        let width = self.widths.get(segment).copied();
        let width = width.ok_or(CudaError::Limit { what: "number of a segment", value: segment, limit })?;
        self.check(batch, values, width)?;
        expect("head parts", output.len(), &[batch.most(), self.part_outputs()])?;
        let Some(layer) = self.layers.first() else {
            return self.concatenate(stream, batch, &[self.column(stream, segment, values)?], None, output);
        };
        let run = Run { rows: batch, workspace, normalize: None };
        let values = layer.segment(stream, segment, &values.data, Some(&values.index))?;
        layer.enqueue_part(stream, run, values, output.pointer_on(stream)?)
    }

    fn check(&self, batch: &Rows, segment: &Segment, width: usize) -> Result<(), CudaError> {
        expect("index of a segment", segment.index.len(), &[batch.most()])?;
        rows_of(&segment.data, self.precision, width).map(drop)
    }

    /// Segment number `at` in a concatenation that is built.
    fn column(&self, stream: &Stream, at: usize, segment: &Segment) -> Result<SegmentArgs, CudaError> {
        let width = self.widths[at];
        Ok(SegmentArgs {
            data: segment.data.pointer_on(stream)?,
            index: segment.index.pointer_on(stream)?,
            rows: rows_of(&segment.data, self.precision, width)?,
            width: to_u32("segment", width)?,
            first: to_u32("column", self.widths[..at].iter().sum())?,
            chunk: 0,
        })
    }

    fn concatenate(
        &self,
        stream: &Stream,
        batch: &Rows,
        columns: &[SegmentArgs],
        normalize: Option<(u16, &Slice<u64>)>,
        output: &Slice<f32>,
    ) -> Result<(), CudaError> {
        let arguments = HeadArgs {
            output: output.pointer_on(stream)?,
            fault: normalize.map_or(Ok(Pointer::NULL), |(_, fault)| fault.pointer_on(stream))?,
            rows: batch.pointer_on(stream)?,
            outputs: to_u32("outputs", self.outputs)?,
            normalize: u32::from(normalize.is_some()),
            stage: normalize.map_or(0, |(stage, _)| stage.into()),
            ..HeadArgs::over(columns)?
        };
        let blocks = grid(batch.most().div_ceil(CONCATENATE_ROWS).min(CONCATENATE_BLOCKS))?;
        // SAFETY: the pointers are of this stream; the callers checked segments and output.
        unsafe { stream.launch(&Kernels::of(self.precision).concatenate, [blocks, 1, 1], 0, &arguments) }
    }
}
