//! The engine: a model opened on a device.

use crate::ErrorKind;

/// Where the work runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Device {
    /// This machine's processor.
    #[default]
    Cpu,
}

/// How to open a model.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Options {
    /// Where to run.
    pub device: Device,
}

/// A model opened on a device.
#[derive(Debug, Clone)]
pub struct Engine {}

/// Why a call of the engine fails.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {}

impl EngineError {
    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        match *self {}
    }
}
