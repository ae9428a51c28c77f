//! Towers, heads and the tensors they read, with every shape known and checked against the checkpoint.

use std::collections::BTreeSet;
use std::path::Path;

use super::network::LayerError;
use super::{
    Activation, Architecture, Config, Encoder, HeadLayer, Layer, ModelError, Network, Normalize, Op, Pooling,
    Problem, Tower,
};
use crate::input::Modality;
use crate::weights::{Checkpoint, Expected, ShapePattern};

/// The longest vector that an encoder may end in; what a catalogue takes.
const MAX_WIDTH: usize = crate::catalogue::MAX_DIM;

/// What a model computes: shapes are known, tensor names are the checkpoint's.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Encodes requests.
    pub query: EncoderPlan,
    /// Encodes products, to vectors of the same width.
    pub item: EncoderPlan,
    /// Re-scores pairs of both.
    pub ranker: Option<RankerPlan>,
}

/// An encoder: towers, the head over their concatenation, normalisation.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderPlan {
    /// In the order of the concatenation.
    pub towers: Vec<TowerPlan>,
    /// The first reads the concatenation, each next the one before; empty for the concatenation itself.
    pub head: Vec<LinearPlan>,
    /// The last step.
    pub normalize: Normalize,
    /// Length of the vector.
    pub width: usize,
}

impl EncoderPlan {
    /// Whether the vector, before normalisation, is a sum of one term per tower and a constant: the condition for a
    /// score to split exactly into one part per modality.
    pub fn is_linear(&self) -> bool {
        match self.head.as_slice() {
            [] => true,
            [layer] => layer.activation == Activation::Identity,
            _ => false,
        }
    }

    /// Whether some tower reads `modality`.
    pub fn reads(&self, modality: Modality) -> bool {
        self.towers.iter().any(|tower| tower.input == modality)
    }
}

/// A ranker: the concatenation of both sides' towers, query first, into a head of one output.
#[derive(Debug, Clone, PartialEq)]
pub struct RankerPlan {
    /// Towers that read the request.
    pub query_towers: Vec<TowerPlan>,
    /// Towers that read the product.
    pub item_towers: Vec<TowerPlan>,
    /// The last layer has one output.
    pub head: Vec<LinearPlan>,
}

/// One tower.
#[derive(Debug, Clone, PartialEq)]
pub struct TowerPlan {
    /// The configuration's name.
    pub name: String,
    /// The modality it reads.
    pub input: Modality,
    /// Length of its output.
    pub width: usize,
    /// What it computes.
    pub op: TowerOp,
}

/// What a tower computes.
#[derive(Debug, Clone, PartialEq)]
pub enum TowerOp {
    /// An id's row.
    Embedding(Table),
    /// The pooled rows of a bag.
    EmbeddingBag {
        /// The rows.
        table: Table,
        /// How they become one.
        pooling: Pooling,
        /// An id that does not count.
        padding_id: Option<i64>,
    },
    /// A convolutional network over the pixels.
    Network(Network),
    /// A linear layer over the dense input.
    Linear(LinearPlan),
    /// In a ranker: a linear layer over the output of tower `tower` of the same side's encoder.
    LinearOver {
        /// Index in the encoder's towers.
        tower: usize,
        /// The layer.
        linear: LinearPlan,
    },
}

/// A table of embeddings: tensor `weight` of shape `[rows, width]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The tensor.
    pub weight: String,
    /// Ids run from 0 to `rows - 1`.
    pub rows: usize,
    /// Length of a row.
    pub width: usize,
}

/// `activation(weight * x + bias)`: tensors `[outputs, inputs]` and `[outputs]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinearPlan {
    /// The matrix.
    pub weight: String,
    /// The offset.
    pub bias: Option<String>,
    /// Length of the input.
    pub inputs: usize,
    /// Length of the output.
    pub outputs: usize,
    /// Applied to each output.
    pub activation: Activation,
}

impl Plan {
    /// Checks the configuration, then against the checkpoint; errors name the file `path`.
    ///
    /// # Errors
    /// As [`Config::check`]; [`ModelError::Invalid`] with every network that does not fit its image, or every `rename`
    /// that no tower reads; else [`WeightsError::Mismatch`](crate::weights::WeightsError::Mismatch) with every tensor
    /// that is missing, unexpected or mis-shaped; else [`ModelError::Invalid`] with what the shapes contradict: encoders
    /// of different widths, a padding id outside its table.
    pub fn new(config: &Config, checkpoint: &Checkpoint, path: &Path) -> crate::Result<Plan> {
        config.check(path)?;
        let refuse = |problems: Vec<Problem>| match problems.is_empty() {
            true => Ok(()),
            false => Err(ModelError::Invalid { path: path.into(), problems }),
        };
        let mut binder = Binder::new(config, checkpoint);
        let query = binder.encoder("encoders.query", &config.encoders.query);
        let item = binder.encoder("encoders.item", &config.encoders.item);
        let ranker = config.ranker.as_ref().map(|ranker| {
            let at = "ranker.query_towers";
            let query_towers =
                binder.towers(at, &ranker.query_towers, &config.encoders.query.towers, &query.towers);
            let at = "ranker.item_towers";
            let item_towers =
                binder.towers(at, &ranker.item_towers, &config.encoders.item.towers, &item.towers);
            let width = total(query_towers.iter().chain(&item_towers));
            let head = binder.head("ranker.head", &ranker.head, width);
            RankerPlan { query_towers, item_towers, head }
        });
        let plan = Plan { query, item, ranker };
        // In the order of what follows from what: without its network, a tower's tensors are unexpected; with a wrong
        // name in `rename`, one is missing and another unexpected; with one missing, its width is not known.
        refuse(std::mem::take(&mut binder.networks))?;
        refuse(binder.unused_names())?;
        checkpoint.check(&binder.expected, &binder.ignored)?;
        binder.check_widths(&plan);
        refuse(binder.problems)?;
        Ok(plan)
    }
}

/// The length of the towers' concatenation; what does not fit `usize` is refused as any other length beyond the limit.
fn total<'a>(towers: impl IntoIterator<Item = &'a TowerPlan>) -> usize {
    towers.into_iter().map(|tower| tower.width).fold(0, usize::saturating_add)
}

/// Walks the configuration, resolves names and shapes, and collects what the checkpoint must hold.
struct Binder<'a> {
    config: &'a Config,
    checkpoint: &'a Checkpoint,
    expected: Vec<Expected>,
    ignored: Vec<String>,
    /// Networks that cannot be.
    networks: Vec<Problem>,
    /// What the tensors' shapes contradict.
    problems: Vec<Problem>,
    /// The names in `rename` that something reads.
    used: BTreeSet<&'a str>,
}

impl<'a> Binder<'a> {
    fn new(config: &'a Config, checkpoint: &'a Checkpoint) -> Self {
        Binder {
            config,
            checkpoint,
            expected: Vec::new(),
            ignored: config.ignore.clone(),
            networks: Vec::new(),
            problems: Vec::new(),
            used: BTreeSet::new(),
        }
    }

    fn encoder(&mut self, at: &str, encoder: &Encoder) -> EncoderPlan {
        let towers = self.towers(&format!("{at}.towers"), &encoder.towers, &[], &[]);
        let width = total(&towers);
        let head = self.head(&format!("{at}.head"), &encoder.head, width);
        let width = head.last().map_or(width, |layer| layer.outputs);
        EncoderPlan { towers, head, normalize: encoder.normalize, width }
    }

    /// Plans a list of towers; `of` and `planned` are the encoder's towers that a ranker's `over` may name.
    fn towers(&mut self, at: &str, towers: &[Tower], of: &[Tower], planned: &[TowerPlan]) -> Vec<TowerPlan> {
        let mut plans = Vec::with_capacity(towers.len());
        for (index, tower) in towers.iter().enumerate() {
            let at = format!("{at}[{index}]");
            let (width, op) = match tower {
                Tower::Embedding { weight, .. } => {
                    let table = self.table(&at, weight);
                    (table.width, TowerOp::Embedding(table))
                }
                Tower::EmbeddingBag { weight, pooling, padding_id, .. } => {
                    let table = self.table(&at, weight);
                    if let Some(id) = padding_id
                        && usize::try_from(*id).map_or(true, |id| id >= table.rows)
                    {
                        let what = format!("{id} is no row of `{weight}`, which has {}", table.rows);
                        self.problems.push(Problem { at: format!("{at}.padding_id"), what });
                    }
                    (table.width, TowerOp::EmbeddingBag { table, pooling: *pooling, padding_id: *padding_id })
                }
                Tower::ConvStack { architecture, layers, prefix, .. } => {
                    let network = match self.network(&at, *architecture, layers, prefix) {
                        Ok(network) => network,
                        Err(problem) => {
                            self.networks.push(problem);
                            continue; // The plan is refused, whatever its other towers are.
                        }
                    };
                    (network.width(), TowerOp::Network(network))
                }
                Tower::Linear { weight, bias, activation, over, .. } => {
                    let over =
                        over.as_ref().and_then(|over| of.iter().position(|tower| tower.name() == over));
                    let inputs = match over {
                        Some(tower) => planned.get(tower).map_or(0, |tower| tower.width),
                        None => self.config.inputs.behaviour.as_ref().and_then(|b| b.length).unwrap_or(0),
                    };
                    let linear = self.linear(&at, weight, bias.as_deref(), inputs, *activation);
                    let width = linear.outputs;
                    (
                        width,
                        match over {
                            Some(tower) => TowerOp::LinearOver { tower, linear },
                            None => TowerOp::Linear(linear),
                        },
                    )
                }
            };
            plans.push(TowerPlan { name: tower.name().into(), input: tower.input(), width, op });
        }
        plans
    }

    fn head(&mut self, at: &str, head: &[HeadLayer], mut width: usize) -> Vec<LinearPlan> {
        let mut layers = Vec::with_capacity(head.len());
        for (index, layer) in head.iter().enumerate() {
            let at = format!("{at}[{index}]");
            let linear = self.linear(&at, &layer.weight, layer.bias.as_deref(), width, layer.activation);
            width = linear.outputs;
            layers.push(linear);
        }
        layers
    }

    fn table(&mut self, at: &str, weight: &str) -> Table {
        let (weight, rows, width) = self.matrix(at, weight, None);
        Table { weight, rows, width }
    }

    fn linear(
        &mut self,
        at: &str,
        weight: &str,
        bias: Option<&str>,
        inputs: usize,
        activation: Activation,
    ) -> LinearPlan {
        let (weight, outputs, _) = self.matrix(at, weight, (inputs > 0).then_some(inputs));
        let bias = bias.map(|bias| self.expect(bias, &[(outputs > 0).then_some(outputs)]));
        LinearPlan { weight, bias, inputs, outputs, activation }
    }

    /// Expects a matrix and gives its name and lengths; zeros where the checkpoint has none, which `check` reports.
    fn matrix(&mut self, at: &str, weight: &str, columns: Option<usize>) -> (String, usize, usize) {
        let weight = self.expect(weight, &[None, columns]);
        let Some(&[rows, columns]) = self.shape(&weight) else { return (weight, 0, 0) };
        if rows == 0 || columns == 0 {
            let what = format!("`{weight}` has shape [{rows}, {columns}]");
            self.problems.push(Problem { at: format!("{at}.weight"), what });
        }
        (weight, rows, columns)
    }

    fn network(
        &mut self,
        at: &str,
        architecture: Option<Architecture>,
        layers: &[Layer],
        prefix: &str,
    ) -> Result<Network, Problem> {
        let problem = |at: String, what: String| Problem { at, what };
        let Some(image) = &self.config.inputs.image else {
            return Err(problem(format!("{at}.input"), "inputs.image is missing".into()));
        };
        let input = image.shape();
        let mut network = match architecture {
            None => Network::compile(input, layers, prefix)
                .map_err(|error| problem(format!("{at}.{}", error.at), error.what))?,
            Some(architecture) => {
                self.ignored.extend(architecture.unread().iter().map(|unread| format!("{prefix}{unread}")));
                let layers = architecture.layers();
                Network::build(input, &layers, prefix).map_err(|LayerError { layer, what }| {
                    // The layers are not in the file: their names say more than their numbers.
                    let layer = layer.and_then(|layer| layers[layer].name());
                    let layer = layer.map_or(String::new(), |layer| format!(", layer `{layer}`"));
                    problem(format!("{at}.architecture"), format!("{}{layer}: {what}", architecture.name()))
                })?
            }
        };
        for step in &mut network.steps {
            let batch_norm = match &mut step.op {
                Op::Conv(conv) => {
                    let (height, width) = (conv.kernel.height, conv.kernel.width);
                    let inputs = conv.in_channels / conv.groups;
                    let shape = [conv.out_channels, inputs, height, width].map(Some);
                    conv.weight = self.expect(&conv.weight, &shape);
                    conv.bias =
                        conv.bias.as_deref().map(|bias| self.expect(bias, &[Some(conv.out_channels)]));
                    conv.batch_norm.as_mut()
                }
                Op::BatchNorm(batch_norm) => Some(batch_norm),
                _ => None,
            };
            if let Some(batch_norm) = batch_norm {
                for tensor in &mut batch_norm.tensors {
                    *tensor = self.expect(tensor, &[Some(batch_norm.channels)]);
                }
                // PyTorch counts batches beside the statistics; inference has no use for it. Where the statistics were
                // renamed, so was their counter.
                let [.., mean, _] = &batch_norm.tensors;
                let name = mean.strip_suffix(".running_mean").unwrap_or(&batch_norm.name);
                self.ignored.push(format!("{name}.num_batches_tracked"));
                let counter = format!("{}.num_batches_tracked", batch_norm.name);
                let renamed = self.renamed(&counter).map(String::from);
                self.ignored.extend(renamed);
            }
        }
        Ok(network)
    }

    /// Records that the checkpoint must hold `name` (after the rename map) with this shape; `None` is any length.
    fn expect(&mut self, name: &str, shape: &[Option<usize>]) -> String {
        let name = self.renamed(name).unwrap_or(name);
        let shape = ShapePattern(shape.into());
        self.expected.push(Expected { name: name.into(), shape });
        name.into()
    }

    /// The checkpoint's name for `name`, if the configuration gives one.
    fn renamed(&mut self, name: &str) -> Option<&'a str> {
        let (from, to) = self.config.rename.get_key_value(name)?;
        self.used.insert(from);
        Some(to)
    }

    fn shape(&self, name: &str) -> Option<&'a [usize]> {
        self.checkpoint.tensor(name).ok().map(|tensor| tensor.shape())
    }

    /// What the tensors' shapes contradict.
    fn check_widths(&mut self, plan: &Plan) {
        let mut problem = |at: &str, what: String| self.problems.push(Problem { at: at.into(), what });
        if plan.query.width != plan.item.width {
            let what = format!("query ends in {} values, item in {}", plan.query.width, plan.item.width);
            problem("encoders", what);
        }
        for (at, encoder) in [("encoders.query", &plan.query), ("encoders.item", &plan.item)] {
            if !(1..=MAX_WIDTH).contains(&encoder.width) {
                problem(at, format!("ends in {} values; 1 to {MAX_WIDTH} are supported", encoder.width));
            }
        }
        if let Some(outputs) =
            plan.ranker.as_ref().and_then(|ranker| ranker.head.last()).map(|last| last.outputs)
            && outputs != 1
        {
            problem("ranker.head", format!("ends in {outputs} values instead of one"));
        }
    }

    /// The names in `rename` that nothing reads.
    fn unused_names(&self) -> Vec<Problem> {
        let unused = self.config.rename.keys().filter(|name| !self.used.contains(name.as_str()));
        let problem =
            |name| Problem { at: "rename".into(), what: format!("the model reads no tensor named `{name}`") };
        unused.map(problem).collect()
    }
}
