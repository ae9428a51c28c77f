//! One variant per way a call of the engine can be wrong.

use super::Side;
use crate::ErrorKind;
use crate::cpu::OpError;
use crate::input::Modality;

/// Why a call of the engine fails.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A row carries no modality.
    #[error("{side} {row} is empty: it has neither text, image, user nor behaviour")]
    Empty {
        /// Which encoder.
        side: Side,
        /// The batch row.
        row: usize,
    },
    /// A row carries a modality that no tower of the encoder reads.
    #[error("{side} {row} has {modality}, which no tower of the {side} encoder reads")]
    Unread {
        /// Which encoder.
        side: Side,
        /// The batch row.
        row: usize,
        /// What it carries.
        modality: Modality,
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
    /// An id has no row in its table.
    #[error("{side} {row}: {modality} id {id} is not in the table of {rows} rows")]
    UnknownId {
        /// Which encoder.
        side: Side,
        /// The batch row.
        row: usize,
        /// The column.
        modality: Modality,
        /// The id.
        id: i64,
        /// Rows of the table: ids run from 0 to `rows - 1`.
        rows: usize,
    },
    /// The encoder's output has no direction: it is zero, or not finite.
    #[error("{side} {row} encodes to a vector whose value {position} is {value}: it cannot be normalised")]
    NoDirection {
        /// Which encoder.
        side: Side,
        /// The batch row.
        row: usize,
        /// A position of the vector.
        position: usize,
        /// The value there.
        value: f32,
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
    /// A ready-made tensor disagrees with what the op reads in a way that its shape does not show.
    #[error("{what}: {source}")]
    Op {
        /// The tower or head.
        what: String,
        /// What the op found.
        source: OpError,
    },
    /// The ranker reads nothing of what a request carries.
    #[error("query {row} has nothing that the ranker reads: {reads}")]
    NothingToRank {
        /// The request.
        row: usize,
        /// The modalities that the ranker reads.
        reads: String,
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
    /// A hit is of a row that the products do not have.
    #[error("a hit of row {row} among {rows} products: it is from another catalogue")]
    UnknownRow {
        /// The hit's row.
        row: usize,
        /// Rows of the products.
        rows: usize,
    },
    /// The query head has hidden layers or an activation, so a score has no exact parts.
    #[error("the query head is not one linear layer: a score does not split into parts")]
    NotLinear,
    /// The model has no ranker.
    #[error("the model has no ranker")]
    NoRanker,
    /// A worker pool of the asked size cannot be made.
    #[error("cannot start {threads} threads: {reason}")]
    Threads {
        /// The number asked for.
        threads: usize,
        /// What the system said.
        reason: String,
    },
}

impl EngineError {
    /// The error with its row counted from the start of a batch, of which the call handled the part from `first` on.
    pub(super) fn in_batch(mut self, first: usize) -> EngineError {
        match &mut self {
            EngineError::Empty { row, .. }
            | EngineError::Unread { row, .. }
            | EngineError::UnknownId { row, .. }
            | EngineError::NoDirection { row, .. }
            | EngineError::NothingToRank { row, .. } => *row += first,
            _ => {}
        }
        self
    }

    /// Gives an op's error the name of the tower or head that ran it.
    pub(super) fn op(what: &str) -> impl Fn(OpError) -> EngineError {
        move |source| EngineError::Op { what: what.into(), source }
    }

    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            EngineError::Empty { .. }
            | EngineError::Unread { .. }
            | EngineError::Form { .. }
            | EngineError::UnknownId { .. }
            | EngineError::NoDirection { .. }
            | EngineError::OutputLength { .. }
            | EngineError::HitLists { .. }
            | EngineError::CatalogueWidth { .. }
            | EngineError::Op { .. }
            | EngineError::NothingToRank { .. }
            | EngineError::RankerRows { .. }
            | EngineError::UnknownRow { .. }
            | EngineError::OtherModel { .. } => ErrorKind::Caller,
            EngineError::NotLinear | EngineError::NoRanker => ErrorKind::Unsupported,
            EngineError::Threads { .. } => ErrorKind::OutOfMemory,
        }
    }
}
