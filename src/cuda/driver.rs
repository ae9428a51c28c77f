//! The driver library: whether it is there, how new it is, what devices it has.

use std::collections::BTreeSet;

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{DriverError, result};

use super::{CudaError, Device, DeviceInfo};

/// The newest CUDA version that a driver supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DriverVersion {
    /// Such as 13.
    pub major: u32,
    /// Such as 0.
    pub minor: u32,
}

impl std::fmt::Display for DriverVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The oldest driver that loads the kernels' binaries: of the major version of the toolkit that made them.
fn oldest_driver() -> DriverVersion {
    let toolkit =
        option_env!("MERCER_CUDA_TOOLKIT").and_then(|version| version.split('.').next()?.parse().ok());
    DriverVersion { major: toolkit.unwrap_or(OLDEST_BINDINGS).max(OLDEST_BINDINGS), minor: 0 }
}

/// The major version of the driver's interface that the library is built against.
const OLDEST_BINDINGS: u32 = 13;

/// Loads the driver; its version and number of devices.
///
/// # Errors
/// [`CudaError::NoDriver`], [`CudaError::OldDriver`], [`CudaError::Driver`].
pub(super) fn load() -> Result<(DriverVersion, usize), CudaError> {
    // SAFETY: loading the driver runs its initialisers, which is what every user of CUDA does.
    if !unsafe { sys::is_culib_present() } {
        let names: BTreeSet<String> =
            ["cuda", "nvcuda"].into_iter().flat_map(cudarc::get_lib_name_candidates).collect();
        let usual =
            names.iter().filter(|name| ["libcuda.so", "libcuda.so.1", "nvcuda.dll"].contains(&name.as_str()));
        let usual: Vec<&str> = usual.map(String::as_str).collect();
        let tried = format!("{} and {} other names", usual.join(", "), names.len() - usual.len());
        return Err(CudaError::NoDriver { tried });
    }
    let mut version = 0;
    // SAFETY: the pointer is to a live integer.
    let answer = unsafe { sys::cuDriverGetVersion(&raw mut version) }.result();
    answer.map_err(|error| failure("cuDriverGetVersion", error))?;
    let version = u32::try_from(version).unwrap_or(0);
    let found = DriverVersion { major: version / 1000, minor: version % 1000 / 10 };
    let needed = oldest_driver();
    if found < needed {
        return Err(CudaError::OldDriver { found: found.to_string(), needed: needed.to_string() });
    }
    match result::init() {
        Ok(()) => {}
        Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => return Ok((found, 0)),
        Err(error) => return Err(failure("cuInit", error)),
    }
    let count = result::device::get_count().map_err(|error| failure("cuDeviceGetCount", error))?;
    Ok((found, usize::try_from(count).unwrap_or(0)))
}

/// The driver's version, and each of its devices or why the device cannot be used.
///
/// # Errors
/// [`CudaError::NoDriver`], [`CudaError::OldDriver`], [`CudaError::Driver`].
pub fn devices() -> Result<(DriverVersion, Vec<Result<DeviceInfo, CudaError>>), CudaError> {
    let (version, count) = load()?;
    Ok((version, (0..count).map(|ordinal| Device::describe(ordinal, count)).collect()))
}

/// A driver error that says nothing about the device's state.
pub(super) fn failure(call: &'static str, error: DriverError) -> CudaError {
    let text = |text: Result<&std::ffi::CStr, _>| match text {
        Ok(text) => text.to_string_lossy().into_owned(),
        Err(_) => "unknown error".into(),
    };
    CudaError::Driver { call, name: text(error.error_name()), message: text(error.error_string()) }
}
