//! The driver, call by call: what a test does to it and the code that it answers.
#![allow(dead_code, unsafe_code, clippy::unwrap_used)]

use std::ffi::{CStr, CString, c_void};
use std::ptr::null_mut;

use cudarc::driver::sys::{
    self, CUcontext, CUdeviceptr, CUevent, CUfunction, CUgraph, CUgraphExec, CUmodule, CUresult, CUstream,
    CUstreamCaptureMode, CUstreamCaptureStatus,
};

/// The stream that waits for all blocking ones.
pub const DEFAULT_STREAM: CUstream = null_mut();

pub type Answer<T = ()> = Result<T, CUresult>;

fn answer<T>(code: CUresult, value: T) -> Answer<T> {
    if code == CUresult::CUDA_SUCCESS { Ok(value) } else { Err(code) }
}

/// What the driver says about a code, with what the emulator knows.
pub fn explain(code: CUresult) -> String {
    let mut text = std::ptr::null();
    // SAFETY: the driver writes the address of a string that lives until its next call.
    unsafe { sys::cuGetErrorString(code, &raw mut text) };
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as above.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// The primary context of device 0, current to this thread; given back when it goes, whatever is left in it.
pub struct Context(CUcontext);

/// A launch's shape.
#[derive(Clone, Copy)]
pub struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
}

impl Shape {
    pub fn new(grid: u32, block: u32) -> Shape {
        Shape { grid: [grid, 1, 1], block: [block, 1, 1], shared: 0 }
    }
}

impl Context {
    pub fn new() -> Answer<Context> {
        let mut context = null_mut();
        // SAFETY: the driver writes the handle; the context is made current before anything uses it.
        unsafe {
            answer(sys::cuInit(0), ())?;
            answer(sys::cuDevicePrimaryCtxRetain(&raw mut context, 0), ())?;
            answer(sys::cuCtxSetCurrent(context), Context(context))
        }
    }

    pub fn synchronize(&self) -> Answer {
        // SAFETY: needs a current context, which `new` made.
        answer(unsafe { sys::cuCtxSynchronize() }, ())
    }

    /// Device memory; it goes with the context if it is not freed.
    pub fn allocate(&self, bytes: usize) -> Answer<CUdeviceptr> {
        let mut address = 0;
        // SAFETY: the driver writes the address.
        answer(unsafe { sys::cuMemAlloc_v2(&raw mut address, bytes) }, ()).map(|()| address)
    }

    pub fn free(&self, address: CUdeviceptr) -> Answer {
        // SAFETY: the driver refuses what it did not allocate, the emulator at least.
        answer(unsafe { sys::cuMemFree_v2(address) }, ())
    }

    /// Pinned memory of `len` words; it goes with the context.
    #[allow(clippy::mut_from_ref, reason = "each call gives other memory")]
    pub fn pinned(&self, len: usize) -> Answer<&mut [f32]> {
        let mut address = null_mut();
        // SAFETY: the driver writes the address of that many bytes, which every pattern of bits makes floats.
        answer(unsafe { sys::cuMemHostAlloc(&raw mut address, 4 * len, 0) }, ())?;
        // SAFETY: as above, and the memory lives as long as the context.
        Ok(unsafe { std::slice::from_raw_parts_mut(address.cast(), len) })
    }

    pub fn upload<T: Copy>(&self, to: CUdeviceptr, from: &[T]) -> Answer {
        // SAFETY: the slice has that many bytes; the driver checks the device's side.
        answer(unsafe { sys::cuMemcpyHtoD_v2(to, from.as_ptr().cast(), size_of_val(from)) }, ())
    }

    pub fn download<T: Copy>(&self, to: &mut [T], from: CUdeviceptr) -> Answer {
        // SAFETY: the slice has that many bytes; the driver checks the device's side.
        answer(unsafe { sys::cuMemcpyDtoH_v2(to.as_mut_ptr().cast(), from, size_of_val(to)) }, ())
    }

    pub fn upload_async<T: Copy>(&self, to: CUdeviceptr, from: &[T], stream: CUstream) -> Answer {
        let bytes = size_of_val(from);
        // SAFETY: as `upload`; the tests keep pinned memory until the stream is done.
        answer(unsafe { sys::cuMemcpyHtoDAsync_v2(to, from.as_ptr().cast(), bytes, stream) }, ())
    }

    pub fn download_async<T: Copy>(&self, to: &mut [T], from: CUdeviceptr, stream: CUstream) -> Answer {
        let bytes = size_of_val(to);
        // SAFETY: as `upload_async`.
        answer(unsafe { sys::cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), from, bytes, stream) }, ())
    }

    pub fn fill_async(&self, to: CUdeviceptr, bytes: usize, stream: CUstream) -> Answer {
        // SAFETY: the driver checks the range.
        answer(unsafe { sys::cuMemsetD8Async(to, 0, bytes, stream) }, ())
    }

    pub fn module(&self, image: &[u8]) -> Answer<CUmodule> {
        let mut module = null_mut();
        // SAFETY: the images end as the driver expects: with a zero, or by the length in their header.
        answer(unsafe { sys::cuModuleLoadData(&raw mut module, image.as_ptr().cast()) }, ()).map(|()| module)
    }

    pub fn function(&self, module: CUmodule, name: &str) -> Answer<CUfunction> {
        let (mut function, name) = (null_mut(), CString::new(name).unwrap());
        // SAFETY: the driver writes the handle and reads a string that ends with a zero.
        let code = unsafe { sys::cuModuleGetFunction(&raw mut function, module, name.as_ptr()) };
        answer(code, function)
    }

    /// Launches with parameters of 8 bytes each, of which the driver takes as many as it needs.
    pub fn launch(&self, function: CUfunction, shape: Shape, stream: CUstream, parameters: &[u64]) -> Answer {
        self.launch_at(function, shape, stream, parameters.iter().map(std::ptr::from_ref).collect())
    }

    /// Launches with one parameter, a struct of 8-byte fields.
    pub fn launch_struct(
        &self,
        function: CUfunction,
        shape: Shape,
        stream: CUstream,
        fields: &[u64],
    ) -> Answer {
        self.launch_at(function, shape, stream, vec![fields.as_ptr()])
    }

    fn launch_at(
        &self,
        function: CUfunction,
        shape: Shape,
        stream: CUstream,
        parameters: Vec<*const u64>,
    ) -> Answer {
        let mut addresses: Vec<*mut c_void> =
            parameters.into_iter().map(|parameter| parameter.cast_mut().cast()).collect();
        let ([x, y, z], [bx, by, bz]) = (shape.grid, shape.block);
        // SAFETY: the parameters are the kernel's, little-endian; faults of the kernel are what the tests are for.
        let code = unsafe {
            let parameters = addresses.as_mut_ptr();
            sys::cuLaunchKernel(function, x, y, z, bx, by, bz, shape.shared, stream, parameters, null_mut())
        };
        answer(code, ())
    }

    pub fn allow_shared(&self, function: CUfunction, bytes: i32) -> Answer {
        let which = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the handle is a live function.
        answer(unsafe { sys::cuFuncSetAttribute(function, which, bytes) }, ())
    }

    /// A stream that does not wait for the default one.
    pub fn stream(&self) -> Answer<CUstream> {
        let mut stream = null_mut();
        // SAFETY: the driver writes the handle.
        answer(unsafe { sys::cuStreamCreate(&raw mut stream, 1) }, ()).map(|()| stream)
    }

    pub fn end_stream(&self, stream: CUstream) -> Answer {
        // SAFETY: the driver checks the handle, which is not used again.
        answer(unsafe { sys::cuStreamDestroy_v2(stream) }, ())
    }

    pub fn wait(&self, stream: CUstream) -> Answer {
        // SAFETY: the driver checks the handle.
        answer(unsafe { sys::cuStreamSynchronize(stream) }, ())
    }

    pub fn event(&self) -> Answer<CUevent> {
        let mut event = null_mut();
        // SAFETY: the driver writes the handle.
        answer(unsafe { sys::cuEventCreate(&raw mut event, 0) }, ()).map(|()| event)
    }

    pub fn record(&self, event: CUevent, stream: CUstream) -> Answer {
        // SAFETY: the driver checks the handles.
        answer(unsafe { sys::cuEventRecord(event, stream) }, ())
    }

    pub fn wait_for_event(&self, event: CUevent) -> Answer {
        // SAFETY: the driver checks the handle.
        answer(unsafe { sys::cuEventSynchronize(event) }, ())
    }

    pub fn wait_for(&self, stream: CUstream, event: CUevent) -> Answer {
        // SAFETY: the driver checks the handles.
        answer(unsafe { sys::cuStreamWaitEvent(stream, event, 0) }, ())
    }

    pub fn begin_capture(&self, stream: CUstream) -> Answer {
        self.begin_capture_as(stream, CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
    }

    pub fn begin_capture_as(&self, stream: CUstream, mode: CUstreamCaptureMode) -> Answer {
        // SAFETY: the driver checks the handle.
        answer(unsafe { sys::cuStreamBeginCapture_v2(stream, mode) }, ())
    }

    pub fn capture_status(&self, stream: CUstream) -> Answer<CUstreamCaptureStatus> {
        let mut status = CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        // SAFETY: the driver writes the status.
        answer(unsafe { sys::cuStreamIsCapturing(stream, &raw mut status) }, ()).map(|()| status)
    }

    pub fn end_capture(&self, stream: CUstream) -> Answer<CUgraph> {
        let mut graph = null_mut();
        // SAFETY: the driver writes the handle.
        answer(unsafe { sys::cuStreamEndCapture(stream, &raw mut graph) }, ()).map(|()| graph)
    }

    /// An executable of the graph, which is destroyed.
    pub fn instantiate(&self, graph: CUgraph) -> Answer<CUgraphExec> {
        let mut exec = null_mut();
        // SAFETY: the driver writes the handle; the graph is not used again.
        unsafe {
            answer(sys::cuGraphInstantiateWithFlags(&raw mut exec, graph, 0), ())?;
            answer(sys::cuGraphDestroy(graph), exec)
        }
    }

    pub fn replay(&self, exec: CUgraphExec, stream: CUstream) -> Answer {
        // SAFETY: the driver checks the handles.
        answer(unsafe { sys::cuGraphLaunch(exec, stream) }, ())
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: `new` retained it.
        unsafe { sys::cuDevicePrimaryCtxRelease_v2(0) };
    }
}

/// An allocation by a thread whose context is gone.
pub fn allocate_without_context() -> Answer<CUdeviceptr> {
    let mut address = 0;
    // SAFETY: the driver refuses it.
    answer(unsafe { sys::cuMemAlloc_v2(&raw mut address, 16) }, ()).map(|()| address)
}

/// Reads device memory from the host, which is wrong.
pub fn peek(address: CUdeviceptr) -> u32 {
    // SAFETY: none; the caller wants to see the process die.
    unsafe { std::ptr::with_exposed_provenance::<u32>(usize::try_from(address).unwrap()).read_volatile() }
}
