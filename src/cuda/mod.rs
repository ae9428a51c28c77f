//! The CUDA backend: one file per op, as in [`crate::cpu`], over a thin layer around the driver.
//!
//! - [`Device`] opens a card, loads every kernel and checks it against the launch code.
//! - [`Slice`] is memory of a device; a host slice and it share no type, and every crossing is called upload or download.
//! - [`Stream`] is a queue of work on a device: launches and copies, recorded as a [`Graph`] or run at once.
//! - [`Staging`] is a stream with host memory that the device copies from and to by itself, recorded work included.
//!
//! An op's `enqueue` puts its launches on a stream and returns at once. Results and faults of the device are there after
//! [`Stream::synchronize`].
#![allow(unsafe_code)] // driver calls; see each SAFETY note

mod arena;
mod device;
mod driver;
mod error;
mod kernel;
mod memory;
mod recording;
mod staging;
mod stream;
mod tensor;

pub mod conv;
pub mod elementwise;
pub mod embedding;
pub mod head;
pub mod linear;
pub mod network;
pub mod normalize;
pub mod pixels;
pub mod pool;
pub mod topk;

pub use device::{Device, DeviceInfo};
pub use driver::{DriverVersion, devices};
pub use error::CudaError;
pub use kernel::TARGETS;
pub use memory::Slice;
pub use recording::Graph;
pub use staging::{Staged, StagedGraph, Staging};
pub use stream::Stream;
pub use tensor::{Rows, Tensor};

pub use crate::model::Precision;

pub(crate) use arena::{Layout, Place};
pub(crate) use error::{expect, to_u32};
pub(crate) use kernel::{Arguments, Kernel};
