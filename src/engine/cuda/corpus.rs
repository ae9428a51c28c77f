//! Catalogues on the device, and the search that ends a program.

use std::sync::{Arc, Mutex, PoisonError};

use super::program::{Frame, Launch};
use super::sizes::{bucket, largest_bucket};
use crate::Result;
use crate::catalogue::{Catalogue, CatalogueId, Hits, MAX_K, Metric};
use crate::cuda::{CudaError, Device, DeviceInfo, Place, Precision, Slice, topk};

/// Keys of one search that a context has room for: one answer of the longest, or many short ones.
pub(super) const MOST_KEYS: usize = MAX_K;

/// A catalogue on the device.
pub(super) struct Corpus {
    /// The catalogue's own.
    pub(super) number: u64,
    rows: topk::Corpus,
    pub(super) dim: usize,
    /// Whether queries are normalised before they are scored.
    pub(super) normalized: bool,
}

impl Corpus {
    pub(super) fn upload(device: &Device, catalogue: &Catalogue) -> Result<Corpus, CudaError> {
        let (dim, vectors, ids) = (catalogue.dim(), catalogue.vectors(), catalogue.ids());
        Ok(Corpus {
            number: catalogue.id().number(),
            rows: topk::Corpus::upload(&device.stream()?, dim, vectors, ids, Precision::F32)?,
            dim,
            normalized: catalogue.metric() == Metric::Cosine,
        })
    }
}

/// The catalogues that are on a device.
#[derive(Default)]
pub(super) struct Corpora(Mutex<Vec<(CatalogueId, Slot)>>);

/// A catalogue's place, empty until it is uploaded. Nothing that holds its lock, or a context, may wait for rayon: a
/// thread that waits there takes up other calls, which would want the same lock or context.
type Slot = Arc<Mutex<Option<Arc<Corpus>>>>;

impl Corpora {
    /// The catalogue's rows on the device, uploaded at the first call. Those of catalogues that are gone are freed. Calls
    /// for other catalogues do not wait for an upload.
    pub(super) fn get(&self, device: &Device, catalogue: &Catalogue) -> Result<Arc<Corpus>, CudaError> {
        let (gone, slot) = {
            let mut catalogues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
        Ok(corpus.insert(Arc::new(Corpus::upload(device, catalogue)?)).clone())
    }
}

/// What a search is recorded for: the best `keys` rows of a corpus. The first `k` of them are the answer to any smaller
/// `k`, so that powers of two serve every `k`.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) catalogue: &'a Catalogue,
    pub(super) corpus: &'a Corpus,
    k: usize,
    keys: usize,
}

impl<'a> Target<'a> {
    /// The best `k` rows of a catalogue, which is what was uploaded.
    pub(super) fn new(catalogue: &'a Catalogue, corpus: &'a Corpus, k: usize) -> Target<'a> {
        let keys = bucket(k.min(catalogue.len()).max(1), MAX_K);
        Target { catalogue, corpus, k, keys }
    }

    /// Queries that are searched for together, at most.
    pub(super) fn most_queries(&self) -> usize {
        largest_bucket(MOST_KEYS / self.keys)
    }

    /// What tells its programs from others.
    pub(super) fn key(&self) -> (u64, usize) {
        (self.corpus.number, self.keys)
    }
}

/// The places of a search.
#[derive(Debug)]
pub(super) struct Search {
    plan: topk::Plan,
    workspace: Place<u8>,
    /// `[batch, keys]`
    keys: Place<u64>,
}

impl Search {
    pub(super) fn new(
        frame: &mut Frame,
        target: Target<'_>,
        device: &DeviceInfo,
    ) -> Result<Search, CudaError> {
        let plan = topk::Plan::new(&target.corpus.rows, target.keys, frame.batch, device)?;
        let workspace = frame.scratch.place(plan.workspace());
        let keys = frame.download.place(frame.batch.saturating_mul(target.keys));
        Ok(Search { plan, workspace, keys })
    }

    /// Searches for `[batch, dim]` queries.
    pub(super) fn enqueue(
        &self,
        launch: &Launch<'_>,
        corpus: &Corpus,
        queries: &Slice<f32>,
    ) -> Result<(), CudaError> {
        let workspace = launch.scratch(&self.workspace)?;
        let keys = self.keys.of(&launch.memory.download)?;
        topk::enqueue(launch.stream, &self.plan, &corpus.rows, &launch.batch, queries, &workspace, &keys)
    }

    /// Adds the hits of `queries` queries to `answers`.
    pub(super) fn read(
        &self,
        target: Target<'_>,
        queries: usize,
        download: &[u8],
        answers: &mut Vec<Hits>,
    ) -> Result<(), CudaError> {
        let keys = self.keys.in_host(download)?.chunks_exact(target.keys).take(queries);
        answers.extend(keys.map(|keys| {
            let hits = target.corpus.rows.hits(target.catalogue.ids(), &keys[..target.k.min(target.keys)]);
            Hits::exhaustive(hits, target.catalogue.len())
        }));
        Ok(())
    }
}
