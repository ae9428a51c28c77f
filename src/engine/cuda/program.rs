//! What one call does on the device: where everything lies, and the launches in order.

use std::ops::Range;
use std::sync::Arc;

use super::columns::{self, ColumnPlace, DeviceColumn, DeviceValues, Pixels, Room};
use super::towers::{Op, Tower};
use super::{Corpus, Encoder, Model};
use crate::cuda::embedding::{self, Bags, Lookup};
use crate::cuda::head::Segment;
use crate::cuda::network::Network;
use crate::cuda::{CudaError, Layout, Place, Rows, Slice, Staged, Stream, Tensor, normalize, pixels, topk};
use crate::engine::Side;
use crate::input::Modality;

/// The stage that reports an encoder's vector without a direction; towers report as their number among the runs.
pub(super) const VECTOR_STAGE: u16 = u16::MAX - 1;
/// The stage that reports a query without a direction.
pub(super) const QUERY_STAGE: u16 = u16::MAX;

/// What a call computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Work {
    /// The vectors of a side.
    Vectors(Side),
    /// The vectors of a side and the outputs of its ranker towers.
    VectorsAndRanker(Side),
    /// The best `k` rows of a corpus for each request.
    Search { corpus: u64, k: usize },
    /// What each tower alone brings to the query vectors.
    Terms,
    /// The outputs of the ranker's query towers.
    RankerTowers,
}

impl Work {
    /// Whose features it reads.
    pub(super) fn side(self) -> Side {
        match self {
            Work::Vectors(side) | Work::VectorsAndRanker(side) => side,
            Work::Search { .. } | Work::Terms | Work::RankerTowers => Side::Query,
        }
    }
}

/// What a recorded graph serves: calls that fit its sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) work: Work,
    /// Batch rows that there is room for.
    pub(super) batch: usize,
    /// Images that there is room for; with none, no network runs.
    pub(super) images: usize,
    /// How the images are given.
    pub(super) pixels: Pixels,
    /// Batch rows whose bags there is room for, each with as many ids as a request may have; at least `batch`.
    pub(super) bags: usize,
}

/// The device's memory of one execution context.
pub(super) struct Memory {
    pub(super) upload: Slice<u8>,
    pub(super) scratch: Slice<u8>,
    pub(super) download: Slice<u8>,
}

/// One tower's part of a call.
pub(super) struct Run<'a> {
    pub(super) tower: &'a Tower,
    /// The run whose output a linear layer over another tower reads.
    over: Option<usize>,
    /// Whether the caller wants the tower's output.
    pub(super) kept: bool,
}

/// The places of one call, and what runs. A pure function of the model's shapes and the key.
pub(super) struct Program {
    pub(super) columns: Vec<ColumnPlace>,
    pub(super) upload: Layout,
    pub(super) scratch: Layout,
    pub(super) download: Layout,
    pub(super) fault: Place<u64>,
    /// `[batch, width]`
    pub(super) vectors: Place<f32>,
    /// Per run `[rows, width]`, in the download if it is kept, else in the scratch memory.
    pub(super) outputs: Vec<Place<u8>>,
    /// Per tower of the query encoder `[batch, part_outputs]`.
    pub(super) terms: Vec<Place<f32>>,
    /// `[batch, k]`
    pub(super) keys: Place<u64>,
    batch: Place<u32>,
    image: Place<u8>,
    /// The workspace of each tower in turn.
    tower: Place<u8>,
    head: Place<u8>,
    queries: Place<f32>,
    search: Place<u8>,
}

/// The towers that a call runs, in the order of their stages.
pub(super) fn runs(model: &Model, work: Work) -> Vec<Run<'_>> {
    let encoder = &model.encoder(work.side()).towers;
    let ranker = model.ranker_towers(work.side());
    let over = |tower: &Tower| match tower.op {
        Op::LinearOver { tower, .. } => Some(tower),
        _ => None,
    };
    let run = |tower, kept| Run { tower, over: over(tower), kept };
    match work {
        Work::Vectors(_) | Work::Search { .. } | Work::Terms => {
            encoder.iter().map(|tower| run(tower, false)).collect()
        }
        Work::VectorsAndRanker(_) => {
            let encoder = encoder.iter().map(|tower| run(tower, false));
            encoder.chain(ranker.iter().map(|tower| run(tower, true))).collect()
        }
        Work::RankerTowers => {
            let read: Vec<usize> =
                (0..encoder.len()).filter(|&at| ranker.iter().any(|tower| over(tower) == Some(at))).collect();
            let encoder = read.iter().map(|&at| run(&encoder[at], false));
            let ranker = ranker.iter().map(|tower| {
                let over = over(tower).and_then(|at| read.iter().position(|&read| read == at));
                Run { tower, over, kept: true }
            });
            encoder.chain(ranker).collect()
        }
    }
}

impl Program {
    pub(super) fn new(model: &Model, key: Key, corpus: Option<&Corpus>) -> Result<Program, CudaError> {
        let Key { work, batch, images, pixels, bags } = key;
        let precision = model.precision;
        let (mut upload, mut scratch, mut download) =
            (Layout::default(), Layout::default(), Layout::default());
        let runs = runs(model, work);
        let encoder = model.encoder(work.side());

        let count = upload.place(1);
        let mut columns: Vec<ColumnPlace> = Vec::new();
        // Images last: they are by far the longest, and a call without them uploads nothing in their place.
        let image_last = |modality: &Modality| *modality == Modality::Image;
        let mut modalities = Modality::ALL;
        modalities.sort_by_key(image_last);
        for modality in modalities {
            let Some(room) = model.room(modality, &runs) else { continue };
            let rows = if matches!(room, Room::Image { .. }) { images } else { batch };
            let sizes = columns::Sizes { batch, rows, bags };
            columns.push(ColumnPlace::new(&mut upload, (modality, room), sizes, pixels, precision));
        }
        let rows_of = |modality: Modality| {
            columns.iter().find(|column| column.modality == modality).map_or(0, |column| column.rows)
        };

        let fault = download.place(1);
        let outputs = runs.iter().map(|run| {
            let len = rows_of(run.tower.input).saturating_mul(run.tower.width);
            let layout = if run.kept { &mut download } else { &mut scratch };
            layout.place_values(precision, len)
        });
        let outputs = outputs.collect();
        let networks = || {
            runs.iter().filter_map(|run| match &run.tower.op {
                Op::Network(network) => Some(network),
                _ => None,
            })
        };
        let image = networks().map(|network| network.stored().len()).max().unwrap_or(0);
        let image = scratch.place_values(precision, images.saturating_mul(image));
        let workspaces = runs.iter().map(|run| match &run.tower.op {
            Op::Network(network) => network.workspace(images),
            Op::Linear(linear) | Op::LinearOver { linear, .. } => linear.workspace(rows_of(run.tower.input)),
            Op::Embedding(_) | Op::Bag { .. } => 0,
        });
        let tower = scratch.place(workspaces.max().unwrap_or(0));

        let wants_vectors =
            matches!(work, Work::Vectors(_) | Work::VectorsAndRanker(_) | Work::Search { .. });
        let vectors = download.place(if wants_vectors { batch.saturating_mul(encoder.width) } else { 0 });
        let wants_head = wants_vectors || work == Work::Terms;
        let head = scratch.place(if wants_head { encoder.head.workspace(batch) } else { 0 });
        let terms = match work {
            Work::Terms => {
                let values = batch.saturating_mul(encoder.head.part_outputs());
                encoder.towers.iter().map(|_| download.place(values)).collect()
            }
            _ => Vec::new(),
        };
        let (queries, search, keys) = match (work, corpus) {
            (Work::Search { k, .. }, Some(corpus)) => {
                let plan = corpus.plan(model, batch, k)?;
                (batch.saturating_mul(encoder.width), plan.workspace(), batch.saturating_mul(k))
            }
            _ => (0, 0, 0),
        };
        let (queries, search) = (scratch.place(queries), scratch.place(search));
        let keys = download.place(keys);
        Ok(Program {
            columns,
            upload,
            scratch,
            download,
            fault,
            vectors,
            outputs,
            terms,
            keys,
            batch: count,
            image,
            tower,
            head,
            queries,
            search,
        })
    }

    /// Writes the number of rows into the buffer that is uploaded.
    pub(super) fn write_batch(&self, rows: usize, upload: &mut [u8]) {
        self.batch.in_host_mut(upload).fill(u32::try_from(rows).unwrap_or(u32::MAX));
    }

    /// Puts the whole call on a stream: upload, launches, download.
    pub(super) fn enqueue(
        &self,
        model: &Model,
        key: Key,
        corpus: Option<&Arc<Corpus>>,
        staged: &Staged<'_>,
        memory: &Memory,
    ) -> Result<(), CudaError> {
        let stream = staged.stream();
        let fault = self.fault.of(&memory.download)?;
        stream.fill(&fault, 0xFF)?;
        staged.upload(&memory.upload.part(0..self.upload.bytes())?)?;
        let encoder = model.encoder(key.work.side());
        let call = Call { program: self, model, stream, memory, fault, batch: self.rows(key, memory)? };
        let columns = self
            .columns
            .iter()
            .map(|place| Ok((place.modality, place.on_device(&memory.upload, model.precision)?)));
        let columns = columns.collect::<Result<Vec<(Modality, DeviceColumn)>, CudaError>>()?;
        let outputs = call.towers(key, &columns)?;
        match key.work {
            Work::Vectors(_) | Work::VectorsAndRanker(_) => call.vectors(encoder, &columns, &outputs)?,
            Work::Search { k, .. } => {
                call.vectors(encoder, &columns, &outputs)?;
                if let Some(corpus) = corpus {
                    call.search(key.batch, corpus, k)?;
                }
            }
            Work::Terms => call.terms(encoder, &columns, &outputs)?,
            Work::RankerTowers => {}
        }
        staged.download(&memory.download.part(0..self.download.bytes())?)
    }

    fn rows(&self, key: Key, memory: &Memory) -> Result<Rows, CudaError> {
        Rows::new(key.batch, self.batch.of(&memory.upload)?)
    }
}

/// A call that is being put on a stream.
struct Call<'a> {
    program: &'a Program,
    model: &'a Model,
    stream: &'a Stream,
    memory: &'a Memory,
    fault: Slice<u64>,
    batch: Rows,
}

/// A tower's output: `[rows, width]`.
type Outputs = Vec<Tensor>;

impl Call<'_> {
    /// Runs the towers: all tables in as few launches as can be, then networks and layers.
    fn towers(&self, key: Key, columns: &[(Modality, DeviceColumn)]) -> Result<Outputs, CudaError> {
        let runs = runs(self.model, key.work);
        let outputs = runs.iter().zip(&self.program.outputs).map(|(run, place)| {
            let memory = if run.kept { &self.memory.download } else { &self.memory.scratch };
            place.tensor(memory, self.model.precision)
        });
        let outputs = outputs.collect::<Result<Outputs, CudaError>>()?;
        let mut lookups = Vec::new();
        for (stage, (run, output)) in runs.iter().zip(&outputs).enumerate() {
            let Some(column) = column(columns, run.tower.input) else { continue };
            let stage = u16::try_from(stage).unwrap_or(VECTOR_STAGE - 1);
            lookups.extend(self.lookup(run.tower, column, output, stage));
        }
        embedding::enqueue(self.stream, &lookups, &self.fault)?;
        let workspace = self.program.tower.of(&self.memory.scratch)?;
        let mut images_lie_as = None;
        for (run, output) in runs.iter().zip(&outputs) {
            let Some(column) = column(columns, run.tower.input) else { continue };
            match (&run.tower.op, &column.values) {
                (Op::Network(network), values) if column.rows.most() > 0 => {
                    let image = self.program.image.tensor(&self.memory.scratch, self.model.precision)?;
                    let stored = network.stored();
                    let image = image.part(0..column.rows.most() * stored.len())?;
                    if images_lie_as != Some(stored) {
                        self.image(network, &column.rows, values, &image)?;
                        images_lie_as = Some(stored);
                    }
                    network.enqueue(self.stream, &column.rows, &image, &workspace, output)?;
                }
                (Op::Linear(linear), DeviceValues::Dense(values)) => {
                    linear.enqueue(self.stream, &column.rows, values, &workspace, output)?;
                }
                (Op::LinearOver { linear, .. }, _) => {
                    if let Some(over) = run.over.and_then(|over| outputs.get(over)) {
                        linear.enqueue(self.stream, &column.rows, over, &workspace, output)?;
                    }
                }
                _ => {}
            }
        }
        Ok(outputs)
    }

    /// The images as a network reads them: `[rows, height, width, channels]`, normalised.
    fn image(
        &self,
        network: &Network,
        rows: &Rows,
        values: &DeviceValues,
        image: &Tensor,
    ) -> Result<(), CudaError> {
        let stored = network.stored();
        match (values, &self.model.scaling) {
            (DeviceValues::Bytes(bytes), Some(scaling)) => {
                scaling.enqueue(self.stream, rows, stored, bytes, image)
            }
            (DeviceValues::Floats(floats), _) => {
                pixels::enqueue_cast(self.stream, rows, network.input().channels, stored, floats, image)
            }
            _ => Ok(()),
        }
    }

    fn lookup(&self, tower: &Tower, column: &DeviceColumn, output: &Tensor, stage: u16) -> Option<Lookup> {
        let (rows, ids, bags) = match (&tower.op, &column.values) {
            (Op::Embedding(rows), DeviceValues::Ids(ids)) => (rows, ids, None),
            (Op::Bag { rows, pooling, padding_id }, DeviceValues::Bags { ids, offsets, weights }) => {
                let weights = weights.clone().filter(|_| *pooling == crate::model::Pooling::Sum);
                let bags =
                    Bags { offsets: offsets.clone(), weights, pooling: *pooling, padding_id: *padding_id };
                (rows, ids, Some(bags))
            }
            _ => return None,
        };
        Some(Lookup {
            table: rows.table.clone(),
            table_rows: rows.rows,
            width: rows.width,
            items: column.rows.clone(),
            ids: ids.clone(),
            bags,
            unknown: self.model.unknown_ids[tower.input as usize],
            output: output.clone(),
            stage,
        })
    }

    /// The encoder's towers as the head reads them.
    fn segments(
        &self,
        encoder: &Encoder,
        columns: &[(Modality, DeviceColumn)],
        outputs: &Outputs,
    ) -> Vec<Segment> {
        let segments = encoder.towers.iter().zip(outputs).filter_map(|(tower, output)| {
            Some(Segment { index: column(columns, tower.input)?.index.clone(), data: output.clone() })
        });
        segments.collect()
    }

    fn vectors(
        &self,
        encoder: &Encoder,
        columns: &[(Modality, DeviceColumn)],
        outputs: &Outputs,
    ) -> Result<(), CudaError> {
        let segments = self.segments(encoder, columns, outputs);
        let workspace = self.program.head.of(&self.memory.scratch)?;
        let vectors = self.program.vectors.of(&self.memory.download)?;
        let Call { stream, batch, fault, .. } = self;
        encoder.head.enqueue(stream, batch, &segments, &workspace, &vectors, VECTOR_STAGE, fault)
    }

    fn terms(
        &self,
        encoder: &Encoder,
        columns: &[(Modality, DeviceColumn)],
        outputs: &Outputs,
    ) -> Result<(), CudaError> {
        let segments = self.segments(encoder, columns, outputs);
        let workspace = self.program.head.of(&self.memory.scratch)?;
        for (at, (segment, place)) in segments.iter().zip(&self.program.terms).enumerate() {
            let output = place.of(&self.memory.download)?;
            encoder.head.enqueue_parts(self.stream, &self.batch, at, segment, &workspace, &output)?;
        }
        Ok(())
    }

    /// Searches with the vectors, normalised once more if the corpus asks for it, as the catalogue does with any query.
    fn search(&self, batch: usize, corpus: &Corpus, k: usize) -> Result<(), CudaError> {
        let vectors = self.program.vectors.of(&self.memory.download)?;
        let queries = self.program.queries.of(&self.memory.scratch)?;
        self.stream.copy(&vectors, &queries)?;
        if corpus.normalized {
            let dim = corpus.dim;
            normalize::enqueue(self.stream, &self.batch, dim, &queries, QUERY_STAGE, &self.fault)?;
        }
        let plan = corpus.plan(self.model, batch, k)?;
        let workspace = self.program.search.of(&self.memory.scratch)?;
        let keys = self.program.keys.of(&self.memory.download)?;
        topk::enqueue(self.stream, &plan, &corpus.rows, &self.batch, &queries, &workspace, &keys)
    }
}

fn column(columns: &[(Modality, DeviceColumn)], modality: Modality) -> Option<&DeviceColumn> {
    columns.iter().find(|(of, _)| *of == modality).map(|(_, column)| column)
}

/// The least power of two that is at least `rows`, at most `most`; 0 for no rows.
pub(super) fn bucket(rows: usize, most: usize) -> usize {
    match rows {
        0 => 0,
        rows => rows.checked_next_power_of_two().unwrap_or(most).min(most),
    }
}

/// What [`bucket`] gives for 0 to `most` rows.
pub(super) fn buckets(most: usize) -> impl Iterator<Item = usize> {
    let powers = (0..usize::BITS).map(|bit| 1 << bit).take_while(move |&rows| rows < most);
    std::iter::once(0).chain(powers).chain((most > 0).then_some(most))
}

/// The largest power of two that is at most `most`, which is positive.
pub(super) fn largest_bucket(most: usize) -> usize {
    1 << most.max(1).ilog2()
}

/// `0..total` in parts of at most `most`.
pub(super) fn parts(total: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let most = most.max(1);
    (0..total).step_by(most).map(move |first| first..total.min(first.saturating_add(most)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::MAX_ROWS_AT_ONCE;

    #[test]
    fn buckets_are_powers_of_two_up_to_the_most() {
        let of = |most| (0..=most).map(|rows| bucket(rows, most)).collect::<Vec<_>>();
        assert_eq!(of(1), [0, 1]);
        assert_eq!(of(3), [0, 1, 2, 3]);
        assert_eq!(of(9), [0, 1, 2, 4, 4, 8, 8, 8, 8, 9]);
        assert_eq!(bucket(MAX_ROWS_AT_ONCE - 1, MAX_ROWS_AT_ONCE), MAX_ROWS_AT_ONCE);
        assert_eq!(bucket(usize::MAX, usize::MAX), usize::MAX);
        for most in (0..70).chain([MAX_ROWS_AT_ONCE - 1, MAX_ROWS_AT_ONCE]) {
            let mut found: Vec<usize> = (0..=most).map(|rows| bucket(rows, most)).collect();
            assert!((0..=most).all(|rows| (rows..=most).contains(&found[rows])));
            found.dedup();
            assert_eq!(buckets(most).collect::<Vec<_>>(), found, "most {most}");
        }
    }

    #[test]
    fn the_largest_bucket_is_one() {
        for (most, expected) in [(0, 1), (1, 1), (2, 2), (3, 2), (65_535, 32_768), (65_536, 65_536)] {
            assert_eq!(largest_bucket(most), expected);
        }
        assert_eq!(largest_bucket(usize::MAX), 1 << (usize::BITS - 1));
    }

    #[test]
    fn parts_cover_the_batch_in_order() {
        assert_eq!(parts(0, 4).count(), 0);
        assert_eq!(parts(9, 4).collect::<Vec<_>>(), [0..4, 4..8, 8..9]);
        assert_eq!(parts(8, 4).collect::<Vec<_>>(), [0..4, 4..8]);
        assert_eq!(parts(2, 0).count(), 2);
        assert_eq!(parts(usize::MAX, usize::MAX - 1).last(), Some(usize::MAX - 1..usize::MAX));
    }
}
