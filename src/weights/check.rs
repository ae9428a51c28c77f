//! What a model needs against what a checkpoint holds.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::{Checkpoint, Dtype, WeightsError};

/// A tensor that a model reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Its name in the checkpoint.
    pub name: String,
    /// Its shape.
    pub shape: ShapePattern,
}

/// A shape of which some lengths are the checkpoint's to choose; prints as `[*, 128]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShapePattern(pub Vec<Option<usize>>);

impl ShapePattern {
    fn fits(&self, shape: &[usize]) -> bool {
        let mut lengths = self.0.iter().zip(shape);
        self.0.len() == shape.len()
            && lengths.all(|(length, found)| length.is_none_or(|length| length == *found))
    }
}

impl From<&[usize]> for ShapePattern {
    fn from(shape: &[usize]) -> ShapePattern {
        ShapePattern(shape.iter().copied().map(Some).collect())
    }
}

impl fmt::Display for ShapePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = |length: &Option<usize>| length.map_or("*".into(), |length| length.to_string());
        write!(f, "[{}]", self.0.iter().map(length).collect::<Vec<_>>().join(", "))
    }
}

/// A tensor of the checkpoint that the model does not read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unexpected {
    /// Its name.
    pub name: String,
    /// Its dtype.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// A tensor whose shape is not the one that the model reads.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Misshaped {
    /// Its name.
    pub name: String,
    /// What the model reads.
    pub expected: ShapePattern,
    /// What the checkpoint holds.
    pub found: Vec<usize>,
}

/// Every difference between a model and a checkpoint. It prints as a summary and one line per tensor, at most
/// [`Mismatch::LINES`] per list; the lists themselves are complete, in the order of the names.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mismatch {
    /// The checkpoint.
    pub path: PathBuf,
    /// Read by the model, not in the checkpoint.
    pub missing: Vec<Expected>,
    /// In the checkpoint, neither read by the model nor under an ignored prefix.
    pub unexpected: Vec<Unexpected>,
    /// In both, with different shapes.
    pub misshaped: Vec<Misshaped>,
    /// In both, but neither F32 nor F16 nor BF16.
    pub unsupported: Vec<(String, Dtype)>,
}

impl Mismatch {
    /// Most lines that are printed of each list.
    pub const LINES: usize = 10;

    fn is_empty(&self) -> bool {
        self.missing.is_empty()
            && self.unexpected.is_empty()
            && self.misshaped.is_empty()
            && self.unsupported.is_empty()
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: not what the model reads: {} missing, {} unexpected, {} of another shape, {} of an unsupported dtype",
            self.path.display(),
            self.missing.len(),
            self.unexpected.len(),
            self.misshaped.len(),
            self.unsupported.len()
        )?;
        lines(f, "missing", &self.missing, |f, Expected { name, shape }| write!(f, "{name:?} {shape}"))?;
        lines(f, "unexpected", &self.unexpected, |f, Unexpected { name, dtype, shape }| {
            write!(f, "{name:?} {dtype} {shape:?}")
        })?;
        lines(f, "another shape", &self.misshaped, |f, Misshaped { name, expected, found }| {
            write!(f, "{name:?} is {found:?}, expected {expected}")
        })?;
        lines(f, "unsupported dtype", &self.unsupported, |f, (name, dtype)| {
            write!(f, "{name:?} is {dtype}, expected F32, F16 or BF16")
        })
    }
}

/// Prints each item on a line of its own, and how many were left out.
pub(super) fn lines<T>(
    f: &mut fmt::Formatter<'_>,
    class: &str,
    items: &[T],
    print: impl Fn(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    for item in items.iter().take(Mismatch::LINES) {
        write!(f, "\n  {class}: ")?;
        print(f, item)?;
    }
    match items.len().saturating_sub(Mismatch::LINES) {
        0 => Ok(()),
        more => write!(f, "\n  {class}: and {more} more"),
    }
}

impl Checkpoint {
    /// Compares the checkpoint with what a model reads. A tensor may be expected more than once; tensors whose name
    /// starts with one of `ignore_prefixes` may be there unread.
    ///
    /// # Errors
    /// [`WeightsError::Mismatch`] with every tensor that is missing, unexpected, of another shape or of a dtype other
    /// than F32, F16 and BF16.
    pub fn check(&self, expected: &[Expected], ignore_prefixes: &[String]) -> Result<(), WeightsError> {
        let mut unread: BTreeMap<&str, _> = self.tensors().map(|tensor| (tensor.name(), tensor)).collect();
        let mut mismatch = Mismatch {
            path: self.path().into(),
            missing: Vec::new(),
            unexpected: Vec::new(),
            misshaped: Vec::new(),
            unsupported: Vec::new(),
        };
        let mut expected: Vec<&Expected> = expected.iter().collect();
        expected.sort_by(|a, b| (&a.name, &a.shape).cmp(&(&b.name, &b.shape)));
        expected.dedup();
        for expected in expected {
            let Ok(tensor) = self.tensor(&expected.name) else {
                mismatch.missing.push(expected.clone());
                continue;
            };
            let first_use = unread.remove(tensor.name()).is_some();
            if !expected.shape.fits(tensor.shape()) {
                mismatch.misshaped.push(Misshaped {
                    name: expected.name.clone(),
                    expected: expected.shape.clone(),
                    found: tensor.shape().into(),
                });
            }
            if first_use && !tensor.dtype().is_weight() {
                mismatch.unsupported.push((expected.name.clone(), tensor.dtype()));
            }
        }
        mismatch.unexpected = unread
            .into_values()
            .filter(|tensor| !ignore_prefixes.iter().any(|prefix| tensor.name().starts_with(prefix)))
            .map(|tensor| Unexpected {
                name: tensor.name().into(),
                dtype: tensor.dtype(),
                shape: tensor.shape().into(),
            })
            .collect();
        if mismatch.is_empty() { Ok(()) } else { Err(WeightsError::Mismatch(Box::new(mismatch))) }
    }
}
