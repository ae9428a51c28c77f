//! One variant per way a call of the engine can be wrong.

use super::Side;
use crate::catalogue::{CatalogueError, Role};
use crate::cpu::OpError;
use crate::cpu::normalize::NormalizeError;
use crate::input::{InputError, Modality};
use crate::{Error, ErrorKind};

/// Why a call of the engine fails.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// One row of a batch is wrong; of several, the first that was found.
    #[error("{side} {row}: {source}")]
    Row {
        /// Which encoder.
        side: Side,
        /// The row's position in the batch of the call.
        row: usize,
        /// Why.
        source: RowError,
    },
    /// A ready-made tensor has another form than the encoder's towers read.
    #[error("{modality} features are {found}; the tower `{tower}` reads {expected}")]
    Form {
        /// Which column.
        modality: Modality,
        /// The tower.
        tower: String,
        /// What the tower reads.
        expected: String,
        /// What the column holds.
        found: String,
    },
    /// The caller's slice has another length than the answer.
    #[error("the output slice has {found} values; {rows} rows of {width} need {expected}")]
    OutputLength {
        /// Length of the slice.
        found: usize,
        /// Length of the answer.
        expected: usize,
        /// Rows of the batch.
        rows: usize,
        /// Values per row.
        width: usize,
    },
    /// Hits were given for another number of requests.
    #[error("{hits} lists of hits for {requests} requests")]
    HitLists {
        /// Lists of hits.
        hits: usize,
        /// Requests.
        requests: usize,
    },
    /// The catalogue's vectors cannot come from this model.
    #[error("the catalogue has {found} values per vector, the model {expected}")]
    CatalogueWidth {
        /// The catalogue's.
        found: usize,
        /// The model's.
        expected: usize,
    },
    /// The catalogue was encoded by another model.
    #[error("the index was made by model {found}, this is model {expected}: make it again")]
    OtherModel {
        /// The fingerprint in the index.
        found: String,
        /// This model's fingerprint.
        expected: String,
    },
    /// A hit names a row that the catalogue does not have, or has under another id.
    #[error("a hit names product {id} in row {row}, which the catalogue does not have there")]
    OtherCatalogue {
        /// The hit's row.
        row: usize,
        /// The hit's id.
        id: i64,
    },
    /// The ranker's side of the products cannot come from this ranker.
    #[error("{values} ranker values in rows of {found}; the ranker reads rows of {expected}")]
    RankerRows {
        /// Values given.
        values: usize,
        /// Values per row given.
        found: usize,
        /// Values per row that the ranker reads.
        expected: usize,
    },
    /// The ranker gives a product a score that is no number: its weights or the products' values are not finite.
    #[error("the ranker scores product {id} as {value}")]
    RankNotFinite {
        /// The product.
        id: i64,
        /// The score.
        value: f32,
    },
    /// The row that stands in for unknown ids is not in a tower's table.
    #[error(
        "row {row} stands in for unknown {modality} ids, but the table of tower `{tower}` has {rows} rows"
    )]
    DefaultRow {
        /// The ids.
        modality: Modality,
        /// The tower.
        tower: String,
        /// The row.
        row: usize,
        /// Rows of the table.
        rows: usize,
    },
    /// The tokenizer makes ids that a text tower has no row for.
    #[error("the tokenizer makes ids up to {largest}, but the table of tower `{tower}` has {rows} rows")]
    Vocabulary {
        /// The tower.
        tower: String,
        /// The tokenizer's largest id.
        largest: u32,
        /// Rows of the table.
        rows: usize,
    },
    /// An op refuses what a tower or head gives it.
    #[error("{what}: {source}")]
    Op {
        /// The tower or head.
        what: String,
        /// What the op found.
        source: OpError,
    },
    /// A CUDA device was asked for, and the library was built without the feature `cuda`.
    #[error("this build has no CUDA support: build with the feature `cuda`")]
    NoCuda,
    /// The query head has hidden layers or an activation, so a score has no exact parts.
    #[error("the query head is not one linear layer: a score does not split into parts")]
    NotLinear,
    /// The model has no ranker.
    #[error("the model has no ranker")]
    NoRanker,
    /// [`Options::rows_at_once`](super::Options::rows_at_once) is out of range.
    #[error("a device cannot encode {rows} rows at once: 1 to {limit} are supported")]
    RowsAtOnce {
        /// The number asked for.
        rows: usize,
        /// The most.
        limit: usize,
    },
    /// [`SearcherOptions::queries_at_once`](super::SearcherOptions::queries_at_once) is out of range.
    #[error("a device cannot search for {queries} queries at once: 1 to {limit} are supported")]
    QueriesAtOnce {
        /// The number asked for.
        queries: usize,
        /// The most.
        limit: usize,
    },
    /// No execution contexts were asked for.
    #[error("a device needs at least one execution context")]
    NoContexts,
    /// A worker pool of no threads was asked for.
    #[error("an engine needs at least one thread")]
    NoThreads,
    /// A worker pool of the asked size cannot be made.
    #[error("cannot start {threads} threads: {reason}")]
    Threads {
        /// The number asked for.
        threads: usize,
        /// What the system said.
        reason: String,
    },
}

/// What is wrong with one row of a batch.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RowError {
    /// The raw request cannot be read.
    #[error(transparent)]
    Input(InputError),
    /// It carries nothing that the encoder reads.
    #[error("nothing to encode: it has none of {reads}")]
    Empty {
        /// The modalities that the encoder reads.
        reads: String,
    },
    /// It carries a modality that neither the encoder nor the ranker reads.
    #[error("it has {modality}, but this side of the model reads only {reads}")]
    Unread {
        /// What it carries.
        modality: Modality,
        /// The modalities that are read.
        reads: String,
    },
    /// An id has no row in its table.
    #[error("{modality} id {id} is not in the table of {rows} rows")]
    UnknownId {
        /// The column.
        modality: Modality,
        /// The id.
        id: i64,
        /// Rows of the table: ids run from 0 to `rows - 1`.
        rows: usize,
    },
    /// It has more ids than a batch has room for on the device.
    #[error("{modality} of {ids} ids, the device has room for {limit}")]
    TooManyIds {
        /// The column.
        modality: Modality,
        /// Ids of the row.
        ids: usize,
        /// What [`Options::rows_at_once`](super::Options::rows_at_once) requests have together at most.
        limit: usize,
    },
    /// Its items have weights, and a tower pools them in a way that takes none.
    #[error("its items have weights, which tower `{tower}` does not take: it does not pool by sum")]
    Weights {
        /// The tower.
        tower: String,
    },
    /// The encoder's output is zero, which has no direction.
    #[error("it encodes to a vector of zeros, which cannot be normalised")]
    Zero,
    /// The encoder's output is not finite.
    #[error("it encodes to a vector with {value} at position {position}, which cannot be normalised")]
    NotFinite {
        /// A position of the vector.
        position: usize,
        /// The value there.
        value: f32,
    },
    /// The ranker reads nothing of what the request carries.
    #[error("nothing to rank by: it has none of {reads}")]
    NothingToRank {
        /// The modalities that the ranker reads.
        reads: String,
    },
}

/// The error with its row counted from the start of a batch, of which the call handled the part from `first` on.
pub(super) fn in_batch(mut error: Error, first: usize) -> Error {
    use CatalogueError::{NormTooLarge, NotFinite, Zero};
    match &mut error {
        Error::Engine(EngineError::Row { row: at, .. })
        | Error::Catalogue(
            Zero { role: Role::Query, at }
            | NotFinite { role: Role::Query, at, .. }
            | NormTooLarge { role: Role::Query, at, .. },
        ) => *at += first,
        _ => {}
    }
    error
}

impl EngineError {
    /// Gives an op's error the name of the tower or head that ran it.
    pub(super) fn op(what: &str) -> impl Fn(OpError) -> EngineError {
        move |source| EngineError::Op { what: what.into(), source }
    }

    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            EngineError::Row { source: RowError::Input(source), .. } => source.kind(),
            EngineError::Row { .. }
            | EngineError::Form { .. }
            | EngineError::OutputLength { .. }
            | EngineError::HitLists { .. }
            | EngineError::CatalogueWidth { .. }
            | EngineError::OtherModel { .. }
            | EngineError::OtherCatalogue { .. }
            | EngineError::RankerRows { .. }
            | EngineError::DefaultRow { .. }
            | EngineError::Op { .. }
            | EngineError::RowsAtOnce { .. }
            | EngineError::QueriesAtOnce { .. }
            | EngineError::NoContexts
            | EngineError::NoThreads => ErrorKind::Caller,
            EngineError::RankNotFinite { .. } | EngineError::Vocabulary { .. } => ErrorKind::CorruptData,
            EngineError::NotLinear | EngineError::NoRanker | EngineError::NoCuda => ErrorKind::Unsupported,
            EngineError::Threads { .. } => ErrorKind::Overloaded,
        }
    }
}

impl RowError {
    /// Of a vector that cannot be normalised, with its row.
    pub(super) fn without_direction(error: NormalizeError) -> (usize, RowError) {
        match error {
            NormalizeError::Zero { row } => (row, RowError::Zero),
            NormalizeError::NotFinite { row, position, value } => {
                (row, RowError::NotFinite { position, value })
            }
        }
    }
}
