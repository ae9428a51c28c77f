//! The features of a batch as they are uploaded: one place per tensor in one buffer.

use half::{bf16, f16};

use super::sizes::Buckets;
use crate::cuda::{CudaError, Layout, Place, Precision, Rows, Slice, to_u32};
use crate::input::{Column, Modality, Values};

/// Stands for a batch row that a column does not have.
pub(super) const ABSENT: u32 = u32::MAX;

/// What a modality's towers read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// An id per row.
    Ids,
    /// Bags of at most `most` ids together, with a weight each if a tower takes weights.
    Bags { most: usize, weighted: bool },
    /// A vector per row.
    Dense { width: usize },
    /// An image of `values` values per row, three per pixel.
    Image { values: usize },
}

/// How the images of a batch are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Pixels {
    /// 8-bit, not normalised.
    Bytes,
    /// f32, normalised.
    Floats,
}

/// Where one column lies in the upload.
#[derive(Debug, Clone)]
pub(super) struct ColumnPlace {
    pub(super) modality: Modality,
    /// Rows that there is room for.
    pub(super) rows: usize,
    count: Place<u32>,
    /// `[batch]`: the column's row of each batch row, or [`ABSENT`].
    index: Place<u32>,
    values: ValuesPlace,
}

#[derive(Debug, Clone, Copy)]
enum ValuesPlace {
    Ids(Place<i64>),
    Bags { ids: Place<i64>, offsets: Place<u64>, weights: Option<Place<f32>> },
    Dense(Place<u8>),
    Bytes(Place<u8>),
    Floats(Place<f32>),
}

/// One column in the device's memory.
pub(super) struct DeviceColumn {
    pub(super) rows: Rows,
    pub(super) index: Slice<u32>,
    pub(super) values: DeviceValues,
}

pub(super) enum DeviceValues {
    Ids(Slice<i64>),
    Bags { ids: Slice<i64>, offsets: Slice<u64>, weights: Option<Slice<f32>> },
    Dense(crate::cuda::Tensor),
    Bytes(Slice<u8>),
    Floats(Slice<f32>),
}

impl ColumnPlace {
    /// Room for a column.
    pub(super) fn new(
        layout: &mut Layout,
        (modality, room): (Modality, Room),
        Buckets { batch, ids, images, pixels }: Buckets,
        precision: Precision,
    ) -> ColumnPlace {
        let rows = if matches!(room, Room::Image { .. }) { images } else { batch };
        let (count, index) = (layout.place(1), layout.place(batch));
        let values = match room {
            Room::Ids => ValuesPlace::Ids(layout.place(rows)),
            Room::Bags { most, weighted } => {
                let ids = ids.min(most);
                ValuesPlace::Bags {
                    ids: layout.place(ids),
                    offsets: layout.place(rows.saturating_add(1)),
                    weights: weighted.then(|| layout.place(ids)),
                }
            }
            Room::Dense { width } => {
                ValuesPlace::Dense(layout.place_values(precision, rows.saturating_mul(width)))
            }
            Room::Image { values } => match pixels {
                Pixels::Bytes => ValuesPlace::Bytes(layout.place(rows.saturating_mul(values))),
                Pixels::Floats => ValuesPlace::Floats(layout.place(rows.saturating_mul(values))),
            },
        };
        ColumnPlace { modality, rows, count, index, values }
    }

    /// Writes a column, or that there is none, into the buffer that is uploaded.
    ///
    /// # Errors
    /// [`CudaError::Limit`] if there is no room for it; [`CudaError::Shape`] if it has another form than its towers read.
    pub(super) fn write(
        &self,
        column: Option<&Column>,
        precision: Precision,
        upload: &mut [u8],
    ) -> Result<(), CudaError> {
        let rows = column.map_or(&[][..], Column::rows);
        self.count.in_host_mut(upload)?.fill(to_u32("rows of a column", rows.len())?);
        let index = self.index.in_host_mut(upload)?;
        index.fill(ABSENT);
        for (at, &row) in (0..).zip(rows) {
            let limit = index.len();
            *index.get_mut(row).ok_or(CudaError::Limit { what: "row of a column", value: row, limit })? = at;
        }
        let Some(column) = column else { return Ok(()) };
        match (&self.values, column.values()) {
            (ValuesPlace::Ids(place), Values::Ids(ids)) => copy(ids, place.in_host_mut(upload)?),
            (ValuesPlace::Bags { ids, offsets, weights }, Values::Bags(bags)) => {
                copy(&bags.ids, ids.in_host_mut(upload)?)?;
                for (to, &offset) in offsets.in_host_mut(upload)?.iter_mut().zip(&bags.offsets) {
                    *to = offset as u64;
                }
                match (weights, &bags.weights) {
                    (Some(place), Some(weights)) => copy(weights, place.in_host_mut(upload)?),
                    (Some(place), None) => {
                        place.in_host_mut(upload)?[..bags.ids.len()].fill(1.0);
                        Ok(())
                    }
                    (None, _) => Ok(()), // no tower takes any: those given were refused
                }
            }
            (ValuesPlace::Dense(place), Values::Dense { data, .. }) => {
                round_into(data, precision, place.in_host_mut(upload)?)
            }
            (ValuesPlace::Bytes(place), Values::Photos { data, .. }) => {
                copy(data, place.in_host_mut(upload)?)
            }
            (ValuesPlace::Floats(place), Values::Pixels { data, .. }) => {
                copy(data, place.in_host_mut(upload)?)
            }
            (_, values) => {
                let reason = format!("no room for {} among the columns", values.describe());
                Err(CudaError::Shape { reason })
            }
        }
    }

    /// The column where the buffer was uploaded to.
    pub(super) fn on_device(
        &self,
        upload: &Slice<u8>,
        precision: Precision,
    ) -> Result<DeviceColumn, CudaError> {
        let values = match &self.values {
            ValuesPlace::Ids(ids) => DeviceValues::Ids(ids.of(upload)?),
            ValuesPlace::Bags { ids, offsets, weights } => DeviceValues::Bags {
                ids: ids.of(upload)?,
                offsets: offsets.of(upload)?,
                weights: weights.map(|weights| weights.of(upload)).transpose()?,
            },
            ValuesPlace::Dense(place) => DeviceValues::Dense(place.tensor(upload, precision)?),
            ValuesPlace::Bytes(place) => DeviceValues::Bytes(place.of(upload)?),
            ValuesPlace::Floats(place) => DeviceValues::Floats(place.of(upload)?),
        };
        let rows = Rows::new(self.rows, self.count.of(upload)?)?;
        Ok(DeviceColumn { rows, index: self.index.of(upload)?, values })
    }
}

/// `values` in a precision, as the device stores it, to the first places of `to`.
pub(super) fn round_into(values: &[f32], precision: Precision, to: &mut [u8]) -> Result<(), CudaError> {
    let (value, limit) = (values.len(), to.len() / precision.bytes());
    if value > limit {
        return Err(CudaError::Limit { what: "values to upload", value, limit });
    }
    match precision {
        Precision::F32 => copy(bytemuck::cast_slice(values), to)?,
        Precision::F16 => {
            for (to, &value) in to.as_chunks_mut().0.iter_mut().zip(values) {
                *to = f16::from_f32(value).to_le_bytes();
            }
        }
        Precision::Bf16 => {
            for (to, &value) in to.as_chunks_mut().0.iter_mut().zip(values) {
                *to = bf16::from_f32(value).to_le_bytes();
            }
        }
    }
    Ok(())
}

/// The first `len` values of a precision.
pub(super) fn to_f32(values: &[u8], precision: Precision, len: usize) -> Vec<f32> {
    let halves = || values.as_chunks().0.iter().take(len).copied();
    match precision {
        Precision::F32 => values.as_chunks().0.iter().take(len).copied().map(f32::from_le_bytes).collect(),
        Precision::F16 => halves().map(|bytes| f16::from_le_bytes(bytes).to_f32()).collect(),
        Precision::Bf16 => halves().map(|bytes| bf16::from_le_bytes(bytes).to_f32()).collect(),
    }
}

/// Copies to the first places of `to`.
pub(super) fn copy<T: Copy>(from: &[T], to: &mut [T]) -> Result<(), CudaError> {
    let (value, limit) = (from.len(), to.len());
    let to = to.get_mut(..value).ok_or(CudaError::Limit { what: "values to upload", value, limit })?;
    to.copy_from_slice(from);
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed check ends the test
mod tests {
    use super::*;
    use crate::engine::MAX_ROWS_AT_ONCE;
    use crate::input::{Bags, Features};

    const ROOMS: [Room; 5] = [
        Room::Ids,
        Room::Bags { most: 512 * MAX_ROWS_AT_ONCE, weighted: true },
        Room::Bags { most: 512 * MAX_ROWS_AT_ONCE, weighted: false },
        Room::Dense { width: 4096 },
        Room::Image { values: 3 * 4096 * 4096 },
    ];

    fn bytes(room: Room, batch: usize, pixels: Pixels, precision: Precision) -> usize {
        let mut layout = Layout::default();
        let buckets = Buckets { batch, ids: usize::MAX, images: batch, pixels };
        ColumnPlace::new(&mut layout, (Modality::Text, room), buckets, precision);
        layout.bytes()
    }

    /// The largest batch has its bytes to the last, and sizes beyond memory stay beyond it.
    #[test]
    fn sizes_do_not_wrap() {
        let most = MAX_ROWS_AT_ONCE;
        let of = |room, pixels, precision| bytes(room, most, pixels, precision) - 256 - 4 * most; // count and index
        assert_eq!(of(Room::Ids, Pixels::Bytes, Precision::F32), 8 * most);
        let bags = 512 * most * 8 + (most + 1) * 8 + 248; // ids, and offsets up to a multiple of 256
        assert_eq!(of(ROOMS[2], Pixels::Bytes, Precision::F32), bags);
        assert_eq!(of(ROOMS[1], Pixels::Bytes, Precision::F32), bags + 512 * most * 4);
        assert_eq!(of(ROOMS[3], Pixels::Bytes, Precision::F32), 4096 * most * 4);
        assert_eq!(of(ROOMS[3], Pixels::Bytes, Precision::Bf16), 4096 * most * 2);
        assert_eq!(of(ROOMS[4], Pixels::Bytes, Precision::F16), 3 * 4096 * 4096 * most);
        assert_eq!(of(ROOMS[4], Pixels::Floats, Precision::F16), 3 * 4096 * 4096 * most * 4);
        for room in ROOMS {
            assert_eq!(bytes(room, usize::MAX, Pixels::Floats, Precision::F32), usize::MAX);
        }
    }

    /// Each value where the kernels read it; batch rows without the column say so, and so does a batch without any.
    #[test]
    fn a_column_is_written_where_it_is_read() {
        let mut layout = Layout::default();
        let room = Room::Bags { most: 30, weighted: true };
        let buckets = Buckets { batch: 4, ids: 16, images: 0, pixels: Pixels::Bytes };
        let place = ColumnPlace::new(&mut layout, (Modality::Text, room), buckets, Precision::F32);
        let mut upload = vec![0u64; layout.bytes() / 8]; // aligned as pinned memory is
        let upload: &mut [u8] = bytemuck::cast_slice_mut(&mut upload);
        let ValuesPlace::Bags { ids, offsets, weights } = &place.values else { unreachable!() };
        let mut features = Features::new(3);
        let bags = |weights| Values::Bags(Bags { offsets: vec![0, 1, 3], ids: vec![7, 8, 9], weights });
        for given in [None, Some(vec![0.5, 2.0, 4.0])] {
            features.set_rows(Modality::Text, vec![0, 2], bags(given.clone())).unwrap();
            place.write(features.column(Modality::Text), Precision::F32, upload).unwrap();
            assert_eq!(place.count.in_host(upload).unwrap(), [2]);
            assert_eq!(place.index.in_host(upload).unwrap(), [0, ABSENT, 1, ABSENT]);
            assert_eq!(ids.in_host(upload).unwrap()[..3], [7, 8, 9]);
            assert_eq!(ids.in_host(upload).unwrap().len(), 16);
            assert_eq!(offsets.in_host(upload).unwrap()[..3], [0, 1, 3]);
            assert_eq!(weights.unwrap().in_host(upload).unwrap()[..3], given.unwrap_or(vec![1.0; 3]));
        }
        place.write(None, Precision::F32, upload).unwrap();
        assert_eq!(place.count.in_host(upload).unwrap(), [0]);
        assert_eq!(place.index.in_host(upload).unwrap(), [ABSENT; 4]);
        // What does not fit is refused, whatever it is.
        let mut refused = |rows: usize, values| {
            let mut features = Features::new(rows);
            features.set(Modality::Text, values).unwrap();
            place.write(features.column(Modality::Text), Precision::F32, upload).unwrap_err()
        };
        let ids = |count| Values::Bags(Bags { offsets: vec![0, count], ids: vec![0; count], weights: None });
        let limit = CudaError::Limit { what: "values to upload", value: 17, limit: 16 };
        assert_eq!(refused(1, ids(17)), limit);
        let limit = CudaError::Limit { what: "row of a column", value: 4, limit: 4 };
        assert_eq!(refused(5, Values::Ids(vec![0; 5])), limit);
        let reason = "no room for ids among the columns".into();
        assert_eq!(refused(1, Values::Ids(vec![0])), CudaError::Shape { reason });
    }

    #[test]
    fn values_are_rounded_and_read_back() {
        for precision in Precision::ALL {
            let values = [1.0, -2.5, 0.000_061_035_156, f32::INFINITY];
            let mut bytes = [0xFF; 20];
            round_into(&values, precision, &mut bytes).unwrap();
            assert_eq!(to_f32(&bytes, precision, 4), values, "{precision:?}");
            assert_eq!(bytes[4 * precision.bytes()], 0xFF);
            assert!(round_into(&[0.0; 11], precision, &mut bytes).is_err());
        }
    }
}
