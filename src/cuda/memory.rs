//! Memory: of the device, and of the host where the device can reach it.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};
use std::sync::{Arc, PoisonError, RwLock, Weak};

use bytemuck::Pod;
use cudarc::driver::{result, sys};

use super::recording::{free_outside_recordings, refuse_while_recording};
use super::{CudaError, Device, Stream};

/// `len` values of `T` in the memory of a device. Cheap to clone: clones and parts share one allocation, which is freed
/// when the last of them goes.
pub struct Slice<T> {
    allocation: Arc<Allocation>,
    /// Offset in bytes.
    offset: u64,
    len: usize,
    values: PhantomData<fn() -> T>,
}

/// One allocation of the driver.
pub(super) struct Allocation {
    address: sys::CUdeviceptr,
    device: Device,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        if self.address == 0 {
            return;
        }
        // A launch that found this alive has put its work on its stream; a later one finds it gone.
        drop(LAUNCHES.write().unwrap_or_else(PoisonError::into_inner));
        let (address, device) = (self.address, self.device.clone());
        free_outside_recordings(move || {
            if device.bind().is_ok() {
                // SAFETY: allocated by `Slice::new` and freed once. Work that is on a stream may still use it: what keeps
                // that sound is that `cuMemFree` waits for the work of the context before it frees. Drivers are observed to
                // do so, and much code counts on it; the documentation of `cuMemFree` does not promise it.
                let _ = unsafe { result::free_sync(address) };
            }
        });
    }
}

/// Held for reading by [`launch_with`]. One for all devices: a card may be open more than once.
static LAUNCHES: RwLock<()> = RwLock::new(());

/// Makes or launches a graph that uses `memory`, if that is all there; it stays until this returns.
///
/// # Errors
/// [`CudaError::Graph`] if some of it has gone; what `launch` fails with.
pub(super) fn launch_with<T>(
    memory: &[Weak<Allocation>],
    launch: impl FnOnce() -> Result<T, CudaError>,
) -> Result<T, CudaError> {
    let _launching = LAUNCHES.read().unwrap_or_else(PoisonError::into_inner);
    if memory.iter().any(|memory| memory.strong_count() == 0) {
        return Err(CudaError::Graph { reason: "uses memory that was freed" });
    }
    launch()
}

/// The address of device memory as a kernel takes it. What it points to lives until the work is done that was on a stream
/// before its slice went: see the drop of an [`Allocation`].
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pointer(u64);

impl Pointer {
    /// What stands for an absent tensor.
    pub(crate) const NULL: Pointer = Pointer(0);

    /// The address as the driver's calls take it.
    pub(super) fn address(self) -> sys::CUdeviceptr {
        self.0
    }
}

impl<T> Clone for Slice<T> {
    fn clone(&self) -> Slice<T> {
        Slice { allocation: self.allocation.clone(), ..*self }
    }
}

impl<T> std::fmt::Debug for Slice<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slice").field("len", &self.len).finish_non_exhaustive()
    }
}

impl<T: Pod> Slice<T> {
    /// `len` values, not initialised; `what` names them in an error.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`], [`CudaError::Lost`], [`CudaError::Driver`]; [`CudaError::Graph`] on a thread that records.
    pub fn new(device: &Device, what: &str, len: usize) -> Result<Slice<T>, CudaError> {
        refuse_while_recording("cannot allocate memory")?;
        let bytes = len.saturating_mul(size_of::<T>());
        let address = match bytes {
            0 => 0,
            // SAFETY: the memory is not read before it is written: see the contracts of the kernels.
            _ => device.call("cuMemAlloc", || unsafe { result::malloc_sync(bytes) }).map_err(|error| {
                match error {
                    CudaError::OutOfMemory { free, total, .. } => {
                        CudaError::OutOfMemory { what: what.into(), asked: bytes, free, total }
                    }
                    other => other,
                }
            })?,
        };
        let allocation = Arc::new(Allocation { address, device: device.clone() });
        Ok(Slice { allocation, offset: 0, len, values: PhantomData })
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The device that has the memory.
    pub fn device(&self) -> &Device {
        &self.allocation.device
    }

    /// The values `range`.
    ///
    /// # Errors
    /// [`CudaError::Limit`] for a range beyond the slice.
    pub fn part(&self, range: Range<usize>) -> Result<Slice<T>, CudaError> {
        if range.end > self.len || range.start > range.end {
            return Err(CudaError::Limit { what: "end of a part", value: range.end, limit: self.len });
        }
        let offset = self.offset + (range.start * size_of::<T>()) as u64;
        let len = range.end - range.start;
        Ok(Slice { allocation: self.allocation.clone(), offset, len, values: PhantomData })
    }

    /// The same bytes as values of another type.
    ///
    /// # Errors
    /// [`CudaError::Length`] if the bytes are no whole number of `U`, or do not start where a `U` may.
    pub fn cast<U: Pod>(&self) -> Result<Slice<U>, CudaError> {
        let bytes = self.len * size_of::<T>();
        let len = bytes.checked_div(size_of::<U>()).unwrap_or(0);
        if len * size_of::<U>() != bytes || !self.offset.is_multiple_of(align_of::<U>() as u64) {
            let (what, shape) = ("bytes of a cast", vec![len, size_of::<U>()]);
            return Err(CudaError::Length { what, found: bytes, expected: shape.iter().product(), shape });
        }
        let (allocation, offset) = (self.allocation.clone(), self.offset);
        Ok(Slice { allocation, offset, len, values: PhantomData })
    }

    /// The address, for work that is put on `stream` before the slice goes. A recording remembers the allocation.
    ///
    /// # Errors
    /// [`CudaError::OtherDevice`] if the stream is another device's.
    pub(crate) fn pointer_on(&self, stream: &Stream) -> Result<Pointer, CudaError> {
        let (memory, on) = (self.device().info().ordinal, stream.device().info().ordinal);
        if memory != on {
            return Err(CudaError::OtherDevice { memory, stream: on });
        }
        stream.uses(&self.allocation);
        Ok(Pointer(self.address()))
    }

    pub(super) fn address(&self) -> sys::CUdeviceptr {
        self.allocation.address + self.offset
    }
}

/// Host memory that the device copies from and to directly.
pub(super) struct Pinned<T> {
    values: *mut T,
    len: usize,
    device: Device,
    /// What the owner sees instead of `values` once they are left to the device.
    instead: Option<Vec<T>>,
}

// SAFETY: a `Pinned` owns its memory as a `Vec` does.
unsafe impl<T: Send> Send for Pinned<T> {}
// SAFETY: as for `Send`.
unsafe impl<T: Sync> Sync for Pinned<T> {}

impl<T: Pod> Pinned<T> {
    /// `len` zeros; `what` names them in an error.
    ///
    /// # Errors
    /// [`CudaError::HostMemory`], [`CudaError::Lost`], [`CudaError::Driver`]; [`CudaError::Graph`] on a thread that records.
    pub(super) fn new(device: &Device, what: &'static str, len: usize) -> Result<Pinned<T>, CudaError> {
        refuse_while_recording("cannot allocate memory")?;
        let bytes = len.saturating_mul(size_of::<T>()).max(1);
        // SAFETY: the memory is zeroed below, before it is read.
        let allocated = device.call("cuMemHostAlloc", || unsafe { result::malloc_host(bytes, 0) });
        let values = allocated.map_err(|error| match error {
            CudaError::OutOfMemory { .. } => CudaError::HostMemory { what, asked: bytes },
            other => other,
        })?;
        // SAFETY: `bytes` bytes were just allocated.
        unsafe { std::ptr::write_bytes(values.cast::<u8>(), 0, bytes) };
        Ok(Pinned { values: values.cast(), len, device: device.clone(), instead: None })
    }

    /// Leaves the values to the device, which may use them for longer than anybody can wait. The owner sees zeros.
    pub(super) fn leave(&mut self) {
        self.instead.get_or_insert_with(|| vec![T::zeroed(); self.len]);
    }
}

impl<T> Drop for Pinned<T> {
    fn drop(&mut self) {
        let (values, device) = (self.values.cast::<c_void>(), self.device.clone());
        free_outside_recordings(move || {
            if device.bind().is_ok() {
                // SAFETY: allocated by `Pinned::new` and freed once; `Staging` has waited for every copy. Where a wait
                // failed, what keeps this sound is as for an `Allocation`.
                let _ = unsafe { result::free_host(values) };
            }
        });
    }
}

impl<T> Pinned<T> {
    /// Where the values are, for a copy that the caller keeps from every other use of them.
    pub(super) fn as_mut_ptr(&self) -> *mut T {
        self.values
    }
}

impl<T> Deref for Pinned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.instead {
            Some(instead) => instead,
            // SAFETY: `len` values were zeroed at allocation, any bits are a `T`, and the memory lives as long as `self`.
            None => unsafe { std::slice::from_raw_parts(self.values, self.len) },
        }
    }
}

impl<T> DerefMut for Pinned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.instead {
            Some(instead) => instead,
            // SAFETY: as in `deref`, and `self` is borrowed exclusively.
            None => unsafe { std::slice::from_raw_parts_mut(self.values, self.len) },
        }
    }
}
