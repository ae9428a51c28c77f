//! The checkpoint: safetensors files mapped or read, validated whole, handed out as typed views by name.

mod error;

pub use error::WeightsError;
