//! One variant per way a model folder can be wrong.

use crate::ErrorKind;

/// Why a model folder is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {}

impl ModelError {
    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        match *self {}
    }
}
