//! The checkpoint itself: open, look up, fingerprint.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::map::Bytes;
use super::shards::{self, Layout};
use super::{Dtype, Source, TensorView, WeightsError, header};

/// The tensors of a model, validated whole when opened and immutable from then on. `Send + Sync`; share it in an
/// `Arc`. See the [module documentation](crate::weights) for what is validated and for files that change while open.
pub struct Checkpoint {
    path: PathBuf,
    source: Source,
    files: Vec<OpenFile>,
    tensors: BTreeMap<String, Entry>,
    fingerprint: OnceLock<[u8; 32]>,
}

struct OpenFile {
    path: PathBuf,
    bytes: Bytes,
}

struct Entry {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

impl Checkpoint {
    /// Opens and validates the checkpoint at `path`: a folder that holds `model.safetensors` or
    /// `model.safetensors.index.json`, or a single `.safetensors` file.
    ///
    /// # Errors
    /// - `path`: [`NotFound`](WeightsError::NotFound), [`NoCheckpoint`](WeightsError::NoCheckpoint),
    ///   [`TwoCheckpoints`](WeightsError::TwoCheckpoints), [`NotSafetensors`](WeightsError::NotSafetensors),
    ///   [`NotAFile`](WeightsError::NotAFile).
    /// - The file system: [`Io`](WeightsError::Io), [`OutOfMemory`](WeightsError::OutOfMemory),
    ///   [`Resized`](WeightsError::Resized) or [`Rewritten`](WeightsError::Rewritten) while being opened.
    /// - A file that contradicts itself or the format: the variants from
    ///   [`HeaderTruncated`](WeightsError::HeaderTruncated) to [`TrailingBytes`](WeightsError::TrailingBytes).
    /// - An index that contradicts itself or its shards: the variants from
    ///   [`IndexTooLarge`](WeightsError::IndexTooLarge) to [`TensorNotInIndex`](WeightsError::TensorNotInIndex).
    pub fn open(path: &Path, source: Source) -> Result<Checkpoint, WeightsError> {
        let mut checkpoint = Checkpoint {
            path: path.into(),
            source,
            files: Vec::new(),
            tensors: BTreeMap::new(),
            fingerprint: OnceLock::new(),
        };
        match shards::locate(path)? {
            Layout::Single(file) => {
                checkpoint.add(file)?;
            }
            Layout::Sharded { index, shards } => {
                for shard in shards {
                    let mut found = checkpoint.add(shard.path)?;
                    let absent: Vec<_> =
                        shard.tensors.into_iter().filter(|name| !found.remove(name)).collect();
                    let (index, shard) = (index.clone(), shard.name);
                    if !absent.is_empty() {
                        return Err(WeightsError::TensorNotInShard { index, shard, tensors: absent });
                    }
                    if !found.is_empty() {
                        let tensors = found.into_iter().collect();
                        return Err(WeightsError::TensorNotInIndex { index, shard, tensors });
                    }
                }
            }
        }
        Ok(checkpoint)
    }

    /// [`Checkpoint::open`] with [`Source::Mmap`].
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn mmap(path: &Path) -> Result<Checkpoint, WeightsError> {
        Checkpoint::open(path, Source::Mmap)
    }

    /// [`Checkpoint::open`] with [`Source::Read`].
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn read(path: &Path) -> Result<Checkpoint, WeightsError> {
        Checkpoint::open(path, Source::Read)
    }

    /// Opens one more file and takes its tensors in; returns their names.
    fn add(&mut self, path: PathBuf) -> Result<BTreeSet<String>, WeightsError> {
        let bytes = Bytes::open(&path, self.source)?;
        let mut names = BTreeSet::new();
        for tensor in header::parse(&path, bytes.as_slice())? {
            // Names within one file differ, so `other` is of a file added before.
            if let Some(other) = self.tensors.get(&tensor.name) {
                let first = self.files[other.file].path.clone();
                return Err(WeightsError::TensorInTwoShards { tensor: tensor.name, first, second: path });
            }
            names.insert(tensor.name.clone());
            let file = self.files.len();
            let entry = Entry { file, dtype: tensor.dtype, shape: tensor.shape, range: tensor.range };
            self.tensors.insert(tensor.name, entry);
        }
        self.files.push(OpenFile { path, bytes });
        Ok(names)
    }

    /// What was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How its bytes are held.
    pub fn source(&self) -> Source {
        self.source
    }

    /// Its files, shards in name order.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> usize {
        self.tensors.values().map(|entry| entry.range.len()).sum() // disjoint parts of memory
    }

    /// The names of all tensors, ascending.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// All tensors, in the order of their names.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = TensorView<'_>> {
        self.tensors.iter().map(|(name, entry)| self.view(name, entry))
    }

    /// The tensor called `name`.
    ///
    /// # Errors
    /// [`WeightsError::UnknownTensor`] if there is none.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>, WeightsError> {
        match self.tensors.get_key_value(name) {
            Some((name, entry)) => Ok(self.view(name, entry)),
            None => Err(WeightsError::UnknownTensor {
                path: self.path.clone(),
                tensor: name.into(),
                tensors: self.len(),
            }),
        }
    }

    fn view<'a>(&'a self, name: &'a str, entry: &'a Entry) -> TensorView<'a> {
        let file = &self.files[entry.file];
        TensorView {
            name,
            file: &file.path,
            dtype: entry.dtype,
            shape: &entry.shape,
            bytes: &file.bytes.as_slice()[entry.range.clone()],
        }
    }

    /// The BLAKE3 hash of its files' content, shards one after the other in name order: equal for equal content,
    /// whatever the files are called, different if a weight, a name or the division into shards differs. The first
    /// call reads every byte; later calls return the same value.
    pub fn fingerprint(&self) -> [u8; 32] {
        // A file says how long it is, so the end of one and the start of the next cannot be confused.
        *self.fingerprint.get_or_init(|| {
            let mut hasher = blake3::Hasher::new();
            for file in &self.files {
                hasher.update(file.bytes.as_slice());
            }
            hasher.finalize().into()
        })
    }

    /// Whether every mapped file still has the length and modification time it was opened with; always `Ok` under
    /// [`Source::Read`]. A file replaced by rename is unchanged, because the old one is still open.
    ///
    /// # Errors
    /// [`WeightsError::Resized`] or [`WeightsError::Rewritten`] if a file changed in place, [`WeightsError::Io`] if
    /// the file system cannot tell.
    pub fn unchanged(&self) -> Result<(), WeightsError> {
        self.files.iter().try_for_each(|file| file.bytes.unchanged(&file.path))
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint")
            .field("path", &self.path)
            .field("source", &self.source)
            .field("files", &self.files.len())
            .field("tensors", &self.len())
            .field("bytes", &self.bytes())
            .finish()
    }
}
