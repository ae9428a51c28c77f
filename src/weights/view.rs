//! One tensor of a checkpoint, borrowed.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::{Dtype, WeightsError};

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
}

/// The types that weights are viewed as: `f32`, [`half::f16`] and [`half::bf16`].
pub trait Element: bytemuck::Pod + sealed::Sealed {
    /// The dtype of a tensor of these.
    const DTYPE: Dtype;
}

impl Element for f32 {
    const DTYPE: Dtype = Dtype::F32;
}
impl Element for f16 {
    const DTYPE: Dtype = Dtype::F16;
}
impl Element for bf16 {
    const DTYPE: Dtype = Dtype::BF16;
}

/// One tensor: its name, dtype, shape and bytes, row-major, borrowed from the checkpoint.
#[derive(Clone, Copy)]
pub struct TensorView<'a> {
    pub(super) name: &'a str,
    pub(super) file: &'a Path,
    pub(super) dtype: Dtype,
    pub(super) shape: &'a [usize],
    pub(super) bytes: &'a [u8],
}

impl<'a> TensorView<'a> {
    /// Its name in the checkpoint.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// The file that holds it.
    pub fn file(&self) -> &'a Path {
        self.file
    }

    /// The type of its elements.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Its dimensions; empty for a scalar.
    pub fn shape(&self) -> &'a [usize] {
        self.shape
    }

    /// Number of elements: the product of the shape, 1 for a scalar.
    pub fn len(&self) -> usize {
        self.shape.iter().product() // validated not to overflow when the checkpoint was opened
    }

    /// Whether a dimension is zero.
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// Its elements as they are in the file: little-endian, at any alignment.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Its elements, without a copy. `None` if `T` is not its dtype, or if the file puts it at an address that
    /// is not aligned for `T`; [`TensorView::to_f32`] works in the latter case too.
    pub fn as_slice<T: Element>(&self) -> Option<&'a [T]> {
        if self.dtype != T::DTYPE {
            return None;
        }
        if self.bytes.is_empty() {
            return Some(&[]); // an empty tensor has no address to align
        }
        bytemuck::try_cast_slice(self.bytes).ok()
    }

    /// Its elements as f32, exact for each weight dtype: borrowed where [`TensorView::as_slice`] gives f32, converted
    /// into a new vector otherwise.
    ///
    /// # Errors
    /// [`WeightsError::UnsupportedDtype`] if the dtype is not F32, F16 or BF16.
    pub fn to_f32(&self) -> Result<Cow<'a, [f32]>, WeightsError> {
        Ok(match self.dtype {
            Dtype::F32 => match self.as_slice::<f32>() {
                Some(slice) => Cow::Borrowed(slice),
                None => Cow::Owned(decode(self.bytes, f32::from_le_bytes)),
            },
            Dtype::F16 => Cow::Owned(match self.as_slice::<f16>() {
                Some(slice) => slice.to_f32_vec(),
                None => decode(self.bytes, |bytes| f16::from_le_bytes(bytes).to_f32()),
            }),
            Dtype::BF16 => Cow::Owned(match self.as_slice::<bf16>() {
                Some(slice) => slice.to_f32_vec(),
                None => decode(self.bytes, |bytes| bf16::from_le_bytes(bytes).to_f32()),
            }),
            dtype => {
                return Err(WeightsError::UnsupportedDtype {
                    file: self.file.into(),
                    tensor: self.name.into(),
                    dtype,
                });
            }
        })
    }
}

impl fmt::Debug for TensorView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TensorView({:?}, {} {:?})", self.name, self.dtype, self.shape)
    }
}

fn decode<const N: usize>(bytes: &[u8], from_le_bytes: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&chunk| from_le_bytes(chunk)).collect()
}
