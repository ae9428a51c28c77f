//! The CUDA device of the tests: the stand-in driver's under the feature `emulate`, else a real card.
#![allow(dead_code, clippy::panic)] // each test file uses its own part; a failed check ends the test

use mercer::cuda::{CudaError, Device};

#[cfg(feature = "emulate")]
pub mod emulator;

/// The device, or `None` with a printed reason where there is no card. `MERCER_REQUIRE_GPU=1` makes that a failure.
pub fn device() -> Option<Device> {
    match Device::open(0) {
        Ok(device) => Some(device),
        Err(error @ (CudaError::NoDriver { .. } | CudaError::NoDevice { .. }))
            if !cfg!(feature = "emulate") && std::env::var_os("MERCER_REQUIRE_GPU").is_none() =>
        {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}
