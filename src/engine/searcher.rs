//! A catalogue brought to a device and searched by vectors, without a model.

use super::{Device, Options};
use crate::Result;
use crate::catalogue::{Catalogue, Hits};

/// A catalogue on a device. Cheap calls through `&self`, from any number of threads at once; answers have the same bits on
/// every device.
pub struct Searcher {
    on: On,
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
    /// Brings `catalogue` to the device of `options`, which also say how many queries go there together
    /// ([`Options::rows_at_once`]), how many calls run at once and what a further one does. On the CPU there is nothing to
    /// bring.
    ///
    /// # Errors
    /// [`EngineError::NoCuda`](super::EngineError::NoCuda), [`EngineError::RowsAtOnce`](super::EngineError::RowsAtOnce),
    /// [`EngineError::NoContexts`](super::EngineError::NoContexts); of a card, that it cannot be used or has no room.
    pub fn new(catalogue: &Catalogue, options: &Options) -> Result<Searcher> {
        options.check()?;
        let on = match options.device {
            Device::Cpu => On::Cpu(catalogue.clone()),
            #[cfg(feature = "cuda")]
            Device::Cuda(ordinal) => {
                On::Cuda(Box::new(super::cuda::VectorSearch::new(ordinal, catalogue, options)?))
            }
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(_) => return Err(super::EngineError::NoCuda.into()),
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
