//! What the towers read: one column per modality, holding only the rows that have it.

use std::ops::Range;

use super::Modality;
use crate::input::InputError;

/// Jagged lists of ids, one bag per row, under the EmbeddingBag convention with a final offset.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Bags {
    /// `rows + 1` positions in `ids`: bag `r` is `ids[offsets[r]..offsets[r + 1]]`; first 0, last `ids.len()`.
    pub offsets: Vec<usize>,
    /// The ids of all bags, one after the other.
    pub ids: Vec<i64>,
    /// One weight per id.
    pub weights: Option<Vec<f32>>,
}

/// The values of one modality for the rows that have it.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// One id per row.
    Ids(Vec<i64>),
    /// One bag of ids per row.
    Bags(Bags),
    /// A dense vector per row.
    Dense {
        /// Length of each vector.
        width: usize,
        /// `[rows, width]`
        data: Vec<f32>,
    },
    /// An 8-bit RGB photo per row, all of one size. What the towers read of it is [`super::PixelScaling`]'s.
    Photos {
        /// Height in pixels.
        height: usize,
        /// Width in pixels.
        width: usize,
        /// `[rows, height, width, 3]`
        data: Vec<u8>,
    },
    /// An image per row, all of one size, with the values that the towers read.
    Pixels {
        /// Height in pixels.
        height: usize,
        /// Width in pixels.
        width: usize,
        /// `[rows, height, width, 3]`
        data: Vec<f32>,
    },
}

impl Values {
    /// The values of the entries `range` alone.
    fn part(&self, range: Range<usize>) -> Values {
        fn rows<T: Copy>(data: &[T], width: usize, range: Range<usize>) -> Vec<T> {
            data[range.start * width..range.end * width].to_vec()
        }
        match self {
            Values::Ids(ids) => Values::Ids(ids[range].to_vec()),
            Values::Bags(bags) => {
                let (first, last) = (bags.offsets[range.start], bags.offsets[range.end]);
                let offsets = &bags.offsets[range.start..=range.end];
                Values::Bags(Bags {
                    offsets: offsets.iter().map(|offset| offset - first).collect(),
                    ids: bags.ids[first..last].to_vec(),
                    weights: bags.weights.as_ref().map(|weights| weights[first..last].to_vec()),
                })
            }
            Values::Dense { width, data } => Values::Dense { width: *width, data: rows(data, *width, range) },
            Values::Photos { height, width, data } => {
                let (height, width) = (*height, *width);
                Values::Photos { height, width, data: rows(data, height * width * 3, range) }
            }
            Values::Pixels { height, width, data } => {
                let (height, width) = (*height, *width);
                Values::Pixels { height, width, data: rows(data, height * width * 3, range) }
            }
        }
    }

    /// The form of the values, in words.
    pub(crate) fn describe(&self) -> String {
        match self {
            Values::Ids(_) => "ids".into(),
            Values::Bags(_) => "bags of ids".into(),
            Values::Dense { width, .. } => format!("vectors of {width}"),
            Values::Photos { height, width, .. } => format!("photos of {height} x {width} pixels"),
            Values::Pixels { height, width, .. } => format!("images of {height} x {width} pixels"),
        }
    }
}

/// One modality of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    rows: Vec<usize>,
    values: Values,
}

impl Column {
    /// The batch rows that have this modality, ascending.
    pub fn rows(&self) -> &[usize] {
        &self.rows
    }

    /// Their values; entry `i` belongs to batch row `rows()[i]`.
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// The column of the batch rows `range` alone, if one of them has it.
    fn part(&self, range: &Range<usize>) -> Option<Column> {
        let entries = self.rows.partition_point(|&row| row < range.start)
            ..self.rows.partition_point(|&row| row < range.end);
        let rows = self.rows[entries.clone()].iter().map(|row| row - range.start).collect();
        (!entries.is_empty()).then(|| Column { rows, values: self.values.part(entries) })
    }
}

/// The model's input for a batch of rows. Ready-made tensors enter the library here.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    batch: usize,
    columns: [Option<Column>; Modality::ALL.len()],
}

impl Features {
    /// A batch of `batch` rows that have no modality yet.
    pub fn new(batch: usize) -> Features {
        Features { batch, columns: [const { None }; Modality::ALL.len()] }
    }

    /// Number of rows.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// The column of `modality`, if any row has it.
    pub fn column(&self, modality: Modality) -> Option<&Column> {
        self.columns[modality as usize].as_ref()
    }

    /// The rows `range` as a batch of their own. The range lies in the batch.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))] // the CPU takes any batch
    pub(crate) fn part(&self, range: Range<usize>) -> Features {
        let columns = self.columns.each_ref().map(|column| column.as_ref()?.part(&range));
        Features { batch: range.len(), columns }
    }

    /// Sets a modality that every row has. See [`Features::set_rows`].
    ///
    /// # Errors
    /// As [`Features::set_rows`].
    pub fn set(&mut self, modality: Modality, values: Values) -> Result<(), InputError> {
        self.set_rows(modality, (0..self.batch).collect(), values)
    }

    /// Sets the modality for `rows` (strictly ascending, each below the batch size), replacing what it held.
    ///
    /// # Errors
    /// [`InputError::BadTensor`] if the rows are not ascending or in range, if the values' length does not fit their
    /// shape and the number of rows, if offsets are not a partition of the ids, or if a dense value or a weight is
    /// not finite. Ids are checked against their tables when the batch is encoded.
    pub fn set_rows(
        &mut self,
        modality: Modality,
        rows: Vec<usize>,
        values: Values,
    ) -> Result<(), InputError> {
        check(self.batch, &rows, &values).map_err(|reason| InputError::BadTensor { modality, reason })?;
        self.columns[modality as usize] = (!rows.is_empty()).then_some(Column { rows, values });
        Ok(())
    }
}

fn check(batch: usize, rows: &[usize], values: &Values) -> Result<(), String> {
    if let Some(pair) = rows.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Err(format!("row {} follows row {}: rows must ascend", pair[1], pair[0]));
    }
    if let Some(&last) = rows.last().filter(|&&last| last >= batch) {
        return Err(format!("row {last} in a batch of {batch}"));
    }
    match values {
        Values::Ids(ids) => expect_len("ids", ids.len(), Some(rows.len())),
        Values::Bags(bags) => check_bags(rows.len(), bags),
        Values::Dense { width, data } => {
            expect_len("values", data.len(), rows.len().checked_mul(*width))?;
            finite("value", data)
        }
        Values::Photos { height, width, data } => {
            expect_len("photo bytes", data.len(), image_values(rows.len(), *height, *width))
        }
        Values::Pixels { height, width, data } => {
            expect_len("pixel values", data.len(), image_values(rows.len(), *height, *width))?;
            finite("pixel value", data)
        }
    }
}

/// Values of `[rows, height, width, 3]`, if they can be counted.
fn image_values(rows: usize, height: usize, width: usize) -> Option<usize> {
    height.checked_mul(width)?.checked_mul(3)?.checked_mul(rows)
}

fn check_bags(rows: usize, bags: &Bags) -> Result<(), String> {
    expect_len("offsets", bags.offsets.len(), rows.checked_add(1))?;
    if bags.offsets[0] != 0 {
        return Err(format!("offsets start at {}, not 0", bags.offsets[0]));
    }
    if let Some(pair) = bags.offsets.windows(2).find(|pair| pair[0] > pair[1]) {
        return Err(format!("offset {} follows offset {}", pair[1], pair[0]));
    }
    if bags.offsets[rows] != bags.ids.len() {
        return Err(format!("last offset {} with {} ids", bags.offsets[rows], bags.ids.len()));
    }
    match &bags.weights {
        Some(weights) => {
            expect_len("weights", weights.len(), Some(bags.ids.len()))?;
            finite("weight", weights)
        }
        None => Ok(()),
    }
}

fn expect_len(what: &str, found: usize, expected: Option<usize>) -> Result<(), String> {
    match expected {
        Some(expected) if expected == found => Ok(()),
        Some(expected) => Err(format!("{found} {what}, expected {expected}")),
        None => Err(format!("the shape of the {what} overflows")),
    }
}

fn finite(what: &str, data: &[f32]) -> Result<(), String> {
    match data.iter().position(|x| !x.is_finite()) {
        Some(at) => Err(format!("{what} {at} is {}", data[at])),
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed check ends the test
mod tests {
    use super::*;

    /// Rows of a part are those of the whole, counted from its first; columns that no row of it has are gone.
    #[test]
    fn a_part_holds_its_rows_alone() {
        let mut features = Features::new(5);
        let bags = Bags { offsets: vec![0, 2, 2, 5], ids: vec![1, 2, 3, 4, 5], weights: Some(vec![0.5; 5]) };
        features.set_rows(Modality::Text, vec![0, 2, 3], Values::Bags(bags)).unwrap();
        features.set_rows(Modality::User, vec![4], Values::Ids(vec![9])).unwrap();
        let photo = |values: [u8; 2]| Values::Photos { height: 1, width: 1, data: values.repeat(3) };
        features.set_rows(Modality::Image, vec![1, 3], photo([1, 2])).unwrap();

        let part = features.part(2..4);
        let mut expected = Features::new(2);
        let bags = Bags { offsets: vec![0, 0, 3], ids: vec![3, 4, 5], weights: Some(vec![0.5; 3]) };
        expected.set(Modality::Text, Values::Bags(bags)).unwrap();
        let photo = Values::Photos { height: 1, width: 1, data: vec![2, 1, 2] };
        expected.set_rows(Modality::Image, vec![1], photo).unwrap();
        assert_eq!(part, expected);
        assert_eq!(features.part(0..5), features);
        assert_eq!(features.part(1..1), Features::new(0));
    }
}
