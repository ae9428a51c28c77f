//! One variant per way vectors, ids and searches can be wrong.

use crate::ErrorKind;
use std::path::PathBuf;

/// What a vector is, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A row of the catalogue.
    Row,
    /// A query of a batch.
    Query,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Role::Row => "row",
            Role::Query => "query",
        })
    }
}

/// Why a catalogue or a search is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogueError {
    /// Vectors have 1 to 4096 elements.
    #[error("vectors of {dim} elements; 1 to {max} are supported", max = super::MAX_DIM)]
    Dim {
        /// The length asked for.
        dim: usize,
    },
    /// The number of values is not the number of ids times the vector length.
    #[error("{values} values for {rows} ids of {dim} elements each")]
    VectorsLength {
        /// Values given.
        values: usize,
        /// Ids given.
        rows: usize,
        /// Length of a vector.
        dim: usize,
    },
    /// Ids are 0 to `i64::MAX`.
    #[error("row {row} has id {id}; ids are not negative")]
    NegativeId {
        /// The row.
        row: usize,
        /// Its id.
        id: i64,
    },
    /// Two rows have one id.
    #[error("rows {first} and {second} both have id {id}")]
    DuplicateId {
        /// The id.
        id: i64,
        /// The first of the rows.
        first: usize,
        /// The other row.
        second: usize,
    },
    /// A vector of zeros matches nothing.
    #[error("{role} {at} is all zeros")]
    Zero {
        /// Row or query.
        role: Role,
        /// Its number.
        at: usize,
    },
    /// A vector holds NaN or an infinity.
    #[error("{role} {at} has {value} at position {position}")]
    NotFinite {
        /// Row or query.
        role: Role,
        /// Its number.
        at: usize,
        /// Where in the vector.
        position: usize,
        /// What is there.
        value: f32,
    },
    /// A vector so long that a score could overflow (inner product only).
    #[error("{role} {at} has length {norm:e} (L2); inner products are supported up to 2^63")]
    NormTooLarge {
        /// Row or query.
        role: Role,
        /// Its number.
        at: usize,
        /// Its L2 norm.
        norm: f64,
    },
    /// The queries are not whole vectors of the catalogue's length.
    #[error("{values} query values; the catalogue's vectors have {dim} elements")]
    QueriesLength {
        /// Values given.
        values: usize,
        /// Length of a vector.
        dim: usize,
    },
    /// `k` is 1 to 65,536.
    #[error("top {k}; 1 to {max} are supported", max = super::MAX_K)]
    K {
        /// The number asked for.
        k: usize,
    },
    /// An output slice does not have the length that the batch and `k` need.
    #[error("the slice for {what} has length {found}, the answer needs {needed}")]
    OutputLength {
        /// `ids`, `scores` or `counts`.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length it must have.
        needed: usize,
    },
    /// Side data has another number of rows than the catalogue.
    #[error("{what} for {found} rows, the catalogue has {rows}")]
    SideRows {
        /// `items` or `features`.
        what: &'static str,
        /// Rows given.
        found: usize,
        /// Rows of the catalogue.
        rows: usize,
    },
    /// An item is one line, without line breaks.
    #[error("item {row} has a line break")]
    ItemLineBreak {
        /// The row.
        row: usize,
    },
    /// The feature values are not whole rows of the stated width.
    #[error("{values} feature values in rows of width {width}")]
    FeaturesLength {
        /// Values given.
        values: usize,
        /// Stated width.
        width: usize,
    },
    /// A feature is NaN or infinite.
    #[error("the features of row {row} have {value} at position {position}")]
    FeatureNotFinite {
        /// The row.
        row: usize,
        /// Where in the row.
        position: usize,
        /// What is there.
        value: f32,
    },
    /// A file operation failed.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The folder is not a saved catalogue.
    #[error("{}: no catalogue here: {name} is missing", path.display(), name = super::store::MANIFEST)]
    NotACatalogue {
        /// The folder.
        path: PathBuf,
    },
    /// A folder with other people's files is not written to.
    #[error("{}: the folder holds {found} and no catalogue; name an empty or a new folder", path.display())]
    ForeignFolder {
        /// The folder.
        path: PathBuf,
        /// One of its files.
        found: String,
    },
    /// Written by a version of this library that stores catalogues in another way.
    #[error("{}: format version {found}, this library reads {supported}", path.display())]
    FormatVersion {
        /// The manifest.
        path: PathBuf,
        /// Version found.
        found: u64,
        /// Version supported.
        supported: u32,
    },
    /// A file has another length than the manifest says.
    #[error("{}: {found} bytes, the manifest says {expected}", path.display())]
    FileLength {
        /// The file.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// The length in the manifest.
        expected: u64,
    },
    /// The bytes contradict their checksum or themselves.
    #[error("{}: damaged {part}: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which part of it.
        part: &'static str,
        /// How it shows.
        reason: String,
    },
}

impl CatalogueError {
    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        use CatalogueError::*;
        match self {
            // A number above a limit is a wish that is not granted; 0 is no wish.
            Dim { dim: 0 } | K { k: 0 } => ErrorKind::Caller,
            Dim { .. } | K { .. } | NormTooLarge { .. } | FormatVersion { .. } => ErrorKind::Unsupported,
            VectorsLength { .. }
            | NegativeId { .. }
            | DuplicateId { .. }
            | Zero { .. }
            | NotFinite { .. }
            | QueriesLength { .. }
            | OutputLength { .. }
            | SideRows { .. }
            | ItemLineBreak { .. }
            | FeaturesLength { .. }
            | FeatureNotFinite { .. }
            | NotACatalogue { .. }
            | ForeignFolder { .. } => ErrorKind::Caller,
            Io { .. } => ErrorKind::Io,
            FileLength { .. } | Damaged { .. } => ErrorKind::CorruptData,
        }
    }
}
