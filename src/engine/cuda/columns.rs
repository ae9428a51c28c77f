//! The features of a batch as they are uploaded: one place per tensor in one buffer.

use half::{bf16, f16};

use crate::cuda::{CudaError, Layout, Place, Precision, Rows, Slice};
use crate::input::{Bags, Column, Modality, Values};

/// Stands for a batch row that a column does not have.
pub(super) const ABSENT: u32 = u32::MAX;

/// What a modality's towers read, with the most that one row has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// One id.
    Ids,
    /// At most `most` ids, with a weight each if a tower takes weights.
    Bags { most: usize, weighted: bool },
    /// A vector.
    Dense { width: usize },
    /// An image of `values` values, three per pixel.
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

/// How much of a column there is room for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// Rows of the batch.
    pub(super) batch: usize,
    /// Of these, those that have the column.
    pub(super) rows: usize,
    /// Rows whose bags there is room for, each with the most ids.
    pub(super) bags: usize,
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
        Sizes { batch, rows, bags }: Sizes,
        pixels: Pixels,
        precision: Precision,
    ) -> ColumnPlace {
        let (count, index) = (layout.place(1), layout.place(batch));
        let values = match room {
            Room::Ids => ValuesPlace::Ids(layout.place(rows)),
            Room::Bags { most, weighted } => {
                let ids = bags.saturating_mul(most);
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

    /// Writes a column, or that there is none, into the buffer that is uploaded. The column fits its place and has the
    /// form that its towers read.
    pub(super) fn write(&self, column: Option<&Column>, precision: Precision, upload: &mut [u8]) {
        let rows = column.map_or(&[][..], Column::rows);
        self.count.in_host_mut(upload).fill(narrow(rows.len()));
        let index = self.index.in_host_mut(upload);
        index.fill(ABSENT);
        for (at, &row) in rows.iter().enumerate() {
            index[row] = narrow(at);
        }
        let Some(column) = column else { return };
        match (&self.values, column.values()) {
            (ValuesPlace::Ids(place), Values::Ids(ids)) => copy(ids, place.in_host_mut(upload)),
            (ValuesPlace::Bags { ids, offsets, weights }, Values::Bags(bags)) => {
                copy(&bags.ids, ids.in_host_mut(upload));
                for (to, &offset) in offsets.in_host_mut(upload).iter_mut().zip(&bags.offsets) {
                    *to = offset as u64;
                }
                if let Some(weights) = weights {
                    let to = weights.in_host_mut(upload);
                    match &bags.weights {
                        Some(weights) => copy(weights, to),
                        None => to[..bags.ids.len()].fill(1.0),
                    }
                }
            }
            (ValuesPlace::Dense(place), Values::Dense { data, .. }) => {
                round_into(data, precision, place.in_host_mut(upload));
            }
            (ValuesPlace::Bytes(place), Values::Photos { data, .. }) => copy(data, place.in_host_mut(upload)),
            (ValuesPlace::Floats(place), Values::Pixels { data, .. }) => {
                copy(data, place.in_host_mut(upload));
            }
            _ => {}
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

/// Rows whose bags have room for a column's ids.
pub(super) fn rows_for_bags(room: Room, column: &Column) -> usize {
    match (room, column.values()) {
        (Room::Bags { most, .. }, Values::Bags(Bags { ids, .. })) => ids.len().div_ceil(most.max(1)),
        _ => 0,
    }
}

/// `values` in a precision, as the device stores it.
pub(super) fn round_into(values: &[f32], precision: Precision, to: &mut [u8]) {
    match precision {
        Precision::F32 => copy(bytemuck::cast_slice(values), to),
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
fn copy<T: Copy>(from: &[T], to: &mut [T]) {
    to[..from.len()].copy_from_slice(from);
}

/// A number of rows of one batch, which is at most what a place was made for.
fn narrow(rows: usize) -> u32 {
    u32::try_from(rows).unwrap_or(u32::MAX)
}
