//! One variant per way the arguments of an op can disagree.

use crate::ErrorKind;
use crate::model::WindowError;

/// Why an op refuses its arguments. Nothing has been written to the output when it is returned.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum OpError {
    /// A slice does not fit the shape it is said to have.
    #[error("{what}: {found} values, expected {expected}")]
    Length {
        /// The argument.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The product of its shape.
        expected: usize,
    },
    /// The product of a shape does not fit in memory.
    #[error("{what}: the shape {shape:?} is too large")]
    Overflow {
        /// The argument.
        what: &'static str,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A size or step that must be at least 1 is 0.
    #[error("{what} is 0")]
    Zero {
        /// The argument.
        what: &'static str,
    },
    /// A convolution or pool cannot be, or does not fit its input.
    #[error(transparent)]
    Window(#[from] WindowError),
    /// An id outside its table.
    #[error("row {row}, position {position}: id {id} in a table of {rows} rows")]
    UnknownId {
        /// Row of the batch.
        row: usize,
        /// Position in the row's bag; 0 where a row has one id.
        position: usize,
        /// The id.
        id: i64,
        /// Rows of the table.
        rows: usize,
    },
    /// The row that stands in for unknown ids is not in the table.
    #[error("default row {default} in a table of {rows} rows")]
    DefaultRow {
        /// The row.
        default: usize,
        /// Rows of the table.
        rows: usize,
    },
    /// Offsets that are not a partition of the ids.
    #[error("offset {position} is {offset}, which is outside {low}..={high}")]
    Offset {
        /// Position in the offsets.
        position: usize,
        /// The offset.
        offset: usize,
        /// The least it can be.
        low: usize,
        /// The most it can be.
        high: usize,
    },
    /// Weights for a pooling that takes none.
    #[error("weights are taken by sum pooling only")]
    WeightedPooling,
    /// The rows of a segment do not ascend within the batch.
    #[error("segment {segment}, position {position}: row {row} in a batch of {batch}, rows must ascend")]
    Rows {
        /// Position in the concatenation.
        segment: usize,
        /// Position in the segment's rows.
        position: usize,
        /// The row.
        row: usize,
        /// Rows of the batch.
        batch: usize,
    },
    /// Not one segment per width of the head.
    #[error("{found} segments for a head over {expected}")]
    Segments {
        /// Segments given.
        found: usize,
        /// Segments that the head was made for.
        expected: usize,
    },
}

impl OpError {
    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Caller
    }
}

/// The product of a shape.
pub(super) fn size(what: &'static str, shape: &[usize]) -> Result<usize, OpError> {
    let product = shape.iter().try_fold(1usize, |product, &side| product.checked_mul(side));
    product.ok_or_else(|| OpError::Overflow { what, shape: shape.to_vec() })
}

/// Checks that `found` values fill `shape`.
pub(super) fn expect(what: &'static str, found: usize, shape: &[usize]) -> Result<(), OpError> {
    let expected = size(what, shape)?;
    if found == expected { Ok(()) } else { Err(OpError::Length { what, found, expected }) }
}

/// Checks that `value` is at least 1.
pub(super) fn positive(what: &'static str, value: usize) -> Result<(), OpError> {
    if value == 0 { Err(OpError::Zero { what }) } else { Ok(()) }
}
