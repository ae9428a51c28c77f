//! One variant per way vectors, ids and searches can be wrong.

use crate::ErrorKind;

/// Why a catalogue or a search is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogueError {}

impl CatalogueError {
    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        match *self {}
    }
}
