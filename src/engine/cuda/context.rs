//! Execution contexts: a stream, its memory and the programs recorded on it, used by one call at a time.

use super::fault::Fault;
use super::program::{Launch, Memory, Program, Sizes};
use crate::cuda::{CudaError, Device, Slice, Staged, StagedGraph, Staging, Stream};

/// Programs of one kind that a context keeps; beyond it the one that was used longest ago goes.
const MOST_GRAPHS: usize = 128;

/// A stream with its memory; `G` holds [`Graphs`] of each kind of program that runs here. A call that fails leaves it as
/// it was, or the device is lost.
pub(super) struct Context<G> {
    graphs: G,
    memory: Memory,
    staging: Staging,
}

/// Programs of one kind as they were recorded, the longest unused first.
pub(super) struct Graphs<P: Program>(Vec<Recorded<P>>);

struct Recorded<P: Program> {
    key: P::Key,
    program: P,
    graph: StagedGraph,
}

/// A program that has run, and what it left.
pub(super) struct Finished<'a, P> {
    pub(super) program: &'a P,
    /// What was downloaded.
    pub(super) download: &'a [u8],
    /// What the kernels found wrong.
    pub(super) fault: Option<Fault>,
    /// The device's memory, as the program left it, and the stream that it ran on.
    pub(super) memory: &'a Memory,
    pub(super) stream: &'a Stream,
}

impl<P> Finished<'_, P> {
    /// Fails if `kernel` found something wrong where nothing can be.
    pub(super) fn expect_no_fault(&self, kernel: &'static str) -> Result<(), CudaError> {
        self.fault.map_or(Ok(()), |fault| Err(fault.unexplained(kernel)))
    }
}

impl<P: Program> Default for Graphs<P> {
    fn default() -> Graphs<P> {
        Graphs(Vec::new())
    }
}

impl<P: Program> AsMut<Graphs<P>> for Graphs<P> {
    fn as_mut(&mut self) -> &mut Graphs<P> {
        self
    }
}

impl<P: Program> Graphs<P> {
    /// Makes the program of a key the last, recorded if it is not there.
    fn bring(
        &mut self,
        key: P::Key,
        record: impl FnOnce() -> Result<(P, StagedGraph), CudaError>,
    ) -> Result<&Recorded<P>, CudaError> {
        let recorded = match self.0.iter().position(|recorded| recorded.key == key) {
            Some(at) => self.0.remove(at),
            None => {
                let (program, graph) = record()?;
                if self.0.len() == MOST_GRAPHS {
                    self.0.retain(|recorded| recorded.graph.is_whole()); // the others are of catalogues that are gone
                }
                if self.0.len() == MOST_GRAPHS {
                    self.0.remove(0);
                }
                Recorded { key, program, graph }
            }
        };
        Ok(self.0.push_mut(recorded))
    }
}

impl<G: Default> Context<G> {
    pub(super) fn new(device: &Device, sizes: Sizes) -> Result<Context<G>, CudaError> {
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
        Ok(Context { graphs: G::default(), memory, staging: Staging::new(device, upload, download)? })
    }

    /// Runs the program of `key`, recorded at its first use, on `rows` rows that `write` brings to where they are uploaded
    /// from, and waits for it.
    pub(super) fn run<P: Program>(
        &mut self,
        key: P::Key,
        with: P::With<'_>,
        rows: usize,
        write: impl FnOnce(&P, &mut [u8]) -> Result<(), CudaError>,
    ) -> Result<Finished<'_, P>, CudaError>
    where
        G: AsMut<Graphs<P>>,
    {
        let Context { graphs, memory, staging } = self;
        let Recorded { program, graph, .. } = graphs.as_mut().bring(key, || {
            let program = P::plan(key, with)?;
            let graph = staging.record(|staged| record(&program, with, staged, memory))?;
            Ok((program, graph))
        })?;
        program.frame().write_count(rows, staging.to_upload())?;
        write(program, staging.to_upload())?;
        staging.replay(graph)?;
        let download = staging.downloaded();
        let fault = program.frame().fault(download)?;
        Ok(Finished { program, download, fault, memory, stream: staging.stream() })
    }
}

/// Puts a whole call on a stream: upload, launches, download.
fn record<P: Program>(
    program: &P,
    with: P::With<'_>,
    staged: &Staged<'_>,
    memory: &Memory,
) -> Result<(), CudaError> {
    let frame = program.frame();
    let launch = Launch::new(frame, staged.stream(), memory)?;
    staged.stream().fill(&launch.fault, 0xFF)?;
    staged.upload(&memory.upload.part(0..frame.upload.bytes())?)?;
    program.enqueue(with, &launch)?;
    staged.download(&memory.download.part(0..frame.download.bytes())?)
}
