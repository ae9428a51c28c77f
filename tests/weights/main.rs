//! The checkpoint: what it hands out, and every way its files can lie.
#![allow(clippy::panic, clippy::unwrap_used)] // helpers of tests fail by panic too

mod changes;
mod check;
mod differential;
mod lies;
mod shards;
mod views;

use std::fs;
use std::path::{Path, PathBuf};

use mercer::weights::{Checkpoint, Source, WeightsError};
use tempfile::TempDir;

const SOURCES: [Source; 2] = [Source::Mmap, Source::Read];

/// A folder that goes when it is dropped.
struct Folder(TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// The message with this folder's path written as `DIR`.
    fn message(&self, error: &WeightsError) -> String {
        error.to_string().replace(self.path().to_str().unwrap(), "DIR")
    }

    fn refused(&self, source: Source) -> WeightsError {
        match Checkpoint::open(self.path(), source) {
            Err(error) => error,
            Ok(checkpoint) => panic!("accepted: {checkpoint:?}"),
        }
    }
}

/// A folder with this `model.safetensors`.
fn model(bytes: impl AsRef<[u8]>) -> Folder {
    let folder = Folder::new();
    folder.write("model.safetensors", bytes);
    folder
}

/// A safetensors file of a header as given and its data.
fn file(header: impl AsRef<[u8]>, data: &[u8]) -> Vec<u8> {
    let header = header.as_ref();
    let length = u64::try_from(header.len()).unwrap().to_le_bytes();
    [&length, header, data].concat()
}

/// A file of one tensor called `t`, whose data starts `shift` bytes after a multiple of 8.
fn one_tensor(dtype: &str, shape: &[usize], data: &[u8], shift: usize) -> Vec<u8> {
    let mut header =
        format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[0,{}]}}}}"#, data.len());
    while header.len() % 8 != shift {
        header.push(' ');
    }
    file(header, data)
}

/// A file of f32 tensors written by the safetensors crate.
fn f32_file(tensors: &[(&str, &[usize], &[f32])]) -> Vec<u8> {
    use safetensors::{Dtype, serialize, tensor::TensorView};
    let views = tensors.iter().map(|(name, shape, values)| {
        (*name, TensorView::new(Dtype::F32, shape.to_vec(), bytemuck::cast_slice(values)).unwrap())
    });
    serialize(views, None).unwrap()
}
