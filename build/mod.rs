//! What `build.rs` does, in parts that `tests/build.rs` tests.

pub mod emulator;
pub mod kernels;
