//! `config.json`: the serde types, and the checks that need no tensor.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, Error, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::MapShape;
use super::json::{Tagged, with_tag};
use crate::input::Modality;

/// Reads and writes an enum as an object whose field `$tag` names the variant.
macro_rules! tagged {
    ($type:ident, $tag:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                $type::deserialize(Tagged { tag: $tag, deserializer })
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let value = $type::serialize(self, serde_json::value::Serializer);
                with_tag($tag, value.map_err(serde::ser::Error::custom)?).serialize(serializer)
            }
        }
    };
}

/// The `format_version` that this library reads.
pub const FORMAT_VERSION: u32 = 1;

/// A model folder's `config.json`. Unknown fields are refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// How raw requests become features.
    pub inputs: Inputs,
    /// The two sides of the shared vector space.
    pub encoders: Encoders,
    /// Re-scores retrieved products.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranker: Option<Ranker>,
    /// Tensor name in this file → tensor name in the checkpoint; names not listed are the same in both.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rename: BTreeMap<String, String>,
    /// Prefixes of checkpoint tensors that the model knowingly leaves unread; any other unread tensor is an error.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignore: Vec<String>,
}

/// Preprocessing, per modality; a modality that a tower reads must be listed, except `user`, which needs none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inputs {
    /// Text to token ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<TextInput>,
    /// An image to normalised pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageInput>,
    /// Behaviour: a dense vector or item ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behaviour: Option<BehaviourInput>,
}

/// Text to token ids.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextInput {
    /// The tokenizer's file, inside the model folder.
    pub tokenizer: String,
    /// Most tokens of one text.
    pub max_tokens: usize,
    /// What to do with a longer text.
    #[serde(default)]
    pub truncation: Truncation,
    /// Whether the tokenizer's post-processor adds its special tokens.
    #[serde(default)]
    pub special_tokens: bool,
}

/// What happens to a text of more than `max_tokens` tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Truncation {
    /// It is an error.
    #[default]
    Refuse,
    /// The first `max_tokens` tokens are kept.
    KeepFirst,
}

/// An image to normalised pixels, as torchvision's transforms define it: resize, crop, scale to `[0, 1]`, then
/// `(x - mean) / std` per channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageInput {
    /// Height that the towers read.
    pub height: usize,
    /// Width that the towers read.
    pub width: usize,
    /// How an image of another size gets there.
    pub resize: Resize,
    /// For `shortest_side`: the length of the shortest side after resizing, at least `height` and `width`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resize_size: Option<usize>,
    /// The resampling filter, antialiased as Pillow does.
    #[serde(default)]
    pub filter: Filter,
    /// What is kept after `shortest_side`.
    #[serde(default)]
    pub crop: Crop,
    /// Subtracted per channel (red, green, blue).
    pub mean: [f32; 3],
    /// Divided by per channel.
    pub std: [f32; 3],
}

impl ImageInput {
    /// What the towers read.
    pub fn shape(&self) -> MapShape {
        MapShape { height: self.height, width: self.width, channels: 3 }
    }
}

/// How an image reaches the towers' size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// It must have the size already.
    None,
    /// Both sides are resized, whatever that does to the proportions.
    Exact,
    /// The shortest side becomes `resize_size`, proportions kept; then the crop.
    ShortestSide,
}

/// Pillow's resampling filters, by Pillow's names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Triangle filter of support 1.
    #[default]
    Bilinear,
    /// Cubic convolution with a = -0.5, support 2.
    Bicubic,
}

/// What is kept of a resized image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Crop {
    /// The middle, offsets rounded as torchvision's `center_crop` does.
    #[default]
    Center,
}

/// Behaviour features: exactly one of the two forms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BehaviourInput {
    /// A dense vector of this length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<usize>,
    /// A list of at most this many item ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_items: Option<usize>,
}

/// The two encoders, which end in one vector space.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encoders {
    /// Encodes requests.
    pub query: Encoder,
    /// Encodes products.
    pub item: Encoder,
}

/// Towers, the fused head over their concatenation, and the normalisation of its output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encoder {
    /// In the order of the concatenation.
    pub towers: Vec<Tower>,
    /// Linear layers over the concatenation; empty gives the concatenation itself.
    #[serde(default)]
    pub head: Vec<HeadLayer>,
    /// What is done to the last layer's output.
    pub normalize: Normalize,
}

/// The last step of an encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalize {
    /// Unit L2 norm.
    L2,
    /// Nothing.
    None,
}

/// One modality's part of an encoder: features in, a vector out. `name` is unique within its list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", rename_all = "snake_case", deny_unknown_fields)]
pub enum Tower {
    /// An id's row of a table.
    Embedding {
        /// The tower's name.
        name: String,
        /// What it reads: ids.
        input: Modality,
        /// `[rows, width]`
        weight: String,
    },
    /// The pooled rows of a bag of ids.
    EmbeddingBag {
        /// The tower's name.
        name: String,
        /// What it reads: bags of ids.
        input: Modality,
        /// `[rows, width]`
        weight: String,
        /// How the rows of a bag become one.
        pooling: Pooling,
        /// An id that does not count.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        padding_id: Option<i64>,
    },
    /// A convolutional network that ends in one vector.
    ConvStack {
        /// The tower's name.
        name: String,
        /// What it reads: pixels.
        input: Modality,
        /// A network known by name; or `layers`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        architecture: Option<Architecture>,
        /// An explicit network; or `architecture`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        layers: Vec<Layer>,
        /// Stands before every tensor name of the network.
        #[serde(default)]
        prefix: String,
        /// Which of a named network's outputs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        features: Option<FeatureKind>,
    },
    /// `activation(weight * x + bias)`.
    Linear {
        /// The tower's name.
        name: String,
        /// What it reads: a dense vector.
        input: Modality,
        /// `[width, inputs]`
        weight: String,
        /// `[width]`
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bias: Option<String>,
        /// Applied to each output.
        #[serde(default)]
        activation: Activation,
        /// In a ranker: the encoder tower of the same side whose output is read instead of the raw input.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        over: Option<String>,
    },
}

tagged!(Tower, "kind");

impl Tower {
    /// The tower's name.
    pub fn name(&self) -> &str {
        match self {
            Tower::Embedding { name, .. }
            | Tower::EmbeddingBag { name, .. }
            | Tower::ConvStack { name, .. }
            | Tower::Linear { name, .. } => name,
        }
    }

    /// The modality it reads.
    pub fn input(&self) -> Modality {
        match self {
            Tower::Embedding { input, .. }
            | Tower::EmbeddingBag { input, .. }
            | Tower::ConvStack { input, .. }
            | Tower::Linear { input, .. } => *input,
        }
    }
}

/// How the rows of a bag become one vector. An empty bag gives zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Weighted sum.
    Sum,
    /// Sum divided by the number of ids; takes no weights, as in PyTorch's `EmbeddingBag`.
    Mean,
    /// Largest value per dimension; takes no weights, as in PyTorch's `EmbeddingBag`.
    Max,
}

/// Networks known by name, with the tensor names of torchvision's state dicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// ResNet-18.
    Resnet18,
    /// ResNet-34.
    Resnet34,
    /// VGG-16 without batch norm.
    Vgg16,
}

/// Which output of a named network a tower gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FeatureKind {
    /// The last feature map, averaged over its pixels.
    Pooled,
}

/// One layer of an explicit network. A layer reads the layer before it unless `from` names another; the first reads
/// the pixels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", rename_all = "snake_case", deny_unknown_fields)]
pub enum Layer {
    /// Cross-correlation, as `torch.nn.Conv2d`: reads `{name}.weight` `[out, in / groups, kernel, kernel]` and, with
    /// `bias`, `{name}.bias` `[out]`.
    Conv {
        /// Tensor name after the tower's prefix; other layers refer to it too.
        name: String,
        /// Output channels.
        out_channels: usize,
        /// Side of the square kernel, or `[height, width]`.
        kernel: Pair,
        /// Step, per axis.
        #[serde(default = "Pair::one")]
        stride: Pair,
        /// Zeros added on each side, per axis.
        #[serde(default = "Pair::zero")]
        padding: Pair,
        /// Distance between taps, per axis.
        #[serde(default = "Pair::one")]
        dilation: Pair,
        /// Channel groups.
        #[serde(default = "one")]
        groups: usize,
        /// Whether there is a bias.
        #[serde(default)]
        bias: bool,
        /// The layer that is read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<String>,
    },
    /// `torch.nn.BatchNorm2d` in evaluation: reads `{name}.weight`, `.bias`, `.running_mean`, `.running_var`; folded
    /// into the convolution before it where there is one.
    BatchNorm {
        /// Tensor name after the tower's prefix; other layers refer to it too.
        name: String,
        /// Added to the variance.
        #[serde(default = "default_eps")]
        eps: f64,
    },
    /// `max(x, 0)`; NaN stays NaN.
    Relu {
        /// Other layers refer to it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// Residual sum with another layer's output of the same shape.
    Add {
        /// Other layers refer to it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// The other layer.
        with: String,
    },
    /// `torch.nn.MaxPool2d`; padding never wins.
    MaxPool {
        /// Other layers refer to it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// Window, per axis.
        kernel: Pair,
        /// Step, per axis; the window's size if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stride: Option<Pair>,
        /// Padding on each side, per axis, at most half the window.
        #[serde(default = "Pair::zero")]
        padding: Pair,
    },
    /// `torch.nn.AvgPool2d`.
    AvgPool {
        /// Other layers refer to it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// Window, per axis.
        kernel: Pair,
        /// Step, per axis; the window's size if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stride: Option<Pair>,
        /// Zeros on each side, per axis, at most half the window.
        #[serde(default = "Pair::zero")]
        padding: Pair,
        /// Whether padding counts in the divisor.
        #[serde(default = "yes")]
        count_include_pad: bool,
    },
    /// The mean over all pixels, one value per channel.
    GlobalAvgPool {
        /// Other layers refer to it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
}

tagged!(Layer, "op");

impl Layer {
    /// The name that other layers refer to.
    pub fn name(&self) -> Option<&str> {
        match self {
            Layer::Conv { name, .. } | Layer::BatchNorm { name, .. } => Some(name),
            Layer::Relu { name }
            | Layer::Add { name, .. }
            | Layer::MaxPool { name, .. }
            | Layer::AvgPool { name, .. }
            | Layer::GlobalAvgPool { name } => name.as_deref(),
        }
    }
}

/// A value per spatial axis, `[height, width]`; one number stands for both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(into = "[usize; 2]")]
pub struct Pair {
    /// Vertical.
    pub height: usize,
    /// Horizontal.
    pub width: usize,
}

impl Pair {
    /// The same value on both axes.
    pub const fn square(side: usize) -> Pair {
        Pair { height: side, width: side }
    }
    fn one() -> Pair {
        Pair::square(1)
    }
    fn zero() -> Pair {
        Pair::square(0)
    }
}

impl<'de> Deserialize<'de> for Pair {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pair, D::Error> {
        deserializer.deserialize_any(PairVisitor)
    }
}

struct PairVisitor;

impl<'de> Visitor<'de> for PairVisitor {
    type Value = Pair;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number or [height, width]")
    }
    fn visit_i64<E: Error>(self, side: i64) -> Result<Pair, E> {
        Err(E::invalid_value(Unexpected::Signed(side), &self))
    }
    fn visit_u64<E: Error>(self, side: u64) -> Result<Pair, E> {
        let side = usize::try_from(side);
        side.map(Pair::square)
            .map_err(|_| E::invalid_value(Unexpected::Other("a number beyond usize"), &self))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Pair, A::Error> {
        let height = seq.next_element()?.ok_or_else(|| A::Error::invalid_length(0, &self))?;
        let width = seq.next_element()?.ok_or_else(|| A::Error::invalid_length(1, &self))?;
        match seq.next_element::<usize>()? {
            None => Ok(Pair { height, width }),
            Some(_) => Err(A::Error::invalid_length(3, &self)),
        }
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.height == self.width {
            self.height.fmt(f)
        } else {
            write!(f, "{}x{}", self.height, self.width)
        }
    }
}

impl From<Pair> for [usize; 2] {
    fn from(pair: Pair) -> [usize; 2] {
        [pair.height, pair.width]
    }
}

fn one() -> usize {
    1
}

fn yes() -> bool {
    true
}

fn default_eps() -> f64 {
    1e-5
}

/// `activation(weight * x + bias)` over the concatenation (first layer) or the layer before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadLayer {
    /// `[outputs, inputs]`
    pub weight: String,
    /// `[outputs]`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bias: Option<String>,
    /// Applied to each output.
    #[serde(default)]
    pub activation: Activation,
}

/// A function of one value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x`
    #[default]
    Identity,
    /// `max(x, 0)`
    Relu,
    /// `1 / (1 + exp(-x))`
    Sigmoid,
    /// `tanh(x)`
    Tanh,
}

/// Scores a (request, product) pair: the towers of both sides, concatenated query first, into a head that ends in one
/// value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ranker {
    /// Towers that read the request.
    pub query_towers: Vec<Tower>,
    /// Towers that read the product.
    pub item_towers: Vec<Tower>,
    /// Linear layers over the concatenation; the last has one output.
    pub head: Vec<HeadLayer>,
}
