//! One variant per way a request can be wrong.

use super::Modality;
use crate::ErrorKind;

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// A ready-made tensor contradicts its own shape.
    #[error("{modality} features: {reason}")]
    BadTensor {
        /// Which column.
        modality: Modality,
        /// What is wrong, with the numbers.
        reason: String,
    },
}

impl InputError {
    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            InputError::BadTensor { .. } => ErrorKind::Caller,
        }
    }
}
