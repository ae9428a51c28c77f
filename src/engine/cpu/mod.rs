//! The CPU backend of the engine: a model with heads and convolutions packed for the kernels, embedding tables read
//! where the checkpoint has them.

mod pack;

use std::sync::Arc;

use pack::{Packer, in_place};

use super::backend::{Backend, Form, Output, Pair, Pairs};
use super::options::UnknownIds;
use super::{EngineError, RowError, Side};
use crate::Result;
use crate::catalogue::{Catalogue, Hits};
use crate::cpu::embedding::{self, Values as TableValues};
use crate::cpu::head::{Head, Segment};
use crate::cpu::linear::Linear;
use crate::cpu::network::PackedNetwork;
use crate::cpu::normalize::{NormalizeError, normalize_rows};
use crate::cpu::{Isa, OpError};
use crate::input::{Column, Features, Modality, PixelScaling, Values};
use crate::model::{Normalize, Plan, Pooling, Table};
use crate::weights::Checkpoint;

/// Rows that are encoded together, at most: bounds the memory of a long list of requests. The result of a row does not
/// depend on it.
const ROWS_AT_ONCE: usize = 256;

/// Pairs that are ranked together, at most, as for rows.
const PAIRS_AT_ONCE: usize = 1024;

/// A model ready to run on the CPU.
pub(crate) struct Model {
    checkpoint: Arc<Checkpoint>,
    unknown_ids: UnknownIds,
    isa: Isa,
    /// What networks read of a photo; a model with networks has it.
    scaling: Option<PixelScaling>,
    query: Encoder,
    item: Encoder,
    ranker: Option<Ranker>,
}

struct Encoder {
    towers: Vec<Tower>,
    head: Head,
    normalize: Normalize,
    width: usize,
}

struct Ranker {
    query: Vec<Tower>,
    item: Vec<Tower>,
    head: Head,
}

struct Tower {
    name: String,
    input: Modality,
    /// What it reads of its column; nothing if it reads another tower's output.
    form: Option<Form>,
    width: usize,
    op: Op,
}

enum Op {
    Embedding(Rows),
    Bag {
        rows: Rows,
        pooling: Pooling,
        padding_id: Option<i64>,
    },
    Network(Arc<PackedNetwork>),
    Linear(Linear),
    /// Reads the output of one of the same side's encoder towers.
    LinearOver {
        tower: usize,
        linear: Linear,
    },
}

/// An embedding table.
struct Rows {
    table: Table,
    /// The values, where the checkpoint has them at an address that cannot be read as numbers in place.
    copied: Option<Vec<f32>>,
}

impl Model {
    /// Packs the weights of `plan`, whose tensors the checkpoint is known to have.
    pub(crate) fn new(
        plan: &Plan,
        checkpoint: &Arc<Checkpoint>,
        scaling: Option<&PixelScaling>,
        unknown_ids: UnknownIds,
        isa: Isa,
    ) -> Result<Model> {
        let mut packer = Packer::new(checkpoint);
        let query = packer.encoder(&plan.query)?;
        let item = packer.encoder(&plan.item)?;
        let ranker = plan.ranker.as_ref().map(|ranker| packer.ranker(ranker)).transpose()?;
        let (checkpoint, scaling) = (checkpoint.clone(), scaling.cloned());
        Ok(Model { checkpoint, unknown_ids, isa, scaling, query, item, ranker })
    }

    /// The towers of one encoder.
    fn towers(&self, side: Side, features: &Features) -> Result<Vec<Output>> {
        self.run_towers(side, self.encoder(side).towers.iter(), features, &[])
    }

    /// The towers of one side of the ranker; `encoder` holds the outputs of the same side's encoder towers.
    fn ranker_towers(&self, side: Side, features: &Features, encoder: &[Output]) -> Result<Vec<Output>> {
        self.run_towers(side, self.ranker_side(side)?.iter(), features, encoder)
    }

    fn ranker_side(&self, side: Side) -> Result<&[Tower], EngineError> {
        let ranker = self.ranker.as_ref().ok_or(EngineError::NoRanker)?;
        Ok(match side {
            Side::Query => &ranker.query,
            Side::Item => &ranker.item,
        })
    }

    /// The head over the towers' outputs, normalised, into `vectors`: `[batch, width]`.
    fn finish(&self, side: Side, batch: usize, towers: &[Output], vectors: &mut [f32]) -> Result<()> {
        let encoder = self.encoder(side);
        let segments: Vec<Segment<'_>> = towers.iter().map(Output::segment).collect();
        encoder.head.run(self.isa, batch, &segments, vectors).map_err(EngineError::op("head"))?;
        if encoder.normalize == Normalize::L2 {
            normalize_rows(encoder.width, vectors).map_err(|error| no_direction(side, error))?;
        }
        Ok(())
    }

    fn encoder(&self, side: Side) -> &Encoder {
        match side {
            Side::Query => &self.query,
            Side::Item => &self.item,
        }
    }

    fn run_towers<'a>(
        &self,
        side: Side,
        towers: impl Iterator<Item = &'a Tower>,
        features: &Features,
        encoder: &[Output],
    ) -> Result<Vec<Output>> {
        let run = |tower: &Tower| {
            let modality = tower.input;
            let column = features.column(modality);
            let rows = column.map_or(Vec::new(), |column| column.rows().to_vec());
            let mut data = vec![0.0; rows.len() * tower.width]; // [rows, width]
            if let Some(column) = column {
                self.run_tower(side, tower, column, encoder, &mut data)?;
            }
            Ok(Output { modality, width: tower.width, rows, data })
        };
        let outputs = towers.map(run).collect::<Result<_>>()?;
        // Tables are read where the file is mapped: what was read from a file that changed is no answer.
        self.checkpoint.unchanged()?;
        Ok(outputs)
    }

    fn run_tower(
        &self,
        side: Side,
        tower: &Tower,
        column: &Column,
        encoder: &[Output],
        output: &mut [f32],
    ) -> Result<(), EngineError> {
        let rows = column.rows();
        if let Some(form) = tower.form {
            form.check(tower.input, &tower.name, column.values())?;
        }
        let result = match (&tower.op, column.values()) {
            (Op::LinearOver { tower: over, linear }, _) => {
                linear.run(self.isa, rows.len(), &encoder[*over].data, output)
            }
            (Op::Embedding(table), Values::Ids(ids)) => self.table(table).and_then(|table| {
                embedding::gather(self.isa, &table, ids, self.unknown_ids[tower.input as usize], output)
            }),
            (Op::Bag { rows: table, pooling, padding_id }, Values::Bags(bags)) => {
                let bags = embedding::Bags {
                    offsets: &bags.offsets,
                    ids: &bags.ids,
                    weights: bags.weights.as_deref(),
                };
                let unknown = self.unknown_ids[tower.input as usize];
                self.table(table).and_then(|table| {
                    embedding::bags(self.isa, &table, bags, *pooling, *padding_id, unknown, output)
                })
            }
            (Op::Network(network), Values::Photos { data, .. }) => match &self.scaling {
                Some(scaling) => network.run_photos(self.isa, rows.len(), scaling, data, output),
                None => Ok(()), // a model with a network has image inputs, and those have a scaling
            },
            (Op::Network(network), Values::Pixels { data, .. }) => {
                network.run(self.isa, rows.len(), data, output)
            }
            (Op::Linear(linear), Values::Dense { data, .. }) => {
                linear.run(self.isa, rows.len(), data, output)
            }
            (Op::Embedding(_) | Op::Bag { .. } | Op::Network(_) | Op::Linear(_), _) => Ok(()), // checked above
        };
        result.map_err(|error| match error {
            OpError::UnknownId { row, id, rows: table, .. } => {
                let source = RowError::UnknownId { modality: tower.input, id, rows: table };
                EngineError::Row { side, row: rows[row], source }
            }
            error => EngineError::op(&tower.name)(error),
        })
    }

    fn table<'a>(&'a self, rows: &'a Rows) -> Result<embedding::Table<'a>, OpError> {
        let Table { weight, rows: count, width } = &rows.table;
        let values = match (&rows.copied, self.checkpoint.tensor(weight)) {
            (None, Ok(view)) => in_place(&view).unwrap_or(TableValues::F32(&[])),
            (copied, _) => TableValues::F32(copied.as_deref().unwrap_or(&[])),
        };
        embedding::Table::new(*count, *width, values)
    }
}

impl Backend for Model {
    fn describe(&self) -> String {
        format!("cpu, {}", self.isa)
    }

    fn rows_at_once(&self) -> usize {
        ROWS_AT_ONCE
    }

    fn encode(
        &self,
        side: Side,
        features: &Features,
        vectors: &mut [f32],
        ranker: bool,
    ) -> Result<Vec<Output>> {
        let towers = self.towers(side, features)?;
        self.finish(side, features.batch(), &towers, vectors)?;
        if ranker { self.ranker_towers(side, features, &towers) } else { Ok(Vec::new()) }
    }

    fn prepare(&self, _catalogue: &Catalogue) -> Result<()> {
        Ok(()) // searched where it is
    }

    fn search(&self, catalogue: &Catalogue, features: &Features, k: usize) -> Result<Vec<Hits>> {
        let mut vectors = vec![0.0; features.batch() * self.query.width]; // [rows, width]
        self.encode(Side::Query, features, &mut vectors, false)?;
        Ok(catalogue.search(&vectors, k)?)
    }

    fn query_terms(&self, features: &Features) -> Result<Vec<Output>> {
        let towers = self.towers(Side::Query, features)?;
        let head = &self.query.head;
        let terms = towers.iter().enumerate().map(|(index, tower)| {
            let width = head.part_outputs();
            let mut data = vec![0.0; tower.rows.len() * width]; // [rows, width]
            let parts = head.parts(self.isa, index, tower.segment(), &mut data);
            parts.map_err(EngineError::op("head"))?;
            Ok(Output { modality: tower.modality, width, rows: tower.rows.clone(), data })
        });
        terms.collect()
    }

    fn query_bias(&self) -> Option<&[f32]> {
        self.query.head.bias()
    }

    /// Runs those encoder towers first that the ranker reads, and no other.
    fn ranker_query_towers(&self, features: &Features) -> Result<Vec<Output>> {
        let side = Side::Query;
        let towers = self.ranker_side(side)?;
        let reads =
            |at: usize| towers.iter().any(|t| matches!(t.op, Op::LinearOver { tower, .. } if tower == at));
        let encoder = self.encoder(side).towers.iter().enumerate().map(|(at, tower)| match reads(at) {
            true => Ok(self.run_towers(side, std::iter::once(tower), features, &[])?.remove(0)),
            false => {
                Ok(Output { modality: tower.input, width: tower.width, rows: Vec::new(), data: Vec::new() })
            }
        });
        let encoder = encoder.collect::<Result<Vec<Output>>>()?;
        self.ranker_towers(side, features, &encoder)
    }

    fn rank(&self, pairs: &Pairs<'_>, scores: &mut [f32]) -> Result<()> {
        let ranker = self.ranker.as_ref().ok_or(EngineError::NoRanker)?;
        for (pairs_of_part, scores) in pairs.pairs.chunks(PAIRS_AT_ONCE).zip(scores.chunks_mut(PAIRS_AT_ONCE))
        {
            let outputs = ranker.outputs(pairs, pairs_of_part);
            let segments: Vec<Segment<'_>> = outputs.iter().map(Output::segment).collect();
            let ran = ranker.head.run(self.isa, scores.len(), &segments, scores);
            ran.map_err(EngineError::op("ranker head"))?;
        }
        Ok(())
    }
}

impl Ranker {
    /// What each tower of both sides gives for some of the pairs.
    fn outputs(&self, all: &Pairs<'_>, pairs: &[Pair]) -> Vec<Output> {
        let of_requests = all.towers.iter().map(|tower| {
            let (mut rows, mut data) = (Vec::new(), Vec::new());
            for (row, pair) in pairs.iter().enumerate() {
                if let Some(values) = tower.of_row(pair.request) {
                    rows.push(row);
                    data.extend_from_slice(values);
                }
            }
            Output { modality: tower.modality, width: tower.width, rows, data }
        });
        let mut first = 0;
        let of_products = self.item.iter().map(|tower| {
            let columns = first..first + tower.width;
            first = columns.end;
            let values =
                |pair: &Pair| &all.products.data[pair.product * all.products.width..][columns.clone()];
            let data = pairs.iter().flat_map(values).copied().collect();
            Output { modality: tower.input, width: tower.width, rows: (0..pairs.len()).collect(), data }
        });
        of_requests.chain(of_products).collect()
    }
}

fn no_direction(side: Side, error: NormalizeError) -> EngineError {
    let (row, source) = RowError::without_direction(error);
    EngineError::Row { side, row, source }
}
