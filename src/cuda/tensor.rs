//! Values in the precision that a model runs in, and numbers of rows that are known only when the work runs.

use std::ops::Range;

use half::{bf16, f16};

use super::memory::Pointer;
use super::{CudaError, Device, Slice, Stream, to_u32};
use crate::model::Precision;

/// Values of one precision in the memory of a device; what they are a tensor of, the ops say. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tensor {
    bytes: Slice<u8>,
    precision: Precision,
    len: usize,
}

impl Tensor {
    /// `len` values, not initialised; `what` names them in an error.
    ///
    /// # Errors
    /// As [`Slice::new`].
    pub fn new(device: &Device, what: &str, precision: Precision, len: usize) -> Result<Tensor, CudaError> {
        let bytes = Slice::new(device, what, len.saturating_mul(precision.bytes()))?;
        Ok(Tensor { bytes, precision, len })
    }

    /// The values that lie in `bytes`.
    ///
    /// # Errors
    /// [`CudaError::Length`] if that is no whole number of them.
    pub fn over(bytes: Slice<u8>, precision: Precision) -> Result<Tensor, CudaError> {
        let len = match precision {
            Precision::F32 => bytes.cast::<f32>()?.len(),
            Precision::F16 | Precision::Bf16 => bytes.cast::<u16>()?.len(),
        };
        Ok(Tensor { bytes, precision, len })
    }

    /// New memory with `values`, rounded to the precision.
    ///
    /// # Errors
    /// As [`Stream::upload`].
    pub fn upload(
        stream: &Stream,
        what: &str,
        precision: Precision,
        values: &[f32],
    ) -> Result<Tensor, CudaError> {
        let bytes = match precision {
            Precision::F32 => stream.upload(what, values)?.cast()?,
            Precision::F16 => {
                let values: Vec<f16> = values.iter().map(|&x| f16::from_f32(x)).collect();
                stream.upload(what, &values)?.cast()?
            }
            Precision::Bf16 => {
                let values: Vec<bf16> = values.iter().map(|&x| bf16::from_f32(x)).collect();
                stream.upload(what, &values)?.cast()?
            }
        };
        Ok(Tensor { bytes, precision, len: values.len() })
    }

    /// Waits for the stream and copies the values to the host.
    ///
    /// # Errors
    /// As [`Stream::download`].
    pub fn download(&self, stream: &Stream) -> Result<Vec<f32>, CudaError> {
        match self.precision {
            Precision::F32 => stream.download(&self.bytes.cast::<f32>()?),
            Precision::F16 => {
                Ok(stream.download(&self.bytes.cast::<f16>()?)?.into_iter().map(f16::to_f32).collect())
            }
            Precision::Bf16 => {
                Ok(stream.download(&self.bytes.cast::<bf16>()?)?.into_iter().map(bf16::to_f32).collect())
            }
        }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How they are stored.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The values as f32s, if they are stored so.
    ///
    /// # Errors
    /// [`CudaError::Precision`] if they are stored otherwise.
    pub fn as_f32(&self) -> Result<Slice<f32>, CudaError> {
        match self.precision {
            Precision::F32 => self.bytes.cast(),
            found => Err(CudaError::Precision { what: "a tensor", found, expected: Precision::F32 }),
        }
    }

    /// The values `range`.
    ///
    /// # Errors
    /// [`CudaError::Limit`] for a range beyond the tensor.
    pub fn part(&self, range: Range<usize>) -> Result<Tensor, CudaError> {
        if range.end > self.len || range.start > range.end {
            return Err(CudaError::Limit { what: "end of a part", value: range.end, limit: self.len });
        }
        let size = self.precision.bytes();
        let bytes = self.bytes.part(range.start * size..range.end * size)?;
        Ok(Tensor { bytes, precision: self.precision, len: range.end - range.start })
    }

    /// Checks that the tensor is what an op takes as `what`, at an address that vectors of 16 bytes may have.
    pub(crate) fn expect(
        &self,
        what: &'static str,
        precision: Precision,
        shape: &[usize],
    ) -> Result<(), CudaError> {
        super::expect(what, self.len, shape)?;
        if self.precision != precision {
            return Err(CudaError::Precision { what, found: self.precision, expected: precision });
        }
        if !self.is_aligned(16) {
            return Err(CudaError::Alignment { what, bytes: 16 });
        }
        Ok(())
    }

    /// Whether the values start at a multiple of `bytes`.
    pub(crate) fn is_aligned(&self, bytes: usize) -> bool {
        self.bytes.address().is_multiple_of(bytes as u64)
    }

    /// As [`Slice::pointer_on`].
    pub(crate) fn pointer_on(&self, stream: &Stream) -> Result<Pointer, CudaError> {
        self.bytes.pointer_on(stream)
    }
}

/// A number of rows that kernels read from device memory when they run, so that one recorded graph serves every number
/// up to `most`. Launches have room for `most` rows; what lies behind the number is neither read nor written.
#[derive(Debug, Clone)]
pub struct Rows {
    most: usize,
    count: Slice<u32>,
}

impl Rows {
    /// Rows whose number lies in `count[0]`; a larger one counts as `most`.
    ///
    /// # Errors
    /// [`CudaError::Length`] if `count` is not one number, [`CudaError::Limit`] for a `most` beyond u32.
    pub fn new(most: usize, count: Slice<u32>) -> Result<Rows, CudaError> {
        super::expect("number of rows", count.len(), &[1])?;
        to_u32("rows", most)?;
        Ok(Rows { most, count })
    }

    /// Exactly `rows` rows.
    ///
    /// # Errors
    /// As [`Stream::upload`] and [`Rows::new`].
    pub fn exactly(stream: &Stream, rows: usize) -> Result<Rows, CudaError> {
        Rows::new(rows, stream.upload("number of rows", &[to_u32("rows", rows)?])?)
    }

    /// The most there can be.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Where the number is, as [`Slice::pointer_on`].
    pub(crate) fn pointer_on(&self, stream: &Stream) -> Result<Pointer, CudaError> {
        self.count.pointer_on(stream)
    }
}
