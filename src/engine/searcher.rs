//! A catalogue brought to a device and searched by vectors, without a model.

use super::options::check_contexts;
use super::{Device, EngineError, MAX_ROWS_AT_ONCE, WhenBusy};
use crate::Result;
use crate::catalogue::{Catalogue, Hits};

/// A catalogue on a device. Cheap calls through `&self`, from any number of threads at once; answers have the same bits on
/// every device.
pub struct Searcher {
    on: On,
}

/// How a catalogue is searched.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SearcherOptions {
    /// Where to search.
    pub device: Device,
    /// Queries that a card searches for at once, at most: 1 to [`MAX_ROWS_AT_ONCE`]. Bounds its memory; the answer does not
    /// depend on it. As many are searched for at once as have 65,536 hits together, `k` rounded up to a power of two.
    pub queries_at_once: usize,
    /// Calls that a card runs at once, as [`Options::contexts`](super::Options::contexts).
    pub contexts: usize,
    /// What a further call does.
    pub when_busy: WhenBusy,
}

impl Default for SearcherOptions {
    fn default() -> SearcherOptions {
        SearcherOptions {
            device: Device::default(),
            queries_at_once: 64,
            contexts: 2,
            when_busy: WhenBusy::default(),
        }
    }
}

impl SearcherOptions {
    /// Refuses numbers that no card can work with.
    fn check(&self) -> Result<(), EngineError> {
        let (queries, limit) = (self.queries_at_once, MAX_ROWS_AT_ONCE);
        if !(1..=limit).contains(&queries) {
            return Err(EngineError::QueriesAtOnce { queries, limit });
        }
        check_contexts(self.contexts)
    }

    /// Sets where to search.
    pub fn device(mut self, device: Device) -> SearcherOptions {
        self.device = device;
        self
    }

    /// Sets how many queries a card searches for at once, 1 to [`MAX_ROWS_AT_ONCE`].
    pub fn queries_at_once(mut self, queries: usize) -> SearcherOptions {
        self.queries_at_once = queries;
        self
    }

    /// Sets how many calls a card runs at once, at least 1.
    pub fn contexts(mut self, contexts: usize) -> SearcherOptions {
        self.contexts = contexts;
        self
    }

    /// Sets what a call does when all contexts are in use.
    pub fn when_busy(mut self, when_busy: WhenBusy) -> SearcherOptions {
        self.when_busy = when_busy;
        self
    }
}

enum On {
    Cpu(Catalogue),
    #[cfg(feature = "cuda")]
    Cuda(Box<super::cuda::VectorSearch>),
}

impl std::fmt::Debug for Searcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Searcher").field("catalogue", self.catalogue()).finish_non_exhaustive()
    }
}

impl Searcher {
    /// Brings `catalogue` to a device. On the CPU there is nothing to bring, and only [`SearcherOptions::device`] counts.
    ///
    /// # Errors
    /// [`EngineError::NoCuda`], [`EngineError::QueriesAtOnce`], [`EngineError::NoContexts`]; of a card, that it cannot be
    /// used or has no room.
    pub fn new(catalogue: &Catalogue, options: &SearcherOptions) -> Result<Searcher> {
        if options.device != Device::Cpu {
            options.check()?;
        }
        let on = match options.device {
            Device::Cpu => On::Cpu(catalogue.clone()),
            #[cfg(feature = "cuda")]
            Device::Cuda(ordinal) => {
                On::Cuda(Box::new(super::cuda::VectorSearch::new(ordinal, catalogue, options)?))
            }
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(_) => return Err(EngineError::NoCuda.into()),
        };
        Ok(Searcher { on })
    }

    /// The catalogue.
    pub fn catalogue(&self) -> &Catalogue {
        match &self.on {
            On::Cpu(catalogue) => catalogue,
            #[cfg(feature = "cuda")]
            On::Cuda(search) => search.catalogue(),
        }
    }

    /// As [`Catalogue::search`], on the device.
    ///
    /// # Errors
    /// As [`Catalogue::search`]; of a card, that all contexts are in use or that it is lost.
    pub fn search(&self, queries: &[f32], k: usize) -> Result<Vec<Hits>> {
        match &self.on {
            On::Cpu(catalogue) => Ok(catalogue.search(queries, k)?),
            #[cfg(feature = "cuda")]
            On::Cuda(search) => search.search(queries, k),
        }
    }
}
