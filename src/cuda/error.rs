//! What can go wrong between the library and a GPU.

use super::Precision;
use crate::ErrorKind;

/// A failure of the CUDA backend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// No driver library could be loaded.
    #[error(
        "no CUDA driver: found no {tried}; install the NVIDIA driver, add its folder to the library path, or run on the CPU"
    )]
    NoDriver {
        /// The library names that were tried.
        tried: String,
    },
    /// The driver is there and too old for this build's kernels.
    #[error(
        "the CUDA driver supports CUDA {found}, this build needs {needed}: update the driver, or run on the CPU"
    )]
    OldDriver {
        /// The newest CUDA version that the driver supports.
        found: String,
        /// The oldest that this build runs on.
        needed: String,
    },
    /// No such device.
    #[error("no CUDA device {ordinal}: the driver has {count}")]
    NoDevice {
        /// The device asked for.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// The device is older than any architecture the kernels are built for.
    #[error("device {ordinal}, {name}, has compute capability {capability}: the kernels need 8.0 or later")]
    OldDevice {
        /// The device.
        ordinal: usize,
        /// Its name.
        name: String,
        /// Its compute capability.
        capability: String,
    },
    /// The build has no kernels for the device, or other kernels than the library's launch code expects.
    #[error("kernel `{kernel}`: {reason}")]
    Kernel {
        /// The kernel.
        kernel: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The device has no room. Not sticky: a smaller request may pass.
    #[error("out of memory for {what}{}: {free} of {total} bytes free", asked_for(*asked))]
    OutOfMemory {
        /// What the memory was for.
        what: String,
        /// Bytes asked for; 0 if the driver wanted them for itself.
        asked: usize,
        /// Bytes that the driver said were free.
        free: usize,
        /// Bytes of the device.
        total: usize,
    },
    /// The host has no memory that the device can copy from and to. Not sticky: a smaller request may pass.
    #[error("out of host memory for {what}, {asked} bytes asked for")]
    HostMemory {
        /// What the memory was for.
        what: &'static str,
        /// Bytes asked for.
        asked: usize,
    },
    /// The device cannot be used by this process any more: work on it failed, or a wait for work, after which nobody knows
    /// what runs on. Every later call with this handle answers the same; only a wait asks the driver, so that it has
    /// waited. Nothing in the process recovers it: what the driver calls for is a new process, and for uncorrectable
    /// memory errors perhaps a reset of the card. Other processes, other cards and the CPU are not affected.
    #[error("device lost: {reason}")]
    Lost {
        /// The driver's words at the first failure.
        reason: String,
    },
    /// Every execution context is in use, and the caller chose not to wait.
    #[error("all {contexts} execution contexts are in use")]
    Busy {
        /// How many there are.
        contexts: usize,
    },
    /// A slice does not have the length that a shape asks for.
    #[error("{what} has {found} elements, the shape {shape:?} needs {expected}")]
    Length {
        /// Which argument.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The shape.
        shape: Vec<usize>,
        /// The product of the shape.
        expected: usize,
    },
    /// A shape beyond what a kernel takes.
    #[error("{what} {value} is beyond the limit of {limit}")]
    Limit {
        /// Which length.
        what: &'static str,
        /// The value asked for.
        value: usize,
        /// The most that a kernel takes.
        limit: usize,
    },
    /// Values are stored in another precision than the op's.
    #[error("{what} is stored as {found:?}, the op takes {expected:?}")]
    Precision {
        /// Which argument.
        what: &'static str,
        /// Its precision.
        found: Precision,
        /// The op's.
        expected: Precision,
    },
    /// Memory of one device was given to work on another.
    #[error("memory of device {memory} cannot be used by work on device {stream}")]
    OtherDevice {
        /// The device that has the memory.
        memory: usize,
        /// The device of the stream.
        stream: usize,
    },
    /// Recorded work cannot be recorded or run like this.
    #[error("a recorded graph {reason}")]
    Graph {
        /// Why.
        reason: &'static str,
    },
    /// Memory does not start where a kernel reads whole vectors.
    #[error("{what} does not start at a multiple of {bytes} bytes")]
    Alignment {
        /// Which argument.
        what: &'static str,
        /// What its address must be a multiple of.
        bytes: usize,
    },
    /// A layer has a shape that is none.
    #[error("{reason}")]
    Shape {
        /// What is wrong with it.
        reason: String,
    },
    /// Another driver call failed.
    #[error("{call}: {name}, {message}")]
    Driver {
        /// The call.
        call: &'static str,
        /// The driver's name for the error.
        name: String,
        /// The driver's words.
        message: String,
    },
}

impl CudaError {
    /// The refusal of a layer's shape, in the words of the CPU.
    pub(crate) fn shape(error: impl std::fmt::Display) -> CudaError {
        CudaError::Shape { reason: error.to_string() }
    }

    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            CudaError::NoDriver { .. }
            | CudaError::OldDriver { .. }
            | CudaError::NoDevice { .. }
            | CudaError::OldDevice { .. }
            | CudaError::Kernel { .. }
            | CudaError::Driver { .. } => ErrorKind::Unsupported,
            CudaError::OutOfMemory { .. } | CudaError::HostMemory { .. } => ErrorKind::OutOfMemory,
            CudaError::Lost { .. } => ErrorKind::DeviceLost,
            CudaError::Busy { .. } => ErrorKind::Overloaded,
            CudaError::Length { .. }
            | CudaError::Limit { .. }
            | CudaError::Precision { .. }
            | CudaError::OtherDevice { .. }
            | CudaError::Graph { .. }
            | CudaError::Alignment { .. }
            | CudaError::Shape { .. } => ErrorKind::Caller,
        }
    }
}

fn asked_for(bytes: usize) -> String {
    if bytes == 0 { String::new() } else { format!(", {bytes} bytes asked for") }
}

/// Checks that `what` has the number of elements that `shape` asks for.
pub(crate) fn expect(what: &'static str, found: usize, shape: &[usize]) -> Result<(), CudaError> {
    let expected = shape.iter().try_fold(1usize, |product, &length| product.checked_mul(length));
    match expected {
        Some(expected) if expected == found => Ok(()),
        _ => {
            let expected = expected.unwrap_or(usize::MAX);
            Err(CudaError::Length { what, found, shape: shape.to_vec(), expected })
        }
    }
}

/// `value` as a kernel takes it.
pub(crate) fn to_u32(what: &'static str, value: usize) -> Result<u32, CudaError> {
    let limit = u32::MAX as usize;
    u32::try_from(value).map_err(|_| CudaError::Limit { what, value, limit })
}
