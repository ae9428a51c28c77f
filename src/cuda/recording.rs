//! Work that is recorded instead of run, to be replayed.

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError, Weak};

use cudarc::driver::{result, sys};

use super::memory::{Allocation, launch_with};
use super::{CudaError, Stream};

/// Work that was recorded and runs with one call, any number of times. It keeps the stream that it runs on, and does not
/// keep the memory that the work uses: where some of that has gone, the graph refuses to run.
pub struct Graph {
    executable: sys::CUgraphExec,
    stream: Stream,
    used: Vec<Weak<Allocation>>,
}

// SAFETY: the driver's graph objects may be used from any thread, by one at a time: a `Graph` is not `Sync`.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        let (executable, stream) = (self.executable, self.stream.clone());
        free_outside_recordings(move || {
            if stream.device().bind().is_ok() {
                // SAFETY: created by `Stream::record` and destroyed once; a launch under way is finished first.
                let _ = unsafe { result::graph::exec_destroy(executable) };
            }
        });
    }
}

impl Stream {
    /// Records what `work` puts on the stream that it is given, instead of running it. The graph runs on this stream. While
    /// `work` runs, its thread can neither wait, whatever for, nor allocate, open a device or record another graph, and what
    /// it drops is freed when the recording is over. Other threads are not affected.
    ///
    /// # Errors
    /// What `work` fails with; [`CudaError::Lost`], [`CudaError::OutOfMemory`], [`CudaError::Driver`]; [`CudaError::Graph`] on
    /// a stream or a thread that records, and if memory that the work uses has gone.
    pub fn record(&self, work: impl FnOnce(&Stream) -> Result<(), CudaError>) -> Result<Graph, CudaError> {
        self.refuse_in_recording("cannot be recorded inside another")?;
        // A stream of its own, so that one whose recording fails serves nothing else.
        let stream = Stream::create(self.device(), Some(Mutex::default()))?;
        let capture = Capture::begin(&stream)?;
        work(&stream)?;
        let graph = capture.end()?;
        if graph.is_null() {
            let (name, message) = ("CUDA_SUCCESS".into(), "nothing was recorded".into());
            return Err(CudaError::Driver { call: "cuStreamEndCapture", name, message });
        }
        let used = stream.handle.used.as_ref();
        let used = used.map(|used| std::mem::take(&mut *used.lock().unwrap_or_else(PoisonError::into_inner)));
        let used = used.unwrap_or_default();
        // SAFETY: the graph is valid.
        let instantiate = || unsafe { result::graph::instantiate(graph, PLAIN) };
        let executable = launch_with(&used, || self.device().call("cuGraphInstantiate", instantiate));
        if self.device().bind().is_ok() {
            // SAFETY: made by the capture and destroyed once; an executable does without.
            let _ = unsafe { result::graph::destroy(graph) };
        }
        Ok(Graph { executable: executable?, stream: self.clone(), used })
    }
}

/// How a graph is made ready to launch: nothing special.
const PLAIN: sys::CUgraphInstantiate_flags = sys::CUgraphInstantiate_flags(0);

/// Frees something of the driver.
type Free = Box<dyn FnOnce()>;

thread_local! {
    /// What to run when the recording of this thread is over; none if it does not record.
    static RECORDING: RefCell<Option<Vec<Free>>> = const { RefCell::new(None) };
}

/// Refuses what the driver does not let a thread do that records. It would fail there too, and spoil the recording; and a
/// wait that the driver refuses looks like one that failed.
///
/// # Errors
/// [`CudaError::Graph`] on a thread that records.
pub(super) fn refuse_while_recording(reason: &'static str) -> Result<(), CudaError> {
    match RECORDING.try_with(|recording| recording.borrow().is_some()) {
        Ok(true) => Err(CudaError::Graph { reason }),
        _ => Ok(()),
    }
}

/// Frees something of the driver now or, as the driver does not let a thread that records, when its recording is over.
pub(super) fn free_outside_recordings(free: impl FnOnce() + 'static) {
    let mut free: Option<Free> = Some(Box::new(free));
    let _ = RECORDING.try_with(|recording| {
        if let Some(later) = recording.borrow_mut().as_mut() {
            later.extend(free.take());
        }
    });
    if let Some(free) = free {
        free();
    }
}

/// A stream that records, and its thread with it. It ends with this whatever the work did, a panic included: a stream that
/// records can do nothing else.
struct Capture<'a> {
    stream: &'a Stream,
    ended: bool,
}

impl<'a> Capture<'a> {
    fn begin(stream: &'a Stream) -> Result<Capture<'a>, CudaError> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is alive.
        stream.call("cuStreamBeginCapture", |s| unsafe { result::stream::begin_capture(s, mode) })?;
        let _ = RECORDING.try_with(|recording| recording.replace(Some(Vec::new())));
        Ok(Capture { stream, ended: false })
    }

    /// The graph of what was recorded, which may be null.
    fn end(mut self) -> Result<sys::CUgraph, CudaError> {
        // SAFETY: the stream is alive.
        let graph = self.stream.call("cuStreamEndCapture", |s| unsafe { result::stream::end_capture(s) });
        self.ended = graph.is_ok();
        graph
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        if !self.ended && self.stream.device().bind().is_ok() {
            // SAFETY: the stream is alive; the graph is destroyed once.
            let graph = unsafe { result::stream::end_capture(self.stream.handle.stream) };
            if let Ok(graph) = graph
                && !graph.is_null()
            {
                // SAFETY: as above.
                let _ = unsafe { result::graph::destroy(graph) };
            }
        }
        let later = RECORDING.try_with(RefCell::take).ok().flatten();
        later.into_iter().flatten().for_each(|free| free());
    }
}

impl Graph {
    /// Puts the recorded work on its stream.
    ///
    /// # Errors
    /// [`CudaError::Graph`] if memory that the work uses has gone; [`CudaError::Lost`], [`CudaError::Driver`].
    pub fn launch(&self) -> Result<(), CudaError> {
        // SAFETY: the graph and the stream are alive, and so is the memory.
        let launch = |s| unsafe { result::graph::launch(self.executable, s) };
        launch_with(&self.used, || self.stream.call("cuGraphLaunch", launch))
    }

    /// The stream that it runs on.
    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Whether all memory that the work uses is still there.
    pub(super) fn is_whole(&self) -> bool {
        self.used.iter().all(|memory| memory.strong_count() > 0)
    }
}
