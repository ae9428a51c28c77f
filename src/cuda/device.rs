//! A card: its properties, its kernels, and whether it is lost.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{Arc, OnceLock};

use cudarc::driver::sys::{
    CUdevice_attribute as Attribute, CUfunction_attribute as FunctionAttribute, CUresult,
};
use cudarc::driver::{DriverError, result, sys};

use super::driver::{self, failure};
use super::kernel::{IMAGES, KERNELS, KernelInfo};
use super::recording::{free_outside_recordings, refuse_while_recording};
use super::{CudaError, Stream};

/// The properties of a card.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// The driver's number of the card.
    pub ordinal: usize,
    /// Its name.
    pub name: String,
    /// Its compute capability, major and minor.
    pub capability: (u32, u32),
    /// Bytes of its memory.
    pub memory: usize,
    /// Number of its multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of shared memory that one block may have.
    pub shared_memory: u32,
}

/// An open card with its kernels loaded. Cheap to clone; the last clone to go frees everything.
///
/// It uses the card's primary context, which it shares with every other user of the card in the process, such as the CUDA
/// runtime. Opening a device makes that context current on the calling thread, and so does every later call that reaches
/// the driver, a drop included; there it stays. Code of other libraries on the same thread that counts on its own context
/// has to make it current again.
///
/// Opening again a card that is open shares its memory. Each handle learns by itself that the card is lost.
#[derive(Clone)]
pub struct Device {
    inner: Arc<Inner>,
}

struct Inner {
    info: DeviceInfo,
    functions: HashMap<&'static str, Function>,
    /// Held for the functions; unloaded before the context goes.
    _modules: Vec<Module>,
    context: Arc<Context>,
    /// Why the device was lost.
    lost: OnceLock<String>,
}

/// The primary context of a card, which every user of the card in this process shares.
struct Context {
    handle: sys::CUcontext,
    device: sys::CUdevice,
}

#[derive(Clone, Copy)]
struct Function(sys::CUfunction);

struct Module {
    handle: sys::CUmodule,
    context: Arc<Context>,
}

// SAFETY: driver handles may be used from any thread whose current context is theirs; every use binds the context first.
unsafe impl Send for Function {}
// SAFETY: as for `Send`; the driver synchronises its own calls.
unsafe impl Sync for Function {}
// SAFETY: as for `Function`.
unsafe impl Send for Module {}
// SAFETY: as for `Function`.
unsafe impl Sync for Module {}
// SAFETY: as for `Function`.
unsafe impl Send for Context {}
// SAFETY: as for `Function`.
unsafe impl Sync for Context {}

impl Context {
    fn retain(ordinal: usize) -> Result<Context, DriverError> {
        let device = result::device::get(i32::try_from(ordinal).unwrap_or(-1))?;
        // SAFETY: the device comes from the driver.
        let handle = unsafe { result::primary_ctx::retain(device) }?;
        Ok(Context { handle, device })
    }

    /// Makes the context the calling thread's current one, where it stays.
    fn bind(&self) -> Result<(), DriverError> {
        // SAFETY: the context is alive.
        unsafe { result::ctx::set_current(self.handle) }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained by `Context::retain` and released once.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        let (handle, context) = (self.handle, self.context.clone());
        free_outside_recordings(move || {
            if context.bind().is_ok() {
                // SAFETY: the module is loaded and nothing of it runs: whoever drops a device has dropped its streams.
                let _ = unsafe { result::module::unload(handle) };
            }
        });
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("info", &self.inner.info).finish_non_exhaustive()
    }
}

impl Device {
    /// Opens card `ordinal`: loads every kernel, and checks each against what the library would launch.
    ///
    /// # Errors
    /// [`CudaError::NoDriver`], [`CudaError::OldDriver`], [`CudaError::NoDevice`], [`CudaError::OldDevice`],
    /// [`CudaError::Kernel`] if the build has no fitting kernels for the card, [`CudaError::OutOfMemory`],
    /// [`CudaError::Driver`]; [`CudaError::Graph`] on a thread that records.
    pub fn open(ordinal: usize) -> Result<Device, CudaError> {
        refuse_while_recording("cannot open a device")?;
        let (_, count) = driver::load()?;
        let info = Device::describe(ordinal, count)?;
        let context = Context::retain(ordinal)
            .map_err(|error| classify("cuDevicePrimaryCtxRetain", error, info.memory))?;
        let context = Arc::new(context);
        context.bind().map_err(|error| classify("cuCtxSetCurrent", error, info.memory))?;
        let mut modules: Vec<Module> = Vec::new();
        let mut functions = HashMap::new();
        for &(name, image) in IMAGES {
            let kernels = || KERNELS.iter().copied().flatten().filter(|kernel| kernel.module == name);
            let Some(first) = kernels().next() else { continue };
            let module = load_module(&context, &info, first, image)?;
            for kernel in kernels() {
                functions.insert(kernel.name, resolve(&module, &info, kernel)?);
            }
            modules.push(module);
        }
        if let Some(kernel) =
            KERNELS.iter().copied().flatten().find(|kernel| !functions.contains_key(kernel.name))
        {
            let reason = format!("the build has no `{}.cu`", kernel.module);
            return Err(CudaError::Kernel { kernel: kernel.name, reason });
        }
        let inner = Inner { info, functions, _modules: modules, context, lost: OnceLock::new() };
        Ok(Device { inner: Arc::new(inner) })
    }

    /// The properties of card `ordinal` of `count`, if it can be used. The driver is loaded.
    pub(super) fn describe(ordinal: usize, count: usize) -> Result<DeviceInfo, CudaError> {
        let absent = CudaError::NoDevice { ordinal, count };
        let number = i32::try_from(ordinal).map_err(|_| absent.clone())?;
        if ordinal >= count {
            return Err(absent);
        }
        let device = result::device::get(number).map_err(|error| failure("cuDeviceGet", error))?;
        let attribute = |attribute| {
            // SAFETY: the device comes from the driver.
            let value = unsafe { result::device::get_attribute(device, attribute) };
            let value = value.map_err(|error| failure("cuDeviceGetAttribute", error))?;
            Ok(u32::try_from(value).unwrap_or(0))
        };
        let name = result::device::get_name(device).map_err(|error| failure("cuDeviceGetName", error))?;
        // SAFETY: the device comes from the driver.
        let memory = unsafe { result::device::total_mem(device) };
        let info = DeviceInfo {
            ordinal,
            name,
            capability: (
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            memory: memory.map_err(|error| failure("cuDeviceTotalMem", error))?,
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_memory: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        };
        let (major, minor) = info.capability;
        if major < 8 {
            let capability = format!("{major}.{minor}");
            return Err(CudaError::OldDevice { ordinal, name: info.name, capability });
        }
        Ok(info)
    }

    /// The card's properties.
    pub fn info(&self) -> &DeviceInfo {
        &self.inner.info
    }

    /// A new queue of work.
    ///
    /// # Errors
    /// [`CudaError::Lost`], [`CudaError::OutOfMemory`], [`CudaError::Driver`].
    pub fn stream(&self) -> Result<Stream, CudaError> {
        Stream::new(self)
    }

    /// Bytes free and in all, as the driver counts them.
    ///
    /// # Errors
    /// [`CudaError::Lost`], [`CudaError::Driver`].
    pub fn memory(&self) -> Result<(usize, usize), CudaError> {
        self.call("cuMemGetInfo", result::mem_get_info)
    }

    /// Makes the device's context the calling thread's current one, where it stays.
    pub(super) fn bind(&self) -> Result<(), DriverError> {
        self.inner.context.bind()
    }

    pub(super) fn function(&self, kernel: &KernelInfo) -> Result<sys::CUfunction, CudaError> {
        let function = self.inner.functions.get(kernel.name).map(|function| function.0);
        function
            .ok_or_else(|| CudaError::Kernel { kernel: kernel.name, reason: "is not in the table".into() })
    }

    /// Runs a driver call with the device's context current. A failure that the context does not survive marks the
    /// device lost; on a lost device nothing is called.
    pub(super) fn call<T>(
        &self,
        name: &'static str,
        call: impl FnOnce() -> Result<T, DriverError>,
    ) -> Result<T, CudaError> {
        self.not_lost()?;
        self.bind().and_then(|()| call()).map_err(|error| {
            let error = classify(name, error, self.inner.info.memory);
            match error {
                CudaError::Lost { reason } => self.lose(reason),
                other => other,
            }
        })
    }

    /// Runs a driver call that waits for work, with the device's context current. The driver is asked on a lost device too:
    /// whatever lost it need not have stopped this work, and if it did, the driver answers at once. If the wait fails,
    /// nobody knows what runs on and which memory that uses: the device counts as lost, whatever the code.
    pub(super) fn wait(
        &self,
        name: &'static str,
        wait: impl FnOnce() -> Result<(), DriverError>,
    ) -> Result<(), CudaError> {
        match self.bind().and_then(|()| wait()) {
            Ok(()) => self.not_lost(),
            Err(error) => Err(self.lose(failure(name, error).to_string())),
        }
    }

    pub(super) fn not_lost(&self) -> Result<(), CudaError> {
        match self.inner.lost.get() {
            Some(reason) => Err(CudaError::Lost { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// Marks the device lost, unless it is already; the first reason counts.
    fn lose(&self, reason: String) -> CudaError {
        CudaError::Lost { reason: self.inner.lost.get_or_init(|| reason).clone() }
    }
}

/// What a failed call means; `total` is the device's memory, where the driver does not say.
fn classify(call: &'static str, error: DriverError, total: usize) -> CudaError {
    match error.0 {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
            let (free, total) = result::mem_get_info().unwrap_or((0, total));
            CudaError::OutOfMemory { what: call.into(), asked: 0, free, total }
        }
        code if is_sticky(code) => CudaError::Lost { reason: failure(call, error).to_string() },
        _ => failure(call, error),
    }
}

/// Whether a context is unusable after the error. Codes that say why none can be made, such as those of a card in exclusive
/// use, of a system that is not ready or of an MPS server that takes no client, tell nothing of one that is there.
fn is_sticky(code: CUresult) -> bool {
    match code {
        // The driver's documentation: any further work returns the same error, the process must be relaunched.
        CUresult::CUDA_ERROR_CONTAINED
        | CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
        | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
        | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
        | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
        | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | CUresult::CUDA_ERROR_INVALID_PC
        | CUresult::CUDA_ERROR_LAUNCH_FAILED
        | CUresult::CUDA_ERROR_TENSOR_MEMORY_LEAK
        | CUresult::CUDA_ERROR_MPS_CLIENT_TERMINATED
        | CUresult::CUDA_ERROR_EXTERNAL_DEVICE => true,
        // Likewise: the context cannot be used any more, is destroyed, or its driver shuts down.
        CUresult::CUDA_ERROR_ASSERT
        | CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
        | CUresult::CUDA_ERROR_DEINITIALIZED => true,
        // The documentation does not say. Work failed, or nobody knows what did.
        CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
        | CUresult::CUDA_ERROR_NVLINK_UNCORRECTABLE
        | CUresult::CUDA_ERROR_UNKNOWN => true,
        _ => false,
    }
}

fn load_module(
    context: &Arc<Context>,
    info: &DeviceInfo,
    first: &KernelInfo,
    image: &[u8],
) -> Result<Module, CudaError> {
    // SAFETY: the image is a whole one, made by the build.
    let loaded = unsafe { result::module::load_data(image.as_ptr().cast()) };
    match loaded {
        Ok(handle) => Ok(Module { handle, context: context.clone() }),
        Err(DriverError(CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU)) => {
            let (major, minor) = info.capability;
            let reason =
                format!("this build has none for compute capability {major}.{minor} ({})", info.name);
            Err(CudaError::Kernel { kernel: first.name, reason })
        }
        Err(error) => Err(of_kernel(first, "cuModuleLoadData", error, info)),
    }
}

/// What a call that prepares a kernel failed with: that there is no memory, that the device is lost, or what is wrong with
/// the kernel.
fn of_kernel(kernel: &KernelInfo, call: &'static str, error: DriverError, info: &DeviceInfo) -> CudaError {
    match classify(call, error, info.memory) {
        CudaError::Driver { call, name, message } => {
            CudaError::Kernel { kernel: kernel.name, reason: format!("{call}: {name}, {message}") }
        }
        other => other,
    }
}

/// Finds a kernel, checks that it takes what the launch code passes, in blocks of the size that it launches, and loads it: a
/// driver that loads lazily would do so at the first launch, which may be one that is recorded, where it cannot.
fn resolve(module: &Module, info: &DeviceInfo, kernel: &KernelInfo) -> Result<Function, CudaError> {
    let wrong = |reason: String| CudaError::Kernel { kernel: kernel.name, reason };
    let name = CString::new(kernel.name).map_err(|_| wrong("has a zero byte in its name".into()))?;
    // SAFETY: the module is loaded.
    let function = unsafe { result::module::get_function(module.handle, name) };
    let function = function.map_err(|error| of_kernel(kernel, "cuModuleGetFunction", error, info))?;
    let parameter = |index: usize| {
        let (mut offset, mut size) = (0, 0);
        // SAFETY: the function is valid and the pointers are to live integers.
        let answer = unsafe { sys::cuFuncGetParamInfo(function, index, &raw mut offset, &raw mut size) };
        answer.result().is_ok().then_some(size)
    };
    if parameter(0) != Some(kernel.argument_bytes) || parameter(1).is_some() {
        let found = parameter(0).unwrap_or(0);
        let expected = kernel.argument_bytes;
        return Err(wrong(format!("takes {found} bytes, the launch code passes one struct of {expected}")));
    }
    let attribute = |attribute| {
        // SAFETY: the function is valid.
        let value = unsafe { result::function::get_function_attribute(function, attribute) };
        let value = value.map_err(|error| of_kernel(kernel, "cuFuncGetAttribute", error, info))?;
        Ok(u32::try_from(value).unwrap_or(0))
    };
    let most = attribute(FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?;
    if most < kernel.threads {
        return Err(wrong(format!("runs in blocks of at most {most} threads, not {}", kernel.threads)));
    }
    let fixed = attribute(FunctionAttribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?;
    let dynamic = i32::try_from(info.shared_memory.saturating_sub(fixed)).unwrap_or(i32::MAX);
    let key = FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    // SAFETY: the function is valid.
    let raised = unsafe { result::function::set_function_attribute(function, key, dynamic) };
    raised.map_err(|error| of_kernel(kernel, "cuFuncSetAttribute", error, info))?;
    // SAFETY: the function is valid.
    let loaded = unsafe { sys::cuFuncLoad(function) }.result();
    loaded.map_err(|error| of_kernel(kernel, "cuFuncLoad", error, info))?;
    Ok(Function(function))
}
