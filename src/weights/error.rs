//! One variant per way a checkpoint can be wrong.

use crate::ErrorKind;

/// Why a checkpoint is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {}

impl WeightsError {
    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        match *self {}
    }
}
