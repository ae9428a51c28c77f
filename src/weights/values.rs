//! NaN and infinity in a checkpoint.

use std::fmt;
use std::path::PathBuf;

use half::{bf16, f16};

use super::check::lines;
use super::{Checkpoint, Dtype, TensorView, WeightsError};

/// A tensor that holds NaN or an infinity.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NonFiniteTensor {
    /// Its name.
    pub name: String,
    /// Its dtype.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Position of the first such element, counted row-major from 0.
    pub first: usize,
    /// The value of that element.
    pub value: f64,
    /// How many elements are NaN or infinite.
    pub count: usize,
}

/// Every tensor of a checkpoint that holds NaN or an infinity; prints like [`Mismatch`](super::Mismatch).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NonFinite {
    /// The checkpoint.
    pub path: PathBuf,
    /// In the order of the names.
    pub tensors: Vec<NonFiniteTensor>,
}

impl fmt::Display for NonFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: NaN or infinity in tensors: {}", self.path.display(), self.tensors.len())?;
        lines(f, "not finite", &self.tensors, |f, tensor| {
            let NonFiniteTensor { name, dtype, shape, first, value, count } = tensor;
            write!(f, "{name:?} {dtype} {shape:?}: element {first} is {value}, {count} in all")
        })
    }
}

impl Checkpoint {
    /// Reads every F64, F32, F16 and BF16 tensor and looks for NaN and infinities. Tensors of other dtypes are not
    /// weights and are not examined.
    ///
    /// # Errors
    /// [`WeightsError::NonFinite`] with every tensor that holds one.
    pub fn validate_values(&self) -> Result<(), WeightsError> {
        let tensors: Vec<_> = self.tensors().filter_map(|tensor| scan(&tensor)).collect();
        if tensors.is_empty() {
            Ok(())
        } else {
            Err(WeightsError::NonFinite(Box::new(NonFinite { path: self.path().into(), tensors })))
        }
    }
}

fn scan(tensor: &TensorView<'_>) -> Option<NonFiniteTensor> {
    let bytes = tensor.bytes();
    let (first, value, count) = match tensor.dtype() {
        Dtype::F32 => find(bytes, |b| !f32::from_le_bytes(b).is_finite(), |b| f32::from_le_bytes(b).into()),
        Dtype::F64 => find(bytes, |b| !f64::from_le_bytes(b).is_finite(), f64::from_le_bytes),
        Dtype::F16 => find(bytes, |b| !f16::from_le_bytes(b).is_finite(), |b| f16::from_le_bytes(b).to_f64()),
        Dtype::BF16 => {
            find(bytes, |b| !bf16::from_le_bytes(b).is_finite(), |b| bf16::from_le_bytes(b).to_f64())
        }
        _ => None,
    }?;
    Some(NonFiniteTensor {
        name: tensor.name().into(),
        dtype: tensor.dtype(),
        shape: tensor.shape().into(),
        first,
        value,
        count,
    })
}

/// Position and value of the first element that is `bad`, and how many are; counting first keeps the scan of good
/// tensors free of branches.
fn find<const N: usize>(
    bytes: &[u8],
    bad: impl Fn([u8; N]) -> bool,
    value: impl Fn([u8; N]) -> f64,
) -> Option<(usize, f64, usize)> {
    let elements = bytes.as_chunks().0;
    let count = elements.iter().map(|&element| usize::from(bad(element))).sum();
    if count == 0 {
        return None;
    }
    let first = elements.iter().position(|&element| bad(element))?;
    Some((first, value(elements[first]), count))
}
