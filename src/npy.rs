//! NumPy `.npy` files: f32, f16 and i64 arrays of one or two axes.

use crate::ErrorKind;

/// Why a `.npy` file is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NpyError {}

impl NpyError {
    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        match *self {}
    }
}
