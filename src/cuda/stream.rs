//! A queue of work on a device, and work recorded to be replayed.

use std::ffi::c_void;
use std::sync::Arc;
use std::time::Duration;

use bytemuck::Pod;
use cudarc::driver::{CudaGraph, CudaStream, result, sys};

use super::{Arguments, CudaError, Device, Kernel, Pinned, Slice, expect};

/// A queue of work on a device: what is put on it runs in order, beside the work of other streams.
#[derive(Clone)]
pub struct Stream {
    stream: Arc<CudaStream>,
    device: Device,
}

/// Work that was recorded on a stream and runs again with one call.
pub struct Graph {
    graph: CudaGraph,
    device: Device,
}

// SAFETY: the driver's graph objects may be used from any thread, by one at a time: a `Graph` is not `Sync`.
unsafe impl Send for Graph {}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("device", &self.device).finish_non_exhaustive()
    }
}

impl Stream {
    pub(super) fn new(device: &Device) -> Result<Stream, CudaError> {
        let stream = device.call("cuStreamCreate", || device.context().new_stream())?;
        Ok(Stream { stream, device: device.clone() })
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Copies `values` to new memory and waits for it; `what` names them in an error.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`], [`CudaError::Lost`], [`CudaError::Driver`].
    pub fn upload<T: Pod>(&self, what: &str, values: &[T]) -> Result<Slice<T>, CudaError> {
        let slice = Slice::new(&self.device, what, values.len())?;
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
        let event = || {
            let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
            self.device.call("cuEventRecord", || self.stream.record_event(flags))
        };
        let start = event()?;
        work()?;
        let end = event()?;
        let milliseconds = self.device.call("cuEventElapsedTime", || start.elapsed_ms(&end))?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds).max(0.0) / 1e3))
    }

    /// Records what `work` puts on the stream instead of running it.
    ///
    /// # Errors
    /// What `work` fails with; [`CudaError::Lost`], [`CudaError::OutOfMemory`], [`CudaError::Driver`].
    pub fn record(&self, work: impl FnOnce() -> Result<(), CudaError>) -> Result<Graph, CudaError> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.device.call("cuStreamBeginCapture", || self.stream.begin_capture(mode))?;
        let worked = work();
        // Ended whatever the work did: a stream that records can do nothing else.
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY;
        let graph = self.device.call("cuStreamEndCapture", || self.stream.end_capture(flags));
        worked?;
        match graph? {
            Some(graph) => Ok(Graph { graph, device: self.device.clone() }),
            None => Err(CudaError::Driver {
                call: "cuStreamEndCapture",
                name: "CUDA_SUCCESS".into(),
                message: "nothing was recorded".into(),
            }),
        }
    }

    /// Puts a kernel on the stream: `grid` blocks of the kernel's threads with `shared` bytes of dynamic shared memory. A
    /// grid without blocks is no launch.
    ///
    /// What it cannot check, and every op does before it calls:
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
        let function = self.device.function(&info)?;
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
        call: impl FnOnce(sys::CUstream) -> Result<T, cudarc::driver::DriverError>,
    ) -> Result<T, CudaError> {
        self.device.call(name, || call(self.stream.cu_stream()))
    }
}

impl Graph {
    /// Puts the recorded work on the stream that it was recorded on.
    ///
    /// # Errors
    /// [`CudaError::Lost`], [`CudaError::Driver`].
    pub fn launch(&self) -> Result<(), CudaError> {
        self.device.call("cuGraphLaunch", || self.graph.launch())
    }
}
