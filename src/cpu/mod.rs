//! The CPU backend: one file per op, plain slices in and out, shapes checked by the caller of each op.
//!
//! Every op is written once over [`simd::Simd`] and compiled for each instruction set; the set is chosen once, at run
//! time. All of them use fused multiply-add in one order, so a result has the same bits on every instruction set.

pub mod normalize;
pub mod score;
pub mod simd;
pub mod topk;
