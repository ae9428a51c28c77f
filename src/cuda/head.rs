//! The fused concat-linear head: linear layers over the concatenation of the towers' outputs, which is never built;
//! `kernels/head.cu`, `kernels/head_concatenate.cu`.

use std::ops::Range;

use super::elementwise::grid;
use super::linear::{
    HeadArgs, Kernels, Layer, MOST_SEGMENTS, Output, Run, SegmentArgs, expect_precision, rows_of, total,
    units,
};
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
    stored: Precision,
}

/// Where things lie in a workspace, in bytes.
struct Places {
    /// Outputs of hidden layers, which take turns.
    hidden: [Range<usize>; 2],
    /// The output before its normalisation, where it is not stored in f32.
    wide: Range<usize>,
    /// u32s, for one layer after the other.
    counters: Range<usize>,
    /// f32s, for all layers.
    partials: Range<usize>,
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
        let stored = Precision::F32;
        Ok(Head { precision, widths: widths.to_vec(), layers: uploaded, outputs, normalize, stored })
    }

    /// The head with its output stored in `precision` instead of f32: rounded to nearest even after everything else.
    #[must_use]
    pub fn storing(self, precision: Precision) -> Head {
        Head { stored: precision, ..self }
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
        self.places(most).partials.end
    }

    fn places(&self, most: usize) -> Places {
        let mut end = 0usize;
        let mut place = |values: usize, size: usize| {
            let start = end;
            end = end.saturating_add(units(values.saturating_mul(size)));
            start..end
        };
        let mut hidden = [0; 2];
        for (at, layer) in self.layers.iter().enumerate().take(self.layers.len().saturating_sub(1)) {
            hidden[at % 2] = hidden[at % 2].max(most.saturating_mul(layer.outputs));
        }
        let wide = if self.normalize && self.stored != Precision::F32 { self.outputs } else { 0 };
        let counters = (0..self.layers.len()).map(|at| self.counters(at, most));
        let partials = self.layers.iter().map(|layer| layer.partials(most)).max();
        Places {
            hidden: hidden.map(|values| place(values, self.precision.bytes())),
            wide: place(most.saturating_mul(wide), 4),
            counters: place(counters.fold(0, usize::saturating_add), 4),
            partials: place(partials.unwrap_or(0), 4),
        }
    }

    /// Counters of layer number `at`.
    fn counters(&self, at: usize, most: usize) -> usize {
        self.layers[at].counters(most, self.normalize && at + 1 == self.layers.len())
    }

    /// [`Head::enqueue_tensor`] of a head that stores f32.
    ///
    /// # Errors
    /// As there.
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
        let output = Tensor::over(output.cast()?, Precision::F32)?;
        self.enqueue_tensor(stream, batch, segments, workspace, &output, stage, fault)
    }

    /// Computes `output`, `[batch.most(), outputs]`, in the precision that the head stores. `segments` are in the order
    /// of the widths; a row that no segment has is the head of nothing: `activation(bias)`. A row that is to be
    /// normalised and is all zeros or not finite is stored as it is and reported as stage `stage` in `fault`. The
    /// workspace, [`Head::workspace`] bytes or more from a multiple of 16 on, holds anything before and after.
    ///
    /// # Errors
    /// [`CudaError::Precision`] if a segment or the output is stored in another precision than the head's;
    /// [`CudaError::Length`] for segments that are not as many as the widths, if one or an output, an index or the fault
    /// record does not have its shape, or for a workspace at another address; [`CudaError::Limit`] for a workspace that is
    /// too small, or more blocks than a grid has; what the launches fail with.
    #[allow(clippy::too_many_arguments)] // as above
    pub fn enqueue_tensor(
        &self,
        stream: &Stream,
        batch: &Rows,
        segments: &[Segment],
        workspace: &Slice<u8>,
        output: &Tensor,
        stage: u16,
        fault: &Slice<u64>,
    ) -> Result<(), CudaError> {
        expect("head segments", segments.len(), &[self.widths.len()])?;
        for (segment, &width) in segments.iter().zip(&self.widths) {
            self.check(batch, segment, width)?;
        }
        expect_precision("head output", output, self.stored)?;
        expect("head output", output.len(), &[batch.most(), self.outputs])?;
        expect("fault record", fault.len(), &[1])?;
        let places = self.places(batch.most());
        let output = self.output(stream, workspace, &places, output, (stage, fault))?;
        if self.layers.is_empty() {
            let columns = segments.iter().enumerate().map(|(at, segment)| self.column(stream, at, segment));
            return self.concatenate(stream, batch, &columns.collect::<Result<Vec<_>, _>>()?, output);
        }
        let counters = workspace.part(places.counters)?.cast::<u32>()?;
        let partials = workspace.part(places.partials)?.cast::<f32>()?;
        stream.fill(&counters, 0)?;
        let input = segments.iter().enumerate();
        let input = input
            .map(|(at, segment)| self.layers[0].segment(stream, at, &segment.data, Some(&segment.index)));
        let mut input = input.collect::<Result<Vec<_>, _>>()?;
        let mut first = 0;
        for (at, layer) in self.layers.iter().enumerate() {
            let counters = counters.part(first..counters.len())?;
            first += self.counters(at, batch.most());
            let run = Run { rows: batch, counters: &counters, partials: &partials };
            let Some(next) = self.layers.get(at + 1) else {
                return layer.enqueue(stream, run, &input, output);
            };
            let start = places.hidden[at % 2].start;
            let bytes = batch.most() * layer.outputs * self.precision.bytes();
            let values = Tensor::over(workspace.part(start..start + bytes)?, self.precision)?;
            layer.enqueue(stream, run, &input, Output::plain(values.pointer_on(stream)?, self.precision))?;
            input = vec![next.segment(stream, 0, &values, None)?];
        }
        Ok(())
    }

    /// What the last launch stores.
    fn output<'a>(
        &self,
        stream: &Stream,
        workspace: &Slice<u8>,
        places: &Places,
        output: &Tensor,
        report: (u16, &'a Slice<u64>),
    ) -> Result<Output<'a>, CudaError> {
        let plain = Output::plain(output.pointer_on(stream)?, self.stored);
        if !self.normalize {
            return Ok(plain);
        }
        let wide = match self.stored {
            Precision::F32 => output.pointer_on(stream)?,
            _ => workspace.part(places.wide.clone())?.pointer_on(stream)?,
        };
        Ok(Output { normalize: Some(report), wide, ..plain })
    }

    /// What segment number `segment` alone brings to the first layer, before bias and activation: `output`,
    /// `[batch.most(), part_outputs]`, zeros for rows without it. For a linear head, the parts of a row and the bias add
    /// up to its output before normalisation.
    ///
    /// # Errors
    /// [`CudaError::Precision`] if the segment is stored in another precision than the head's; [`CudaError::Length`] if it
    /// or the output does not have its shape, or for a workspace at another address; [`CudaError::Limit`] if there is no
    /// such segment, for a workspace that is too small, or more blocks than a grid has; what the launch fails with.
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
            let output = Output::plain(output.pointer_on(stream)?, Precision::F32);
            return self.concatenate(stream, batch, &[self.column(stream, segment, values)?], output);
        };
        let places = self.places(batch.most());
        let counters = workspace.part(places.counters)?.cast::<u32>()?;
        let partials = workspace.part(places.partials)?.cast::<f32>()?;
        stream.fill(&counters, 0)?;
        let run = Run { rows: batch, counters: &counters, partials: &partials };
        let values = layer.segment(stream, segment, &values.data, Some(&values.index))?;
        layer.enqueue_part(stream, run, values, output)
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
        output: Output<'_>,
    ) -> Result<(), CudaError> {
        let arguments = HeadArgs::over(stream, columns, batch, self.outputs, output)?;
        let blocks = batch.most().div_ceil(CONCATENATE_ROWS).min(CONCATENATE_BLOCKS);
        let blocks = grid("blocks of a concatenation", blocks)?;
        // SAFETY: the pointers are of this stream; the callers checked segments and output.
        unsafe { stream.launch(&Kernels::of(self.precision).concatenate, [blocks, 1, 1], 0, &arguments) }
    }
}
