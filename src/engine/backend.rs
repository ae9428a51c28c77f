//! What an engine asks of the device that its model runs on, and what passes between them.

use super::{EngineError, Side};
use crate::Result;
use crate::catalogue::store::RowFeatures;
use crate::catalogue::{Catalogue, Hits};
use crate::cpu::head::Segment;
use crate::input::{Features, Modality, Values};
use crate::model::TowerOp;

/// A model on a device. The features of a call have the modalities that its towers read and no others; that each column
/// has the right form is the backend's to check.
pub(super) trait Backend: Send + Sync {
    /// Where the work runs and how, in words.
    fn describe(&self) -> String;

    /// Rows that are best encoded together, at most.
    fn rows_at_once(&self) -> usize;

    /// The vectors of a batch, `[batch, width]`, and, if asked for, the outputs of the side's ranker towers.
    fn encode(
        &self,
        side: Side,
        features: &Features,
        vectors: &mut [f32],
        ranker: bool,
    ) -> Result<Vec<Output>>;

    /// Brings a catalogue to where it is searched.
    fn prepare(&self, catalogue: &Catalogue) -> Result<()>;

    /// The best `k` products for each row. The catalogue has the vectors' width, and `k` is in range.
    fn search(&self, catalogue: &Catalogue, features: &Features, k: usize) -> Result<Vec<Hits>>;

    /// What each tower alone brings to the query vectors before normalisation. The query head is linear.
    fn query_terms(&self, features: &Features) -> Result<Vec<Output>>;

    /// The query head's bias, if it has one.
    fn query_bias(&self) -> Option<&[f32]>;

    /// The outputs of the ranker's query towers.
    fn ranker_query_towers(&self, features: &Features) -> Result<Vec<Output>>;

    /// The ranker's head over both sides' tower outputs: one score per pair.
    fn rank(&self, pairs: &Pairs<'_>, scores: &mut [f32]) -> Result<()>;
}

/// Requests and products for the ranker to score together.
pub(super) struct Pairs<'a> {
    /// Requests ascend.
    pub(super) pairs: &'a [Pair],
    /// The outputs of the ranker's query towers for the requests.
    pub(super) towers: &'a [Output],
    /// The outputs of its item towers for the products, one behind the other.
    pub(super) products: &'a RowFeatures,
}

/// A request's row of the batch and a product's row of the catalogue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair {
    pub(super) request: usize,
    pub(super) product: usize,
}

/// What a tower gives for the batch rows that have its modality.
pub(super) struct Output {
    pub(super) modality: Modality,
    pub(super) width: usize,
    /// Ascending.
    pub(super) rows: Vec<usize>,
    /// `[rows.len(), width]`
    pub(super) data: Vec<f32>,
}

impl Output {
    pub(super) fn segment(&self) -> Segment<'_> {
        Segment { rows: &self.rows, data: &self.data }
    }

    /// The values of batch row `row`, if it has the modality.
    pub(super) fn of_row(&self, row: usize) -> Option<&[f32]> {
        let at = self.rows.binary_search(&row).ok()?;
        Some(&self.data[at * self.width..(at + 1) * self.width])
    }
}

/// What a tower reads of its column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// An id.
    Ids,
    /// A bag of ids.
    Bags,
    /// A vector.
    Dense { width: usize },
    /// An image of three channels.
    Image { height: usize, width: usize },
}

impl Form {
    /// The form that a tower reads; `None` if it reads another tower's output.
    pub(super) fn of(op: &TowerOp) -> Option<Form> {
        match op {
            TowerOp::Embedding(_) => Some(Form::Ids),
            TowerOp::EmbeddingBag { .. } => Some(Form::Bags),
            TowerOp::Network(network) => {
                Some(Form::Image { height: network.input.height, width: network.input.width })
            }
            TowerOp::Linear(linear) => Some(Form::Dense { width: linear.inputs }),
            TowerOp::LinearOver { .. } => None,
        }
    }

    /// Refuses a column of another form for the tower `tower`.
    pub(super) fn check(self, modality: Modality, tower: &str, values: &Values) -> Result<(), EngineError> {
        let fits = match (self, values) {
            (Form::Ids, Values::Ids(_)) | (Form::Bags, Values::Bags(_)) => true,
            (Form::Dense { width }, Values::Dense { width: found, .. }) => width == *found,
            (
                Form::Image { height, width },
                Values::Photos { height: h, width: w, .. } | Values::Pixels { height: h, width: w, .. },
            ) => (height, width) == (*h, *w),
            _ => false,
        };
        if fits {
            return Ok(());
        }
        let expected = match self {
            Form::Ids => "ids".into(),
            Form::Bags => "bags of ids".into(),
            Form::Dense { width } => format!("vectors of {width}"),
            Form::Image { height, width } => format!("images of {height} x {width} pixels"),
        };
        Err(EngineError::Form { modality, tower: tower.into(), expected, found: values.describe() })
    }
}
