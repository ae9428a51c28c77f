//! What is computed, in model order: `config.json` and the tensors it names, checked against each other before the
//! first use. Nothing here computes; a backend compiles a [`Plan`].
//!
//! | step | file |
//! |---|---|
//! | the JSON types | `config.rs`, `layer.rs` |
//! | parsing that keeps the path of an error | `json.rs` |
//! | reading and the checks that need no tensor | `load.rs` |
//! | networks known by name, as lists of layers | `architecture.rs` |
//! | a list of layers → steps with shapes, fused | `network.rs` |
//! | how a window slides over a map | `window.rs` |
//! | towers, heads and their tensors with shapes | `plan.rs` |

mod architecture;
mod config;
mod error;
mod json;
mod layer;
mod load;
mod network;
mod plan;
mod precision;
mod window;

pub use config::*;
pub use error::{ModelError, Problem};
pub use layer::{Layer, Pair};
pub use load::MAX_CONFIG_BYTES;
pub use network::{BatchNorm, Conv, MapShape, Network, Op, Step};
pub use plan::{EncoderPlan, LinearPlan, Plan, RankerPlan, Table, TowerOp, TowerPlan};
pub use precision::Precision;
pub use window::{ConvShape, PoolShape, WindowError};
