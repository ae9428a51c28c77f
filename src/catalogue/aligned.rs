//! Values that start on a cache line.

/// Bytes of a cache line, and of the widest vector load.
const LINE: usize = 64;

/// A buffer whose first value is at a multiple of [`LINE`] bytes: rows of whole lines then never make a load cross
/// two. Where the memory lies changes no result.
pub(super) struct Aligned {
    /// `start` values that nobody reads, then the values. Never grows, so it stays where it is.
    padded: Vec<f32>,
    start: usize,
}

impl Aligned {
    pub(super) fn new(mut values: Vec<f32>) -> Aligned {
        let len = values.len();
        values.reserve_exact(LINE / size_of::<f32>() - 1);
        // The room just made holds any shift to a line, so growing does not move the buffer again.
        let start = values.as_ptr().align_offset(LINE).min(values.capacity() - len);
        values.resize(len + start, 0.0);
        values.copy_within(..len, start);
        Aligned { padded: values, start }
    }
}

impl std::ops::Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.padded[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_kept_and_start_on_a_line() {
        for len in (0..70).chain([100_000]) {
            let values: Vec<f32> = (0..len).map(|x: u32| x as f32).collect();
            let aligned = Aligned::new(values.clone());
            assert_eq!(&aligned[..], values, "{len}");
            assert_eq!(aligned.as_ptr().addr() % LINE, 0, "{len}");
        }
    }
}
