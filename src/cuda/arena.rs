//! Memory that is planned before it is there: places in a buffer, then the buffer.

use std::marker::PhantomData;
use std::ops::Range;

use bytemuck::Pod;

use super::{CudaError, Precision, Slice, Tensor};

/// Every place starts at a multiple of this: what an allocation of the driver starts at too.
const ALIGN: usize = 256;

/// Places one behind the other. A pure function of what is placed, in order: the same calls give the same places.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layout {
    end: usize,
}

/// A place for `len` values.
pub(crate) struct Place<T> {
    start: usize,
    len: usize,
    values: PhantomData<fn() -> T>,
}

impl<T> Clone for Place<T> {
    fn clone(&self) -> Place<T> {
        *self
    }
}

impl<T> Copy for Place<T> {}

impl<T> std::fmt::Debug for Place<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} values at {}", self.len, self.start)
    }
}

impl Layout {
    /// The next place. A length beyond memory ends in a layout that nothing can allocate.
    pub(crate) fn place<T>(&mut self, len: usize) -> Place<T> {
        let start = self.end;
        let end = len.saturating_mul(size_of::<T>()).saturating_add(start);
        self.end = end.checked_next_multiple_of(ALIGN).unwrap_or(usize::MAX);
        Place { start, len, values: PhantomData }
    }

    /// The next place for `len` values of a precision.
    pub(crate) fn place_values(&mut self, precision: Precision, len: usize) -> Place<u8> {
        self.place(len.saturating_mul(precision.bytes()))
    }

    /// Bytes of all places.
    pub(crate) fn bytes(&self) -> usize {
        self.end
    }
}

impl<T: Pod> Place<T> {
    fn bytes(&self) -> Range<usize> {
        self.start..self.len.saturating_mul(size_of::<T>()).saturating_add(self.start)
    }

    /// The place in a buffer of the device.
    pub(crate) fn of(&self, buffer: &Slice<u8>) -> Result<Slice<T>, CudaError> {
        buffer.part(self.bytes())?.cast()
    }

    /// The place in a buffer of the host.
    ///
    /// # Errors
    /// [`CudaError::Limit`] if the buffer ends before it, [`CudaError::Alignment`] if a `T` cannot lie there.
    pub(crate) fn in_host<'a>(&self, buffer: &'a [u8]) -> Result<&'a [T], CudaError> {
        let bytes = buffer.get(self.bytes()).ok_or(self.beyond(buffer.len()))?;
        bytemuck::try_cast_slice(bytes).map_err(|_| Self::MISALIGNED)
    }

    /// [`Place::in_host`], to be written.
    ///
    /// # Errors
    /// As [`Place::in_host`].
    pub(crate) fn in_host_mut<'a>(&self, buffer: &'a mut [u8]) -> Result<&'a mut [T], CudaError> {
        let beyond = self.beyond(buffer.len());
        let bytes = buffer.get_mut(self.bytes()).ok_or(beyond)?;
        bytemuck::try_cast_slice_mut(bytes).map_err(|_| Self::MISALIGNED)
    }

    const MISALIGNED: CudaError =
        CudaError::Alignment { what: "a buffer of the host", bytes: align_of::<T>() };

    fn beyond(&self, limit: usize) -> CudaError {
        CudaError::Limit { what: "end of a place", value: self.bytes().end, limit }
    }
}

impl Place<u8> {
    /// The place in a buffer of the device, as values of a precision.
    pub(crate) fn tensor(&self, buffer: &Slice<u8>, precision: Precision) -> Result<Tensor, CudaError> {
        Tensor::over(self.of(buffer)?, precision)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed check ends the test
mod tests {
    use super::*;

    #[test]
    fn places_are_aligned_and_apart() {
        let mut layout = Layout::default();
        let (a, b, c) = (layout.place::<u8>(1), layout.place::<u64>(33), layout.place::<f32>(0));
        assert_eq!((a.start, b.start, c.start), (0, 256, 256 + 512));
        assert_eq!(layout.bytes(), 768);
        let mut host = vec![0u64; layout.bytes() / 8]; // aligned as pinned memory is
        let host: &mut [u8] = bytemuck::cast_slice_mut(&mut host);
        b.in_host_mut(host).unwrap()[32] = u64::MAX;
        assert_eq!(b.in_host(host).unwrap()[32], u64::MAX);
        assert_eq!(host.iter().filter(|&&byte| byte != 0).count(), 8);
    }

    /// Lengths beyond memory stay beyond it and do not wrap.
    #[test]
    fn lengths_beyond_memory_saturate() {
        let mut layout = Layout::default();
        let huge = layout.place::<f32>(usize::MAX / 2);
        assert_eq!(layout.bytes(), usize::MAX);
        layout.place::<f32>(1);
        assert_eq!(layout.bytes(), usize::MAX);
        assert!(matches!(huge.in_host(&[]), Err(CudaError::Limit { limit: 0, .. })));
    }
}
