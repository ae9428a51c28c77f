//! One variant per way a checkpoint can be wrong; long because every field of every variant says what it is.

use std::ops::Range;
use std::path::PathBuf;

use super::Dtype;
use super::check::Mismatch;
use super::header::{MAX_HEADER_BYTES, MAX_NAME_BYTES, MAX_RANK, MAX_TENSORS};
use super::shards::{INDEX, MAX_INDEX_BYTES, SINGLE};
use super::values::NonFinite;
use crate::ErrorKind;

/// Why a checkpoint is refused. Each prints as one line, except [`WeightsError::Mismatch`] and
/// [`WeightsError::NonFinite`], which add a line per tensor. Names that come from files are quoted and escaped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// Nothing is at the path.
    #[error("{}: no such file or folder", path.display())]
    NotFound {
        /// What was asked for.
        path: PathBuf,
    },
    /// The folder holds no checkpoint.
    #[error("{}: holds neither {SINGLE} nor {INDEX}", folder.display())]
    NoCheckpoint {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder holds two checkpoints.
    #[error("{}: holds both {SINGLE} and {INDEX}; remove one of them", folder.display())]
    TwoCheckpoints {
        /// The folder.
        folder: PathBuf,
    },
    /// The path is a file of another kind.
    #[error("{}: neither a model folder nor a .safetensors file", path.display())]
    NotSafetensors {
        /// What was asked for.
        path: PathBuf,
    },
    /// A folder, pipe or device stands where a file belongs.
    #[error("{}: not a regular file", path.display())]
    NotAFile {
        /// What was to be opened.
        path: PathBuf,
    },
    /// The file system refuses.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file does not fit into memory.
    #[error("{}: no memory for its {bytes} bytes", file.display())]
    OutOfMemory {
        /// The file.
        file: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// A file's length changed while it was open or being opened.
    #[error("{}: had {opened} bytes when opened, has {len} now; replace files by rename", file.display())]
    Resized {
        /// The file.
        file: PathBuf,
        /// The length that was mapped or read.
        opened: usize,
        /// The length now.
        len: u64,
    },
    /// A file was written to while it was open.
    #[error("{}: was modified in place while open; replace files by rename", file.display())]
    Rewritten {
        /// The file.
        file: PathBuf,
    },

    /// The file ends before its header does.
    #[error("{}: {len} bytes long, its header needs {needed}", file.display())]
    HeaderTruncated {
        /// The file.
        file: PathBuf,
        /// Where the header's length, or the header, would end.
        needed: usize,
        /// Where the file ends.
        len: usize,
    },
    /// The header's declared length is over the limit.
    #[error("{}: declares a header of {len} bytes, the limit is {MAX_HEADER_BYTES}", file.display())]
    HeaderTooLarge {
        /// The file.
        file: PathBuf,
        /// The declared length.
        len: u64,
    },
    /// The header is not an object from its first byte on.
    #[error("{}: the header starts with byte 0x{first:02x}, not with '{{'", file.display())]
    HeaderStart {
        /// The file.
        file: PathBuf,
        /// Its first byte.
        first: u8,
    },
    /// The header is not JSON, or not the JSON of the format.
    #[error("{}: header{}: {source}", file.display(), of_tensor(tensor))]
    BadHeader {
        /// The file.
        file: PathBuf,
        /// The tensor being described where the fault is.
        tensor: Option<String>,
        /// The fault, with line and column in the header.
        source: serde_json::Error,
    },
    /// Too many tensors in one file.
    #[error("{}: {found} tensors, the limit is {MAX_TENSORS}", file.display())]
    TooManyTensors {
        /// The file.
        file: PathBuf,
        /// How many.
        found: usize,
    },
    /// A tensor's name is over the limit.
    #[error("{}: tensor {start:?} has a name of {len} bytes, the limit is {MAX_NAME_BYTES}", file.display())]
    NameTooLong {
        /// The file.
        file: PathBuf,
        /// How the name starts.
        start: String,
        /// Its length in bytes.
        len: usize,
    },
    /// One file describes a tensor twice.
    #[error("{}: tensor {tensor:?} is described twice", file.display())]
    DuplicateTensor {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// An object has a key twice.
    #[error("{}: {object} has the key {key:?} twice", file.display())]
    DuplicateKey {
        /// The file.
        file: PathBuf,
        /// `__metadata__` or `weight_map`.
        object: &'static str,
        /// The key.
        key: String,
    },
    /// The dtype is none of the format.
    #[error("{}: tensor {tensor:?} has the unknown dtype {dtype:?}", file.display())]
    UnknownDtype {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// What the header says.
        dtype: String,
    },
    /// Too many dimensions.
    #[error("{}: tensor {tensor:?} has {rank} dimensions, the limit is {MAX_RANK}", file.display())]
    RankTooLarge {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// How many.
        rank: usize,
    },
    /// The size of a tensor is no machine number.
    #[error("{}: tensor {tensor:?}: the size of {dtype} {shape:?} overflows", file.display())]
    Overflow {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its dtype.
        dtype: Dtype,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A tensor of a dtype smaller than a byte ends inside one.
    #[error("{}: tensor {tensor:?}: {dtype} {shape:?} takes {bits} bits, not whole bytes", file.display())]
    PartialByte {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its dtype.
        dtype: Dtype,
        /// Its shape.
        shape: Vec<usize>,
        /// Its size.
        bits: usize,
    },
    /// A tensor ends before it begins.
    #[error("{}: tensor {tensor:?} begins at {begin} and ends at {end}", file.display())]
    BadOffsets {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// First of the `data_offsets`.
        begin: usize,
        /// Second of the `data_offsets`.
        end: usize,
    },
    /// The offsets of a tensor do not hold its shape.
    #[error(
        "{}: tensor {tensor:?}: {dtype} {shape:?} takes {needed} bytes, its offsets hold {found}",
        file.display()
    )]
    WrongLength {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its dtype.
        dtype: Dtype,
        /// Its shape.
        shape: Vec<usize>,
        /// Bytes that dtype and shape take.
        needed: usize,
        /// Bytes between the offsets.
        found: usize,
    },
    /// Two tensors share bytes.
    #[error(
        "{}: tensors {first:?} (data bytes {first_bytes:?}) and {second:?} ({second_bytes:?}) overlap",
        file.display()
    )]
    Overlap {
        /// The file.
        file: PathBuf,
        /// The one that begins first.
        first: String,
        /// Its part of the data.
        first_bytes: Range<usize>,
        /// The other.
        second: String,
        /// Its part of the data.
        second_bytes: Range<usize>,
    },
    /// Bytes between tensors belong to none.
    #[error("{}: data bytes {bytes:?} before tensor {tensor:?} belong to no tensor", file.display())]
    Hole {
        /// The file.
        file: PathBuf,
        /// The part of the data.
        bytes: Range<usize>,
        /// The tensor after it.
        tensor: String,
    },
    /// The file ends before a tensor does.
    #[error("{}: tensor {tensor:?} ends at data byte {end}, the data at {data_len}", file.display())]
    DataTruncated {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Where it ends.
        end: usize,
        /// Where the data ends.
        data_len: usize,
    },
    /// Bytes after the last tensor.
    #[error("{}: the tensors end at data byte {end}, the data at {data_len}", file.display())]
    TrailingBytes {
        /// The file.
        file: PathBuf,
        /// Where the last tensor ends.
        end: usize,
        /// Where the data ends.
        data_len: usize,
    },

    /// The index is over the limit.
    #[error("{}: {len} bytes, the limit is {MAX_INDEX_BYTES}", index.display())]
    IndexTooLarge {
        /// The index.
        index: PathBuf,
        /// Its length.
        len: u64,
    },
    /// The index is not JSON, or not an object of `weight_map` and `metadata`.
    #[error("{}: {source}", index.display())]
    BadIndex {
        /// The index.
        index: PathBuf,
        /// The fault, with line and column.
        source: serde_json::Error,
    },
    /// The index names no tensor.
    #[error("{}: weight_map is empty", index.display())]
    EmptyIndex {
        /// The index.
        index: PathBuf,
    },
    /// The index names a shard outside the model folder.
    #[error("{}: shard {shard:?} leaves the model folder{}", index.display(), resolved(target))]
    ShardOutsideFolder {
        /// The index.
        index: PathBuf,
        /// The shard as the index writes it.
        shard: String,
        /// Where its symbolic links lead, if it is outside through a link rather than by its name.
        target: Option<PathBuf>,
    },
    /// The index names a shard that is not there.
    #[error("{}: shard {shard:?} does not exist", index.display())]
    ShardMissing {
        /// The index.
        index: PathBuf,
        /// The shard as the index writes it.
        shard: String,
    },
    /// Two shards hold a tensor of one name.
    #[error("tensor {tensor:?} is both in {} and in {}", first.display(), second.display())]
    TensorInTwoShards {
        /// The tensor.
        tensor: String,
        /// One shard.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A shard lacks tensors that the index puts there.
    #[error("{}: shard {shard:?} lacks {}", index.display(), listed(tensors))]
    TensorNotInShard {
        /// The index.
        index: PathBuf,
        /// The shard as the index writes it.
        shard: String,
        /// All that are absent, ascending.
        tensors: Vec<String>,
    },
    /// A shard holds tensors that the index does not put there.
    #[error("{}: weight_map lacks what shard {shard:?} holds: {}", index.display(), listed(tensors))]
    TensorNotInIndex {
        /// The index.
        index: PathBuf,
        /// The shard as the index writes it.
        shard: String,
        /// All of them, ascending.
        tensors: Vec<String>,
    },

    /// No tensor of this name.
    #[error("{}: no tensor {tensor:?} among its {tensors}", path.display())]
    UnknownTensor {
        /// The checkpoint.
        path: PathBuf,
        /// What was asked for.
        tensor: String,
        /// How many tensors there are.
        tensors: usize,
    },
    /// A tensor of a dtype that the library does not compute with.
    #[error("{}: tensor {tensor:?} is {dtype}, expected F32, F16 or BF16", file.display())]
    UnsupportedDtype {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its dtype.
        dtype: Dtype,
    },
    /// The checkpoint is not what the model reads.
    #[error("{0}")]
    Mismatch(Box<Mismatch>),
    /// Tensors hold NaN or infinities.
    #[error("{0}")]
    NonFinite(Box<NonFinite>),
}

impl WeightsError {
    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        use WeightsError::*;
        match self {
            NotFound { .. }
            | NoCheckpoint { .. }
            | TwoCheckpoints { .. }
            | NotSafetensors { .. }
            | NotAFile { .. }
            | UnknownTensor { .. } => ErrorKind::Caller,
            Io { .. } | Resized { .. } | Rewritten { .. } => ErrorKind::Io,
            OutOfMemory { .. } => ErrorKind::OutOfMemory,
            UnsupportedDtype { .. } => ErrorKind::Unsupported,
            HeaderTruncated { .. }
            | HeaderTooLarge { .. }
            | HeaderStart { .. }
            | BadHeader { .. }
            | TooManyTensors { .. }
            | NameTooLong { .. }
            | DuplicateTensor { .. }
            | DuplicateKey { .. }
            | UnknownDtype { .. }
            | RankTooLarge { .. }
            | Overflow { .. }
            | PartialByte { .. }
            | BadOffsets { .. }
            | WrongLength { .. }
            | Overlap { .. }
            | Hole { .. }
            | DataTruncated { .. }
            | TrailingBytes { .. }
            | IndexTooLarge { .. }
            | BadIndex { .. }
            | EmptyIndex { .. }
            | ShardOutsideFolder { .. }
            | ShardMissing { .. }
            | TensorInTwoShards { .. }
            | TensorNotInShard { .. }
            | TensorNotInIndex { .. }
            | Mismatch(_)
            | NonFinite(_) => ErrorKind::CorruptData,
        }
    }
}

fn of_tensor(tensor: &Option<String>) -> String {
    tensor.as_ref().map(|name| format!(" of tensor {name:?}")).unwrap_or_default()
}

fn resolved(target: &Option<PathBuf>) -> String {
    target.as_ref().map(|path| format!(": it links to {}", path.display())).unwrap_or_default()
}

/// The first names of a list and how many follow.
fn listed(names: &[String]) -> String {
    let quoted: Vec<_> = names.iter().take(Mismatch::LINES).map(|name| format!("{name:?}")).collect();
    match names.len() - quoted.len() {
        0 => quoted.join(", "),
        more => format!("{} and {more} more", quoted.join(", ")),
    }
}
