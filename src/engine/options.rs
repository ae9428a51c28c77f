//! How a model is opened.

pub use crate::cpu::embedding::UnknownId;
use crate::input::Modality;
pub use crate::weights::Source;

/// What an id beyond its table means, per modality.
pub type UnknownIds = [UnknownId; Modality::ALL.len()];

/// Where the work runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Device {
    /// This machine's processor.
    #[default]
    Cpu,
}

/// How to open a model. `Options::default()` maps the weights and runs on every core.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Options {
    /// Where to run.
    pub device: Device,
    /// Worker threads; `None` uses the process-wide rayon pool. The answer does not depend on it.
    pub threads: Option<usize>,
    /// Whether the weights are mapped or copied.
    pub source: Source,
    /// Whether to look for NaN and infinities in every weight at open.
    pub validate_values: bool,
    /// What an id beyond its table means, per modality in the order of [`Modality::ALL`].
    pub unknown_ids: UnknownIds,
}

impl Options {
    /// Sets where to run.
    pub fn device(mut self, device: Device) -> Options {
        self.device = device;
        self
    }

    /// Sets the number of worker threads.
    pub fn threads(mut self, threads: usize) -> Options {
        self.threads = Some(threads);
        self
    }

    /// Sets whether the weights are mapped or copied.
    pub fn source(mut self, source: Source) -> Options {
        self.source = source;
        self
    }

    /// Sets whether every weight is looked at when the model opens.
    pub fn validate_values(mut self, validate: bool) -> Options {
        self.validate_values = validate;
        self
    }

    /// Sets what an id of `modality` beyond its table means.
    pub fn unknown_ids(mut self, modality: Modality, policy: UnknownId) -> Options {
        self.unknown_ids[modality as usize] = policy;
        self
    }
}
