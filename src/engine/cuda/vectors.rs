//! The program of searching by vectors, and what serves it: a catalogue on a device, without a model.

use super::checkout::Pool;
use super::columns::copy;
use super::context::{Context, Graphs};
use super::corpus::{Corpus, MOST_KEYS, Search, Target};
use super::program::{Frame, Launch, Program};
use super::sizes::{bucket, parts};
use crate::Result;
use crate::catalogue::{Catalogue, Hits, check_k};
use crate::cuda::{CudaError, Device, Place, topk};
use crate::engine::{SearcherOptions, WhenBusy};

/// A catalogue on a device with what searches it.
pub(in crate::engine) struct VectorSearch {
    /// Dropped before the device.
    contexts: Pool<Context<Graphs<Queries>>>,
    corpus: Corpus,
    catalogue: Catalogue,
    queries_at_once: usize,
    when_busy: WhenBusy,
    device: Device,
}

/// The places of one search.
struct Queries {
    frame: Frame,
    /// `[batch, dim]`
    queries: Place<f32>,
    search: Search,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    batch: usize,
    target: (u64, usize),
}

impl Program for Queries {
    type Key = Key;
    type With<'a> = (&'a Device, Target<'a>);

    fn plan(key: Key, (device, target): (&Device, Target<'_>)) -> Result<Queries, CudaError> {
        let mut frame = Frame::new(key.batch);
        let queries = frame.upload.place(key.batch.saturating_mul(target.corpus.dim));
        let search = Search::new(&mut frame, target, device.info())?;
        Ok(Queries { frame, queries, search })
    }

    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn enqueue(&self, (_, target): (&Device, Target<'_>), launch: &Launch<'_>) -> Result<(), CudaError> {
        self.search.enqueue(launch, target.corpus, &launch.uploaded(&self.queries)?)
    }
}

impl VectorSearch {
    pub(in crate::engine) fn new(
        ordinal: usize,
        catalogue: &Catalogue,
        options: &SearcherOptions,
    ) -> Result<VectorSearch> {
        let device = Device::open(ordinal)?;
        let corpus = Corpus::upload(&device, catalogue)?;
        let queries_at_once = options.queries_at_once;
        let mut largest = Frame::new(queries_at_once);
        largest.upload.place::<f32>(queries_at_once.saturating_mul(catalogue.dim()));
        largest.scratch.place::<u8>(topk::MOST_WORKSPACE);
        largest.download.place::<u64>(MOST_KEYS);
        let contexts = (0..options.contexts).map(|_| Context::new(&device, largest.sizes()));
        let contexts = Pool::new(contexts.collect::<Result<_, _>>()?);
        let (catalogue, when_busy) = (catalogue.clone(), options.when_busy);
        Ok(VectorSearch { contexts, corpus, catalogue, queries_at_once, when_busy, device })
    }

    pub(in crate::engine) fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    pub(in crate::engine) fn search(&self, queries: &[f32], k: usize) -> Result<Vec<Hits>> {
        check_k(k)?;
        let queries = self.catalogue.prepare(queries)?;
        if queries.is_empty() {
            return Ok(Vec::new());
        }
        let dim = self.catalogue.dim();
        let target = Target::new(&self.catalogue, &self.corpus, k);
        let most = target.most_queries().min(self.queries_at_once);
        let mut answers = Vec::with_capacity(queries.len() / dim);
        let mut context = self.contexts.check_out(self.when_busy)?;
        for rows in parts(queries.len() / dim, most) {
            let key = Key { batch: bucket(rows.len(), most), target: target.key() };
            let part = &queries[rows.start * dim..rows.end * dim];
            let with = (&self.device, target);
            let finished = context.run::<Queries>(key, with, rows.len(), |program, upload| {
                copy(part, program.queries.in_host_mut(upload)?)
            })?;
            finished.expect_no_fault("topk")?;
            finished.program.search.read(target, rows.len(), finished.download, &mut answers)?;
        }
        Ok(answers)
    }
}
