//! Execution contexts: a stream, its memory and the graphs recorded on it, used by one call at a time.

use std::sync::Arc;

use super::program::{Key, Memory, Program};
use super::{Corpus, Model};
use crate::cuda::{CudaError, Device, Layout, Slice, Staged, StagedGraph, Staging};

/// Graphs that a context keeps; beyond it the one that was used longest ago goes.
const MOST_GRAPHS: usize = 64;

/// A stream with its memory.
pub(super) struct Context {
    /// The longest unused first.
    recorded: Vec<Recorded>,
    memory: Memory,
    /// The stream, and what is uploaded and downloaded.
    pub(super) staging: Staging,
}

struct Recorded {
    key: Key,
    program: Arc<Program>,
    graph: StagedGraph,
}

/// Bytes of a context's buffers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) upload: usize,
    pub(super) scratch: usize,
    pub(super) download: usize,
}

impl Sizes {
    /// The least that holds these layouts too.
    pub(super) fn with(self, upload: &Layout, scratch: &Layout, download: &Layout) -> Sizes {
        Sizes {
            upload: self.upload.max(upload.bytes()),
            scratch: self.scratch.max(scratch.bytes()),
            download: self.download.max(download.bytes()),
        }
    }
}

impl Context {
    pub(super) fn new(device: &Device, sizes: Sizes) -> Result<Context, CudaError> {
        // Each starts where an allocation of the driver may.
        let [upload, scratch, download] = [sizes.upload, sizes.scratch, sizes.download]
            .map(|bytes| bytes.checked_next_multiple_of(256).unwrap_or(usize::MAX));
        let total = upload.saturating_add(scratch).saturating_add(download);
        let arena = Slice::<u8>::new(device, "an execution context", total)?;
        let memory = Memory {
            upload: arena.part(0..upload)?,
            scratch: arena.part(upload..upload.saturating_add(scratch))?,
            download: arena.part(upload.saturating_add(scratch)..total)?,
        };
        let staging = Staging::new(device, upload, download)?;
        Ok(Context { recorded: Vec::new(), memory, staging })
    }

    /// The program of a key, recorded at its first use.
    pub(super) fn program(
        &mut self,
        model: &Model,
        key: Key,
        corpus: Option<&Arc<Corpus>>,
    ) -> Result<Arc<Program>, CudaError> {
        if let Some(at) = self.recorded.iter().position(|recorded| recorded.key == key) {
            let recorded = self.recorded.remove(at);
            let program = recorded.program.clone();
            self.recorded.push(recorded);
            return Ok(program);
        }
        let program = Arc::new(Program::new(model, key, corpus.map(Arc::as_ref))?);
        let graph =
            self.staging.record(|staged| program.enqueue(model, key, corpus, staged, &self.memory))?;
        if self.recorded.len() == MOST_GRAPHS {
            self.recorded.remove(0);
        }
        self.recorded.push(Recorded { key, program: program.clone(), graph });
        Ok(program)
    }

    /// Runs the graph that [`Context::program`] returned last and waits for it.
    pub(super) fn run(&mut self) -> Result<(), CudaError> {
        self.recorded.last().map_or(Ok(()), |recorded| self.staging.replay(&recorded.graph))
    }

    /// Puts work that is not recorded on the stream and waits for it.
    pub(super) fn run_once(
        &mut self,
        work: impl FnOnce(&Staged<'_>, &Memory) -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        self.staging.run(|staged| work(staged, &self.memory))
    }
}
