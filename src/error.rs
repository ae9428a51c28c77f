//! One error enum per area under one [`Error`], and [`ErrorKind`] to decide what a caller does next.

use crate::catalogue::CatalogueError;
use crate::engine::EngineError;
use crate::input::InputError;
use crate::model::ModelError;
use crate::npy::NpyError;
use crate::weights::WeightsError;

/// The crate's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, by area; each variant is transparent: it prints as the error it holds.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The checkpoint's files.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// `config.json`, or its disagreement with the checkpoint.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A request: text, image, user, behaviour, a JSON line.
    #[error(transparent)]
    Input(#[from] InputError),
    /// Vectors, ids and searches.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// The engine's own calls.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A `.npy` file.
    #[error(transparent)]
    Npy(#[from] NpyError),
    /// A CUDA device.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Cuda(#[from] crate::cuda::CudaError),
}

impl Error {
    /// The class of the error: whether to fix the request, retry, replace the process or replace a file.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Weights(e) => e.kind(),
            Error::Model(e) => e.kind(),
            Error::Input(e) => e.kind(),
            Error::Catalogue(e) => e.kind(),
            Error::Engine(e) => e.kind(),
            Error::Npy(e) => e.kind(),
            #[cfg(feature = "cuda")]
            Error::Cuda(e) => e.kind(),
        }
    }
}

/// What a caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The call's own arguments are wrong; the same call fails again.
    Caller,
    /// No room at the moment; retry later.
    Overloaded,
    /// An allocation failed; a smaller call may pass.
    OutOfMemory,
    /// The device cannot be used again by this process.
    DeviceLost,
    /// A file contradicts itself or its checksum; replace the file.
    CorruptData,
    /// The file system answered with an error.
    Io,
    /// A valid wish that this build, machine or model cannot grant.
    Unsupported,
}
