//! Execution contexts: a stream, its memory and the programs recorded on it, used by one call at a time.

use super::fault::Fault;
use super::program::{Host, Launch, Memory, Program, Sizes};
use crate::cuda::{CudaError, Device, Graph, Pinned, Slice, Stream};

/// Programs of one kind that a context keeps; beyond it the one that was used longest ago goes.
const MOST_GRAPHS: usize = 64;

/// A stream with its memory; `G` holds [`Graphs`] of each kind of program that runs here.
pub(super) struct Context<G> {
    /// `None` after a failure that left the stream in doubt, until the next call.
    parts: Option<Parts<G>>,
    sizes: Sizes,
    device: Device,
}

/// They go in this order.
struct Parts<G> {
    graphs: G,
    stream: Stream,
    memory: Memory,
    host: Host,
}

/// Programs of one kind as they were recorded, the longest unused first.
pub(super) struct Graphs<P: Program>(Vec<Recorded<P>>);

struct Recorded<P: Program> {
    key: P::Key,
    program: P,
    graph: Graph,
}

/// A program that has run, and what it left.
pub(super) struct Finished<'a, P> {
    pub(super) program: &'a P,
    /// What was downloaded.
    pub(super) download: &'a [u8],
    /// What the kernels found wrong.
    pub(super) fault: Option<Fault>,
    /// The device's memory, as the program left it.
    pub(super) memory: &'a Memory,
    pub(super) stream: &'a Stream,
}

impl<P> Finished<'_, P> {
    /// Fails if a kernel found something wrong where nothing can be.
    pub(super) fn expect_no_fault(&self) -> Result<(), CudaError> {
        self.fault.map_or(Ok(()), |fault| Err(fault.unexplained()))
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
        record: impl FnOnce() -> Result<(P, Graph), CudaError>,
    ) -> Result<&Recorded<P>, CudaError> {
        let recorded = match self.0.iter().position(|recorded| recorded.key == key) {
            Some(at) => self.0.remove(at),
            None => {
                let (program, graph) = record()?;
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
        Ok(Context { parts: Some(Parts::new(device, sizes)?), sizes, device: device.clone() })
    }

    /// Runs the program of `key`, recorded at its first use, on `rows` rows that `write` brings to where they are uploaded
    /// from, and waits for it.
    ///
    /// After a failure the stream is waited for once more. If that fails too, nobody knows what the stream still does:
    /// its memory goes, and the next call makes a new one.
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
        let mut parts = match self.parts.take() {
            Some(parts) => parts,
            None => Parts::new(&self.device, self.sizes)?,
        };
        let ran = parts.run(key, with, rows, write);
        if let Err(error) = ran {
            match parts.stream.synchronize() {
                Ok(()) => self.parts = Some(parts),
                Err(_) => drop(parts),
            }
            return Err(error);
        }
        self.parts.insert(parts).finished()
    }
}

impl<G> Drop for Parts<G> {
    /// Waits for what a call left behind. Where that fails, freeing the device's memory waits for the work that uses it,
    /// copies from and to the host's among it, which goes last.
    fn drop(&mut self) {
        let _ = self.stream.synchronize();
    }
}

impl<G> Parts<G> {
    fn new(device: &Device, sizes: Sizes) -> Result<Parts<G>, CudaError>
    where
        G: Default,
    {
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
        Ok(Parts { graphs: G::default(), stream: device.stream()?, memory, host })
    }

    fn run<P: Program>(
        &mut self,
        key: P::Key,
        with: P::With<'_>,
        rows: usize,
        write: impl FnOnce(&P, &mut [u8]) -> Result<(), CudaError>,
    ) -> Result<(), CudaError>
    where
        G: AsMut<Graphs<P>>,
    {
        let Parts { graphs, stream, memory, host } = self;
        let recorded = graphs.as_mut().bring(key, || {
            let program = P::plan(key, with)?;
            let graph = stream.record(|| record(&program, with, stream, memory, host))?;
            Ok((program, graph))
        })?;
        recorded.program.frame().write_count(rows, &mut host.upload)?;
        write(&recorded.program, &mut host.upload)?;
        recorded.graph.launch()?;
        stream.synchronize()
    }

    /// What the program that ran last left.
    fn finished<P: Program>(&mut self) -> Result<Finished<'_, P>, CudaError>
    where
        G: AsMut<Graphs<P>>,
    {
        let Parts { graphs, stream, memory, host } = self;
        let last = graphs.as_mut().0.last();
        let Recorded { program, .. } =
            last.ok_or(CudaError::Limit { what: "programs", value: 1, limit: 0 })?;
        let fault = program.frame().fault(&host.download)?;
        Ok(Finished { program, download: &host.download, fault, memory, stream })
    }
}

/// Puts a whole call on a stream: upload, launches, download.
fn record<P: Program>(
    program: &P,
    with: P::With<'_>,
    stream: &Stream,
    memory: &Memory,
    host: &mut Host,
) -> Result<(), CudaError> {
    let frame = program.frame();
    let launch = Launch::new(frame, stream, memory)?;
    stream.fill(&launch.fault, 0xFF)?;
    stream.enqueue_upload(&host.upload, &memory.upload.part(0..frame.upload.bytes())?)?;
    program.enqueue(with, &launch)?;
    stream.enqueue_download(&memory.download.part(0..frame.download.bytes())?, &mut host.download)
}
