//! A catalogue on the device, searched by vectors: one upload, the search, one download.

use super::checkout::Pool;
use super::context::{Context, Sizes};
use super::program::{Memory, bucket, largest_bucket, parts};
use super::{Corpus, MOST_KEYS};
use crate::Result;
use crate::catalogue::{Catalogue, Hits, check_k};
use crate::cuda::{CudaError, Device, Layout, Place, Rows, Staged, topk};
use crate::engine::{Options, WhenBusy};

/// A catalogue on a device with what searches it.
pub(in crate::engine) struct VectorSearch {
    /// Dropped before the device.
    contexts: Pool<Context>,
    corpus: Corpus,
    catalogue: Catalogue,
    rows_at_once: usize,
    when_busy: WhenBusy,
    device: Device,
}

/// Where one call of at most `batch` queries for `k` hits has its parts.
struct Places {
    upload: Layout,
    download: Layout,
    plan: topk::Plan,
    count: Place<u32>,
    queries: Place<f32>,
    workspace: Place<u8>,
    keys: Place<u64>,
}

impl Places {
    fn new(corpus: &Corpus, device: &Device, batch: usize, k: usize) -> Result<Places, CudaError> {
        let (mut upload, mut scratch, mut download) =
            (Layout::default(), Layout::default(), Layout::default());
        let plan = topk::Plan::new(&corpus.rows, k, batch, device.info())?;
        let (count, queries) = (upload.place(1), upload.place(batch.saturating_mul(corpus.dim)));
        let workspace = scratch.place(plan.workspace());
        let keys = download.place(batch.saturating_mul(k));
        Ok(Places { upload, download, plan, count, queries, workspace, keys })
    }

    fn enqueue(&self, corpus: &Corpus, staged: &Staged<'_>, memory: &Memory) -> Result<(), CudaError> {
        staged.upload(&memory.upload.part(0..self.upload.bytes())?)?;
        let batch = Rows::new(self.plan.batch(), self.count.of(&memory.upload)?)?;
        let (queries, workspace) = (self.queries.of(&memory.upload)?, self.workspace.of(&memory.scratch)?);
        let keys = self.keys.of(&memory.download)?;
        topk::enqueue(staged.stream(), &self.plan, &corpus.rows, &batch, &queries, &workspace, &keys)?;
        staged.download(&memory.download.part(0..self.download.bytes())?)
    }
}

impl VectorSearch {
    pub(in crate::engine) fn new(
        ordinal: usize,
        catalogue: &Catalogue,
        options: &Options,
    ) -> Result<VectorSearch> {
        let device = Device::open(ordinal)?;
        let corpus = Corpus::upload(&device, catalogue)?;
        let rows_at_once = options.rows_at_once;
        let queries = rows_at_once.saturating_mul(catalogue.dim()).saturating_mul(size_of::<f32>());
        let sizes = Sizes {
            upload: queries.saturating_add(1024),
            scratch: topk::MOST_WORKSPACE + 1024,
            download: MOST_KEYS * size_of::<u64>() + 1024,
        };
        let contexts = (0..options.contexts).map(|_| Context::new(&device, sizes));
        let contexts = Pool::new(contexts.collect::<Result<_, _>>()?);
        let (catalogue, when_busy) = (catalogue.clone(), options.when_busy);
        Ok(VectorSearch { contexts, corpus, catalogue, rows_at_once, when_busy, device })
    }

    pub(in crate::engine) fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    pub(in crate::engine) fn search(&self, queries: &[f32], k: usize) -> Result<Vec<Hits>> {
        check_k(k)?;
        let queries = self.catalogue.prepare(queries)?;
        let dim = self.catalogue.dim();
        let most = largest_bucket(MOST_KEYS / k).min(self.rows_at_once);
        let mut answers = Vec::with_capacity(queries.len() / dim);
        let mut context = self.contexts.check_out(self.when_busy)?;
        for rows in parts(queries.len() / dim, most) {
            let batch = bucket(rows.len(), most);
            let places = Places::new(&self.corpus, &self.device, batch, k)?;
            let upload = context.staging.to_upload();
            places.count.in_host_mut(upload).fill(u32::try_from(rows.len()).unwrap_or(u32::MAX));
            let part = &queries[rows.start * dim..rows.end * dim];
            places.queries.in_host_mut(upload)[..part.len()].copy_from_slice(part);
            context.run_once(|staged, memory| places.enqueue(&self.corpus, staged, memory))?;
            let keys = places.keys.in_host(context.staging.downloaded()).chunks_exact(k).take(rows.len());
            answers.extend(keys.map(|keys| self.corpus.hits(&self.catalogue, keys)));
        }
        Ok(answers)
    }
}
