//! The parts of a model, as `mercer inspect` lists them.

use std::collections::BTreeMap;
use std::path::Path;

use mercer::model::{Activation, LinearPlan, Network, Normalize, Op, Plan, Table, TowerOp, TowerPlan};
use mercer::weights::Checkpoint;
use serde::Serialize;
use serde_json::{Value, json};

use super::path;
use crate::table::{Column, grouped, render};

/// The groups of a model's parts.
pub struct Parts {
    groups: Vec<Group>,
    /// Every tensor once, though encoders and ranker may share it.
    parameters: usize,
}

/// An encoder, or the ranker.
#[derive(Serialize)]
struct Group {
    name: &'static str,
    /// What comes out, in words.
    output: String,
    width: usize,
    parts: Vec<Part>,
}

/// A tower, or a layer of the head.
#[derive(Serialize)]
struct Part {
    name: String,
    kind: String,
    input: String,
    width: usize,
    tensors: Vec<Tensor>,
    parameters: usize,
    file_bytes: usize,
    packed_bytes: usize,
    /// Of one image, for convolutional networks.
    #[serde(skip_serializing_if = "Option::is_none")]
    multiply_adds: Option<u64>,
}

#[derive(Serialize)]
struct Tensor {
    name: String,
    dtype: String,
    shape: Vec<usize>,
}

impl Parts {
    pub fn of(plan: &Plan, checkpoint: &Checkpoint) -> Parts {
        let mut groups = Vec::new();
        for (name, encoder) in [("query encoder", &plan.query), ("item encoder", &plan.item)] {
            let mut parts: Vec<Part> =
                encoder.towers.iter().map(|tower| Part::tower(tower, "", &[], checkpoint)).collect();
            parts.extend(Part::head(&encoder.head, checkpoint));
            let normalized = match encoder.normalize {
                Normalize::L2 => "normalised",
                Normalize::None => "as they are",
            };
            let output = format!("vectors of {}, {normalized}", encoder.width);
            groups.push(Group { name, output, width: encoder.width, parts });
        }
        if let Some(ranker) = &plan.ranker {
            let query = ranker
                .query_towers
                .iter()
                .map(|tower| Part::tower(tower, "query ", &plan.query.towers, checkpoint));
            let item = ranker
                .item_towers
                .iter()
                .map(|tower| Part::tower(tower, "item ", &plan.item.towers, checkpoint));
            let mut parts: Vec<Part> = query.chain(item).collect();
            parts.extend(Part::head(&ranker.head, checkpoint));
            groups.push(Group { name: "ranker", output: "one score per pair".into(), width: 1, parts });
        }
        let tensors = groups.iter().flat_map(|group| &group.parts).flat_map(|part| &part.tensors);
        let distinct: BTreeMap<&str, usize> =
            tensors.map(|tensor| (tensor.name.as_str(), tensor.shape.iter().product())).collect();
        let parameters = distinct.values().sum();
        Parts { groups, parameters }
    }

    pub fn as_text(&self) -> String {
        let mut text = format!("{} parameters, shared ones counted once\n", grouped(self.parameters));
        let columns = [
            Column::text("part"),
            Column::text("kind"),
            Column::text("reads"),
            Column::title("tensors"),
            Column::number("width"),
            Column::number("parameters"),
            Column::number("in file"),
            Column::number("packed"),
            Column::number("mul-adds"),
        ];
        for group in &self.groups {
            text += &format!("\n{}: {}\n", group.name, group.output);
            text += &render(&columns, &group.parts.iter().map(Part::cells).collect::<Vec<_>>());
        }
        text
    }

    pub fn as_json(&self, model: &Path, checkpoint: &Checkpoint) -> Value {
        json!({
            "model": path(model),
            "opens": true,
            "files": checkpoint.files().map(path).collect::<Vec<_>>(),
            "tensors": checkpoint.len(),
            "file_bytes": checkpoint.bytes(),
            "parameters": self.parameters,
            "groups": self.groups,
        })
    }
}

impl Part {
    /// A tower of an encoder, or of one side of the ranker, whose encoder's towers are `encoder`.
    fn tower(tower: &TowerPlan, side: &str, encoder: &[TowerPlan], checkpoint: &Checkpoint) -> Part {
        let table = |table: &Table| vec![table.weight.clone()];
        let (kind, tensors, packed, multiply_adds) = match &tower.op {
            TowerOp::Embedding(rows) => ("embedding".into(), table(rows), 0, None),
            TowerOp::EmbeddingBag { table: rows, pooling, .. } => {
                (format!("embedding_bag, {}", lowercase(pooling)), table(rows), 0, None)
            }
            TowerOp::Network(network) => {
                let kind = format!("conv_stack, {} steps", network.steps.len());
                (kind, network_tensors(network), packed(network), Some(network.multiply_adds()))
            }
            TowerOp::Linear(linear) => {
                (linear_kind(linear), linear_tensors(linear), packed_linear(linear), None)
            }
            TowerOp::LinearOver { tower, linear } => {
                let kind = format!("{} over tower {}", linear_kind(linear), encoder[*tower].name);
                (kind, linear_tensors(linear), packed_linear(linear), None)
            }
        };
        let name = format!("{side}{}", tower.name);
        Part::new(
            name,
            kind,
            tower.input.name().into(),
            tower.width,
            &tensors,
            packed,
            multiply_adds,
            checkpoint,
        )
    }

    fn head<'a>(layers: &'a [LinearPlan], checkpoint: &'a Checkpoint) -> impl Iterator<Item = Part> + 'a {
        layers.iter().enumerate().map(move |(at, layer)| {
            let input = if at == 0 { format!("towers, {}", layer.inputs) } else { layer.inputs.to_string() };
            let name = format!("head {}", at + 1);
            let (tensors, packed) = (linear_tensors(layer), packed_linear(layer));
            Part::new(name, linear_kind(layer), input, layer.outputs, &tensors, packed, None, checkpoint)
        })
    }

    #[allow(clippy::too_many_arguments)] // each is a field
    fn new(
        name: String,
        kind: String,
        input: String,
        width: usize,
        tensors: &[String],
        packed_bytes: usize,
        multiply_adds: Option<u64>,
        checkpoint: &Checkpoint,
    ) -> Part {
        let views: Vec<_> = tensors.iter().filter_map(|name| checkpoint.tensor(name).ok()).collect();
        let parameters = views.iter().map(|view| view.len()).sum();
        let file_bytes = views.iter().map(|view| view.bytes().len()).sum();
        let describe = |view: &mercer::weights::TensorView<'_>| Tensor {
            name: view.name().into(),
            dtype: view.dtype().to_string(),
            shape: view.shape().into(),
        };
        let tensors = views.iter().map(describe).collect();
        Part { name, kind, input, width, tensors, parameters, file_bytes, packed_bytes, multiply_adds }
    }

    fn cells(&self) -> Vec<String> {
        let first =
            self.tensors.first().map(|tensor| format!("{} {:?} {}", tensor.name, tensor.shape, tensor.dtype));
        let more = match self.tensors.len().saturating_sub(1) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        vec![
            self.name.clone(),
            self.kind.clone(),
            self.input.clone(),
            first.unwrap_or_default() + &more,
            grouped(self.width),
            grouped(self.parameters),
            format!("{}B", short(self.file_bytes as u64)),
            format!("{}B", short(self.packed_bytes as u64)),
            self.multiply_adds.map(short).unwrap_or_default(),
        ]
    }
}

/// A number in thousands, millions and so on, with a space before its unit: `238.5 k`.
#[allow(clippy::cast_precision_loss)] // one decimal is kept
fn short(n: u64) -> String {
    let mut value = n as f64;
    let mut units = ["", "k", "M", "G", "T"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    for larger in units {
        if value < 999.95 {
            break;
        }
        (value, unit) = (value / 1000.0, larger);
    }
    if unit.is_empty() { format!("{n} ") } else { format!("{value:.1} {unit}") }
}

fn linear_kind(linear: &LinearPlan) -> String {
    match linear.activation {
        Activation::Identity => "linear".into(),
        activation => format!("linear, {}", lowercase(&activation)),
    }
}

fn lowercase(name: &impl std::fmt::Debug) -> String {
    format!("{name:?}").to_lowercase()
}

fn linear_tensors(linear: &LinearPlan) -> Vec<String> {
    std::iter::once(linear.weight.clone()).chain(linear.bias.clone()).collect()
}

/// Bytes of a weight matrix and a bias as f32.
fn packed_linear(linear: &LinearPlan) -> usize {
    let bias = if linear.bias.is_some() { linear.outputs } else { 0 };
    (linear.outputs * linear.inputs + bias) * size_of::<f32>()
}

fn network_tensors(network: &Network) -> Vec<String> {
    let mut tensors = Vec::new();
    for step in &network.steps {
        let batch_norm = match &step.op {
            Op::Conv(conv) => {
                tensors.push(conv.weight.clone());
                tensors.extend(conv.bias.clone());
                conv.batch_norm.as_ref()
            }
            Op::BatchNorm(batch_norm) => Some(batch_norm),
            _ => None,
        };
        tensors.extend(batch_norm.iter().flat_map(|batch_norm| batch_norm.tensors.clone()));
    }
    tensors
}

/// Bytes of a network's weights as f32: kernels and one offset per channel, a scale too where a batch norm follows no
/// convolution.
fn packed(network: &Network) -> usize {
    let values = network.steps.iter().map(|step| match &step.op {
        Op::Conv(conv) => conv.out_channels * (taps(conv) + 1),
        Op::BatchNorm(batch_norm) => 2 * batch_norm.channels,
        _ => 0,
    });
    values.sum::<usize>() * size_of::<f32>()
}

/// Values that a convolution reads for one value that it writes.
fn taps(conv: &mercer::model::Conv) -> usize {
    conv.in_channels / conv.groups * conv.kernel.height * conv.kernel.width
}

#[cfg(test)]
mod tests {
    #[test]
    fn short() {
        let cases = [(0, "0 "), (999, "999 "), (1000, "1.0 k"), (238_464, "238.5 k"), (999_960, "1.0 M")];
        for (n, expected) in cases {
            assert_eq!(super::short(n), expected);
        }
    }
}
