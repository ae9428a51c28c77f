//! Convolution and batch norm: one case list on the f64 oracle, the CPU and the CUDA device, each held bit for bit against
//! itself too.
#![allow(clippy::panic, clippy::unwrap_used)] // a failed check ends the test

mod cases;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
#[path = "../device/mod.rs"]
mod device;
#[path = "../oracle/mod.rs"]
mod oracle;
