//! The engine: a model opened on a device, and the one place that picks the backend.

mod cpu;
mod error;
mod explain;
mod options;
mod rank;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use cpu::Model;
pub use error::EngineError;
pub use explain::Parts;
pub use options::{Device, Options, Source, UnknownId};
pub use rank::RankedHit;

use crate::catalogue::{Catalogue, Hit, Hits, Metric};
use crate::cpu::Isa;
use crate::input::{Features, Modality, Preprocessor, Request};
use crate::model::{Config, EncoderPlan, Normalize, Plan};
use crate::weights::Checkpoint;
use crate::{Error, Result};

/// Rows that are decoded and encoded together: bounds the memory of a long list of requests. The result of a row does
/// not depend on it.
const ROWS_AT_ONCE: usize = 256;

/// The two encoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Encodes requests.
    Query,
    /// Encodes products.
    Item,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Side::Query => "query",
            Side::Item => "item",
        })
    }
}

/// A model opened on a device. Cheap to clone; every call takes `&self` and may run on any number of threads at once.
///
/// A row's result does not depend on the other rows of its batch, on the number of threads or on the instruction set.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    config: Config,
    plan: Plan,
    checkpoint: Arc<Checkpoint>,
    preprocessor: Preprocessor,
    model: Model,
    pool: Option<rayon::ThreadPool>,
    fingerprint: OnceLock<String>,
}

impl Engine {
    /// Opens the model folder `model`: reads `config.json`, maps and checks the weights, loads the tokenizer, packs the
    /// weights for the device.
    ///
    /// # Errors
    /// [`Error::Model`] and [`Error::Weights`] for a folder that is not a model, with everything that is wrong at once;
    /// [`Error::Input`] for its tokenizer; [`EngineError::Threads`].
    pub fn open(model: impl AsRef<Path>, options: Options) -> Result<Engine> {
        let folder = model.as_ref().to_path_buf();
        let config = Config::load(&folder)?;
        let checkpoint = Arc::new(Checkpoint::open(&folder, options.source)?);
        let plan = Plan::new(&config, &checkpoint, &folder.join("config.json"))?;
        if options.validate_values {
            checkpoint.validate_values()?;
        }
        let preprocessor = Preprocessor::open(&folder, &config.inputs)?;
        let pool = options.threads.map(pool).transpose()?;
        let build = || Model::new(&plan, &checkpoint, options.unknown_ids, Isa::best());
        let model = match &pool {
            Some(pool) => pool.install(build),
            None => build(),
        }?;
        checkpoint.unchanged()?; // what was packed is what was checked
        let fingerprint = OnceLock::new();
        let inner = Inner { folder, config, plan, checkpoint, preprocessor, model, pool, fingerprint };
        Ok(Engine { inner: Arc::new(inner) })
    }

    /// The model's folder.
    pub fn folder(&self) -> &Path {
        &self.inner.folder
    }

    /// The model's configuration.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// What the model computes, with every shape.
    pub fn plan(&self) -> &Plan {
        &self.inner.plan
    }

    /// The model's weights.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.inner.checkpoint
    }

    /// Where the work runs and how, in words, such as `cpu, avx512, 8 threads`.
    pub fn device(&self) -> String {
        let threads = self.install(rayon::current_num_threads);
        format!("cpu, {}, {threads} threads", self.inner.model.isa())
    }

    /// Length of the vectors.
    pub fn dim(&self) -> usize {
        self.inner.plan.item.width
    }

    /// How a catalogue of this model scores: by cosine if the item encoder normalises, else by inner product.
    pub fn metric(&self) -> Metric {
        match self.inner.plan.item.normalize {
            Normalize::L2 => Metric::Cosine,
            Normalize::None => Metric::InnerProduct,
        }
    }

    /// A hash of `config.json`, the tokenizer and the weights, in hexadecimal: vectors of models with different
    /// fingerprints do not mix. The first call reads every weight.
    pub fn fingerprint(&self) -> Result<&str> {
        if let Some(fingerprint) = self.inner.fingerprint.get() {
            return Ok(fingerprint);
        }
        let mut hasher = blake3::Hasher::new();
        let mut files = vec!["config.json"];
        files.extend(self.inner.config.inputs.text.as_ref().map(|text| text.tokenizer.as_str()));
        for file in files {
            let path = self.inner.folder.join(file);
            let bytes =
                std::fs::read(&path).map_err(|source| crate::model::ModelError::Io { path, source })?;
            hasher.update(&(bytes.len() as u64).to_le_bytes()).update(&bytes);
        }
        hasher.update(&self.inner.checkpoint.fingerprint());
        Ok(self.inner.fingerprint.get_or_init(|| hasher.finalize().to_hex().to_string()))
    }

    /// Encodes requests into vectors `[requests.len(), dim]`.
    ///
    /// # Errors
    /// [`Error::Input`] for a request that cannot be read, [`EngineError::Empty`], [`EngineError::Unread`],
    /// [`EngineError::UnknownId`] and [`EngineError::NoDirection`] with the row.
    pub fn encode_queries(&self, requests: &[Request]) -> Result<Vec<f32>> {
        self.encode_all(Side::Query, requests)
    }

    /// [`Engine::encode_queries`] into the caller's `[requests.len(), dim]`.
    ///
    /// # Errors
    /// As [`Engine::encode_queries`], and [`EngineError::OutputLength`].
    pub fn encode_queries_into(&self, requests: &[Request], vectors: &mut [f32]) -> Result<()> {
        self.encode_requests(Side::Query, requests, vectors, None)
    }

    /// Encodes products into vectors `[items.len(), dim]`.
    ///
    /// # Errors
    /// As [`Engine::encode_queries`].
    pub fn encode_items(&self, items: &[Request]) -> Result<Vec<f32>> {
        self.encode_all(Side::Item, items)
    }

    /// [`Engine::encode_items`] into the caller's `[items.len(), dim]`.
    ///
    /// # Errors
    /// As [`Engine::encode_queries_into`].
    pub fn encode_items_into(&self, items: &[Request], vectors: &mut [f32]) -> Result<()> {
        self.encode_requests(Side::Item, items, vectors, None)
    }

    /// Turns requests into the tensors that [`Engine::encode_features`] reads.
    ///
    /// # Errors
    /// [`Error::Input`] for a request that cannot be read, with its row.
    pub fn preprocess(&self, requests: &[Request]) -> Result<Features> {
        Ok(self.install(|| self.inner.preprocessor.features(requests))?)
    }

    /// Encodes ready-made tensors into the caller's `[features.batch(), dim]`.
    ///
    /// # Errors
    /// As [`Engine::encode_queries_into`], and [`EngineError::Form`] for a column of another form than its towers read.
    pub fn encode_features(&self, side: Side, features: &Features, vectors: &mut [f32]) -> Result<()> {
        let plan = self.encoder(side);
        check_output(features.batch(), plan.width, vectors)?;
        check_modalities(side, plan, features)?;
        self.install(|| self.run(side, features, vectors, None))
    }

    /// The best `k` products of `catalogue` for each request.
    ///
    /// # Errors
    /// As [`Engine::encode_queries`], [`EngineError::CatalogueWidth`], and [`Error::Catalogue`] for a `k` out of range.
    pub fn search(&self, catalogue: &Catalogue, requests: &[Request], k: usize) -> Result<Vec<Hits>> {
        self.check_catalogue(catalogue)?;
        let vectors = self.encode_queries(requests)?;
        Ok(self.install(|| catalogue.search(&vectors, k))?)
    }

    fn encode_all(&self, side: Side, requests: &[Request]) -> Result<Vec<f32>> {
        let mut vectors = vec![0.0; requests.len() * self.encoder(side).width]; // [rows, dim]
        self.encode_requests(side, requests, &mut vectors, None)?;
        Ok(vectors)
    }

    /// Encodes requests in bounded memory; `ranker_rows` as in [`Engine::encode_items_for_ranking`].
    fn encode_requests(
        &self,
        side: Side,
        requests: &[Request],
        vectors: &mut [f32],
        mut ranker_rows: Option<&mut [f32]>,
    ) -> Result<()> {
        let plan = self.encoder(side);
        check_output(requests.len(), plan.width, vectors)?;
        let ranker_width = self.ranker_width().unwrap_or(0);
        for first in (0..requests.len()).step_by(ROWS_AT_ONCE) {
            let rows = first..requests.len().min(first + ROWS_AT_ONCE);
            let vectors = &mut vectors[rows.start * plan.width..rows.end * plan.width];
            let ranker_rows =
                ranker_rows.as_mut().map(|all| &mut all[rows.start * ranker_width..rows.end * ranker_width]);
            self.install(|| {
                let features = self.inner.preprocessor.features(&requests[rows])?;
                check_modalities(side, plan, &features)?;
                self.run(side, &features, vectors, ranker_rows)
            })
            .map_err(|error| in_batch(error, first))?;
        }
        Ok(())
    }

    fn run(
        &self,
        side: Side,
        features: &Features,
        vectors: &mut [f32],
        ranker_rows: Option<&mut [f32]>,
    ) -> Result<()> {
        let model = &self.inner.model;
        let towers = model.towers(side, features)?;
        model.finish(side, features.batch(), &towers, vectors)?;
        let Some(ranker_rows) = ranker_rows else { return Ok(()) };
        let width = self.ranker_width().unwrap_or(0);
        let mut first = 0;
        ranker_rows.fill(0.0);
        for tower in model.ranker_towers(side, features, &towers)? {
            for (&row, values) in tower.rows.iter().zip(tower.data.chunks_exact(tower.width)) {
                ranker_rows[row * width + first..][..tower.width].copy_from_slice(values);
            }
            first += tower.width;
        }
        Ok(())
    }

    fn encoder(&self, side: Side) -> &EncoderPlan {
        match side {
            Side::Query => &self.inner.plan.query,
            Side::Item => &self.inner.plan.item,
        }
    }

    fn check_catalogue(&self, catalogue: &Catalogue) -> Result<()> {
        if catalogue.dim() == self.dim() {
            return Ok(());
        }
        Err(EngineError::CatalogueWidth { found: catalogue.dim(), expected: self.dim() }.into())
    }

    /// Runs `work` on the engine's own threads, if it has any.
    fn install<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match &self.inner.pool {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }
}

fn pool(threads: usize) -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("mercer-{index}"))
        .build()
        .map_err(|error| EngineError::Threads { threads, reason: error.to_string() }.into())
}

fn check_output(rows: usize, width: usize, vectors: &[f32]) -> Result<(), EngineError> {
    let (found, expected) = (vectors.len(), rows * width);
    if found == expected { Ok(()) } else { Err(EngineError::OutputLength { found, expected, rows, width }) }
}

/// Every hit is of one of `rows` products.
fn check_rows<'a>(hits: impl IntoIterator<Item = &'a Hit>, rows: usize) -> Result<(), EngineError> {
    match hits.into_iter().find(|hit| hit.row >= rows) {
        Some(hit) => Err(EngineError::UnknownRow { row: hit.row, rows }),
        None => Ok(()),
    }
}

/// Every row has a modality, and a tower reads each one that it has.
fn check_modalities(side: Side, plan: &EncoderPlan, features: &Features) -> Result<(), EngineError> {
    let mut seen = vec![false; features.batch()];
    for modality in Modality::ALL {
        let Some(column) = features.column(modality) else { continue };
        if !plan.reads(modality) {
            return Err(EngineError::Unread { side, row: column.rows()[0], modality });
        }
        for &row in column.rows() {
            seen[row] = true;
        }
    }
    match seen.iter().position(|&seen| !seen) {
        Some(row) => Err(EngineError::Empty { side, row }),
        None => Ok(()),
    }
}

/// An error of a part of a batch, with the row's number in the whole batch.
fn in_batch(error: Error, first: usize) -> Error {
    match error {
        Error::Engine(error) => error.in_batch(first).into(),
        Error::Input(error) => error.in_batch(first).into(),
        other => other,
    }
}
