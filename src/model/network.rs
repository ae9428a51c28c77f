//! A convolutional network as data: a list of layers becomes a list of steps with shapes, and what a convolution's
//! epilogue can do (batch norm, residual sum, ReLU) is fused into it.

use std::collections::HashMap;

use super::{ConvShape, Layer, Pair, PoolShape, Problem};

/// The shape of one image's feature map; in memory `[height, width, channels]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapShape {
    /// Rows of pixels.
    pub height: usize,
    /// Columns of pixels.
    pub width: usize,
    /// Values per pixel.
    pub channels: usize,
}

impl MapShape {
    /// Values of the whole map. Does not overflow for the shapes that [`Network::compile`] accepts.
    pub fn len(self) -> usize {
        self.height * self.width * self.channels
    }

    /// That the map has values, and not more than a network takes.
    pub(super) fn check(self) -> Result<(), String> {
        let pixels = self.height.checked_mul(self.width);
        match pixels.and_then(|pixels| pixels.checked_mul(self.channels)) {
            Some(0) => Err(format!("a map of {} has no values", describe(self))),
            Some(len) if len <= MAX_MAP => Ok(()),
            _ => Err(format!("a map of {} has more than {MAX_MAP} values", describe(self))),
        }
    }

    /// Whether the map holds no value.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// The largest feature map that a network may have, in values: 1 GiB of f32.
const MAX_MAP: usize = 1 << 28;

/// A compiled network. Value 0 is the image; value `i + 1` is the output of step `i`.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    /// What it reads.
    pub input: MapShape,
    /// In order of execution; the last one's output is the network's.
    pub steps: Vec<Step>,
}

/// One operation.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// What is computed.
    pub op: Op,
    /// The value that is read.
    pub input: usize,
    /// The shape of what is written.
    pub output: MapShape,
}

/// The operations that a backend implements.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// Convolution with its fused epilogue.
    Conv(Conv),
    /// A batch norm that follows no convolution.
    BatchNorm(BatchNorm),
    /// A ReLU that follows no convolution.
    Relu,
    /// A sum that follows no convolution.
    Add {
        /// The other value.
        with: usize,
    },
    /// Maximum per window.
    MaxPool(PoolShape),
    /// Mean per window.
    AvgPool {
        /// The window.
        pool: PoolShape,
        /// Whether padding counts in the divisor.
        count_include_pad: bool,
    },
    /// Mean over the map.
    GlobalAvgPool,
}

/// A convolution: `relu(batch_norm(weight * x + bias) + residual)`, each part optional.
#[derive(Debug, Clone, PartialEq)]
pub struct Conv {
    /// Tensor `[out_channels, in_channels / groups, kernel.height, kernel.width]`.
    pub weight: String,
    /// Tensor `[out_channels]`.
    pub bias: Option<String>,
    /// Folded into weight and bias.
    pub batch_norm: Option<BatchNorm>,
    /// Channels read.
    pub in_channels: usize,
    /// Channels written.
    pub out_channels: usize,
    /// Window.
    pub kernel: Pair,
    /// Step.
    pub stride: Pair,
    /// Zeros on each side.
    pub padding: Pair,
    /// Distance between taps.
    pub dilation: Pair,
    /// Channel groups.
    pub groups: usize,
    /// The value added before the ReLU.
    pub residual: Option<usize>,
    /// Whether a ReLU ends it.
    pub relu: bool,
}

impl Conv {
    /// Its shape alone.
    pub fn shape(&self) -> ConvShape {
        let &Conv { in_channels, out_channels, kernel, stride, padding, dilation, groups, .. } = self;
        ConvShape { in_channels, out_channels, kernel, stride, padding, dilation, groups }
    }
}

/// Batch norm in evaluation: `(x - running_mean) / sqrt(running_var + eps) * weight + bias` per channel.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchNorm {
    /// The layer's name with its prefix.
    pub name: String,
    /// The tensors: weight, bias, running mean, running variance.
    pub tensors: [String; 4],
    /// Length of each tensor.
    pub channels: usize,
    /// Added to the variance.
    pub eps: f64,
}

impl BatchNorm {
    fn new(name: String, channels: usize, eps: f64) -> BatchNorm {
        let tensors =
            ["weight", "bias", "running_mean", "running_var"].map(|tensor| format!("{name}.{tensor}"));
        BatchNorm { name, tensors, channels, eps }
    }
}

impl Network {
    /// Compiles `layers` over images of shape `input`; `prefix` stands before every tensor name.
    ///
    /// # Errors
    /// The problem of the first layer that cannot be, at `layers[i]`: an unknown or repeated name, a window that does
    /// not fit, channels that groups do not divide, a sum of different shapes, a map beyond 1 GiB, padding included; or,
    /// at `layers`, an image without values or beyond 1 GiB, or a last map that is not one pixel. What compiles has no
    /// shape that an operation could refuse.
    pub fn compile(input: MapShape, layers: &[Layer], prefix: &str) -> Result<Network, Problem> {
        Network::build(input, layers, prefix).map_err(|LayerError { layer, what }| Problem {
            at: layer.map_or("layers".into(), |index| format!("layers[{index}]")),
            what,
        })
    }

    /// As [`Network::compile`], for a caller that has its own names for the layers.
    pub(super) fn build(input: MapShape, layers: &[Layer], prefix: &str) -> Result<Network, LayerError> {
        input.check().map_err(|what| LayerError { layer: None, what })?;
        let mut builder = Builder { prefix, shapes: vec![input], steps: Vec::new(), names: HashMap::new() };
        for (index, layer) in layers.iter().enumerate() {
            builder.push(layer).map_err(|what| LayerError { layer: Some(index), what })?;
        }
        let last = builder.shapes[layers.len()];
        if (last.height, last.width) != (1, 1) {
            let what = format!(
                "the network ends in a map of {}x{} pixels; end it with global_avg_pool",
                last.height, last.width
            );
            return Err(LayerError { layer: None, what });
        }
        Ok(Network { input, steps: fuse(builder.steps) })
    }

    /// Channels of the output, which is one pixel.
    pub fn width(&self) -> usize {
        self.steps.last().map_or(self.input.channels, |step| step.output.channels)
    }

    /// Multiply-adds of one image's convolutions.
    pub fn multiply_adds(&self) -> u64 {
        let of = |step: &Step| match &step.op {
            Op::Conv(conv) => {
                let per_output = conv.in_channels / conv.groups * conv.kernel.height * conv.kernel.width;
                step.output.len() as u64 * per_output as u64
            }
            _ => 0,
        };
        self.steps.iter().map(of).fold(0, u64::saturating_add)
    }

    /// For each value, the index of the last step that reads it; the output is read by a step past the end.
    pub fn last_reads(&self) -> Vec<usize> {
        let mut last = vec![0; self.steps.len() + 1];
        for (index, step) in self.steps.iter().enumerate() {
            for value in step.reads() {
                last[value] = index;
            }
        }
        if let Some(output) = last.last_mut() {
            *output = self.steps.len();
        }
        last
    }
}

impl Step {
    /// The values that the step reads.
    pub fn reads(&self) -> impl Iterator<Item = usize> {
        let second = match &self.op {
            Op::Conv(conv) => conv.residual,
            Op::Add { with } => Some(*with),
            _ => None,
        };
        std::iter::once(self.input).chain(second)
    }
}

/// What is wrong with a list of layers.
pub(super) struct LayerError {
    /// The index of the layer that cannot be; `None` for the list as a whole.
    pub layer: Option<usize>,
    /// What is wrong there, with the values.
    pub what: String,
}

/// Builds one unfused step per layer.
struct Builder<'a> {
    prefix: &'a str,
    /// The shape of each value.
    shapes: Vec<MapShape>,
    steps: Vec<Step>,
    /// Layer name → value.
    names: HashMap<String, usize>,
}

impl Builder<'_> {
    fn push(&mut self, layer: &Layer) -> Result<(), String> {
        let previous = self.steps.len();
        let (name, step) = match layer {
            Layer::Conv { name, from, .. } => {
                let input = from.as_ref().map_or(Ok(previous), |from| self.value(from))?;
                (Some(name), self.conv(layer, input)?)
            }
            Layer::BatchNorm { name, eps } => {
                if !(eps.is_finite() && *eps >= 0.0) {
                    return Err(format!("eps is {eps}"));
                }
                let output = self.shapes[previous];
                let batch_norm = BatchNorm::new(format!("{}{name}", self.prefix), output.channels, *eps);
                (Some(name), Step { op: Op::BatchNorm(batch_norm), input: previous, output })
            }
            Layer::Relu { name } => {
                (name.as_ref(), Step { op: Op::Relu, input: previous, output: self.shapes[previous] })
            }
            Layer::Add { name, with } => {
                let (with, output) = (self.value(with)?, self.shapes[previous]);
                if self.shapes[with] != output {
                    return Err(format!("adds {} to {}", describe(self.shapes[with]), describe(output)));
                }
                (name.as_ref(), Step { op: Op::Add { with }, input: previous, output })
            }
            Layer::MaxPool { name, kernel, stride, padding } => {
                let (pool, output) = self.pool(*kernel, *stride, *padding)?;
                (name.as_ref(), Step { op: Op::MaxPool(pool), input: previous, output })
            }
            Layer::AvgPool { name, kernel, stride, padding, count_include_pad } => {
                let (pool, output) = self.pool(*kernel, *stride, *padding)?;
                let op = Op::AvgPool { pool, count_include_pad: *count_include_pad };
                (name.as_ref(), Step { op, input: previous, output })
            }
            Layer::GlobalAvgPool { name } => {
                let output = MapShape { height: 1, width: 1, channels: self.shapes[previous].channels };
                (name.as_ref(), Step { op: Op::GlobalAvgPool, input: previous, output })
            }
        };
        if let Some(name) = name
            && self.names.insert(name.clone(), previous + 1).is_some()
        {
            return Err(format!("two layers are named `{name}`"));
        }
        self.shapes.push(step.output);
        self.steps.push(step);
        Ok(())
    }

    fn value(&self, name: &str) -> Result<usize, String> {
        self.names.get(name).copied().ok_or_else(|| format!("no earlier layer is named `{name}`"))
    }

    fn conv(&self, layer: &Layer, input: usize) -> Result<Step, String> {
        let Layer::Conv { name, out_channels, kernel, stride, padding, dilation, groups, bias, .. } = layer
        else {
            return Err("not a convolution".into());
        };
        let shape = self.shapes[input];
        let conv = Conv {
            weight: format!("{}{name}.weight", self.prefix),
            bias: bias.then(|| format!("{}{name}.bias", self.prefix)),
            batch_norm: None,
            in_channels: shape.channels,
            out_channels: *out_channels,
            kernel: *kernel,
            stride: *stride,
            padding: *padding,
            dilation: *dilation,
            groups: *groups,
            residual: None,
            relu: false,
        };
        let Pair { height, width } =
            conv.shape().output(shape.height, shape.width).map_err(|error| error.to_string())?;
        let output = MapShape { height, width, channels: *out_channels };
        output.check()?;
        check_padded(shape, *padding)?;
        Ok(Step { op: Op::Conv(conv), input, output })
    }

    fn pool(
        &self,
        kernel: Pair,
        stride: Option<Pair>,
        padding: Pair,
    ) -> Result<(PoolShape, MapShape), String> {
        let shape = self.shapes[self.steps.len()];
        let pool = PoolShape { kernel, stride: stride.unwrap_or(kernel), padding };
        let Pair { height, width } =
            pool.output(shape.height, shape.width).map_err(|error| error.to_string())?;
        let output = MapShape { height, width, channels: shape.channels };
        output.check()?;
        check_padded(shape, padding)?;
        Ok((pool, output))
    }
}

/// Bounds a map with its padding: nothing stops a file from asking for any amount of zeros. The window fits the padded
/// map, so this bounds the kernel too.
fn check_padded(shape: MapShape, padding: Pair) -> Result<(), String> {
    let padded = |size: usize, padding: usize| padding.saturating_mul(2).saturating_add(size);
    let (height, width) = (padded(shape.height, padding.height), padded(shape.width, padding.width));
    MapShape { height, width, ..shape }.check().map_err(|what| format!("with its padding, {what}"))
}

fn describe(shape: MapShape) -> String {
    format!("{}x{}x{}", shape.height, shape.width, shape.channels)
}

/// Moves each batch norm, sum and ReLU that alone reads a convolution's output into the convolution. A sum moves only
/// if its other operand exists when the convolution runs.
fn fuse(steps: Vec<Step>) -> Vec<Step> {
    let mut readers = vec![0usize; steps.len() + 1];
    readers[steps.len()] = 1;
    for value in steps.iter().flat_map(Step::reads) {
        readers[value] += 1;
    }
    let mut fused: Vec<Step> = Vec::with_capacity(steps.len());
    let mut moved_to: Vec<usize> = vec![0]; // value before fusing → value after
    for mut step in steps {
        let alone = readers[step.input] == 1;
        step.input = moved_to[step.input];
        if let Op::Add { with } = &mut step.op {
            *with = moved_to[*with];
        }
        let writer = step.input.checked_sub(1);
        let absorbed = match writer.map(|at| &mut fused[at].op) {
            Some(Op::Conv(conv)) if alone => absorb(conv, &step, writer.unwrap_or(0)),
            _ => false,
        };
        if !absorbed {
            fused.push(step);
        }
        moved_to.push(if absorbed { writer.map_or(0, |at| at + 1) } else { fused.len() });
    }
    fused
}

/// Takes `step`, the only reader of the convolution at `fused[at]`, into its epilogue if that keeps the meaning.
fn absorb(conv: &mut Conv, step: &Step, at: usize) -> bool {
    match &step.op {
        Op::BatchNorm(batch_norm) if conv.batch_norm.is_none() && conv.residual.is_none() && !conv.relu => {
            conv.batch_norm = Some(batch_norm.clone());
            true
        }
        Op::Add { with } if conv.residual.is_none() && !conv.relu && *with <= at => {
            conv.residual = Some(*with);
            true
        }
        Op::Relu if !conv.relu => {
            conv.relu = true;
            true
        }
        _ => false,
    }
}
