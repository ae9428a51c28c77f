//! A queue of work on a device.

use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytemuck::Pod;
use cudarc::driver::result::{self, stream::StreamKind};
use cudarc::driver::{DriverError, sys};

use super::memory::Allocation;
use super::recording::{free_outside_recordings, refuse_while_recording};
use super::{Arguments, CudaError, Device, Kernel, Slice, expect};

/// A queue of work on a device: what is put on it runs in order, beside the work of other streams. The last clone to go
/// waits for what is on it.
#[derive(Clone)]
pub struct Stream {
    pub(super) handle: Arc<Handle>,
}

/// A stream of the driver.
pub(super) struct Handle {
    pub(super) stream: sys::CUstream,
    device: Device,
    /// What the work uses, each once, of a stream that records.
    pub(super) used: Option<Mutex<Vec<Weak<Allocation>>>>,
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

    pub(super) fn create(
        device: &Device,
        used: Option<Mutex<Vec<Weak<Allocation>>>>,
    ) -> Result<Stream, CudaError> {
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

    pub(super) fn call<T>(
        &self,
        name: &'static str,
        call: impl FnOnce(sys::CUstream) -> Result<T, DriverError>,
    ) -> Result<T, CudaError> {
        self.device().call(name, || call(self.handle.stream))
    }
}
