//! Which files make a checkpoint: one file, or the shards that an index names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::WeightsError;
use super::json::{StringMap, first_duplicate, parse_object, shorten};
use super::map::{copy, io_error, open_regular, stat};
use crate::files::{NotInside, inside};

/// Most bytes of `model.safetensors.index.json`.
pub const MAX_INDEX_BYTES: usize = 100_000_000;

pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Where the tensors of a checkpoint are.
pub(super) enum Layout {
    Single(PathBuf),
    Sharded { index: PathBuf, shards: Vec<Shard> },
}

/// One shard and the tensors that the index says it holds.
pub(super) struct Shard {
    /// As the index writes it.
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) tensors: BTreeSet<String>,
}

/// Finds the files of the checkpoint at `path`, a folder or a `.safetensors` file.
pub(super) fn locate(path: &Path) -> Result<Layout, WeightsError> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(WeightsError::NotFound { path: path.into() });
        }
        Err(error) => return Err(io_error(path, error)),
    };
    if !metadata.is_dir() {
        return if path.extension().is_some_and(|extension| extension == "safetensors") {
            Ok(Layout::Single(path.into()))
        } else {
            Err(WeightsError::NotSafetensors { path: path.into() })
        };
    }
    let (single, index) = (path.join(SINGLE), path.join(INDEX));
    let exists = |path: &Path| path.try_exists().map_err(|error| io_error(path, error));
    match (exists(&single)?, exists(&index)?) {
        (true, false) => Ok(Layout::Single(single)),
        (false, true) => {
            let shards = read_index(path, &index)?;
            Ok(Layout::Sharded { index, shards })
        }
        (false, false) => Err(WeightsError::NoCheckpoint { folder: path.into() }),
        (true, true) => Err(WeightsError::TwoCheckpoints { folder: path.into() }),
    }
}

/// `metadata` is advice (`total_size`, which writers count in different ways) and is not read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    #[serde(default, rename = "metadata")]
    _metadata: IgnoredAny,
    weight_map: StringMap,
}

/// The shards that the index names, in name order.
fn read_index(folder: &Path, index: &Path) -> Result<Vec<Shard>, WeightsError> {
    let file = open_regular(index)?;
    let (len, _) = stat(index, &file)?;
    if usize::try_from(len).map_or(true, |len| len > MAX_INDEX_BYTES) {
        return Err(WeightsError::IndexTooLarge { index: index.into(), len });
    }
    let text = copy(index, &file, len)?;
    let Index { weight_map: StringMap(pairs), .. } =
        parse_object(&text).map_err(|source| WeightsError::BadIndex { index: index.into(), source })?;
    if pairs.is_empty() {
        return Err(WeightsError::EmptyIndex { index: index.into() });
    }
    if let Some(key) = first_duplicate(pairs.iter().map(|(tensor, _)| tensor)) {
        return Err(WeightsError::DuplicateKey {
            file: index.into(),
            object: "weight_map",
            key: shorten(key),
        });
    }
    let mut tensors = BTreeMap::<String, BTreeSet<String>>::new();
    for (tensor, shard) in pairs {
        tensors.entry(shard).or_default().insert(tensor);
    }
    tensors
        .into_iter()
        .map(|(name, tensors)| Ok(Shard { path: resolve(folder, index, &name)?, name, tensors }))
        .collect()
}

/// The path of a shard, which must lie inside the folder, symbolic links resolved.
fn resolve(folder: &Path, index: &Path, name: &str) -> Result<PathBuf, WeightsError> {
    let outside = |target: Option<PathBuf>| WeightsError::ShardOutsideFolder {
        index: index.into(),
        shard: shorten(name),
        target,
    };
    inside(folder, name).map_err(|error| match error {
        NotInside::Path => outside(None),
        NotInside::Link(target) => outside(Some(target)),
        NotInside::Io(error) if error.kind() == ErrorKind::NotFound => {
            WeightsError::ShardMissing { index: index.into(), shard: shorten(name) }
        }
        NotInside::Io(error) => io_error(&folder.join(name), error),
    })
}
