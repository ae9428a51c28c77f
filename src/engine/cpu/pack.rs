//! Packs the weights of a checkpoint for the CPU's kernels, once for all towers that share them.

use std::sync::Arc;

use half::{bf16, f16};

use super::super::EngineError;
use super::super::backend::Form;
use super::{Encoder, Op, Ranker, Rows, Tower};
use crate::cpu::embedding::Values;
use crate::cpu::head::Head;
use crate::cpu::linear::Linear;
use crate::cpu::network::{PackError, PackedNetwork};
use crate::model::{EncoderPlan, LinearPlan, Network, RankerPlan, Table, TowerOp, TowerPlan};
use crate::weights::{Checkpoint, TensorView};
use crate::{Error, Result};

/// The tensor's values where the checkpoint has them, if they can be read there.
pub(super) fn in_place<'a>(view: &TensorView<'a>) -> Option<Values<'a>> {
    let f32s = view.as_slice::<f32>().map(Values::F32);
    let f16s = || view.as_slice::<f16>().map(Values::F16);
    let bf16s = || view.as_slice::<bf16>().map(Values::Bf16);
    f32s.or_else(f16s).or_else(bf16s)
}

/// Packs weights; networks that several towers share are packed once.
pub(super) struct Packer<'a> {
    checkpoint: &'a Checkpoint,
    networks: Vec<(Network, Arc<PackedNetwork>)>,
}

impl<'a> Packer<'a> {
    pub(super) fn new(checkpoint: &'a Checkpoint) -> Packer<'a> {
        Packer { checkpoint, networks: Vec::new() }
    }

    pub(super) fn encoder(&mut self, plan: &EncoderPlan) -> Result<Encoder> {
        let towers = self.towers(&plan.towers)?;
        let head = self.head(&widths([&plan.towers, &[]]), &plan.head)?;
        Ok(Encoder { towers, head, normalize: plan.normalize, width: plan.width })
    }

    pub(super) fn ranker(&mut self, plan: &RankerPlan) -> Result<Ranker> {
        let query = self.towers(&plan.query_towers)?;
        let item = self.towers(&plan.item_towers)?;
        let head = self.head(&widths([&plan.query_towers, &plan.item_towers]), &plan.head)?;
        Ok(Ranker { query, item, head })
    }

    fn towers(&mut self, plans: &[TowerPlan]) -> Result<Vec<Tower>> {
        plans.iter().map(|plan| self.tower(plan)).collect()
    }

    fn tower(&mut self, plan: &TowerPlan) -> Result<Tower> {
        let op = match &plan.op {
            TowerOp::Embedding(table) => Op::Embedding(self.rows(table)?),
            TowerOp::EmbeddingBag { table, pooling, padding_id } => {
                Op::Bag { rows: self.rows(table)?, pooling: *pooling, padding_id: *padding_id }
            }
            TowerOp::Network(network) => {
                let known = self.networks.iter().find(|(known, _)| known == network);
                let packed = match known {
                    Some((_, packed)) => packed.clone(),
                    None => Arc::new(PackedNetwork::new(network, self.checkpoint).map_err(|e| match e {
                        PackError::Weights(error) => Error::from(error),
                        PackError::Op(error) => EngineError::op(&plan.name)(error).into(),
                    })?),
                };
                if known.is_none() {
                    self.networks.push((network.clone(), packed.clone()));
                }
                Op::Network(packed)
            }
            TowerOp::Linear(linear) => Op::Linear(self.linear(linear)?),
            TowerOp::LinearOver { tower, linear } => {
                Op::LinearOver { tower: *tower, linear: self.linear(linear)? }
            }
        };
        let (name, form) = (plan.name.clone(), Form::of(&plan.op));
        Ok(Tower { name, input: plan.input, form, width: plan.width, op })
    }

    fn rows(&self, table: &Table) -> Result<Rows> {
        let view = self.checkpoint.tensor(&table.weight)?;
        let copied = match in_place(&view) {
            Some(_) => None,
            None => Some(view.to_f32()?.into_owned()),
        };
        Ok(Rows { table: table.clone(), copied })
    }

    fn head(&self, widths: &[usize], plans: &[LinearPlan]) -> Result<Head> {
        let layers = plans.iter().map(|plan| self.linear(plan)).collect::<Result<_>>()?;
        Ok(Head::new(widths, layers).map_err(EngineError::op("head"))?)
    }

    fn linear(&self, plan: &LinearPlan) -> Result<Linear> {
        let weight = self.checkpoint.tensor(&plan.weight)?.to_f32()?;
        let bias = match &plan.bias {
            Some(bias) => Some(self.checkpoint.tensor(bias)?.to_f32()?),
            None => None,
        };
        let linear = Linear::new(plan.outputs, plan.inputs, &weight, bias.as_deref(), plan.activation);
        Ok(linear.map_err(EngineError::op(&plan.weight))?)
    }
}

fn widths(towers: [&[TowerPlan]; 2]) -> Vec<usize> {
    towers.into_iter().flatten().map(|tower| tower.width).collect()
}
