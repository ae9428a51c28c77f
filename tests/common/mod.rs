//! What several test files share.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)] // each test file uses its own part; a test may panic

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

/// A path below the repository's root, where tests run.
pub fn repository(path: &str) -> PathBuf {
    Path::new(path).to_path_buf()
}

/// The tensors of a golden file.
pub struct Golden(Vec<u8>);

impl Golden {
    pub fn open(path: &str) -> Golden {
        Golden(std::fs::read(repository(path)).unwrap_or_else(|error| panic!("{path}: {error}")))
    }

    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.view(name, |view| view.shape().to_vec())
    }

    pub fn f32s(&self, name: &str) -> Vec<f32> {
        self.view(name, |view| {
            assert_eq!(view.dtype(), Dtype::F32, "{name}");
            view.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
        })
    }

    pub fn i64s(&self, name: &str) -> Vec<i64> {
        self.view(name, |view| {
            assert_eq!(view.dtype(), Dtype::I64, "{name}");
            view.data().as_chunks().0.iter().map(|&bytes| i64::from_le_bytes(bytes)).collect()
        })
    }

    pub fn sizes(&self, name: &str) -> Vec<usize> {
        self.i64s(name).into_iter().map(|value| usize::try_from(value).unwrap()).collect()
    }

    /// All tensors, which must be f32.
    pub fn tensors(&self) -> BTreeMap<String, Tensor> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = |name: &str| (name.to_string(), (self.shape(name), self.f32s(name)));
        file.names().into_iter().map(tensor).collect()
    }

    fn view<T>(&self, name: &str, read: impl FnOnce(&TensorView<'_>) -> T) -> T {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        read(&file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}")))
    }
}

/// A shape and its values.
pub type Tensor = (Vec<usize>, Vec<f32>);

/// Writes f32 tensors as a safetensors file.
pub fn write_safetensors(path: &Path, tensors: &BTreeMap<String, Tensor>) {
    let views = tensors.iter().map(|(name, (shape, data))| {
        let bytes = bytemuck::cast_slice(data);
        (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Fails with the first value that is further from its golden than `tolerance` times the largest golden magnitude.
pub fn assert_close(what: &str, found: &[f32], golden: &[f32], tolerance: f32) {
    assert_eq!(found.len(), golden.len(), "{what}: length");
    let scale = golden.iter().fold(0.0f32, |scale, value| scale.max(value.abs()));
    for (at, (&found, &golden)) in found.iter().zip(golden).enumerate() {
        let off = (found - golden).abs();
        assert!(
            off <= tolerance * scale,
            "{what}[{at}]: {found}, golden {golden}, off by {} of the largest",
            off / scale
        );
    }
}

/// The cosine of two vectors, in f64.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// `tools/golden/model.py`'s counter-based generator: f32 values in [-1, 1) that depend on a name and a position.
pub fn values(name: &str, count: usize) -> Vec<f32> {
    let start = name.bytes().fold(0xCBF2_9CE4_8422_2325, |state: u64, byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    (1..=count as u64)
        .map(|counter| {
            let mut z = start.wrapping_add(counter.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
            (z >> 40) as f32 / (1u32 << 23) as f32 - 1.0
        })
        .collect()
}
