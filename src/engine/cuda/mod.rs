//! The CUDA backend of the engine: a model whose weights lie on the device. A call is written into pinned memory, runs as
//! one recorded graph (upload, kernels, download) and is waited for once.
//!
//! Memory is planned when the model opens: each execution context has room for any call of
//! [`Options::rows_at_once`] rows, and no call allocates there. A context records a graph the first time that a call of its
//! kind and size comes, sizes being rounded up to powers of two; the kernels read how many rows there really are from
//! the upload.

mod checkout;
mod columns;
mod context;
mod pairs;
mod program;
mod towers;
mod vectors;

use std::sync::{Arc, Mutex, PoisonError};

use checkout::Pool;
use columns::{Pixels, Room, rows_for_bags};
use context::{Context, Sizes};
use pairs::Pairs;
use program::{Key, Program, QUERY_STAGE, VECTOR_STAGE, Work, bucket, buckets, largest_bucket, parts, runs};
use towers::{Tower, Uploader};
pub(super) use vectors::VectorSearch;

use super::backend::{Backend, Output};
use super::error::in_batch;
use super::options::UnknownIds;
use super::{EngineError, Options, RowError, Side, WhenBusy};
use crate::catalogue::{Catalogue, CatalogueId, Hits, MAX_K, Metric};
use crate::cpu::OpError;
use crate::cpu::head::Segment;
use crate::cpu::normalize::check_row;
use crate::cuda::embedding::first_unknown;
use crate::cuda::head::Head;
use crate::cuda::pixels::PixelTable;
use crate::cuda::{CudaError, Device, Layout, Precision, topk};
use crate::input::{Bags, Column, Features, Modality, PixelScaling, Values};
use crate::model::{Config, EncoderPlan, Normalize, Plan, Pooling, RankerPlan, TowerOp, TowerPlan};
use crate::weights::Checkpoint;
use crate::{Error, Result};

/// A model on a device.
pub(crate) struct Model {
    /// Dropped first: contexts hold streams and graphs of the device.
    contexts: Pool<Context>,
    catalogues: Mutex<Vec<(CatalogueId, Slot)>>,
    query: Encoder,
    item: Encoder,
    ranker: Option<Ranker>,
    /// The normalised value of each byte of each channel, where there are images.
    scaling: Option<PixelTable>,
    rooms: [Option<Room>; Modality::ALL.len()],
    unknown_ids: UnknownIds,
    precision: Precision,
    rows_at_once: usize,
    when_busy: WhenBusy,
    device: Device,
}

struct Encoder {
    towers: Vec<Tower>,
    head: Head,
    width: usize,
    bias: Option<Vec<f32>>,
}

struct Ranker {
    query: Vec<Tower>,
    item: Vec<Tower>,
    head: Head,
    /// Of the query towers, then of the item towers.
    widths: Vec<usize>,
}

/// A catalogue's place on the device, empty until it is uploaded. Nothing that holds its lock, or a context, may run in
/// parallel by rayon: a thread that waits there takes up other calls, which would want the same lock or context.
type Slot = Arc<Mutex<Option<Arc<Corpus>>>>;

/// A catalogue on the device.
struct Corpus {
    number: u64,
    rows: topk::Corpus,
    dim: usize,
    /// Whether queries are normalised before they are scored.
    normalized: bool,
}

impl Corpus {
    fn upload(device: &Device, catalogue: &Catalogue) -> Result<Corpus, CudaError> {
        let (dim, vectors, ids) = (catalogue.dim(), catalogue.vectors(), catalogue.ids());
        Ok(Corpus {
            number: catalogue.id().number(),
            rows: topk::Corpus::upload(&device.stream()?, dim, vectors, ids, Precision::F32)?,
            dim,
            normalized: catalogue.metric() == Metric::Cosine,
        })
    }

    /// The hits of one query; `catalogue` is what was uploaded.
    fn hits(&self, catalogue: &Catalogue, keys: &[u64]) -> Hits {
        Hits::exhaustive(self.rows.hits(catalogue.ids(), keys), catalogue.len())
    }

    fn plan(&self, model: &Model, batch: usize, k: usize) -> Result<topk::Plan, CudaError> {
        topk::Plan::new(&self.rows, k, batch, model.device.info())
    }
}

/// Keys of one search that a context has room for: one answer of the longest, or many short ones.
const MOST_KEYS: usize = MAX_K;

impl Model {
    /// Uploads the weights of `plan`, whose tensors the checkpoint is known to have, to card `ordinal`.
    pub(crate) fn open(
        ordinal: usize,
        config: &Config,
        plan: &Plan,
        checkpoint: &Checkpoint,
        scaling: Option<&PixelScaling>,
        options: &Options,
    ) -> Result<Model> {
        let device = Device::open(ordinal)?;
        let stream = device.stream()?;
        let mut uploader = Uploader::new(&stream, checkpoint, options.precision);
        let query = encoder(&mut uploader, &plan.query)?;
        let item = encoder(&mut uploader, &plan.item)?;
        let ranker = plan.ranker.as_ref().map(|plan| ranker(&mut uploader, plan)).transpose()?;
        let scaling = scaling.map(|scaling| PixelTable::new(&stream, scaling));
        let mut model = Model {
            contexts: Pool::new(Vec::new()),
            catalogues: Mutex::new(Vec::new()),
            query,
            item,
            ranker,
            scaling: scaling.transpose()?,
            rooms: Modality::ALL.map(|modality| room(modality, config, plan)),
            unknown_ids: options.unknown_ids,
            precision: options.precision,
            rows_at_once: options.rows_at_once,
            when_busy: options.when_busy,
            device,
        };
        let sizes = model.sizes()?;
        let contexts = (0..options.contexts).map(|_| Context::new(&model.device, sizes));
        model.contexts = Pool::new(contexts.collect::<Result<_, _>>()?);
        Ok(model)
    }

    /// What any call needs at most.
    fn sizes(&self) -> Result<Sizes, CudaError> {
        let mut sizes = Sizes::default();
        let mut works = vec![Work::Vectors(Side::Query), Work::Vectors(Side::Item), Work::Terms];
        if self.ranker.is_some() {
            works.extend([Work::VectorsAndRanker(Side::Item), Work::RankerTowers]);
        }
        let (batch, bags) = (self.rows_at_once, self.rows_at_once);
        for work in works {
            for pixels in [Pixels::Bytes, Pixels::Floats] {
                // A layer may need more workspace for few rows than for many: each size counts.
                for batch in buckets(batch) {
                    for images in buckets(batch) {
                        let key = Key { work, batch, images, pixels, bags };
                        let program = Program::new(self, key, None)?;
                        sizes = sizes.with(&program.upload, &program.scratch, &program.download);
                    }
                }
            }
        }
        // A search adds the queries, the keys and its workspace to the vectors.
        let (mut scratch, mut download) = (Layout::default(), Layout::default());
        scratch.place::<u8>(sizes.scratch);
        scratch.place::<f32>(batch.saturating_mul(self.query.width));
        scratch.place::<u8>(topk::MOST_WORKSPACE);
        download.place::<u8>(sizes.download);
        download.place::<u64>(MOST_KEYS);
        sizes = sizes.with(&Layout::default(), &scratch, &download);
        if let Some(ranker) = &self.ranker {
            let pairs = Pairs::new(&ranker.widths, &ranker.head, self.precision, batch);
            sizes = sizes.with(&pairs.upload, &pairs.scratch, &pairs.download);
        }
        Ok(sizes)
    }

    fn encoder(&self, side: Side) -> &Encoder {
        match side {
            Side::Query => &self.query,
            Side::Item => &self.item,
        }
    }

    fn ranker_towers(&self, side: Side) -> &[Tower] {
        match (&self.ranker, side) {
            (Some(ranker), Side::Query) => &ranker.query,
            (Some(ranker), Side::Item) => &ranker.item,
            (None, _) => &[],
        }
    }

    /// What the runs read of a modality, if anything.
    fn room(&self, modality: Modality, runs: &[program::Run<'_>]) -> Option<Room> {
        let read = runs.iter().any(|run| run.tower.input == modality);
        self.rooms[modality as usize].filter(|_| read)
    }

    /// The catalogue's rows on the device, uploaded at the first call. Those of catalogues that are gone are freed. Calls
    /// for other catalogues do not wait for an upload.
    fn corpus(&self, catalogue: &Catalogue) -> Result<Arc<Corpus>> {
        let lock = || self.catalogues.lock().unwrap_or_else(PoisonError::into_inner);
        let (gone, slot) = {
            let mut catalogues = lock();
            let (alive, gone) = catalogues.drain(..).partition(|(id, _)| id.is_alive());
            *catalogues = alive;
            let known = catalogues.iter().find(|(id, _)| id.is(catalogue)).map(|(_, slot)| slot.clone());
            let slot = known.unwrap_or_else(|| {
                let slot = Slot::default();
                catalogues.push((catalogue.id(), slot.clone()));
                slot
            });
            (gone, slot)
        };
        drop::<Vec<_>>(gone); // waits for the device
        let mut corpus = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(corpus) = &*corpus {
            return Ok(corpus.clone());
        }
        Ok(corpus.insert(Arc::new(Corpus::upload(&self.device, catalogue)?)).clone())
    }

    /// Gives `work` the batch in parts that fit a context: at most `most` rows, and no more ids than it has room for unless
    /// one row alone has.
    fn in_parts(
        &self,
        features: &Features,
        most: usize,
        work: &mut dyn FnMut(usize, &Features) -> Result<()>,
    ) -> Result<()> {
        let batch = features.batch();
        let most = match self.rows_for_bags(features) > self.rows_at_once {
            true => most.min(batch.div_ceil(2)),
            false => most,
        };
        if batch <= most {
            return work(0, features);
        }
        for rows in parts(batch, most) {
            let first = rows.start;
            self.in_parts(&features.part(rows), most, &mut |row, part| work(first + row, part))
                .map_err(|error| in_batch(error, first))?;
        }
        Ok(())
    }

    /// Rows whose bags have room for the ids of a batch.
    fn rows_for_bags(&self, features: &Features) -> usize {
        let rows = Modality::ALL.iter().filter_map(|&modality| {
            Some(rows_for_bags(self.rooms[modality as usize]?, features.column(modality)?))
        });
        rows.max().unwrap_or(0)
    }

    /// Runs one call in a free context and gives `read` what was downloaded.
    fn run(
        &self,
        work: Work,
        features: &Features,
        corpus: Option<&Arc<Corpus>>,
        read: impl FnOnce(&Program, &[u8]) -> Result<()>,
    ) -> Result<()> {
        if features.batch() == 0 {
            return Ok(());
        }
        let key = self.key(work, features)?;
        self.check(work, features)?;
        let mut context = self.contexts.check_out(self.when_busy)?;
        let program = context.program(self, key, corpus)?;
        let upload = context.staging.to_upload();
        program.write_batch(features.batch(), upload);
        for place in &program.columns {
            place.write(features.column(place.modality), self.precision, upload);
        }
        context.run()?;
        let download = context.staging.downloaded();
        match program.fault.in_host(download)[0] {
            u64::MAX => read(&program, download),
            // Of what was searched for; `read` refuses it in the words of the catalogue.
            fault if stage(fault) == QUERY_STAGE => read(&program, download),
            fault => Err(self.fault(work, features, &program, download, fault)),
        }
    }

    /// Every column has the form that its towers read.
    fn check(&self, work: Work, features: &Features) -> Result<(), EngineError> {
        for run in runs(self, work) {
            let (Some(form), Some(column)) = (run.tower.form, features.column(run.tower.input)) else {
                continue;
            };
            form.check(run.tower.input, &run.tower.name, column.values())?;
            let weighted = matches!(column.values(), Values::Bags(bags) if bags.weights.is_some());
            if weighted && !run.tower.takes_weights() {
                return Err(EngineError::op(&run.tower.name)(OpError::WeightedPooling));
            }
        }
        Ok(())
    }

    /// The sizes that a batch needs.
    fn key(&self, work: Work, features: &Features) -> Result<Key> {
        let runs = runs(self, work);
        let most = self.rows_at_once;
        let batch = bucket(features.batch(), most);
        let (mut images, mut pixels, mut bags) = (0, Pixels::Bytes, batch);
        for modality in Modality::ALL {
            let (Some(room), Some(column)) = (self.room(modality, &runs), features.column(modality)) else {
                continue;
            };
            match column.values() {
                Values::Photos { .. } => images = bucket(column.rows().len(), most),
                Values::Pixels { .. } => {
                    (images, pixels) = (bucket(column.rows().len(), most), Pixels::Floats);
                }
                Values::Bags(Bags { ids, .. }) => {
                    let rows = rows_for_bags(room, column);
                    if let Room::Bags { most: per_row, .. } = room
                        && rows > most
                    {
                        let (value, limit) = (ids.len(), most.saturating_mul(per_row));
                        return Err(CudaError::Limit { what: "ids of a bag", value, limit }.into());
                    }
                    bags = bags.max(bucket(rows, most));
                }
                _ => {}
            }
        }
        Ok(Key { work, batch, images, pixels, bags })
    }

    /// Adds the outputs that a call kept to those of the batch's earlier parts.
    fn read_outputs(
        &self,
        work: Work,
        program: &Program,
        (first, part): (usize, &Features),
        download: &[u8],
        outputs: &mut [Output],
    ) {
        let runs = runs(self, work);
        let kept = runs.iter().zip(&program.outputs).filter(|(run, _)| run.kept);
        for ((run, place), output) in kept.zip(outputs) {
            let rows = part.column(run.tower.input).map_or(&[][..], Column::rows);
            output.rows.extend(rows.iter().map(|row| first + row));
            let values = place.in_host(download);
            output.data.extend(columns::to_f32(values, self.precision, rows.len() * run.tower.width));
        }
    }

    /// What a fault record means: the least row of the first stage that found something wrong.
    fn fault(
        &self,
        work: Work,
        features: &Features,
        program: &Program,
        download: &[u8],
        fault: u64,
    ) -> Error {
        let stage = stage(fault);
        let at = usize::try_from(fault & ((1 << ROW_BITS) - 1)).unwrap_or(usize::MAX);
        let side = work.side();
        if stage == VECTOR_STAGE {
            let width = self.encoder(side).width;
            let vector = program.vectors.in_host(download).get(at * width..(at + 1) * width);
            let source = vector.and_then(|vector| check_row(at, vector).err());
            let source = source.map_or(RowError::Zero, |error| RowError::without_direction(error).1);
            return EngineError::Row { side, row: at, source }.into();
        }
        let runs = runs(self, work);
        let tower = runs.get(usize::from(stage)).map(|run| run.tower);
        let found = tower.and_then(|tower| {
            let column = features.column(tower.input)?;
            let (rows, padding_id) = tower.table()?;
            let (_, id) = first_unknown(ids_of(column, at)?, rows, padding_id)?;
            let source = RowError::UnknownId { modality: tower.input, id, rows };
            Some(EngineError::Row { side, row: *column.rows().get(at)?, source })
        });
        match found {
            Some(error) => error.into(),
            None => CudaError::Kernel { kernel: "embedding", reason: format!("reported {fault:#x}") }.into(),
        }
    }
}

impl Backend for Model {
    fn describe(&self) -> String {
        let info = self.device.info();
        let precision = match self.precision {
            Precision::F32 => "f32",
            Precision::F16 => "f16",
            Precision::Bf16 => "bf16",
        };
        format!("cuda:{}, {}, {precision}", info.ordinal, info.name)
    }

    fn rows_at_once(&self) -> usize {
        self.rows_at_once
    }

    fn encode(
        &self,
        side: Side,
        features: &Features,
        vectors: &mut [f32],
        ranker: bool,
    ) -> Result<Vec<Output>> {
        let width = self.encoder(side).width;
        let work = if ranker { Work::VectorsAndRanker(side) } else { Work::Vectors(side) };
        let mut outputs = if ranker { none_of(self.ranker_towers(side)) } else { Vec::new() };
        self.in_parts(features, self.rows_at_once, &mut |first, part| {
            self.run(work, part, None, |program, download| {
                let found = &program.vectors.in_host(download)[..part.batch() * width];
                vectors[first * width..][..found.len()].copy_from_slice(found);
                self.read_outputs(work, program, (first, part), download, &mut outputs);
                Ok(())
            })
        })?;
        Ok(outputs)
    }

    fn prepare(&self, catalogue: &Catalogue) -> Result<()> {
        self.corpus(catalogue).map(drop)
    }

    fn search(&self, catalogue: &Catalogue, features: &Features, k: usize) -> Result<Vec<Hits>> {
        let corpus = self.corpus(catalogue)?;
        let work = Work::Search { corpus: corpus.number, k };
        let most = largest_bucket(MOST_KEYS / k).min(self.rows_at_once);
        let width = self.query.width;
        let mut answers = Vec::with_capacity(features.batch());
        self.in_parts(features, most, &mut |_, part| {
            self.run(work, part, Some(&corpus), |program, download| {
                catalogue.check_queries(&program.vectors.in_host(download)[..part.batch() * width])?;
                let keys = program.keys.in_host(download).chunks_exact(k).take(part.batch());
                answers.extend(keys.map(|keys| corpus.hits(catalogue, keys)));
                Ok(())
            })
        })?;
        Ok(answers)
    }

    fn query_terms(&self, features: &Features) -> Result<Vec<Output>> {
        let width = self.query.head.part_outputs();
        let mut terms = none_of(&self.query.towers);
        terms.iter_mut().for_each(|term| term.width = width);
        self.in_parts(features, self.rows_at_once, &mut |first, part| {
            self.run(Work::Terms, part, None, |program, download| {
                for (term, place) in terms.iter_mut().zip(&program.terms) {
                    let values = place.in_host(download); // [batch, width]
                    for &row in part.column(term.modality).map_or(&[][..], Column::rows) {
                        term.rows.push(first + row);
                        term.data.extend_from_slice(&values[row * width..][..width]);
                    }
                }
                Ok(())
            })
        })?;
        Ok(terms)
    }

    fn query_bias(&self) -> Option<&[f32]> {
        self.query.bias.as_deref()
    }

    fn ranker_query_towers(&self, features: &Features) -> Result<Vec<Output>> {
        let mut outputs = none_of(self.ranker_towers(Side::Query));
        self.in_parts(features, self.rows_at_once, &mut |first, part| {
            self.run(Work::RankerTowers, part, None, |program, download| {
                self.read_outputs(Work::RankerTowers, program, (first, part), download, &mut outputs);
                Ok(())
            })
        })?;
        Ok(outputs)
    }

    fn rank(&self, batch: usize, segments: &[Segment<'_>], scores: &mut [f32]) -> Result<()> {
        let ranker = self.ranker.as_ref().ok_or(EngineError::NoRanker)?;
        let mut context = self.contexts.check_out(self.when_busy)?;
        let places = Pairs::new(&ranker.widths, &ranker.head, self.precision, self.rows_at_once);
        for rows in parts(batch, self.rows_at_once) {
            places.write(segments, rows.clone(), self.precision, context.staging.to_upload());
            context
                .run_once(|staged, memory| places.enqueue(&ranker.head, self.precision, staged, memory))?;
            let found = places.scores.in_host(context.staging.downloaded());
            scores[rows.clone()].copy_from_slice(&found[..rows.len()]);
        }
        Ok(())
    }
}

/// Bits of a fault record that say which row; the others say which stage.
const ROW_BITS: u32 = 48;

/// The stage of a fault record.
fn stage(fault: u64) -> u16 {
    u16::try_from(fault >> ROW_BITS).unwrap_or(u16::MAX)
}

/// What a modality's towers read, if any does.
fn room(modality: Modality, config: &Config, plan: &Plan) -> Option<Room> {
    let ranker = plan.ranker.iter().flat_map(|ranker| ranker.query_towers.iter().chain(&ranker.item_towers));
    let towers = || plan.query.towers.iter().chain(&plan.item.towers).chain(ranker.clone());
    let of = |tower: &TowerPlan| match &tower.op {
        TowerOp::Embedding(_) => Some(Room::Ids),
        TowerOp::EmbeddingBag { .. } => {
            let behaviour = || config.inputs.behaviour.as_ref().and_then(|input| input.max_items);
            let most = match modality {
                Modality::Text => config.inputs.text.as_ref().map(|input| input.max_tokens),
                _ => behaviour(),
            };
            let weighs = |tower: &TowerPlan| {
                tower.input == modality
                    && matches!(tower.op, TowerOp::EmbeddingBag { pooling: Pooling::Sum, .. })
            };
            Some(Room::Bags { most: most.unwrap_or(1), weighted: towers().any(weighs) })
        }
        TowerOp::Network(network) => {
            let input = network.input;
            Some(Room::Image { values: input.height * input.width * input.channels })
        }
        TowerOp::Linear(linear) => Some(Room::Dense { width: linear.inputs }),
        TowerOp::LinearOver { .. } => None,
    };
    towers().filter(|tower| tower.input == modality).find_map(of)
}

/// No rows yet of each tower's output.
fn none_of(towers: &[Tower]) -> Vec<Output> {
    let none = |tower: &Tower| {
        let (modality, width) = (tower.input, tower.width);
        Output { modality, width, rows: Vec::new(), data: Vec::new() }
    };
    towers.iter().map(none).collect()
}

/// The ids of a column's entry.
fn ids_of(column: &Column, entry: usize) -> Option<&[i64]> {
    match column.values() {
        Values::Ids(ids) => ids.get(entry..=entry),
        Values::Bags(bags) => bags.ids.get(*bags.offsets.get(entry)?..*bags.offsets.get(entry + 1)?),
        _ => None,
    }
}

fn encoder(uploader: &mut Uploader<'_>, plan: &EncoderPlan) -> Result<Encoder> {
    let towers = uploader.towers(&plan.towers)?;
    let widths: Vec<usize> = plan.towers.iter().map(|tower| tower.width).collect();
    let head = uploader.head(&widths, &plan.head, plan.normalize == Normalize::L2)?;
    let bias = match plan.head.first().and_then(|layer| layer.bias.as_ref()) {
        Some(bias) => Some(uploader.checkpoint.tensor(bias)?.to_f32()?.into_owned()),
        None => None,
    };
    Ok(Encoder { towers, head, width: plan.width, bias })
}

fn ranker(uploader: &mut Uploader<'_>, plan: &RankerPlan) -> Result<Ranker> {
    let query = uploader.towers(&plan.query_towers)?;
    let item = uploader.towers(&plan.item_towers)?;
    let widths: Vec<usize> =
        plan.query_towers.iter().chain(&plan.item_towers).map(|tower| tower.width).collect();
    let head = uploader.head(&widths, &plan.head, false)?;
    Ok(Ranker { query, item, head, widths })
}
