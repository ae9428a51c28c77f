//! One variant per way a model folder can be wrong.

use std::path::PathBuf;

use crate::ErrorKind;

/// Why a model folder is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The folder holds no `config.json`.
    #[error("no model in {}: there is no config.json", folder.display())]
    NotFound {
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// `config.json` cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The file system's answer.
        source: std::io::Error,
    },
    /// `config.json` is larger than [`MAX_CONFIG_BYTES`](super::MAX_CONFIG_BYTES).
    #[error("{} has {bytes} bytes; at most {limit} are read", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// `config.json` is not the JSON that the format asks for.
    #[error("{}: at {at}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The JSON path, such as `encoders.query.towers[1]`; `.` is the whole document.
        at: String,
        /// What the parser found there.
        source: serde_json::Error,
    },
    /// The format version is not the one this library reads.
    #[error("{}: at format_version: {found} is not supported, expected {expected}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// What the file says.
        found: u32,
        /// [`FORMAT_VERSION`](super::FORMAT_VERSION).
        expected: u32,
    },
    /// Well-formed JSON that asks for something impossible; every problem of the file is listed.
    #[error("{}: {}", path.display(), list(problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// All that is wrong, in the order of the file.
        problems: Vec<Problem>,
    },
}

/// One thing wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The JSON path, such as `encoders.query.head[0].weight`.
    pub at: String,
    /// What is wrong there, with the values.
    pub what: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "at {}: {}", self.at, self.what)
    }
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("; ")
}

impl ModelError {
    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            ModelError::NotFound { .. } => ErrorKind::Caller,
            ModelError::Io { .. } => ErrorKind::Io,
            ModelError::Version { .. } => ErrorKind::Unsupported,
            ModelError::TooLarge { .. } | ModelError::Json { .. } | ModelError::Invalid { .. } => {
                ErrorKind::CorruptData
            }
        }
    }
}
