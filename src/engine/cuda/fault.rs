//! What kernels report: a stage and a row, found again on the host to say what is wrong there.

use super::context::Finished;
use super::encode::{Encoding, Task};
use crate::catalogue::Catalogue;
use crate::cpu::normalize::check_row;
use crate::cuda::CudaError;
use crate::cuda::embedding::first_unknown;
use crate::engine::error::in_batch;
use crate::engine::{EngineError, RowError, Side};
use crate::input::{Column, Features, Modality, Values};
use crate::{Error, Result};

/// The stage that reports an encoder's vector without a direction; towers report as their number among the runs.
pub(super) const VECTOR_STAGE: u16 = u16::MAX - 1;
/// The stage that reports a query without a direction.
pub(super) const QUERY_STAGE: u16 = u16::MAX;

/// Bits of a fault record that say which row; the others say which stage.
const ROW_BITS: u32 = 48;

/// The least row of the first stage that found something wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    stage: u16,
    row: usize,
}

impl Fault {
    /// What a record says, which is all ones where nothing was found.
    pub(super) fn read(record: u64) -> Option<Fault> {
        let row = usize::try_from(record & ((1 << ROW_BITS) - 1)).unwrap_or(usize::MAX);
        let stage = u16::try_from(record >> ROW_BITS).unwrap_or(u16::MAX);
        (record != u64::MAX).then_some(Fault { stage, row })
    }

    /// What is wrong with the row of an encoding's `features`.
    pub(super) fn explain(
        self,
        task: Task<'_>,
        features: &Features,
        finished: &Finished<'_, Encoding>,
    ) -> Error {
        let side = task.work.side();
        let found = match self.stage {
            VECTOR_STAGE => self.vector(task, finished).map(|vector| self.of_vector(side, &vector)),
            QUERY_STAGE => self
                .vector(task, finished)
                .map(|vector| task.target.and_then(|target| self.of_query(target.catalogue, &vector))),
            stage => Ok(task.work.runs.get(usize::from(stage)).and_then(|run| {
                let (rows, padding_id) = run.tower.table()?;
                self.of_ids(side, features.column(run.tower.input)?, rows, padding_id, run.tower.input)
            })),
        };
        found.map_or_else(|error| error, |found| self.confirmed(found))
    }

    /// What the host found, if it did.
    fn confirmed(self, found: Option<Error>) -> Error {
        let kernel = match self.stage {
            VECTOR_STAGE => "head",
            QUERY_STAGE => "normalize",
            _ => "embedding",
        };
        found.unwrap_or_else(|| self.unexplained(kernel).into())
    }

    /// The row's vector, brought from the device.
    fn vector(self, task: Task<'_>, finished: &Finished<'_, Encoding>) -> Result<Vec<f32>> {
        let width = task.encoder().width;
        let vectors = finished.program.vectors()?.of(finished.memory)?;
        let first = self.row.saturating_mul(width);
        let vector = vectors.part(first..first.saturating_add(width))?;
        Ok(finished.stream.download(&vector)?)
    }

    fn of_vector(self, side: Side, vector: &[f32]) -> Option<Error> {
        let (_, source) = RowError::without_direction(check_row(0, vector).err()?);
        Some(EngineError::Row { side, row: self.row, source }.into())
    }

    fn of_query(self, catalogue: &Catalogue, vector: &[f32]) -> Option<Error> {
        Some(in_batch(catalogue.check_queries(vector).err()?.into(), self.row))
    }

    fn of_ids(
        self,
        side: Side,
        column: &Column,
        rows: usize,
        padding_id: Option<i64>,
        modality: Modality,
    ) -> Option<Error> {
        let (_, id) = first_unknown(ids_of(column, self.row)?, rows, padding_id)?;
        let source = RowError::UnknownId { modality, id, rows };
        Some(EngineError::Row { side, row: *column.rows().get(self.row)?, source }.into())
    }

    /// A report that the host cannot confirm.
    pub(super) fn unexplained(self, kernel: &'static str) -> CudaError {
        let reason = format!("reports row {}, with which nothing is wrong", self.row);
        CudaError::Kernel { kernel, reason }
    }
}

/// The ids of a column's entry.
fn ids_of(column: &Column, entry: usize) -> Option<&[i64]> {
    match column.values() {
        Values::Ids(ids) => ids.get(entry..=entry),
        Values::Bags(bags) => bags.ids.get(*bags.offsets.get(entry)?..*bags.offsets.get(entry + 1)?),
        Values::Dense { .. } | Values::Photos { .. } | Values::Pixels { .. } => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed check ends the test
mod tests {
    use super::*;
    use crate::catalogue::Metric;

    #[test]
    fn a_record_is_a_stage_and_a_row() {
        assert_eq!(Fault::read(u64::MAX), None);
        assert_eq!(Fault::read(0), Some(Fault { stage: 0, row: 0 }));
        assert_eq!(Fault::read(3 << 48 | 7), Some(Fault { stage: 3, row: 7 }));
        assert_eq!(Fault::read(u64::MAX - 1), Some(Fault { stage: QUERY_STAGE, row: (1 << 48) - 2 }));
    }

    /// What the host finds nothing wrong with is an error all the same.
    #[test]
    fn a_report_that_cannot_be_confirmed_is_an_error() {
        let fault = |stage| Fault { stage, row: 3 };
        let catalogue = Catalogue::new(Metric::Cosine, 2, vec![1], vec![1.0, 1.0]).unwrap();
        let mut features = Features::new(4);
        features.set(Modality::User, Values::Ids(vec![0, 0, 0, 5])).unwrap();
        let column = features.column(Modality::User).unwrap();
        let of_ids = |rows| fault(0).of_ids(Side::Query, column, rows, None, Modality::User);
        let cases = [
            (fault(0), of_ids(5), of_ids(6), "query 3: user id 5 is not in the table of 5 rows"),
            (
                fault(VECTOR_STAGE),
                fault(VECTOR_STAGE).of_vector(Side::Item, &[0.0, 0.0]),
                fault(VECTOR_STAGE).of_vector(Side::Item, &[0.0, 1.0]),
                "item 3: it encodes to a vector of zeros, which cannot be normalised",
            ),
            (
                fault(QUERY_STAGE),
                fault(QUERY_STAGE).of_query(&catalogue, &[f32::NAN, 0.0]),
                fault(QUERY_STAGE).of_query(&catalogue, &[0.0, 1.0]),
                "query 3 has NaN at position 0",
            ),
        ];
        for (fault, wrong, right, text) in cases {
            assert_eq!(fault.confirmed(wrong).to_string(), text);
            let text = fault.confirmed(right).to_string();
            assert!(text.ends_with("`: reports row 3, with which nothing is wrong"), "{text}");
        }
    }
}
