//! How large calls are: the sizes that programs are recorded for, and the parts that a larger batch is cut into.

use std::ops::Range;

use super::columns::{Pixels, Room};
use crate::engine::{EngineError, RowError, Side};
use crate::input::{Bags, Column, Features, Modality, Values};
use crate::model::{Config, Plan, Pooling, TowerOp, TowerPlan};

/// Ids that every bag column has room for: fewer are not worth a program of their own.
const LEAST_IDS: usize = 512;

/// What the calls that one program serves have at most. Each is rounded up, so that few programs serve all calls: rows to
/// powers of two, what a row may have besides to powers of four.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Buckets {
    /// Batch rows.
    pub(super) batch: usize,
    /// Ids in the bags of a column.
    pub(super) ids: usize,
    /// Images; without any, no network runs.
    pub(super) images: usize,
    /// How the images are given.
    pub(super) pixels: Pixels,
}

/// What the columns of each modality have at most, where towers read it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rooms {
    by_modality: [Option<Room>; Modality::ALL.len()],
    /// Rows that a device encodes at once.
    pub(super) rows_at_once: usize,
}

impl Rooms {
    pub(super) fn new(config: &Config, plan: &Plan, rows_at_once: usize) -> Rooms {
        let by_modality = Modality::ALL.map(|modality| room(modality, config, plan, rows_at_once));
        Rooms { by_modality, rows_at_once }
    }

    pub(super) fn of(&self, modality: Modality) -> Option<Room> {
        self.by_modality[modality as usize]
    }

    /// The sizes of the largest call.
    pub(super) fn largest(&self, pixels: Pixels) -> Buckets {
        let batch = self.rows_at_once;
        Buckets { batch, ids: self.most_ids(), images: batch, pixels }
    }

    /// The most ids that any column has room for.
    fn most_ids(&self) -> usize {
        let most = self.by_modality.iter().flatten().map(|room| match room {
            Room::Bags { most, .. } => *most,
            Room::Ids | Room::Dense { .. } | Room::Image { .. } => 0,
        });
        most.max().unwrap_or(0)
    }

    /// The sizes of the programs that serve a batch, of which the columns of `read` are uploaded.
    pub(super) fn buckets(&self, features: &Features, read: impl Iterator<Item = Modality>) -> Buckets {
        let batch = bucket(features.batch(), self.rows_at_once);
        let (mut ids, mut images, mut pixels) = (LEAST_IDS, 0, Pixels::Bytes);
        for column in read.filter_map(|modality| features.column(modality)) {
            match column.values() {
                Values::Photos { .. } => images = wide_bucket(column.rows().len(), batch),
                Values::Pixels { .. } => {
                    (images, pixels) = (wide_bucket(column.rows().len(), batch), Pixels::Floats);
                }
                Values::Bags(bags) => ids = ids.max(bags.ids.len()),
                Values::Ids(_) | Values::Dense { .. } => {}
            }
        }
        let ids = wide_bucket(ids.div_ceil(LEAST_IDS), usize::MAX).saturating_mul(LEAST_IDS);
        Buckets { batch, ids: ids.min(self.most_ids()), images, pixels }
    }

    /// Refuses a bag that is longer than a column of `read` has room for.
    pub(super) fn check(
        &self,
        side: Side,
        features: &Features,
        read: impl Iterator<Item = Modality>,
    ) -> Result<(), EngineError> {
        for modality in read {
            let Some((column, bags, limit)) = self.bags(features, modality) else { continue };
            let lengths = bags.offsets.windows(2).map(|pair| pair[1] - pair[0]);
            for (&row, ids) in column.rows().iter().zip(lengths) {
                if ids > limit {
                    let source = RowError::TooManyIds { modality, ids, limit };
                    return Err(EngineError::Row { side, row, source });
                }
            }
        }
        Ok(())
    }

    /// The batch in parts of at most `most` rows whose bags in the columns of `read` have room. No bag alone is too long.
    pub(super) fn parts(
        &self,
        features: &Features,
        most: usize,
        read: impl Iterator<Item = Modality> + Clone,
    ) -> Vec<Range<usize>> {
        let batch = features.batch();
        let mut parts = Vec::with_capacity(batch.div_ceil(most.max(1)));
        let mut first = 0;
        while first < batch {
            let mut end = batch.min(first.saturating_add(most));
            for modality in read.clone() {
                let Some((column, bags, limit)) = self.bags(features, modality) else { continue };
                let entry = column.rows().partition_point(|&row| row < first);
                let offsets = &bags.offsets[entry..];
                let fitting = offsets.partition_point(|offset| offset - offsets[0] <= limit) - 1;
                if let Some(&row) = column.rows().get(entry + fitting) {
                    end = end.min(row);
                }
            }
            end = end.max(first + 1);
            parts.push(first..end);
            first = end;
        }
        parts
    }

    /// A column of bags, and how many ids there is room for.
    fn bags<'a>(&self, features: &'a Features, modality: Modality) -> Option<(&'a Column, &'a Bags, usize)> {
        let column = features.column(modality)?;
        match (self.of(modality)?, column.values()) {
            (Room::Bags { most, .. }, Values::Bags(bags)) => Some((column, bags, most)),
            _ => None,
        }
    }
}

/// What a modality's towers read, if any does.
fn room(modality: Modality, config: &Config, plan: &Plan, rows_at_once: usize) -> Option<Room> {
    let ranker = plan.ranker.iter().flat_map(|ranker| ranker.query_towers.iter().chain(&ranker.item_towers));
    let towers = || plan.query.towers.iter().chain(&plan.item.towers).chain(ranker.clone());
    let of = |tower: &TowerPlan| match &tower.op {
        TowerOp::Embedding(_) => Some(Room::Ids),
        TowerOp::EmbeddingBag { .. } => {
            let behaviour = || config.inputs.behaviour.as_ref().and_then(|input| input.max_items);
            let most = match modality {
                Modality::Text => config.inputs.text.as_ref().map(|input| input.max_tokens),
                _ => behaviour(),
            };
            let weighs = |tower: &TowerPlan| {
                tower.input == modality
                    && matches!(tower.op, TowerOp::EmbeddingBag { pooling: Pooling::Sum, .. })
            };
            let most = rows_at_once.saturating_mul(most.unwrap_or(1));
            Some(Room::Bags { most, weighted: towers().any(weighs) })
        }
        TowerOp::Network(network) => {
            let input = network.input;
            Some(Room::Image { values: input.height * input.width * input.channels })
        }
        TowerOp::Linear(linear) => Some(Room::Dense { width: linear.inputs }),
        TowerOp::LinearOver { .. } => None,
    };
    towers().filter(|tower| tower.input == modality).find_map(of)
}

/// The least power of two that is at least `rows`, at most `most`; 0 for no rows.
pub(super) fn bucket(rows: usize, most: usize) -> usize {
    match rows {
        0 => 0,
        rows => rows.checked_next_power_of_two().unwrap_or(most).min(most),
    }
}

/// The least power of four that is at least `rows`, at most `most`; 0 for no rows.
pub(super) fn wide_bucket(rows: usize, most: usize) -> usize {
    let power = bucket(rows, usize::MAX);
    bucket(power.saturating_mul(1 + power.trailing_zeros() as usize % 2), most)
}

/// What [`bucket`] gives for 0 to `most` rows.
pub(super) fn buckets(most: usize) -> impl Iterator<Item = usize> {
    let powers = (0..usize::BITS).map(|bit| 1 << bit).take_while(move |&rows| rows < most);
    std::iter::once(0).chain(powers).chain((most > 0).then_some(most))
}

/// The largest power of two that is at most `most`, which is positive.
pub(super) fn largest_bucket(most: usize) -> usize {
    1 << most.max(1).ilog2()
}

/// `0..total` in parts of at most `most`.
pub(super) fn parts(total: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let most = most.max(1);
    (0..total).step_by(most).map(move |first| first..total.min(first.saturating_add(most)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed check ends the test
mod tests {
    use super::*;
    use crate::engine::MAX_ROWS_AT_ONCE;

    #[test]
    fn buckets_are_powers_of_two_up_to_the_most() {
        let of = |most| (0..=most).map(|rows| bucket(rows, most)).collect::<Vec<_>>();
        assert_eq!(of(1), [0, 1]);
        assert_eq!(of(3), [0, 1, 2, 3]);
        assert_eq!(of(9), [0, 1, 2, 4, 4, 8, 8, 8, 8, 9]);
        assert_eq!(bucket(MAX_ROWS_AT_ONCE - 1, MAX_ROWS_AT_ONCE), MAX_ROWS_AT_ONCE);
        assert_eq!(bucket(usize::MAX, usize::MAX), usize::MAX);
        for most in (0..70).chain([MAX_ROWS_AT_ONCE - 1, MAX_ROWS_AT_ONCE]) {
            let mut found: Vec<usize> = (0..=most).map(|rows| bucket(rows, most)).collect();
            assert!((0..=most).all(|rows| (rows..=most).contains(&found[rows])));
            found.dedup();
            assert_eq!(buckets(most).collect::<Vec<_>>(), found, "most {most}");
        }
    }

    #[test]
    fn wide_buckets_are_powers_of_four_up_to_the_most() {
        let of = |most| (0..=most).map(|rows| wide_bucket(rows, most)).collect::<Vec<_>>();
        assert_eq!(of(1), [0, 1]);
        assert_eq!(of(3), [0, 1, 3, 3]);
        assert_eq!(of(9), [0, 1, 4, 4, 4, 9, 9, 9, 9, 9]);
        assert_eq!(wide_bucket(17, 100), 64);
        assert_eq!(wide_bucket(usize::MAX, usize::MAX), usize::MAX);
        // The sizes that memory is planned for are among those of `buckets`.
        for most in 0..70 {
            for batch in buckets(most) {
                assert!((0..=batch).all(|rows| buckets(most).any(|size| size == wide_bucket(rows, batch))));
            }
        }
    }

    #[test]
    fn the_largest_bucket_is_one() {
        for (most, expected) in [(0, 1), (1, 1), (2, 2), (3, 2), (65_535, 32_768), (65_536, 65_536)] {
            assert_eq!(largest_bucket(most), expected);
        }
        assert_eq!(largest_bucket(usize::MAX), 1 << (usize::BITS - 1));
    }

    #[test]
    fn parts_cover_the_batch_in_order() {
        assert_eq!(parts(0, 4).count(), 0);
        assert_eq!(parts(9, 4).collect::<Vec<_>>(), [0..4, 4..8, 8..9]);
        assert_eq!(parts(8, 4).collect::<Vec<_>>(), [0..4, 4..8]);
        assert_eq!(parts(2, 0).count(), 2);
        assert_eq!(parts(usize::MAX, usize::MAX - 1).last(), Some(usize::MAX - 1..usize::MAX));
    }

    fn rooms(most: usize) -> Rooms {
        let mut by_modality = [None; Modality::ALL.len()];
        by_modality[Modality::Text as usize] = Some(Room::Bags { most, weighted: false });
        by_modality[Modality::Behaviour as usize] = Some(Room::Bags { most: 4, weighted: false });
        Rooms { by_modality, rows_at_once: 3 }
    }

    fn bags(lengths: &[usize]) -> Values {
        let mut bags = Bags { offsets: vec![0], ..Bags::default() };
        for &length in lengths {
            bags.ids.extend((0..).take(length));
            bags.offsets.push(bags.ids.len());
        }
        Values::Bags(bags)
    }

    #[test]
    fn a_batch_is_cut_where_its_bags_have_no_room() {
        let mut features = Features::new(9);
        assert_eq!(rooms(6).parts(&features, 3, Modality::ALL.into_iter()), [0..3, 3..6, 6..9]);
        // Of rows 0, 1, 3, 4, 5 and 8.
        features.set_rows(Modality::Text, vec![0, 1, 3, 4, 5, 8], bags(&[6, 0, 1, 6, 0, 6])).unwrap();
        assert_eq!(rooms(6).parts(&features, 9, Modality::ALL.into_iter()), [0..3, 3..4, 4..8, 8..9]);
        assert_eq!(rooms(7).parts(&features, 9, Modality::ALL.into_iter()), [0..4, 4..8, 8..9]);
        assert_eq!(rooms(19).parts(&features, 9, Modality::ALL.into_iter()).len(), 1);
        assert_eq!(rooms(19).parts(&features, 4, Modality::ALL.into_iter()), [0..4, 4..8, 8..9]);
        features.set_rows(Modality::Behaviour, vec![2, 7], bags(&[4, 4])).unwrap();
        assert_eq!(rooms(19).parts(&features, 9, Modality::ALL.into_iter()), [0..7, 7..9]);
        assert_eq!(rooms(7).parts(&features, 9, Modality::ALL.into_iter()), [0..4, 4..8, 8..9]);
        assert!(rooms(7).parts(&Features::new(0), 9, Modality::ALL.into_iter()).is_empty());
    }

    #[test]
    fn a_bag_without_room_is_refused_by_its_row() {
        let mut features = Features::new(4);
        features.set_rows(Modality::Text, vec![0, 1, 3], bags(&[7, 0, 8])).unwrap();
        rooms(8).check(Side::Query, &features, Modality::ALL.into_iter()).unwrap();
        let error = rooms(7).check(Side::Query, &features, Modality::ALL.into_iter()).unwrap_err();
        assert_eq!(error.to_string(), "query 3: text of 8 ids, the device has room for 7");
    }

    /// Only what is read counts, and no bucket is beyond what a column may have.
    #[test]
    fn a_batch_has_its_buckets() {
        let mut features = Features::new(3);
        let photos = Values::Photos { height: 1, width: 1, data: vec![0; 6] };
        features.set_rows(Modality::Image, vec![0, 2], photos).unwrap();
        let of = |rooms: Rooms, features: &Features, read: &[Modality]| {
            rooms.buckets(features, read.iter().copied())
        };
        let expected = Buckets { batch: 3, ids: 512, images: 3, pixels: Pixels::Bytes };
        assert_eq!(of(rooms(5000), &features, &Modality::ALL), expected);
        assert_eq!(of(rooms(5000), &features, &[Modality::Text]), Buckets { images: 0, ..expected });
        for (ids, most, expected) in [(513, 5000, 2048), (2049, 5000, 5000), (513, 700, 700), (7, 100, 100)] {
            features.set_rows(Modality::Text, vec![1], bags(&[ids])).unwrap();
            assert_eq!(of(rooms(most), &features, &Modality::ALL).ids, expected);
            assert_eq!(of(rooms(most), &features, &[Modality::Image]).ids, 512.min(most));
        }
    }
}
