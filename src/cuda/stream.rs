//! A queue of work on a device, and work recorded to be replayed.

use std::ffi::c_void;
use std::sync::Arc;
use std::time::Duration;

use bytemuck::Pod;
use cudarc::driver::result::{self, stream::StreamKind};
use cudarc::driver::{DriverError, sys};

use super::{Arguments, CudaError, Device, Kernel, Pinned, Slice, expect};

/// A queue of work on a device: what is put on it runs in order, beside the work of other streams.
#[derive(Clone)]
pub struct Stream {
    handle: Arc<Handle>,
}

/// A stream of the driver.
struct Handle {
    stream: sys::CUstream,
    device: Device,
}

/// Work that was recorded on a stream and runs again with one call. It keeps the stream, and not the memory that the work
/// reads and writes: whoever launches it has that memory still.
pub struct Graph {
    graph: sys::CUgraph,
    executable: sys::CUgraphExec,
    stream: Stream,
}

/// A point on a stream.
struct Event {
    event: sys::CUevent,
    device: Device,
}

// SAFETY: a driver's stream may be used from any thread whose current context is its own; every call binds it first.
unsafe impl Send for Handle {}
// SAFETY: as for `Send`; the driver synchronises calls on a stream.
unsafe impl Sync for Handle {}
// SAFETY: the driver's graph objects may be used from any thread, by one at a time: a `Graph` is not `Sync`.
unsafe impl Send for Graph {}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: created by `Stream::new` and destroyed once; what is on the stream still runs.
            let _ = unsafe { result::stream::destroy(self.stream) };
        }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.stream.device().bind().is_ok() {
            if !self.executable.is_null() {
                // SAFETY: created by `Stream::record` and destroyed once; a launch under way is finished first.
                let _ = unsafe { result::graph::exec_destroy(self.executable) };
            }
            // SAFETY: as above.
            let _ = unsafe { result::graph::destroy(self.graph) };
        }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: created by `Stream::event` and destroyed once.
            let _ = unsafe { result::event::destroy(self.event) };
        }
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("device", self.device()).finish_non_exhaustive()
    }
}

impl Stream {
    pub(super) fn new(device: &Device) -> Result<Stream, CudaError> {
        let create = || result::stream::create(StreamKind::NonBlocking);
        let stream = device.call("cuStreamCreate", create)?;
        Ok(Stream { handle: Arc::new(Handle { stream, device: device.clone() }) })
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.handle.device
    }

    /// Copies `values` to new memory and waits for it; `what` names them in an error.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`], [`CudaError::Lost`], [`CudaError::Driver`].
    pub fn upload<T: Pod>(&self, what: &str, values: &[T]) -> Result<Slice<T>, CudaError> {
        let slice = Slice::new(self.device(), what, values.len())?;
        self.upload_to(values, &slice)?;
        Ok(slice)
    }

    /// Copies `values` to memory of the same length and waits for it.
    ///
    /// # Errors
    /// [`CudaError::Length`], [`CudaError::Lost`], [`CudaError::Driver`].
    pub fn upload_to<T: Pod>(&self, values: &[T], to: &Slice<T>) -> Result<(), CudaError> {
        expect("upload", values.len(), &[to.len()])?;
        if !values.is_empty() {
            // SAFETY: lengths agree, and the host slice outlives the copy, which is waited for.
            self.call("cuMemcpyHtoDAsync", |s| unsafe {
                result::memcpy_htod_async(to.address(), values, s)
            })?;
        }
        self.synchronize()
    }

    /// Waits for the stream and copies its memory to the host.
    ///
    /// # Errors
    /// [`CudaError::Lost`] if the work failed, [`CudaError::Driver`].
    pub fn download<T: Pod>(&self, from: &Slice<T>) -> Result<Vec<T>, CudaError> {
        let mut values = vec![T::zeroed(); from.len()];
        if !values.is_empty() {
            let to = &mut values[..];
            // SAFETY: lengths agree, and the host slice outlives the copy, which is waited for.
            self.call("cuMemcpyDtoHAsync", |s| unsafe { result::memcpy_dtoh_async(to, from.address(), s) })?;
        }
        self.synchronize()?;
        Ok(values)
    }

    /// Puts a copy from host to device on the stream: the first bytes of `from`, as many as `to` has.
    ///
    /// What it cannot check: `from` is neither written nor freed before the stream has run.
    pub(crate) fn enqueue_upload(&self, from: &Pinned<u8>, to: &Slice<u8>) -> Result<(), CudaError> {
        let Some(from) = from.get(..to.len()) else {
            return Err(CudaError::Limit { what: "bytes to upload", value: to.len(), limit: from.len() });
        };
        if from.is_empty() {
            return Ok(());
        }
        // SAFETY: lengths agree; the caller keeps the host memory as it is until the stream has run.
        self.call("cuMemcpyHtoDAsync", |s| unsafe { result::memcpy_htod_async(to.address(), from, s) })
    }

    /// Puts a copy from device to host on the stream, to the first bytes of `to`, as many as `from` has.
    ///
    /// What it cannot check: `to` is neither read, written nor freed before the stream has run.
    pub(crate) fn enqueue_download(&self, from: &Slice<u8>, to: &mut Pinned<u8>) -> Result<(), CudaError> {
        let limit = to.len();
        let Some(to) = to.get_mut(..from.len()) else {
            return Err(CudaError::Limit { what: "bytes to download", value: from.len(), limit });
        };
        if to.is_empty() {
            return Ok(());
        }
        // SAFETY: lengths agree; the caller leaves the host memory alone until the stream has run.
        self.call("cuMemcpyDtoHAsync", |s| unsafe { result::memcpy_dtoh_async(to, from.address(), s) })
    }

    /// Puts a copy inside the device on the stream.
    ///
    /// # Errors
    /// [`CudaError::Length`] if the lengths differ, [`CudaError::Lost`], [`CudaError::Driver`].
    pub fn copy<T: Pod>(&self, from: &Slice<T>, to: &Slice<T>) -> Result<(), CudaError> {
        expect("copy", from.len(), &[to.len()])?;
        let bytes = from.len() * size_of::<T>();
        if bytes == 0 {
            return Ok(());
        }
        let (from, to) = (from.address(), to.address());
        // SAFETY: both have that many bytes.
        self.call("cuMemcpyDtoDAsync", |s| unsafe { result::memcpy_dtod_async(to, from, bytes, s) })
    }

    /// Fills memory with a byte.
    ///
    /// # Errors
    /// [`CudaError::Lost`], [`CudaError::Driver`].
    pub fn fill<T: Pod>(&self, slice: &Slice<T>, byte: u8) -> Result<(), CudaError> {
        let bytes = slice.len() * size_of::<T>();
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the slice has that many bytes, and any bits are a `T`.
        self.call("cuMemsetD8Async", |s| unsafe { result::memset_d8_async(slice.address(), byte, bytes, s) })
    }

    /// Waits until everything on the stream is done.
    ///
    /// # Errors
    /// [`CudaError::Lost`] if the work failed, [`CudaError::Driver`].
    pub fn synchronize(&self) -> Result<(), CudaError> {
        // SAFETY: the stream is alive.
        self.call("cuStreamSynchronize", |s| unsafe { result::stream::synchronize(s) })
    }

    /// Runs `work`, waits for it, and says how long the device took from the end of what was on the stream before to the
    /// end of the work. If the host is slower than the device, that includes the waiting for it: work that is short is
    /// timed right when there is enough on the stream before it.
    ///
    /// # Errors
    /// What `work` fails with; [`CudaError::Lost`] if it failed on the device, [`CudaError::Driver`].
    pub fn time(&self, work: impl FnOnce() -> Result<(), CudaError>) -> Result<Duration, CudaError> {
        let start = self.event()?;
        work()?;
        let end = self.event()?;
        // SAFETY: both events are of this device and were recorded.
        self.device().call("cuEventSynchronize", || unsafe { result::event::synchronize(end.event) })?;
        // SAFETY: as above.
        let elapsed = || unsafe { result::event::elapsed(start.event, end.event) };
        let milliseconds = self.device().call("cuEventElapsedTime", elapsed)?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds).max(0.0) / 1e3))
    }

    /// An event behind what is on the stream.
    fn event(&self) -> Result<Event, CudaError> {
        let create = || result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let event =
            Event { event: self.device().call("cuEventCreate", create)?, device: self.device().clone() };
        // SAFETY: the event is of this stream's device.
        self.call("cuEventRecord", |s| unsafe { result::event::record(event.event, s) })?;
        Ok(event)
    }

    /// Records what `work` puts on the stream instead of running it.
    ///
    /// # Errors
    /// What `work` fails with; [`CudaError::Lost`], [`CudaError::OutOfMemory`], [`CudaError::Driver`].
    pub fn record(&self, work: impl FnOnce() -> Result<(), CudaError>) -> Result<Graph, CudaError> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is alive.
        self.call("cuStreamBeginCapture", |s| unsafe { result::stream::begin_capture(s, mode) })?;
        let capture = Capture { stream: self, ended: false };
        let worked = work();
        let graph = capture.end();
        worked?;
        let graph = graph?;
        if graph.is_null() {
            let (name, message) = ("CUDA_SUCCESS".into(), "nothing was recorded".into());
            return Err(CudaError::Driver { call: "cuStreamEndCapture", name, message });
        }
        let mut graph = Graph { graph, executable: std::ptr::null_mut(), stream: self.clone() };
        // SAFETY: the graph is valid.
        let instantiate = || unsafe { result::graph::instantiate(graph.graph, PLAIN) };
        graph.executable = self.device().call("cuGraphInstantiate", instantiate)?;
        Ok(graph)
    }

    /// Puts a kernel on the stream: `grid` blocks of the kernel's threads with `shared` bytes of dynamic shared memory. A
    /// grid without blocks is no launch.
    ///
    /// What it cannot check. Ops check the lengths; that the memory is this device's, and the rest, their callers answer for:
    /// 1. each pointer in `arguments` is memory of this device, of the length that the kernel's header asks for;
    /// 2. that memory lives until the stream has run;
    /// 3. no other stream writes it meanwhile.
    pub(crate) fn launch<A: Arguments>(
        &self,
        kernel: &Kernel<A>,
        grid: [u32; 3],
        shared: u32,
        arguments: &A,
    ) -> Result<(), CudaError> {
        let info = kernel.info();
        let function = self.device().function(&info)?;
        if grid.contains(&0) {
            return Ok(());
        }
        let mut parameters = [std::ptr::from_ref(arguments).cast_mut().cast::<c_void>()];
        let (grid, block) = ((grid[0], grid[1], grid[2]), (info.threads, 1, 1));
        // SAFETY: the function belongs to this device and takes one struct of this size, checked when the device
        // opened; the driver copies the argument before it returns.
        self.call(info.name, |s| unsafe {
            result::launch_kernel(function, grid, block, shared, s, &mut parameters)
        })
    }

    fn call<T>(
        &self,
        name: &'static str,
        call: impl FnOnce(sys::CUstream) -> Result<T, DriverError>,
    ) -> Result<T, CudaError> {
        self.device().call(name, || call(self.handle.stream))
    }
}

/// How a graph is made ready to launch: nothing special.
const PLAIN: sys::CUgraphInstantiate_flags = sys::CUgraphInstantiate_flags(0);

/// A stream that records. It ends with this whatever the work did, a panic included: a stream that records can do nothing
/// else.
struct Capture<'a> {
    stream: &'a Stream,
    ended: bool,
}

impl Capture<'_> {
    /// The graph of what was recorded, which may be null.
    fn end(mut self) -> Result<sys::CUgraph, CudaError> {
        self.ended = true;
        // SAFETY: the stream is alive.
        self.stream.call("cuStreamEndCapture", |s| unsafe { result::stream::end_capture(s) })
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
    }
}

impl Graph {
    /// Puts the recorded work on the stream that it was recorded on.
    ///
    /// # Errors
    /// [`CudaError::Lost`], [`CudaError::Driver`].
    pub fn launch(&self) -> Result<(), CudaError> {
        // SAFETY: the graph and the stream are alive.
        self.stream.call("cuGraphLaunch", |s| unsafe { result::graph::launch(self.executable, s) })
    }
}
