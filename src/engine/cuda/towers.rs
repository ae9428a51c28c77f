//! Towers and heads with their weights on the device, and the launches that run them.

use std::sync::Arc;

use super::super::EngineError;
use super::super::backend::Form;
use crate::cpu::network::PackError;
use crate::cuda::head::Head;
use crate::cuda::linear::{LayerWeights, Linear};
use crate::cuda::network::{LoadError, Network};
use crate::cuda::{CudaError, Precision, Stream, Tensor};
use crate::input::Modality;
use crate::model::{LinearPlan, Pooling, Table, TowerOp, TowerPlan};
use crate::weights::{Checkpoint, TensorView};
use crate::{Error, Result, model};

/// A tower with its weights on the device.
pub(super) struct Tower {
    pub(super) name: String,
    pub(super) input: Modality,
    /// What it reads of its column; nothing if it reads another tower's output.
    pub(super) form: Option<Form>,
    pub(super) width: usize,
    pub(super) op: Op,
}

pub(super) enum Op {
    Embedding(Arc<Rows>),
    Bag {
        rows: Arc<Rows>,
        pooling: Pooling,
        padding_id: Option<i64>,
    },
    Network(Arc<Network>),
    Linear(Linear),
    /// Reads the output of the encoder's tower `tower`.
    LinearOver {
        tower: usize,
        linear: Linear,
    },
}

/// An embedding table: `[rows, width]` as the checkpoint stores it.
pub(super) struct Rows {
    pub(super) table: Tensor,
    pub(super) rows: usize,
    pub(super) width: usize,
}

impl Tower {
    /// Whether a bag may weigh its ids.
    pub(super) fn takes_weights(&self) -> bool {
        matches!(self.op, Op::Bag { pooling: Pooling::Sum, .. })
    }

    /// That it cannot run on what it is given.
    pub(super) fn misfit(&self) -> CudaError {
        CudaError::Shape { reason: format!("tower `{}` reads another form than its column has", self.name) }
    }

    /// Rows of its table and the id that does not count, if it reads a table.
    pub(super) fn table(&self) -> Option<(usize, Option<i64>)> {
        match &self.op {
            Op::Embedding(rows) => Some((rows.rows, None)),
            Op::Bag { rows, padding_id, .. } => Some((rows.rows, *padding_id)),
            Op::Network(_) | Op::Linear(_) | Op::LinearOver { .. } => None,
        }
    }
}

/// Uploads weights, each tensor and network once, however many towers read it.
pub(super) struct Uploader<'a> {
    pub(super) stream: &'a Stream,
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) precision: Precision,
    tables: Vec<(String, Arc<Rows>)>,
    networks: Vec<(model::Network, Arc<Network>)>,
}

impl<'a> Uploader<'a> {
    pub(super) fn new(stream: &'a Stream, checkpoint: &'a Checkpoint, precision: Precision) -> Self {
        Uploader { stream, checkpoint, precision, tables: Vec::new(), networks: Vec::new() }
    }

    pub(super) fn towers(&mut self, plans: &[TowerPlan]) -> Result<Vec<Arc<Tower>>> {
        plans.iter().map(|plan| self.tower(plan).map(Arc::new)).collect()
    }

    fn tower(&mut self, plan: &TowerPlan) -> Result<Tower> {
        let op = match &plan.op {
            TowerOp::Embedding(table) => Op::Embedding(self.table(table)?),
            TowerOp::EmbeddingBag { table, pooling, padding_id } => {
                Op::Bag { rows: self.table(table)?, pooling: *pooling, padding_id: *padding_id }
            }
            TowerOp::Network(network) => Op::Network(self.network(network)?),
            TowerOp::Linear(linear) => Op::Linear(self.linear(linear)?),
            TowerOp::LinearOver { tower, linear } => {
                Op::LinearOver { tower: *tower, linear: self.linear(linear)? }
            }
        };
        let (name, form) = (plan.name.clone(), Form::of(&plan.op));
        Ok(Tower { name, input: plan.input, form, width: plan.width, op })
    }

    fn table(&mut self, table: &Table) -> Result<Arc<Rows>> {
        if let Some((_, known)) = self.tables.iter().find(|(name, _)| *name == table.weight) {
            return Ok(known.clone());
        }
        let view = self.checkpoint.tensor(&table.weight)?;
        let rows =
            Rows { table: self.as_stored(&table.weight, &view)?, rows: table.rows, width: table.width };
        let rows = Arc::new(rows);
        self.tables.push((table.weight.clone(), rows.clone()));
        Ok(rows)
    }

    /// Uploads a tensor in the type that the checkpoint has it in, from where it is mapped if it can be read there.
    fn as_stored(&self, name: &str, view: &TensorView<'_>) -> Result<Tensor> {
        let stream = self.stream;
        let tensor = if let Some(values) = view.as_slice::<f32>() {
            Tensor::over(stream.upload(name, values)?.cast()?, Precision::F32)
        } else if let Some(values) = view.as_slice::<half::f16>() {
            Tensor::over(stream.upload(name, values)?.cast()?, Precision::F16)
        } else if let Some(values) = view.as_slice::<half::bf16>() {
            Tensor::over(stream.upload(name, values)?.cast()?, Precision::Bf16)
        } else {
            Tensor::upload(stream, name, Precision::F32, &view.to_f32()?)
        };
        Ok(tensor?)
    }

    fn network(&mut self, network: &model::Network) -> Result<Arc<Network>> {
        if let Some((_, known)) = self.networks.iter().find(|(known, _)| known == network) {
            return Ok(known.clone());
        }
        let uploaded = Network::new(self.stream, network, self.checkpoint, self.precision);
        let uploaded = Arc::new(uploaded.map_err(|error| match error {
            LoadError::Pack(PackError::Weights(error)) => Error::from(error),
            LoadError::Pack(PackError::Op(error)) => EngineError::op("network")(error).into(),
            LoadError::Cuda(error) => error.into(),
        })?);
        self.networks.push((network.clone(), uploaded.clone()));
        Ok(uploaded)
    }

    fn linear(&self, plan: &LinearPlan) -> Result<Linear> {
        let weights = Weights::read(self.checkpoint, plan)?;
        Ok(Linear::new(self.stream, self.precision, &weights.layer(plan))?)
    }

    /// A head over towers of the given widths.
    pub(super) fn head(&self, widths: &[usize], plans: &[LinearPlan], normalize: bool) -> Result<Head> {
        let read = |plan| Weights::read(self.checkpoint, plan);
        let weights = plans.iter().map(read).collect::<Result<Vec<Weights<'_>>>>()?;
        let layers: Vec<LayerWeights<'_>> =
            weights.iter().zip(plans).map(|(weights, plan)| weights.layer(plan)).collect();
        Ok(Head::new(self.stream, self.precision, widths, &layers, normalize)?)
    }
}

/// A linear layer's tensors as f32.
struct Weights<'a> {
    weight: std::borrow::Cow<'a, [f32]>,
    bias: Option<std::borrow::Cow<'a, [f32]>>,
}

impl<'a> Weights<'a> {
    fn read(checkpoint: &'a Checkpoint, plan: &LinearPlan) -> Result<Weights<'a>> {
        let weight = checkpoint.tensor(&plan.weight)?.to_f32()?;
        let bias = match &plan.bias {
            Some(bias) => Some(checkpoint.tensor(bias)?.to_f32()?),
            None => None,
        };
        Ok(Weights { weight, bias })
    }

    fn layer(&self, plan: &LinearPlan) -> LayerWeights<'_> {
        LayerWeights {
            outputs: plan.outputs,
            inputs: plan.inputs,
            weight: &self.weight,
            bias: self.bias.as_deref(),
            activation: plan.activation,
        }
    }
}
