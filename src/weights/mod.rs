//! The checkpoint: safetensors files mapped or read, validated whole, handed out as typed views by name.
//!
//! ```no_run
//! use mercer::weights::{Checkpoint, Source};
//!
//! let checkpoint = Checkpoint::open("weights/demo".as_ref(), Source::Mmap)?;
//! let weight = checkpoint.tensor("query_head.weight")?;
//! println!("{} {:?}: {} bytes in the file", weight.dtype(), weight.shape(), weight.bytes().len());
//! let values = weight.to_f32()?; // borrowed from the mapping if it is aligned F32, converted otherwise
//! # Ok::<(), mercer::weights::WeightsError>(())
//! ```
//!
//! [`Checkpoint::open`] takes a model folder, which holds either `model.safetensors` or the shards that
//! `model.safetensors.index.json` names, or a single `.safetensors` file. Nothing is handed out before all of this
//! holds for every file:
//!
//! - the 8-byte header length is at most [`MAX_HEADER_BYTES`] and the header is there in full;
//! - the header is one JSON object without duplicate or unknown keys; `__metadata__`, if there, maps strings to strings;
//! - every tensor has a dtype of the format, at most [`MAX_RANK`] dimensions and a name of at most [`MAX_NAME_BYTES`];
//!   there are at most [`MAX_TENSORS`] of them;
//! - its `data_offsets` hold exactly the bytes of its shape and dtype, in checked arithmetic;
//! - the tensors cover the data exactly: no overlap, no hole, no byte after the last;
//! - shards lie inside the folder, symbolic links resolved, and `weight_map` and the shards name the same tensors.
//!
//! The `safetensors` crate accepts everything that this module accepts. This module also refuses what that crate lets
//! pass: a tensor named twice, a tensor entry that is not an object or has unknown fields, a dtype that is not a plain
//! string, a `__metadata__` of `null`, bytes before the header's `{`, and what exceeds the limits above.
//!
//! A download cache whose model folder links each shard to a store elsewhere breaks the last rule: download into a
//! plain folder instead.
//!
//! # Files that change while they are open
//!
//! Replace a checkpoint by writing a new file and renaming it over the old one: an open checkpoint keeps the old
//! content. Never write into, truncate or copy over a file that may be open: under [`Source::Mmap`] the views are the
//! file's own pages. If the file shrinks, reading a page behind its new end ends the process (`SIGBUS` on Unix), while
//! the rest of the page in which it now ends reads as zeros; if it is overwritten, the views show the new bytes.
//! [`Checkpoint::unchanged`] tells whether a mapped file still has the length and modification time it was opened
//! with: call it after the weights have been copied or packed, before they are relied on. Where others may rewrite
//! files in place, open with [`Source::Read`], which copies the files and is immune from then on.

mod check;
mod checkpoint;
mod dtype;
mod error;
mod header;
mod json;
mod map;
mod shards;
mod values;
mod view;

pub use check::{Expected, Mismatch, Misshaped, ShapePattern, Unexpected};
pub use checkpoint::Checkpoint;
pub use dtype::Dtype;
pub use error::WeightsError;
pub use header::{MAX_HEADER_BYTES, MAX_NAME_BYTES, MAX_RANK, MAX_TENSORS};
pub use map::Source;
pub use shards::MAX_INDEX_BYTES;
pub use values::{NonFinite, NonFiniteTensor};
pub use view::{Element, TensorView};
