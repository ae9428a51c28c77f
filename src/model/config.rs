//! `config.json`: the serde types, and the checks that need no tensor.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::json::tagged;
use super::{Layer, MapShape};
use crate::input::Modality;

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
