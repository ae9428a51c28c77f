//! The CPU backend: one file per op, plain slices in and out. Ops check the lengths of what they are given and return
//! [`OpError`]; they run on rayon's current pool.
//!
//! Every op is written once over [`simd::Simd`] and compiled for each instruction set; the set is chosen once, at run
//! time. All of them use fused multiply-add in one order, so a result has the same bits on every instruction set.

pub mod activation;
pub mod batch_norm;
pub mod conv;
mod depthwise;
pub mod embedding;
mod error;
pub mod head;
pub mod linear;
mod matmul;
pub mod network;
pub mod normalize;
pub mod pool;
pub mod score;
pub mod simd;
pub mod topk;

pub use error::OpError;
pub use simd::Isa;
