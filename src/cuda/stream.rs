//! A queue of work on a device, and work recorded to be replayed.

use std::cell::RefCell;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytemuck::Pod;
use cudarc::driver::result::{self, stream::StreamKind};
use cudarc::driver::{DriverError, sys};

use super::memory::{Allocation, launch_with};
use super::{Arguments, CudaError, Device, Kernel, Slice, expect};

/// A queue of work on a device: what is put on it runs in order, beside the work of other streams. The last clone to go
/// waits for what is on it.
#[derive(Clone)]
pub struct Stream {
    handle: Arc<Handle>,
}

/// A stream of the driver.
struct Handle {
    stream: sys::CUstream,
    device: Device,
    /// What the work uses, each once, of a stream that records.
    used: Option<Mutex<Vec<Weak<Allocation>>>>,
}

/// Work that was recorded and runs with one call, any number of times. It keeps the stream that it runs on, and does not
/// keep the memory that the work uses: where some of that has gone, the graph refuses to run.
pub struct Graph {
    executable: sys::CUgraphExec,
    stream: Stream,
    used: Vec<Weak<Allocation>>,
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
        let (stream, device) = (self.stream, self.device.clone());
        free_outside_recordings(move || {
            // SAFETY: the stream is alive. What is on it is done before a device's last stream, and then its kernels, go.
            let _ = device.wait("cuStreamSynchronize", || unsafe { result::stream::synchronize(stream) });
            if device.bind().is_ok() {
                // SAFETY: created by `Stream::create` and destroyed once.
                let _ = unsafe { result::stream::destroy(stream) };
            }
        });
    }
}

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
        Stream::create(device, None)
    }

    fn create(device: &Device, used: Option<Mutex<Vec<Weak<Allocation>>>>) -> Result<Stream, CudaError> {
        let create = || result::stream::create(StreamKind::NonBlocking);
        let stream = device.call("cuStreamCreate", create)?;
        Ok(Stream { handle: Arc::new(Handle { stream, device: device.clone(), used }) })
    }

    /// Remembers, in a recording, that the work uses an allocation.
    pub(super) fn uses(&self, allocation: &Arc<Allocation>) {
        let Some(used) = &self.handle.used else { return };
        let mut used = used.lock().unwrap_or_else(PoisonError::into_inner);
        if !used.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(allocation))) {
            used.push(Arc::downgrade(allocation));
        }
    }

    /// Refuses what neither a stream that records may do, nor any stream on a thread that records.
    pub(super) fn refuse_in_recording(&self, reason: &'static str) -> Result<(), CudaError> {
        match self.handle.used {
            Some(_) => Err(CudaError::Graph { reason }),
            None => refuse_while_recording(reason),
        }
    }

    /// Whether both are one queue.
    pub(super) fn is(&self, other: &Stream) -> bool {
        Arc::ptr_eq(&self.handle, &other.handle)
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.handle.device
    }

    /// Copies `values` to new memory and waits for it; `what` names them in an error.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`], [`CudaError::Lost`], [`CudaError::Driver`]; [`CudaError::Graph`] on a thread that records.
    pub fn upload<T: Pod>(&self, what: &str, values: &[T]) -> Result<Slice<T>, CudaError> {
        let slice = Slice::new(self.device(), what, values.len())?;
        self.upload_to(values, &slice)?;
        Ok(slice)
    }

    /// Copies `values` to memory of the same length and waits for it.
    ///
    /// # Errors
    /// [`CudaError::Length`], [`CudaError::OtherDevice`], [`CudaError::Lost`], [`CudaError::Driver`];
    /// [`CudaError::Graph`] on a stream or a thread that records.
    pub fn upload_to<T: Pod>(&self, values: &[T], to: &Slice<T>) -> Result<(), CudaError> {
        expect("upload", values.len(), &[to.len()])?;
        self.refuse_in_recording("cannot copy what the host lends for one call")?;
        let values: &[u8] = bytemuck::cast_slice(values);
        // SAFETY: lengths agree, and the host slice outlives the copy, which is waited for. After a wait that fails the device
        // may still read there, for memory that nobody can read any more: it is lost.
        unsafe { self.enqueue_upload(values.as_ptr(), &to.cast()?) }?;
        self.synchronize()
    }

    /// Waits for the stream and copies its memory to the host.
    ///
    /// # Errors
    /// [`CudaError::OtherDevice`]; [`CudaError::Lost`] if the work failed, [`CudaError::Driver`]; [`CudaError::Graph`] on a
    /// stream or a thread that records.
    pub fn download<T: Pod>(&self, from: &Slice<T>) -> Result<Vec<T>, CudaError> {
        self.refuse_in_recording("cannot copy what the host lends for one call")?;
        let mut values = vec![T::zeroed(); from.len()];
        // SAFETY: lengths agree, and the values outlive the copy: it is waited for, or they are never freed.
        unsafe { self.enqueue_download(&from.cast()?, values.as_mut_ptr().cast()) }?;
        match self.synchronize() {
            Ok(()) => Ok(values),
            Err(error) => {
                std::mem::forget(values); // nobody knows whether the device still writes them
                Err(error)
            }
        }
    }

    /// Puts a copy from host to device on the stream.
    ///
    /// # Safety
    /// From `from` on as many bytes as `to` has are there, initialised, and neither written nor freed before the stream, and
    /// every graph that the copy is recorded in, has run.
    pub(super) unsafe fn enqueue_upload(&self, from: *const u8, to: &Slice<u8>) -> Result<(), CudaError> {
        let pointer = to.pointer_on(self)?;
        if to.is_empty() {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        let from = unsafe { std::slice::from_raw_parts(from, to.len()) };
        // SAFETY: lengths agree; the caller leaves the host's memory as it is.
        self.call("cuMemcpyHtoDAsync", |s| unsafe { result::memcpy_htod_async(pointer.address(), from, s) })
    }

    /// Puts a copy from device to host on the stream.
    ///
    /// # Safety
    /// From `to` on there is room for as many bytes as `from` has, which is neither read, written nor freed before the
    /// stream, and every graph that the copy is recorded in, has run.
    pub(super) unsafe fn enqueue_download(&self, from: &Slice<u8>, to: *mut u8) -> Result<(), CudaError> {
        let pointer = from.pointer_on(self)?.address();
        if from.is_empty() {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        let copy = |s| unsafe { sys::cuMemcpyDtoHAsync_v2(to.cast(), pointer, from.len(), s) };
        self.call("cuMemcpyDtoHAsync", |s| copy(s).result())
    }

    /// Puts a copy inside the device on the stream.
    ///
    /// # Errors
    /// [`CudaError::Length`] if the lengths differ, [`CudaError::OtherDevice`], [`CudaError::Lost`],
    /// [`CudaError::Driver`].
    pub fn copy<T: Pod>(&self, from: &Slice<T>, to: &Slice<T>) -> Result<(), CudaError> {
        expect("copy", from.len(), &[to.len()])?;
        let bytes = from.len() * size_of::<T>();
        let (from, to) = (from.pointer_on(self)?.address(), to.pointer_on(self)?.address());
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: both have that many bytes.
        self.call("cuMemcpyDtoDAsync", |s| unsafe { result::memcpy_dtod_async(to, from, bytes, s) })
    }

    /// Fills memory with a byte.
    ///
    /// # Errors
    /// [`CudaError::OtherDevice`], [`CudaError::Lost`], [`CudaError::Driver`].
    pub fn fill<T: Pod>(&self, slice: &Slice<T>, byte: u8) -> Result<(), CudaError> {
        let bytes = slice.len() * size_of::<T>();
        let address = slice.pointer_on(self)?.address();
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the slice has that many bytes, and any bits are a `T`.
        self.call("cuMemsetD8Async", |s| unsafe { result::memset_d8_async(address, byte, bytes, s) })
    }

    /// Waits until everything on the stream is done.
    ///
    /// # Errors
    /// [`CudaError::Lost`] if the work or the wait failed; [`CudaError::Graph`] on a stream or a thread that records.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        self.refuse_in_recording("cannot wait")?;
        // SAFETY: the stream is alive.
        let wait = || unsafe { result::stream::synchronize(self.handle.stream) };
        self.device().wait("cuStreamSynchronize", wait)
    }

    /// Runs `work`, waits for it, and says how long the device took from the end of what was on the stream before to the
    /// end of the work. If the host is slower than the device, that includes the waiting for it: work that is short is
    /// timed right when there is enough on the stream before it.
    ///
    /// # Errors
    /// What `work` fails with; [`CudaError::Lost`] if it failed on the device, [`CudaError::Driver`]; [`CudaError::Graph`] on
    /// a stream or a thread that records.
    pub fn time(&self, work: impl FnOnce() -> Result<(), CudaError>) -> Result<Duration, CudaError> {
        self.refuse_in_recording("cannot wait")?;
        let start = self.event()?;
        work()?;
        let end = self.event()?;
        // SAFETY: both events are of this device and were recorded.
        self.device().wait("cuEventSynchronize", || unsafe { result::event::synchronize(end.event) })?;
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

    /// Puts a kernel on the stream: `grid` blocks of the kernel's threads with `shared` bytes of dynamic shared memory. A
    /// grid without blocks is no launch.
    ///
    /// # Safety
    /// 1. Each pointer in `arguments` is from [`Slice::pointer_on`] for this stream, of memory that lives during the call, or
    ///    null where the kernel's header allows it.
    /// 2. Behind it lie as many values as the header asks for, aligned as it asks, and the header's limits hold.
    pub(crate) unsafe fn launch<A: Arguments>(
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
        // SAFETY: the function belongs to this device and takes one struct of this size, checked when the device opened; the
        // driver copies it before it returns. For what it points to, the caller answers; it lives until the work is done.
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
}
