//! The CUDA device of the tests: the stand-in driver's under the feature `emulate`, else a real card.
#![allow(dead_code, clippy::panic, clippy::unwrap_used)] // each test file uses its own part; a failed check ends the test

use half::{bf16, f16};
use mercer::cuda::{CudaError, Device, Precision, Rows, Stream, Tensor};

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

/// [`device`], where it is emulated with so many multiprocessors: what a launch is cut into depends on them.
pub fn device_with(multiprocessors: i32) -> Option<Device> {
    #[cfg(feature = "emulate")]
    let _one_at_a_time = {
        static OPENING: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let guard = OPENING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        emulator::Emulator::get().multiprocessors(multiprocessors);
        guard
    };
    #[cfg(not(feature = "emulate"))]
    let _ = multiprocessors;
    device()
}

/// `x` in the precision.
pub fn round(precision: Precision, x: f32) -> f32 {
    match precision {
        Precision::F32 => x,
        Precision::F16 => f16::from_f32(x).to_f32(),
        Precision::Bf16 => bf16::from_f32(x).to_f32(),
    }
}

/// Allowed error of a layer against f64 on rounded inputs, relative to the layer's largest magnitude (the contract for
/// encoders).
pub fn tolerance(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => 2e-5,
        Precision::F16 => 2e-3,
        Precision::Bf16 => 2e-2,
    }
}

/// `len` NaNs, for outputs: what is not written shows.
pub fn poisoned(stream: &Stream, precision: Precision, len: usize) -> Tensor {
    Tensor::upload(stream, "poison", precision, &vec![f32::NAN; len]).unwrap()
}

/// What [`marked`] memory holds.
pub const MARK: f32 = -77.0;

/// `len` times [`MARK`], for outputs of inputs that are NaN where nothing may be read: what is written there shows too.
pub fn marked(stream: &Stream, precision: Precision, len: usize) -> Tensor {
    Tensor::upload(stream, "marks", precision, &vec![MARK; len]).unwrap()
}

/// `count` rows, said to be at most `most`.
pub fn rows(stream: &Stream, most: usize, count: usize) -> Rows {
    Rows::new(most, stream.upload("rows", &[u32::try_from(count).unwrap()]).unwrap()).unwrap()
}
