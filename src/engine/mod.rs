//! The engine: a model opened on a device, and the one place that picks the backend.

mod backend;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod devices;
mod encode;
mod error;
mod explain;
mod options;
mod rank;
mod searcher;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use backend::Backend;
pub use devices::{DeviceReport, devices};
pub use error::{EngineError, RowError};
pub use explain::Parts;
pub use options::{Device, MAX_ROWS_AT_ONCE, Options, Precision, Source, UnknownId, UnknownIds, WhenBusy};
pub use rank::RankedHit;
pub use searcher::{Searcher, SearcherOptions};

#[cfg(doc)]
use crate::Error;
use crate::Result;
use crate::catalogue::{Answer, Catalogue, Hits, Metric, check_k};
use crate::cpu::Isa;
use crate::input::{Features, ImagePreprocessor, Modality, Preprocessor, Request};
use crate::model::{Config, EncoderPlan, ModelError, Normalize, Plan, TowerOp};
use crate::weights::Checkpoint;

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
///
/// Under [`Source::Mmap`] the model's files must not be changed in place while it is open: replace them by rename. On the
/// CPU, an encoding that meets a changed file fails with [`Error::Weights`] instead of answering from it. A CUDA device
/// has its copy of the weights from the time of opening, and answers from that whatever becomes of the files.
///
/// On a device, calls take turns in its execution contexts, of which there are [`Options::contexts`], and fail with
/// `Error::Cuda` by [`ErrorKind`](crate::ErrorKind): overloaded if all contexts are in use and the caller does not wait,
/// out of memory for this one call, device lost for this call and, at once, for every later one.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    folder: PathBuf,
    config: Config,
    plan: Plan,
    checkpoint: Arc<Checkpoint>,
    preprocessor: Preprocessor,
    backend: Box<dyn Backend>,
    pool: Option<rayon::ThreadPool>,
    /// What the configuration and the tokenizer hash to; the weights join at the first call for the fingerprint.
    files: blake3::Hasher,
    fingerprint: OnceLock<String>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (folder, device) = (&self.inner.folder, self.device());
        f.debug_struct("Engine").field("folder", folder).field("device", &device).finish_non_exhaustive()
    }
}

impl Engine {
    /// Opens the model folder `model`: reads `config.json`, maps and checks the weights, loads the tokenizer, packs the
    /// weights for the device.
    ///
    /// # Errors
    /// [`Error::Model`] and [`Error::Weights`] for a folder that is not a model, with everything that is wrong at once;
    /// [`Error::Input`] for its tokenizer; [`EngineError::Vocabulary`] for a tokenizer of another model,
    /// [`EngineError::DefaultRow`] for options that the model's tables cannot follow, [`EngineError::NoThreads`],
    /// [`EngineError::Threads`], [`EngineError::RowsAtOnce`], [`EngineError::NoContexts`]; [`EngineError::NoCuda`] and, with
    /// the feature `cuda`, `Error::Cuda` for a card that cannot be used or has no room.
    pub fn open(model: impl AsRef<Path>, options: Options) -> Result<Engine> {
        options.check()?;
        let folder = model.as_ref().to_path_buf();
        let config = Config::load(&folder)?;
        let checkpoint = Arc::new(Checkpoint::open(&folder, options.source)?);
        let plan = Plan::new(&config, &checkpoint, &folder.join("config.json"))?;
        if options.validate_values {
            checkpoint.validate_values()?;
        }
        let preprocessor = Preprocessor::open(&folder, &config.inputs)?;
        let files = hash_files(&folder, &config)?;
        let largest_token = preprocessor.text().map(|text| text.largest_id());
        check_tables(&plan, &options.unknown_ids, largest_token)?;
        let pool = options.threads.map(pool).transpose()?;
        let scaling = preprocessor.image().map(ImagePreprocessor::scaling);
        let build = || -> Result<Box<dyn Backend>> {
            match options.device {
                Device::Cpu => {
                    let unknown_ids = options.unknown_ids;
                    Ok(Box::new(cpu::Model::new(&plan, &checkpoint, scaling, unknown_ids, Isa::best())?))
                }
                #[cfg(feature = "cuda")]
                Device::Cuda(ordinal) => {
                    Ok(Box::new(cuda::Model::open(ordinal, &config, &plan, &checkpoint, scaling, &options)?))
                }
                #[cfg(not(feature = "cuda"))]
                Device::Cuda(_) => Err(EngineError::NoCuda.into()),
            }
        };
        let backend = match &pool {
            Some(pool) => pool.install(build),
            None => build(),
        }?;
        checkpoint.unchanged()?; // what was packed is what was checked
        let fingerprint = OnceLock::new();
        let inner =
            Inner { folder, config, plan, checkpoint, preprocessor, backend, pool, files, fingerprint };
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

    /// Where the work runs and how, in words, such as `cpu, avx512, 8 threads`. The threads prepare requests on any
    /// device.
    pub fn device(&self) -> String {
        let threads = self.install(rayon::current_num_threads);
        format!("{}, {threads} threads", self.inner.backend.describe())
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

    /// A hash of `config.json`, the tokenizer and the weights as they were opened, in hexadecimal: vectors of models
    /// with different fingerprints do not mix. The first call reads every weight.
    ///
    /// # Errors
    /// [`Error::Weights`] if a mapped file was changed in place.
    pub fn fingerprint(&self) -> Result<&str> {
        if let Some(fingerprint) = self.inner.fingerprint.get() {
            return Ok(fingerprint);
        }
        let mut hasher = self.inner.files.clone();
        hasher.update(&self.inner.checkpoint.fingerprint());
        self.inner.checkpoint.unchanged()?;
        Ok(self.inner.fingerprint.get_or_init(|| hasher.finalize().to_hex().to_string()))
    }

    /// Brings a catalogue to the device, where it is searched. The first search does so too; until the last handle of
    /// the catalogue is gone, searches find it there. The device's memory is free again when this engine next prepares or
    /// searches any catalogue. On the CPU there is nothing to do.
    ///
    /// # Errors
    /// [`EngineError::CatalogueWidth`]; of a device, that it has no room or is lost.
    pub fn prepare(&self, catalogue: &Catalogue) -> Result<()> {
        self.check_catalogue(catalogue)?;
        self.inner.backend.prepare(catalogue)
    }

    /// The best `k` products of `catalogue` for each request.
    ///
    /// # Errors
    /// As [`Engine::encode_queries`], [`EngineError::CatalogueWidth`], and [`Error::Catalogue`] for a `k` out of range.
    pub fn search(&self, catalogue: &Catalogue, requests: &[Request], k: usize) -> Result<Vec<Hits>> {
        self.check_catalogue(catalogue)?;
        check_k(k)?;
        let mut answers = Vec::with_capacity(requests.len());
        self.in_parts(Side::Query, requests, |_, features| {
            answers.extend(self.search_rows(catalogue, features, k)?);
            Ok(())
        })?;
        Ok(answers)
    }

    /// [`Engine::search`] for tensors, ready-made or of [`Engine::preprocess`].
    ///
    /// # Errors
    /// As [`Engine::search`], and [`EngineError::Form`].
    pub fn search_features(&self, catalogue: &Catalogue, features: &Features, k: usize) -> Result<Vec<Hits>> {
        self.check_catalogue(catalogue)?;
        check_k(k)?;
        self.install(|| self.search_rows(catalogue, features, k))
    }

    /// [`Engine::search`] into the caller's slices, as [`Catalogue::search_into`] fills them: `ids` and `scores` are
    /// `[requests.len(), k]`, `counts` is `[requests.len()]`.
    ///
    /// # Errors
    /// As [`Engine::search`] and [`Catalogue::search_into`].
    pub fn search_into(
        &self,
        catalogue: &Catalogue,
        requests: &[Request],
        k: usize,
        ids: &mut [i64],
        scores: &mut [f32],
        counts: &mut [usize],
    ) -> Result<()> {
        let answer = Answer::new(requests.len(), k, ids, scores, counts)?;
        answer.fill(&self.search(catalogue, requests, k)?);
        Ok(())
    }

    /// Searches for rows whose features are at hand; the catalogue and `k` were checked.
    fn search_rows(&self, catalogue: &Catalogue, features: &Features, k: usize) -> Result<Vec<Hits>> {
        self.check_modalities(Side::Query, features)?; // no more rows than there are values
        self.inner.backend.search(catalogue, features, k)
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

/// What `config.json` and the tokenizer hash to, each with its length before it.
fn hash_files(folder: &Path, config: &Config) -> Result<blake3::Hasher> {
    let mut hasher = blake3::Hasher::new();
    let tokenizer = config.inputs.text.as_ref().map(|text| text.tokenizer.as_str());
    for file in ["config.json"].into_iter().chain(tokenizer) {
        let path = folder.join(file);
        let bytes = std::fs::read(&path).map_err(|source| ModelError::Io { path, source })?;
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(&bytes);
    }
    Ok(hasher)
}

/// Every table has the rows that the tokenizer and the caller's policy for unknown ids need.
fn check_tables(
    plan: &Plan,
    unknown_ids: &UnknownIds,
    largest_token: Option<u32>,
) -> Result<(), EngineError> {
    let ranker = plan.ranker.iter().flat_map(|ranker| ranker.query_towers.iter().chain(&ranker.item_towers));
    for tower in plan.query.towers.iter().chain(&plan.item.towers).chain(ranker) {
        let (TowerOp::Embedding(table) | TowerOp::EmbeddingBag { table, .. }) = &tower.op else { continue };
        let (modality, rows) = (tower.input, table.rows);
        match (unknown_ids[modality as usize], largest_token) {
            (UnknownId::Row(row), _) if row >= rows => {
                return Err(EngineError::DefaultRow { modality, tower: tower.name.clone(), row, rows });
            }
            (UnknownId::Refuse, Some(largest))
                if modality == Modality::Text
                    && usize::try_from(largest).is_ok_and(|largest| largest >= rows) =>
            {
                return Err(EngineError::Vocabulary { tower: tower.name.clone(), largest, rows });
            }
            _ => {}
        }
    }
    Ok(())
}

fn pool(threads: usize) -> Result<rayon::ThreadPool> {
    if threads == 0 {
        return Err(EngineError::NoThreads.into());
    }
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("mercer-{index}"))
        .build()
        .map_err(|error| EngineError::Threads { threads, reason: error.to_string() }.into())
}
