//! The cases.

use mercer::cpu::embedding::{Pooling, UnknownId};

use super::oracle::Random;

/// A table and what is looked up in it.
#[derive(Debug, Clone)]
pub struct Case {
    pub what: String,
    pub width: usize,
    /// `[rows, width]`, before it is rounded to a storage type.
    pub table: Vec<f32>,
    pub ids: Vec<i64>,
    pub bags: Option<CaseBags>,
    pub unknown: UnknownId,
}

#[derive(Debug, Clone)]
pub struct CaseBags {
    pub offsets: Vec<usize>,
    pub weights: Option<Vec<f32>>,
    pub pooling: Pooling,
    pub padding_id: Option<i64>,
}

/// A pooling, and whether it has weights.
pub const POOLINGS: [(Pooling, bool); 4] =
    [(Pooling::Sum, false), (Pooling::Sum, true), (Pooling::Mean, false), (Pooling::Max, false)];

impl Case {
    /// One id per entry.
    pub fn gather(what: impl Into<String>, width: usize, table: Vec<f32>, ids: Vec<i64>) -> Case {
        Case { what: what.into(), width, table, ids, bags: None, unknown: UnknownId::Refuse }
    }

    /// Bags of the given lengths with random ids and weights; every fourth id is 2.
    pub fn bags(
        lengths: &[usize],
        rows: usize,
        width: usize,
        pooling: (Pooling, bool),
        padding_id: Option<i64>,
    ) -> Case {
        let (offsets, ids, weights) = jagged(lengths, rows);
        let (pooling, weighted) = pooling;
        let shown = &lengths[..lengths.len().min(12)];
        let what =
            format!("{pooling:?}, weights {weighted}, padding {padding_id:?}, width {width}, bags {shown:?}");
        let bags = CaseBags { offsets, weights: weighted.then_some(weights), pooling, padding_id };
        let table = Random::new(21).values(rows * width);
        Case { what, width, table, ids, bags: Some(bags), unknown: UnknownId::Refuse }
    }

    /// The same for every way to pool.
    pub fn all_bags(
        lengths: &[usize],
        rows: usize,
        width: usize,
        padding_id: Option<i64>,
    ) -> impl Iterator<Item = Case> {
        POOLINGS.map(|pooling| Case::bags(lengths, rows, width, pooling, padding_id)).into_iter()
    }

    pub fn rows(&self) -> usize {
        self.table.len() / self.width
    }

    /// Number of entries.
    pub fn items(&self) -> usize {
        self.bags.as_ref().map_or(self.ids.len(), |bags| bags.offsets.len() - 1)
    }

    pub fn shape(&self) -> [usize; 2] {
        [self.items(), self.width]
    }
}

pub fn random_ids(count: usize, rows: usize) -> Vec<i64> {
    let mut random = Random::new(2);
    (0..count).map(|_| i64::try_from(random.below(rows)).unwrap()).collect()
}

/// Lookups that are not refused, by what they look for.
pub fn cases() -> Vec<Case> {
    [widths(), batches(), empty_bags(), unknown_ids(), special_values()].concat()
}

fn values(len: usize) -> Vec<f32> {
    Random::new(21).values(len)
}

/// Rows that do not fill a vector, of either element size; that fill some; that do so without filling a block.
pub fn widths() -> Vec<Case> {
    let mut cases = Vec::new();
    for width in (1..=9).chain([15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 100, 128, 256, 257, 300, 1024]) {
        cases.push(Case::gather(
            format!("gather, width {width}"),
            width,
            values(7 * width),
            vec![3, 0, 6, 6, 1, 2],
        ));
        cases.extend(Case::all_bags(&[2, 0, 5, 9], 6, width, None));
    }
    cases
}

/// Tasks of a batch, rows of a tile: the last must be there, and no others touched.
pub fn batches() -> Vec<Case> {
    let mut cases = Vec::new();
    for items in [0, 1, 2, 7, 63, 64, 65, 127, 129, 255, 256, 257, 5000] {
        cases.push(Case::gather(format!("gather, {items} ids"), 24, values(24_000), random_ids(items, 1000)));
        cases.extend(Case::all_bags(&vec![1; items.min(1000)], 40, 12, Some(2)).take(2));
    }
    for items in [65_535, 65_536] {
        cases.push(Case::gather(format!("gather, {items} ids"), 1, values(50), random_ids(items, 50)));
        cases.push(Case::bags(&vec![1; items], 40, 4, (Pooling::Sum, false), None));
    }
    cases
}

/// Bags that are empty, of one id, or hold only padding, at every place in the batch; ids read together.
pub fn empty_bags() -> Vec<Case> {
    let mut cases = Vec::new();
    for padding_id in [None, Some(2), Some(-1)] {
        for lengths in
            [&[][..], &[0], &[0, 0, 0], &[1], &[0, 3, 0, 0, 7, 1, 0], &[200, 0, 31], &[7, 8, 9, 15, 16, 17]]
        {
            cases.extend(Case::all_bags(lengths, 50, 9, padding_id));
            cases.extend(Case::all_bags(lengths, 5, 8, padding_id));
        }
        let lengths: Vec<usize> = (0..300).map(|i| i * 7 % 23).collect();
        cases.extend(Case::all_bags(&lengths, 40, 19, padding_id));
        cases.extend(Case::all_bags(&lengths, 40, 16, padding_id));
    }
    // Padding first, last, alone, and where no table has a row.
    for padding_id in [1, -1, i64::MIN, i64::MAX] {
        for mut case in Case::all_bags(&[3, 2, 1, 3], 3, 8, Some(padding_id)) {
            case.what += ", bags of padding";
            case.ids = [[padding_id; 4], [2, padding_id, 0, 2]].concat();
            case.ids.push(padding_id);
            cases.push(case);
        }
    }
    cases
}

/// Ids outside the table that read another row: any i64, at every place of the ids that are read together.
pub fn unknown_ids() -> Vec<Case> {
    let mut cases = Vec::new();
    for id in [3, -1, i64::MAX, i64::MIN, 1 << 32, -(1 << 32) + 1] {
        for place in [0, 4, 7, 8] {
            let unknown = UnknownId::Row(place % 3);
            let mut ids = vec![0; 10];
            ids[place] = id;
            for width in [3, 8] {
                let what = format!("{id} at {place} reads {unknown:?}, width {width}");
                let gather = Case::gather(what.clone(), width, values(3 * width), ids.clone());
                cases.push(Case { unknown, ..gather });
                for case in Case::all_bags(&[9, 1], 3, width, Some(5)) {
                    cases.push(Case {
                        what: format!("{}, {what}", case.what),
                        ids: ids.clone(),
                        unknown,
                        ..case
                    });
                }
            }
        }
    }
    cases
}

/// Values that a maximum must not start from, that a sum must not lose, and that no comparison holds for.
pub fn special_values() -> Vec<Case> {
    let mut cases = Vec::new();
    let special =
        [-3.0, f32::NAN, -0.0, 0.0, f32::INFINITY, f32::NEG_INFINITY, 1e-40, -1e-7, 65_519.0, 3.3e38];
    for width in [1, 5, 8] {
        let table: Vec<f32> = (0..10 * width).map(|i| special[(i / width + i % width) % 10]).collect();
        let what = format!("special values, width {width}");
        cases.push(Case::gather(what.clone(), width, table.clone(), (0..10).collect()));
        for case in Case::all_bags(&[1, 1, 1, 1, 1, 1, 2, 2, 2, 9, 9], 10, width, None) {
            let ids = (0..30).map(|i| i * 7 % 10).collect();
            cases.push(Case { what: format!("{}, {what}", case.what), table: table.clone(), ids, ..case });
        }
    }
    cases
}

/// Bags of the given lengths with random ids and weights; every fourth id is 2.
pub fn jagged(lengths: &[usize], rows: usize) -> (Vec<usize>, Vec<i64>, Vec<f32>) {
    let mut random = Random::new(8);
    let mut offsets = vec![0];
    for len in lengths {
        offsets.push(offsets[offsets.len() - 1] + len);
    }
    let total = offsets[lengths.len()];
    let ids = (0..total)
        .map(|_| if random.below(4) == 0 { 2 } else { i64::try_from(random.below(rows)).unwrap() })
        .collect();
    (offsets, ids, random.values(total))
}
