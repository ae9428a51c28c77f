//! What a call computes: which towers run, what they read, and what the head makes of them.

use std::sync::Arc;

use super::columns::Room;
use super::sizes::Rooms;
use super::towers::{Op, Tower};
use crate::Result;
use crate::cpu::OpError;
use crate::cuda::CudaError;
use crate::engine::{EngineError, Side};
use crate::input::{Features, Modality, Values};

/// What a call computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The vectors of a side, to be given out or to be searched for.
    Vectors(Side),
    /// The vectors of a side and the outputs of its ranker towers.
    VectorsAndRanker(Side),
    /// What each tower alone brings to the query vectors.
    Terms,
    /// The outputs of the ranker's query towers.
    RankerTowers,
}

/// A kind of call as a model does it.
pub(super) struct Work {
    pub(super) kind: Kind,
    /// In the order of their stages.
    pub(super) runs: Vec<Run>,
    /// What the towers read, images last: they are by far the longest, and a call without any uploads nothing of them.
    pub(super) columns: Vec<(Modality, Room)>,
}

/// One tower's part of a call.
pub(super) struct Run {
    pub(super) tower: Arc<Tower>,
    /// The column that says which rows it has.
    pub(super) column: usize,
    /// The run whose output a linear layer over another tower reads.
    pub(super) over: Option<usize>,
    /// Whether the caller wants the tower's output.
    pub(super) kept: bool,
}

impl Kind {
    /// Whose features it reads.
    pub(super) fn side(self) -> Side {
        match self {
            Kind::Vectors(side) | Kind::VectorsAndRanker(side) => side,
            Kind::Terms | Kind::RankerTowers => Side::Query,
        }
    }
}

impl Work {
    /// Of the towers of a side's encoder and of its ranker.
    pub(super) fn new(
        kind: Kind,
        encoder: &[Arc<Tower>],
        ranker: &[Arc<Tower>],
        rooms: &Rooms,
    ) -> Result<Work, CudaError> {
        let over = |tower: &Tower| match tower.op {
            Op::LinearOver { tower, .. } => Some(tower),
            Op::Embedding(_) | Op::Bag { .. } | Op::Network(_) | Op::Linear(_) => None,
        };
        let read = |at: &usize| ranker.iter().any(|tower| over(tower) == Some(*at));
        let encoder_runs: Vec<usize> = match kind {
            Kind::RankerTowers => (0..encoder.len()).filter(read).collect(),
            _ => (0..encoder.len()).collect(),
        };
        let ranker = match kind {
            Kind::VectorsAndRanker(_) | Kind::RankerTowers => ranker,
            Kind::Vectors(_) | Kind::Terms => &[],
        };
        let towers = encoder_runs.iter().map(|&at| (&encoder[at], false));
        let towers: Vec<_> = towers.chain(ranker.iter().map(|tower| (tower, true))).collect();

        let is_read = |modality: &Modality| towers.iter().any(|(tower, _)| tower.input == *modality);
        let columns = Modality::ALL.into_iter().filter(is_read).filter_map(|m| Some((m, rooms.of(m)?)));
        let mut columns: Vec<(Modality, Room)> = columns.collect();
        columns.sort_by_key(|(_, room)| matches!(room, Room::Image { .. }));

        let runs = towers.iter().map(|&(tower, kept)| {
            let column = columns.iter().position(|(modality, _)| *modality == tower.input);
            let column = column.ok_or_else(|| tower.misfit())?;
            let over = match over(tower) {
                None => None,
                Some(at) => {
                    Some(encoder_runs.iter().position(|&run| run == at).ok_or_else(|| tower.misfit())?)
                }
            };
            Ok(Run { tower: tower.clone(), column, over, kept })
        });
        let runs = runs.collect::<Result<_, CudaError>>()?;
        Ok(Work { kind, runs, columns })
    }

    /// Whose features it reads.
    pub(super) fn side(&self) -> Side {
        self.kind.side()
    }

    /// The modalities that its towers read.
    pub(super) fn modalities(&self) -> impl Iterator<Item = Modality> + Clone {
        self.columns.iter().map(|&(modality, _)| modality)
    }

    /// Values of an image as its networks read it, at most.
    pub(super) fn image_values(&self) -> usize {
        let inputs = self.runs.iter().filter_map(|run| match &run.tower.op {
            Op::Network(network) => Some(network.stored().len()),
            Op::Embedding(_) | Op::Bag { .. } | Op::Linear(_) | Op::LinearOver { .. } => None,
        });
        inputs.max().unwrap_or(0)
    }

    /// Every column has the form that its towers read.
    pub(super) fn check(&self, features: &Features) -> Result<(), EngineError> {
        for Run { tower, .. } in &self.runs {
            let (Some(form), Some(column)) = (tower.form, features.column(tower.input)) else { continue };
            form.check(tower.input, &tower.name, column.values())?;
            let weighted = matches!(column.values(), Values::Bags(bags) if bags.weights.is_some());
            if weighted && !tower.takes_weights() {
                return Err(EngineError::op(&tower.name)(OpError::WeightedPooling));
            }
        }
        Ok(())
    }
}
