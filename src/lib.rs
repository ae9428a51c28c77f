//! Multimodal product search and recommendation: query and item encoders over memory-mapped weights, and the exact
//! top-K of a catalogue, in one library.
//!
//! A request (text, a photo, a user, their behaviour, in any combination) becomes one vector through towers and a
//! fused concat-linear head; the catalogue answers with the true top-K products under a score that is defined bit
//! for bit, so the answer does not depend on the batch, the number of threads or the instruction set.
//!
//! ```text
//! Request --input--> Features --engine: towers, fused head, L2--> vector --catalogue--> hits
//! ```
//!
//! [`Engine`] encodes, [`Catalogue`] searches; both are cheap to clone and every call takes `&self`.

#[cfg(target_endian = "big")]
compile_error!(
    "mercer reads and writes little-endian files as they lie in memory: big-endian targets are not supported"
);

pub mod catalogue;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod engine;
pub mod error;
mod files;
pub mod input;
mod json;
pub mod model;
pub mod npy;
pub mod weights;

pub use catalogue::{Catalogue, Hit, Hits, Metric};
pub use engine::{Device, Engine, Options};
pub use error::{Error, ErrorKind, Result};
pub use input::{Behaviour, Features, Image, Modality, Request};

/// The README's code, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
