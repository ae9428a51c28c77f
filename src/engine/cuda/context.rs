//! Execution contexts: a stream, its memory and the graphs recorded on it, used by one call at a time.

use std::sync::Arc;

use super::program::{Key, Memory, Program};
use super::{Corpus, Model};
use crate::cuda::{CudaError, Device, Graph, Layout, Pinned, Slice, Stream};

/// Graphs that a context keeps; beyond it the one that was used longest ago goes.
const MOST_GRAPHS: usize = 64;

/// A stream with its memory.
pub(super) struct Context {
    /// The longest unused first.
    recorded: Vec<Recorded>,
    stream: Stream,
    memory: Memory,
    /// What is uploaded and downloaded.
    pub(super) host: Host,
}

pub(super) struct Host {
    pub(super) upload: Pinned<u8>,
    pub(super) download: Pinned<u8>,
}

struct Recorded {
    key: Key,
    program: Arc<Program>,
    graph: Graph,
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
        let host = Host {
            upload: Pinned::new(device, "the staging buffer of uploads", upload)?,
            download: Pinned::new(device, "the staging buffer of downloads", download)?,
        };
        Ok(Context { recorded: Vec::new(), stream: device.stream()?, memory, host })
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
        let Context { stream, memory, host, .. } = self;
        let graph = stream.record(|| {
            program.enqueue(model, key, corpus, stream, memory, (&host.upload, &mut host.download))
        })?;
        if self.recorded.len() == MOST_GRAPHS {
            self.recorded.remove(0);
        }
        self.recorded.push(Recorded { key, program: program.clone(), graph });
        Ok(program)
    }

    /// Runs the graph that [`Context::program`] returned last and waits for it.
    pub(super) fn run(&mut self) -> Result<(), CudaError> {
        let launched = self.recorded.last().map_or(Ok(()), |recorded| recorded.graph.launch());
        self.finish(launched)
    }

    /// Puts work that is not recorded on the stream and waits for it.
    pub(super) fn run_once(
        &mut self,
        work: impl FnOnce(&Stream, &Memory, &mut Host) -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        let enqueued = work(&self.stream, &self.memory, &mut self.host);
        self.finish(enqueued)
    }

    /// Waits for whatever was put on the stream, also if some of it could not be: it may read and write the host's memory.
    fn finish(&mut self, enqueued: Result<(), CudaError>) -> Result<(), CudaError> {
        let finished = self.stream.synchronize();
        enqueued.and(finished)
    }
}

impl Drop for Context {
    /// Waits for work that a call left behind before its memory goes.
    fn drop(&mut self) {
        let _ = self.stream.synchronize();
    }
}
