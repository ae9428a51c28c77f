//! What is computed, in model order: `config.json` and the tensors it names.

mod config;
mod error;

pub use config::*;
pub use error::ModelError;
