//! What kernels report: a stage and a row, found again on the host to say what is wrong there.

use super::context::Finished;
use super::encode::{Encoding, Task};
use crate::catalogue::Catalogue;
use crate::cpu::normalize::check_row;
use crate::cuda::CudaError;
use crate::cuda::embedding::first_unknown;
use crate::engine::error::in_batch;
use crate::engine::{EngineError, RowError, Side};
use crate::input::{Column, Features, Values};
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
            VECTOR_STAGE => self.vector(task, finished).and_then(|vector| self.of_vector(side, &vector)),
            QUERY_STAGE => match task.target {
                Some(target) => {
                    self.vector(task, finished).and_then(|vector| self.of_query(target.catalogue, &vector))
                }
                None => Ok(None),
            },
            stage => Ok(task.work.runs.get(usize::from(stage)).and_then(|run| {
                let (rows, padding_id) = run.tower.table()?;
                self.of_ids(side, features.column(run.tower.input)?, rows, padding_id, run.tower.input)
            })),
        };
        match found {
            Ok(Some(error)) | Err(error) => error,
            Ok(None) => self.unexplained().into(),
        }
    }

    /// The row's vector, brought from the device.
    fn vector(self, task: Task<'_>, finished: &Finished<'_, Encoding>) -> Result<Vec<f32>> {
        let width = task.encoder().width;
        let vectors = finished.program.vectors()?.of(finished.memory)?;
        let first = self.row.saturating_mul(width);
        Ok(finished.stream.download(&vectors.part(first..first.saturating_add(width))?)?)
    }

    fn of_vector(self, side: Side, vector: &[f32]) -> Result<Option<Error>> {
        Ok(check_row(0, vector).err().map(|error| {
            let (_, source) = RowError::without_direction(error);
            EngineError::Row { side, row: self.row, source }.into()
        }))
    }

    fn of_query(self, catalogue: &Catalogue, vector: &[f32]) -> Result<Option<Error>> {
        Ok(catalogue.check_queries(vector).err().map(|error| in_batch(error.into(), self.row)))
    }

    fn of_ids(
        self,
        side: Side,
        column: &Column,
        rows: usize,
        padding_id: Option<i64>,
        modality: crate::input::Modality,
    ) -> Option<Error> {
        let (_, id) = first_unknown(ids_of(column, self.row)?, rows, padding_id)?;
        let source = RowError::UnknownId { modality, id, rows };
        Some(EngineError::Row { side, row: *column.rows().get(self.row)?, source }.into())
    }

    /// A report that the host cannot confirm.
    pub(super) fn unexplained(self) -> CudaError {
        let kernel = match self.stage {
            VECTOR_STAGE => "head",
            QUERY_STAGE => "normalize",
            _ => "embedding",
        };
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
