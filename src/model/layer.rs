//! The layers of an explicit network in `config.json`.

use std::fmt;

use serde::de::{Deserializer, Error, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Serialize};

use super::json::tagged;

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
