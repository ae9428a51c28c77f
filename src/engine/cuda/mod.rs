//! The CUDA backend of the engine: a model whose weights lie on the device. A call is written into pinned memory, runs as
//! one recorded graph (upload, kernels, download) and is waited for once.
//!
//! Memory is planned when the model opens: each execution context has room for any call of
//! [`Options::rows_at_once`] rows, and no call allocates there. A context records a graph the first time that a call of its
//! kind and size comes, sizes being rounded up; the kernels read how many rows there really are from the upload.
//!
//! - [`program`]: the shape of every call; [`context`] records and runs it, [`checkout`] gives each call a context.
//! - [`encode`], [`pairs`] and [`vectors`]: the programs that encode and search, that rank, and that search by vectors.
//! - [`work`]: which towers an encoding runs; [`launch`] their launches; [`towers`] their weights.
//! - [`columns`]: features as they are uploaded; [`sizes`] how large they are; [`corpus`] catalogues on the device.
//! - [`fault`]: what kernels report, as errors.

mod checkout;
mod columns;
mod context;
mod corpus;
mod encode;
mod fault;
mod launch;
mod pairs;
mod program;
mod sizes;
mod towers;
mod vectors;
mod work;

use std::sync::Arc;

use checkout::Pool;
use columns::Pixels;
use context::{Context, Finished, Graphs};
use corpus::{Corpora, MOST_KEYS, Target};
use encode::{Encoding, Task};
use pairs::{RankerTask, Ranking};
use program::{Frame, Program, Sizes};
use sizes::{Rooms, buckets};
use towers::{Tower, Uploader};
pub(super) use vectors::VectorSearch;
use work::{Kind, Work};

use super::backend::{Backend, Output, Pairs};
use super::error::in_batch;
use super::options::UnknownIds;
use super::{EngineError, Options, Side, WhenBusy};
use crate::Result;
use crate::catalogue::{Catalogue, Hits};
use crate::cuda::head::Head;
use crate::cuda::pixels::PixelTable;
use crate::cuda::{CudaError, Device, Precision, topk};
use crate::input::{Column, Features, PixelScaling};
use crate::model::{Config, EncoderPlan, Normalize, Plan, RankerPlan};
use crate::weights::Checkpoint;

/// A model on a device.
pub(crate) struct Model {
    /// Dropped first: contexts hold streams and graphs of the device.
    contexts: Pool<Context<Recordings>>,
    corpora: Corpora,
    query: Encoder,
    item: Encoder,
    ranker: Option<Ranker>,
    works: Vec<Work>,
    /// The normalised value of each byte of each channel, where there are images.
    scaling: Option<PixelTable>,
    rooms: Rooms,
    unknown_ids: UnknownIds,
    precision: Precision,
    when_busy: WhenBusy,
    device: Device,
}

/// What a context of a model has recorded.
#[derive(Default)]
struct Recordings {
    encodings: Graphs<Encoding>,
    rankings: Graphs<Ranking>,
}

impl AsMut<Graphs<Encoding>> for Recordings {
    fn as_mut(&mut self) -> &mut Graphs<Encoding> {
        &mut self.encodings
    }
}

impl AsMut<Graphs<Ranking>> for Recordings {
    fn as_mut(&mut self) -> &mut Graphs<Ranking> {
        &mut self.rankings
    }
}

struct Encoder {
    towers: Vec<Arc<Tower>>,
    head: Head,
    width: usize,
    bias: Option<Vec<f32>>,
}

struct Ranker {
    query: Vec<Arc<Tower>>,
    item: Vec<Arc<Tower>>,
    head: Head,
}

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
            corpora: Corpora::default(),
            query,
            item,
            ranker,
            works: Vec::new(),
            scaling: scaling.transpose()?,
            rooms: Rooms::new(config, plan, options.rows_at_once),
            unknown_ids: options.unknown_ids,
            precision: options.precision,
            when_busy: options.when_busy,
            device,
        };
        model.works = model.works()?;
        let sizes = model.sizes()?;
        let contexts = (0..options.contexts).map(|_| Context::new(&model.device, sizes));
        model.contexts = Pool::new(contexts.collect::<Result<_, _>>()?);
        Ok(model)
    }

    /// Every kind of call that the model answers.
    fn works(&self) -> Result<Vec<Work>, CudaError> {
        let sides = [Side::Query, Side::Item];
        let mut kinds: Vec<Kind> = sides.map(Kind::Vectors).into();
        kinds.push(Kind::Terms);
        if self.ranker.is_some() {
            kinds.extend(sides.map(Kind::VectorsAndRanker));
            kinds.push(Kind::RankerTowers);
        }
        let work = |kind: Kind| {
            let side = kind.side();
            Work::new(kind, &self.encoder(side).towers, self.ranker_towers(side), &self.rooms)
        };
        kinds.into_iter().map(work).collect()
    }

    /// What any call needs at most.
    fn sizes(&self) -> Result<Sizes, CudaError> {
        let mut sizes = Sizes::default();
        let batch = self.rooms.rows_at_once;
        for work in &self.works {
            let task = Task { model: self, work, target: None };
            for pixels in [Pixels::Bytes, Pixels::Floats] {
                // A layer may need more workspace for few rows than for many: each size counts.
                for batch in buckets(batch) {
                    for images in buckets(batch) {
                        let buckets = sizes::Buckets { batch, images, ..self.rooms.largest(pixels) };
                        sizes = sizes.max(Encoding::plan(task.key(buckets), task)?.frame().sizes());
                    }
                }
            }
        }
        // A search adds its workspace and the keys to what the vectors take.
        let mut search = Frame::new(batch);
        search.upload.place::<u8>(sizes.upload);
        search.scratch.place::<u8>(sizes.scratch);
        search.scratch.place::<f32>(batch.saturating_mul(self.query.width));
        search.scratch.place::<u8>(topk::MOST_WORKSPACE);
        search.download.place::<u8>(sizes.download);
        search.download.place::<u64>(MOST_KEYS);
        sizes = sizes.max(search.sizes());
        if let Some(ranker) = &self.ranker {
            let task = RankerTask { ranker, precision: self.precision };
            for pairs in buckets(self.most_pairs()) {
                sizes = sizes.max(Ranking::plan(pairs::largest(pairs), task)?.frame().sizes());
            }
        }
        Ok(sizes)
    }

    fn encoder(&self, side: Side) -> &Encoder {
        match side {
            Side::Query => &self.query,
            Side::Item => &self.item,
        }
    }

    fn ranker_towers(&self, side: Side) -> &[Arc<Tower>] {
        match (&self.ranker, side) {
            (Some(ranker), Side::Query) => &ranker.query,
            (Some(ranker), Side::Item) => &ranker.item,
            (None, _) => &[],
        }
    }

    /// What a kind of call does.
    fn task<'a>(&'a self, kind: Kind, target: Option<Target<'a>>) -> Result<Task<'a>, EngineError> {
        let work = self.works.iter().find(|work| work.kind == kind).ok_or(EngineError::NoRanker)?;
        Ok(Task { model: self, work, target })
    }

    /// Encodes a batch in parts of at most `most` rows, all in one context, and gives `read` what each left, with the
    /// part and its first row.
    fn run(
        &self,
        task: Task<'_>,
        features: &Features,
        most: usize,
        mut read: impl FnMut(&Finished<'_, Encoding>, usize, &Features) -> Result<()>,
    ) -> Result<()> {
        task.work.check(features)?;
        self.rooms.check(task.work.side(), features, task.work.modalities())?;
        if features.batch() == 0 {
            return Ok(());
        }
        let mut context = self.contexts.check_out(self.when_busy)?;
        let mut run = |first: usize, part: &Features| {
            let key = task.key(self.rooms.buckets(part, task.work.modalities()));
            let finished = context.run::<Encoding>(key, task, part.batch(), |encoding, upload| {
                encoding.write(self, part, upload)
            })?;
            match finished.fault {
                None => read(&finished, first, part),
                Some(fault) => Err(fault.explain(task, part, &finished)),
            }
        };
        match self.rooms.parts(features, most, task.work.modalities()).as_slice() {
            [_] => run(0, features),
            parts => parts.iter().try_for_each(|rows| {
                run(rows.start, &features.part(rows.clone())).map_err(|error| in_batch(error, rows.start))
            }),
        }
    }

    /// Adds the outputs of those towers that a part of a batch kept to those of its earlier parts.
    fn read_kept(
        &self,
        work: &Work,
        finished: &Finished<'_, Encoding>,
        (first, part): (usize, &Features),
        outputs: &mut [Output],
    ) -> Result<()> {
        let runs = work.runs.iter().zip(&finished.program.outputs).filter(|(run, _)| run.kept);
        for ((run, place), output) in runs.zip(outputs) {
            let rows = part.column(run.tower.input).map_or(&[][..], Column::rows);
            output.rows.extend(rows.iter().map(|row| first + row));
            let values = place.in_host(finished.download)?;
            output.data.extend(columns::to_f32(values, self.precision, rows.len() * run.tower.width));
        }
        Ok(())
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
        self.rooms.rows_at_once
    }

    fn encode(
        &self,
        side: Side,
        features: &Features,
        vectors: &mut [f32],
        ranker: bool,
    ) -> Result<Vec<Output>> {
        let width = self.encoder(side).width;
        let kind = if ranker { Kind::VectorsAndRanker(side) } else { Kind::Vectors(side) };
        let task = self.task(kind, None)?;
        let mut outputs = if ranker { none_of(self.ranker_towers(side)) } else { Vec::new() };
        self.run(task, features, self.rooms.rows_at_once, |finished, first, part| {
            let found = finished.program.vectors()?.in_host(finished.download)?;
            let found = &found[..part.batch() * width];
            vectors[first * width..][..found.len()].copy_from_slice(found);
            self.read_kept(task.work, finished, (first, part), &mut outputs)
        })?;
        Ok(outputs)
    }

    fn prepare(&self, catalogue: &Catalogue) -> Result<()> {
        self.corpora.get(&self.device, catalogue)?;
        Ok(())
    }

    fn search(&self, catalogue: &Catalogue, features: &Features, k: usize) -> Result<Vec<Hits>> {
        let corpus = self.corpora.get(&self.device, catalogue)?;
        let target = Target::new(catalogue, &corpus, k);
        let task = self.task(Kind::Vectors(Side::Query), Some(target))?;
        let most = target.most_queries().min(self.rooms.rows_at_once);
        let mut answers = Vec::with_capacity(features.batch());
        self.run(task, features, most, |finished, _, part| {
            let vectors = finished.program.vectors()?;
            if vectors.download {
                let vectors = vectors.in_host(finished.download)?;
                catalogue.check_queries(&vectors[..part.batch() * self.query.width])?;
            }
            let search = finished.program.search()?;
            Ok(search.read(target, part.batch(), finished.download, &mut answers)?)
        })?;
        Ok(answers)
    }

    fn query_terms(&self, features: &Features) -> Result<Vec<Output>> {
        let width = self.query.head.part_outputs();
        let mut terms = none_of(&self.query.towers);
        terms.iter_mut().for_each(|term| term.width = width);
        let task = self.task(Kind::Terms, None)?;
        self.run(task, features, self.rooms.rows_at_once, |finished, first, part| {
            for (term, place) in terms.iter_mut().zip(finished.program.terms()) {
                let values = place.in_host(finished.download)?; // [batch, width]
                for &row in part.column(term.modality).map_or(&[][..], Column::rows) {
                    term.rows.push(first + row);
                    term.data.extend_from_slice(&values[row * width..][..width]);
                }
            }
            Ok(())
        })?;
        Ok(terms)
    }

    fn query_bias(&self) -> Option<&[f32]> {
        self.query.bias.as_deref()
    }

    fn ranker_query_towers(&self, features: &Features) -> Result<Vec<Output>> {
        let mut outputs = none_of(self.ranker_towers(Side::Query));
        let task = self.task(Kind::RankerTowers, None)?;
        self.run(task, features, self.rooms.rows_at_once, |finished, first, part| {
            self.read_kept(task.work, finished, (first, part), &mut outputs)
        })?;
        Ok(outputs)
    }

    fn rank(&self, pairs: &Pairs<'_>, scores: &mut [f32]) -> Result<()> {
        let ranker = self.ranker.as_ref().ok_or(EngineError::NoRanker)?;
        self.rank_pairs(ranker, pairs, scores)
    }
}

/// No rows yet of each tower's output.
fn none_of(towers: &[Arc<Tower>]) -> Vec<Output> {
    let none = |tower: &Arc<Tower>| {
        let (modality, width) = (tower.input, tower.width);
        Output { modality, width, rows: Vec::new(), data: Vec::new() }
    };
    towers.iter().map(none).collect()
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
    Ok(Ranker { query, item, head })
}
