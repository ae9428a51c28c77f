//! How a model is opened.

use super::EngineError;
pub use crate::cpu::embedding::UnknownId;
use crate::input::Modality;
pub use crate::model::Precision;
pub use crate::weights::Source;

/// What an id beyond its table means, per modality.
pub type UnknownIds = [UnknownId; Modality::ALL.len()];

/// The most rows that a device encodes at once.
pub const MAX_ROWS_AT_ONCE: usize = 65_536;

/// Where the work runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Device {
    /// This machine's processor.
    #[default]
    Cpu,
    /// The CUDA card of this number, as `mercer devices` counts them. Needs the feature `cuda`.
    Cuda(usize),
}

impl std::fmt::Display for Device {
    /// As `--device` takes it: `cpu`, `cuda:0`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

/// What a call does when every execution context of the device is in use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum WhenBusy {
    /// Wait for another call to end.
    #[default]
    Wait,
    /// Fail with an error of kind [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    Refuse,
}

/// How to open a model. `Options::default()` maps the weights and runs on every core.
#[derive(Debug, Clone)]
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
    /// How a device stores weights and activations; the CPU computes in f32 whatever it says.
    pub precision: Precision,
    /// Rows that a device encodes at once, at most: 1 to [`MAX_ROWS_AT_ONCE`]. Bounds its memory; the answer does not
    /// depend on it. A search of a card takes as many requests at once as have 65,536 hits together, `k` rounded up to a
    /// power of two: with 64 rows, all of them up to a `k` of 1,024.
    pub rows_at_once: usize,
    /// Calls that a device runs at once, each in an execution context of its own: at least 1. A context has memory for
    /// any call, and keeps what it recorded for up to 128 sizes of calls that encode or search, and as many that rank: the
    /// driver takes some memory of the device for each.
    pub contexts: usize,
    /// What a further call does. One of more requests than are encoded at once takes several turns, and so does a ranking;
    /// each turn may have to wait or be refused.
    pub when_busy: WhenBusy,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            device: Device::default(),
            threads: None,
            source: Source::default(),
            validate_values: false,
            unknown_ids: UnknownIds::default(),
            precision: Precision::default(),
            rows_at_once: 64,
            contexts: 2,
            when_busy: WhenBusy::default(),
        }
    }
}

impl Options {
    /// Refuses numbers that no engine can work with.
    pub(super) fn check(&self) -> Result<(), EngineError> {
        let (rows, limit) = (self.rows_at_once, MAX_ROWS_AT_ONCE);
        if !(1..=limit).contains(&rows) {
            return Err(EngineError::RowsAtOnce { rows, limit });
        }
        check_contexts(self.contexts)
    }

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

    /// Sets how a device stores weights and activations.
    pub fn precision(mut self, precision: Precision) -> Options {
        self.precision = precision;
        self
    }

    /// Sets how many rows a device encodes at once, 1 to [`MAX_ROWS_AT_ONCE`].
    pub fn rows_at_once(mut self, rows: usize) -> Options {
        self.rows_at_once = rows;
        self
    }

    /// Sets how many calls a device runs at once, at least 1.
    pub fn contexts(mut self, contexts: usize) -> Options {
        self.contexts = contexts;
        self
    }

    /// Sets what a call does when all contexts are in use.
    pub fn when_busy(mut self, when_busy: WhenBusy) -> Options {
        self.when_busy = when_busy;
        self
    }
}

/// Refuses to run no calls at all.
pub(super) fn check_contexts(contexts: usize) -> Result<(), EngineError> {
    if contexts == 0 { Err(EngineError::NoContexts) } else { Ok(()) }
}
