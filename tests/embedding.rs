//! Embedding lookups and bags: one case list on the f64 oracle, the CPU and the CUDA device.
#![allow(clippy::panic, clippy::unwrap_used)] // a failed check ends the test

use half::{bf16, f16};
use mercer::cpu::OpError;
use mercer::cpu::embedding::{Bags, Pooling, Table, UnknownId, Values, bags, gather};
use mercer::cpu::simd::Isa;
use mercer::model::Precision;
use oracle::{F32_TOLERANCE, Random, assert_bits, assert_close, with_threads};
use proptest::prelude::*;

#[cfg(feature = "cuda")]
mod device;
mod oracle;

/// A table and what is looked up in it.
#[derive(Debug, Clone)]
struct Case {
    what: String,
    width: usize,
    /// `[rows, width]`, before it is rounded to a storage type.
    table: Vec<f32>,
    ids: Vec<i64>,
    bags: Option<CaseBags>,
    unknown: UnknownId,
}

#[derive(Debug, Clone)]
struct CaseBags {
    offsets: Vec<usize>,
    weights: Option<Vec<f32>>,
    pooling: Pooling,
    padding_id: Option<i64>,
}

/// A pooling, and whether it has weights.
const POOLINGS: [(Pooling, bool); 4] =
    [(Pooling::Sum, false), (Pooling::Sum, true), (Pooling::Mean, false), (Pooling::Max, false)];

impl Case {
    /// One id per entry.
    fn gather(what: impl Into<String>, width: usize, table: Vec<f32>, ids: Vec<i64>) -> Case {
        Case { what: what.into(), width, table, ids, bags: None, unknown: UnknownId::Refuse }
    }

    /// Bags of the given lengths with random ids and weights; every fourth id is 2.
    fn bags(
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
    fn all_bags(
        lengths: &[usize],
        rows: usize,
        width: usize,
        padding_id: Option<i64>,
    ) -> impl Iterator<Item = Case> {
        POOLINGS.map(|pooling| Case::bags(lengths, rows, width, pooling, padding_id)).into_iter()
    }

    fn rows(&self) -> usize {
        self.table.len() / self.width
    }

    /// Number of entries.
    fn items(&self) -> usize {
        self.bags.as_ref().map_or(self.ids.len(), |bags| bags.offsets.len() - 1)
    }

    fn shape(&self) -> [usize; 2] {
        [self.items(), self.width]
    }
}

fn random_ids(count: usize, rows: usize) -> Vec<i64> {
    let mut random = Random::new(2);
    (0..count).map(|_| i64::try_from(random.below(rows)).unwrap()).collect()
}

/// Lookups that are not refused.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let values = |len| Random::new(21).values(len);
    // Rows that do not fill a vector, of either element size; that fill some; that do so without filling a block.
    for width in (1..=9).chain([15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 100, 128, 256, 257, 300, 1024]) {
        cases.push(Case::gather(
            format!("gather, width {width}"),
            width,
            values(7 * width),
            vec![3, 0, 6, 6, 1, 2],
        ));
        cases.extend(Case::all_bags(&[2, 0, 5, 9], 6, width, None));
    }
    // Tasks of a batch, rows of a tile: the last must be there, and no others touched.
    for items in [0, 1, 2, 7, 63, 64, 65, 127, 129, 255, 256, 257, 5000] {
        cases.push(Case::gather(format!("gather, {items} ids"), 24, values(24_000), random_ids(items, 1000)));
        cases.extend(Case::all_bags(&vec![1; items.min(1000)], 40, 12, Some(2)).take(2));
    }
    for items in [65_535, 65_536] {
        cases.push(Case::gather(format!("gather, {items} ids"), 1, values(50), random_ids(items, 50)));
        cases.push(Case::bags(&vec![1; items], 40, 4, (Pooling::Sum, false), None));
    }
    // Bags that are empty, of one id, or hold only padding, at every place in the batch; ids read together.
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
    // Ids outside the table that read another row: any i64, at every place of the ids that are read together.
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
    // Values that a maximum must not start from, that a sum must not lose, and that no comparison holds for.
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

/// A case's table in each storage type.
struct Tables {
    rows: usize,
    width: usize,
    f32: Vec<f32>,
    f16: Vec<f16>,
    bf16: Vec<bf16>,
}

impl Tables {
    fn new(case: &Case) -> Tables {
        let f32 = case.table.clone();
        let f16 = f32.iter().map(|&x| f16::from_f32(x)).collect();
        let bf16 = f32.iter().map(|&x| bf16::from_f32(x)).collect();
        Tables { rows: case.rows(), width: case.width, f32, f16, bf16 }
    }

    fn get(&self, precision: Precision) -> Table<'_> {
        let values = match precision {
            Precision::F32 => Values::F32(&self.f32),
            Precision::F16 => Values::F16(&self.f16),
            Precision::Bf16 => Values::Bf16(&self.bf16),
        };
        Table::new(self.rows, self.width, values).unwrap()
    }
}

fn rounded(values: &[f32], precision: Precision) -> Vec<f32> {
    let round = |x: f32| match precision {
        Precision::F32 => x,
        Precision::F16 => f16::from_f32(x).to_f32(),
        Precision::Bf16 => bf16::from_f32(x).to_f32(),
    };
    values.iter().map(|&x| round(x)).collect()
}

/// What the CPU makes of a case.
fn on_cpu(case: &Case, table: &Table<'_>, isa: Isa) -> Result<Vec<f32>, OpError> {
    let mut output = vec![f32::NAN; case.items() * case.width];
    match &case.bags {
        None => gather(isa, table, &case.ids, case.unknown, &mut output)?,
        Some(CaseBags { offsets, weights, pooling, padding_id }) => {
            let input = Bags { offsets, ids: &case.ids, weights: weights.as_deref() };
            bags(isa, table, input, *pooling, *padding_id, case.unknown, &mut output)?;
        }
    }
    Ok(output)
}

/// The definition, from the table's `values`: the row of an id; the ids that count, then sum, mean or maximum per column
/// in f64.
fn defined(case: &Case, values: &[f32]) -> Vec<f64> {
    let value = |at: usize, column: usize| {
        let row = usize::try_from(case.ids[at]).ok().filter(|&row| row < case.rows());
        let row = row.unwrap_or_else(|| match case.unknown {
            UnknownId::Row(row) => row,
            UnknownId::Refuse => panic!("{}: id {} is refused", case.what, case.ids[at]),
        });
        f64::from(values[row * case.width + column])
    };
    let columns = 0..case.width;
    let Some(CaseBags { offsets, weights, pooling, padding_id }) = &case.bags else {
        return (0..case.ids.len())
            .flat_map(|at| columns.clone().map(move |column| (at, column)))
            .map(|(at, column)| value(at, column))
            .collect();
    };
    let mut output = Vec::new();
    for bag in offsets.windows(2) {
        let counted: Vec<usize> = (bag[0]..bag[1]).filter(|&at| *padding_id != Some(case.ids[at])).collect();
        for column in columns.clone() {
            let weight = |at: usize| weights.as_ref().map_or(1.0, |weights| f64::from(weights[at]));
            let sum: f64 = counted.iter().map(|&at| weight(at) * value(at, column)).sum();
            let mut values = counted.iter().map(|&at| value(at, column));
            output.push(match pooling {
                _ if counted.is_empty() => 0.0,
                Pooling::Sum => sum,
                Pooling::Mean => sum / counted.len() as f64,
                Pooling::Max if values.clone().any(f64::is_nan) => f64::NAN,
                Pooling::Max => values.by_ref().fold(f64::NEG_INFINITY, f64::max),
            });
        }
    }
    output
}

/// Bags of the given lengths with random ids and weights; every fourth id is 2.
fn jagged(lengths: &[usize], rows: usize) -> (Vec<usize>, Vec<i64>, Vec<f32>) {
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

/// A gather and a maximum are exact; sums that leave the range of f32 have no tolerance to keep.
fn check_on_cpu(case: &Case) {
    let tables = Tables::new(case);
    let exact = case.bags.as_ref().is_none_or(|bags| bags.pooling == Pooling::Max);
    for precision in Precision::ALL {
        let table = tables.get(precision);
        let what = format!("{} of {precision:?}", case.what);
        let found = on_cpu(case, &table, Isa::best()).unwrap();
        let expected = defined(case, &rounded(&case.table, precision));
        let tolerance = if exact { 0.0 } else { F32_TOLERANCE };
        if expected.iter().all(|x| !x.is_finite() || x.abs() < f64::from(f32::MAX)) {
            assert_close(&what, &found, &expected, &case.shape(), tolerance);
        }
        for isa in Isa::available() {
            let other = on_cpu(case, &table, isa).unwrap();
            assert_same(&format!("{what} {isa:?}"), &other, &found, &case.shape());
        }
    }
}

/// As [`assert_bits`], and a NaN equals any other.
#[track_caller]
fn assert_same(what: &str, found: &[f32], expected: &[f32], shape: &[usize]) {
    let one_nan = |x: &[f32]| x.iter().map(|x| if x.is_nan() { f32::NAN } else { *x }).collect::<Vec<f32>>();
    assert_bits(what, &one_nan(found), &one_nan(expected), shape);
}

#[test]
fn cpu_agrees_with_f64() {
    cases().iter().for_each(check_on_cpu);
}

/// Nothing to copy, and ids are still looked at.
#[test]
fn rows_without_values() {
    let table = Table::new(3, 0, Values::F32(&[])).unwrap();
    let input = Bags { offsets: &[0, 1, 2], ids: &[0, 2], weights: None };
    let run = |input: Bags<'_>| {
        gather(Isa::best(), &table, input.ids, UnknownId::Refuse, &mut [])?;
        bags(Isa::best(), &table, input, Pooling::Mean, None, UnknownId::Refuse, &mut [])
    };
    assert_eq!(run(input), Ok(()));
    assert!(matches!(run(Bags { ids: &[0, 3], ..input }), Err(OpError::UnknownId { row: 1, .. })));
}

/// Lookups long enough for several tasks.
#[test]
fn gather_on_any_number_of_threads() {
    let case = Case::gather("gather", 24, Random::new(21).values(24_000), random_ids(5000, 1000));
    for threads in [1, 2, 5] {
        with_threads(threads, || check_on_cpu(&case));
    }
}

/// Every f16 and bf16 value, subnormal, infinite and NaN too, is read as itself.
#[test]
fn every_half_value() {
    let bits: Vec<u16> = (0..=u16::MAX).collect();
    let ids: Vec<i64> = (0..256).collect();
    let mut output = vec![0.0; 1 << 16];
    let same = |found: f32, expected: f32| found == expected || (found.is_nan() && expected.is_nan());

    for isa in Isa::available() {
        let values: Vec<f16> = bits.iter().map(|&b| f16::from_bits(b)).collect();
        let table = Table::new(256, 256, Values::F16(&values)).unwrap();
        gather(isa, &table, &ids, UnknownId::Refuse, &mut output).unwrap();
        let bad = (0..1 << 16).find(|&at| !same(output[at], values[at].to_f32()));
        assert_eq!(bad, None, "bits of an f16 on {isa:?}");

        let values: Vec<bf16> = bits.iter().map(|&b| bf16::from_bits(b)).collect();
        let table = Table::new(256, 256, Values::Bf16(&values)).unwrap();
        gather(isa, &table, &ids, UnknownId::Refuse, &mut output).unwrap();
        let bad = (0..1 << 16).find(|&at| !same(output[at], values[at].to_f32()));
        assert_eq!(bad, None, "bits of a bf16 on {isa:?}");
    }
}

#[test]
fn only_padding_gives_zeros() {
    let table = [9.0f32; 6];
    let table = Table::new(3, 2, Values::F32(&table)).unwrap();
    for pooling in [Pooling::Sum, Pooling::Mean, Pooling::Max] {
        let mut output = [f32::NAN; 4];
        let input = Bags { offsets: &[0, 3, 5], ids: &[1, 1, 1, 1, 2], weights: None };
        bags(Isa::best(), &table, input, pooling, Some(1), UnknownId::Refuse, &mut output).unwrap();
        assert_eq!(output, [0.0, 0.0, 9.0, 9.0], "{pooling:?}");
    }
}

/// All values negative: a maximum does not start from 0. NaN is kept.
#[test]
fn maximum() {
    let table = [-3.0f32, -4.0, -1.0, -8.0, f32::NAN, -1.0];
    let table = Table::new(3, 2, Values::F32(&table)).unwrap();
    let mut output = [0.0; 6];
    let input = Bags { offsets: &[0, 2, 4, 6], ids: &[0, 1, 2, 0, 1, 2], weights: None };
    bags(Isa::best(), &table, input, Pooling::Max, None, UnknownId::Refuse, &mut output).unwrap();
    assert_eq!(output[..2], [-1.0, -4.0]);
    assert!(output[2].is_nan() && output[4].is_nan(), "{output:?}");
    assert_eq!([output[3], output[5]], [-1.0, -1.0]);
}

/// A bag has the same bits alone, in a batch, and on any number of threads.
#[test]
fn batch_and_thread_invariance() {
    let lengths: Vec<usize> = (0..300).map(|i| i * 7 % 23).collect();
    let (offsets, ids, weights) = jagged(&lengths, 40);
    let case = Case::gather("table", 19, Random::new(21).values(40 * 19), Vec::new());
    let tables = Tables::new(&case);
    for precision in Precision::ALL {
        let table = tables.get(precision);
        let run = |input: Bags<'_>| {
            let mut output = vec![f32::NAN; (input.offsets.len() - 1) * 19];
            bags(Isa::best(), &table, input, Pooling::Sum, Some(2), UnknownId::Refuse, &mut output).unwrap();
            output
        };
        let all = Bags { offsets: &offsets, ids: &ids, weights: Some(&weights) };
        let together = with_threads(1, || run(all));
        for threads in [2, 5] {
            assert_bits("threads", &with_threads(threads, || run(all)), &together, &[300, 19]);
        }
        let alone: Vec<f32> = offsets
            .windows(2)
            .flat_map(|bag| {
                let span = bag[0]..bag[1];
                let offsets = [0, span.len()];
                run(Bags { offsets: &offsets, ids: &ids[span.clone()], weights: Some(&weights[span]) })
            })
            .collect();
        assert_bits("alone", &alone, &together, &[300, 19]);
    }
}

/// Ids outside the table: named with their place, or mapped to the row that the caller names; the output is not touched
/// by a refused call.
#[test]
fn unknown_ids() {
    let values = [0.0f32, 1.0, 2.0, 3.0, 4.0, 5.0];
    let table = Table::new(3, 2, Values::F32(&values)).unwrap();
    for id in [3, -1, i64::MAX, i64::MIN] {
        let mut output = [7.0; 6];
        let error = gather(Isa::best(), &table, &[0, 1, id], UnknownId::Refuse, &mut output).unwrap_err();
        assert_eq!(error, OpError::UnknownId { row: 2, position: 0, id, rows: 3 });
        assert_eq!(output, [7.0; 6]);
        gather(Isa::best(), &table, &[0, 1, id], UnknownId::Row(2), &mut output).unwrap();
        assert_eq!(output, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);

        let mut output = [7.0; 4];
        let input = Bags { offsets: &[0, 1, 4], ids: &[0, 1, 1, id], weights: None };
        let error = bags(Isa::best(), &table, input, Pooling::Mean, None, UnknownId::Refuse, &mut output)
            .unwrap_err();
        assert_eq!(error, OpError::UnknownId { row: 1, position: 2, id, rows: 3 });
        assert_eq!(error.to_string(), format!("row 1, position 2: id {id} in a table of 3 rows"));
        assert_eq!(output, [7.0; 4]);
        bags(Isa::best(), &table, input, Pooling::Sum, None, UnknownId::Row(2), &mut output).unwrap();
        assert_eq!(output, [0.0, 1.0, 8.0, 11.0]);
        // Padding may be any id: it is not looked up.
        bags(Isa::best(), &table, input, Pooling::Sum, Some(id), UnknownId::Refuse, &mut output).unwrap();
        assert_eq!(output, [0.0, 1.0, 4.0, 6.0]);
    }
    let refused = gather(Isa::best(), &table, &[0], UnknownId::Row(3), &mut [0.0; 2]);
    assert_eq!(refused, Err(OpError::DefaultRow { default: 3, rows: 3 }));
    let empty = Table::new(0, 2, Values::F32(&[])).unwrap();
    assert!(matches!(
        gather(Isa::best(), &empty, &[0], UnknownId::Refuse, &mut [0.0; 2]),
        Err(OpError::UnknownId { .. })
    ));
}

/// A bag of more ids than f32 counts one by one still has a mean.
#[test]
fn long_means_are_divided_by_the_number_of_ids() {
    const COUNT: usize = (1 << 24) + 4;
    let table = Table::new(2, 1, Values::F32(&[0.0, COUNT as f32])).unwrap();
    let mut ids = vec![0; COUNT];
    ids[7] = 1;
    let mut mean = [0.0];
    let input = Bags { offsets: &[0, COUNT], ids: &ids, weights: None };
    bags(Isa::best(), &table, input, Pooling::Mean, None, UnknownId::Refuse, &mut mean).unwrap();
    assert_eq!(mean, [1.0]);
}

/// Every way the arguments can disagree.
#[test]
fn refusals() {
    let values = [0.0f32; 6];
    assert!(matches!(Table::new(3, 3, Values::F32(&values)), Err(OpError::Length { .. })));
    assert!(matches!(Table::new(usize::MAX, 2, Values::F32(&values)), Err(OpError::Overflow { .. })));
    let table = Table::new(3, 2, Values::F32(&values)).unwrap();
    let length = gather(Isa::best(), &table, &[0, 1], UnknownId::Refuse, &mut [0.0; 3]);
    assert!(matches!(length, Err(OpError::Length { .. })));
    let run = |offsets: &[usize], weights: Option<&[f32]>, pooling| {
        let input = Bags { offsets, ids: &[0, 1, 2], weights };
        bags(Isa::best(), &table, input, pooling, None, UnknownId::Refuse, &mut [0.0; 4])
            .unwrap_err()
            .to_string()
    };
    assert_eq!(run(&[], None, Pooling::Sum), "bag offsets: 0 values, expected 1");
    assert_eq!(run(&[1, 2, 3], None, Pooling::Sum), "offset 0 is 1, which is outside 0..=0");
    assert_eq!(run(&[0, 4, 3], None, Pooling::Sum), "offset 1 is 4, which is outside 0..=3");
    assert_eq!(run(&[0, 1, 2], None, Pooling::Sum), "offset 2 is 2, which is outside 3..=3");
    assert_eq!(run(&[0, 2, 1, 3], None, Pooling::Sum), "offset 2 is 1, which is outside 2..=3");
    assert_eq!(run(&[0, 3], None, Pooling::Sum), "embedding output: 4 values, expected 2");
    assert_eq!(run(&[0, 1, 3], Some(&[1.0]), Pooling::Sum), "bag weights: 1 values, expected 3");
    assert_eq!(run(&[0, 1, 3], Some(&[1.0; 3]), Pooling::Mean), "weights are taken by sum pooling only");
    assert_eq!(run(&[0, 1, 3], Some(&[1.0; 3]), Pooling::Max), "weights are taken by sum pooling only");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bags(lengths in prop::collection::vec(0usize..40, 0..12), rows in 3usize..30, width in 1usize..70) {
        for padding_id in [None, Some(2), Some(-1)] {
            Case::all_bags(&lengths, rows, width, padding_id).for_each(|case| check_on_cpu(&case));
        }
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    use mercer::cuda::embedding::{self, Lookup, first_unknown};
    use mercer::cuda::{CudaError, Rows, Slice, Stream, Tensor};

    use super::*;

    /// The byte of memory that nothing may write.
    const POISON: u8 = 0xA5;

    /// How a case lies in the memory of a device.
    #[derive(Clone, Copy)]
    struct Layout {
        table: Precision,
        output: Precision,
        /// Elements before the table and the output.
        shift: usize,
        /// Entries that there is room for behind those there are.
        spare: usize,
    }

    const PLAIN: Layout = Layout { table: Precision::F32, output: Precision::F32, shift: 0, spare: 0 };

    /// Storage of table and output.
    fn layouts(shift: usize, spare: usize) -> Vec<Layout> {
        let all = Precision::ALL;
        all.iter().flat_map(|&table| all.map(|output| Layout { table, output, shift, spare })).collect()
    }

    /// A lookup, and the memory around its output.
    struct Job<'a> {
        case: &'a Case,
        layout: Layout,
        lookup: Lookup,
        memory: Tensor,
    }

    impl<'a> Job<'a> {
        fn new(stream: &Stream, case: &'a Case, layout: Layout, stage: u16) -> Job<'a> {
            let Layout { shift, spare, .. } = layout;
            let most = case.items() + spare;
            let table = [vec![f32::NAN; shift], case.table.clone()].concat();
            let table = Tensor::upload(stream, "table", layout.table, &table).unwrap();
            let values = shift + most * case.width + shift;
            let bytes = Slice::<u8>::new(stream.device(), "output", values * layout.output.bytes()).unwrap();
            stream.fill(&bytes, POISON).unwrap();
            let memory = Tensor::over(bytes, layout.output).unwrap();
            let count = [u32::try_from(case.items()).unwrap()];
            let mut ids = case.ids.clone();
            let bags = case.bags.as_ref().map(|bags| {
                let mut offsets: Vec<u64> = bags.offsets.iter().map(|&offset| offset as u64).collect();
                offsets.resize(most + 1, u64::MAX);
                embedding::Bags {
                    offsets: stream.upload("offsets", &offsets).unwrap(),
                    weights: bags.weights.as_ref().map(|weights| stream.upload("weights", weights).unwrap()),
                    pooling: bags.pooling,
                    padding_id: bags.padding_id,
                }
            });
            if bags.is_none() {
                ids.resize(most, i64::MIN);
            }
            let lookup = Lookup {
                table: table.part(shift..shift + case.table.len()).unwrap(),
                table_rows: case.rows(),
                width: case.width,
                items: Rows::new(most, stream.upload("count", &count).unwrap()).unwrap(),
                ids: stream.upload("ids", &ids).unwrap(),
                bags,
                unknown: case.unknown,
                output: memory.part(shift..shift + most * case.width).unwrap(),
                stage,
            };
            Job { case, layout, lookup, memory }
        }

        fn what(&self) -> String {
            let Layout { table, output, shift, spare } = self.layout;
            format!("{}, {table:?} to {output:?}, shifted by {shift}, {spare} spare", self.case.what)
        }

        /// The output, `[entries, width]`; nothing else has been written.
        fn output(&self, stream: &Stream) -> Vec<f32> {
            let values = self.memory.download(stream).unwrap();
            let poison = match self.layout.output {
                Precision::F32 => f32::from_bits(0xA5A5_A5A5),
                Precision::F16 => f16::from_bits(0xA5A5).to_f32(),
                Precision::Bf16 => bf16::from_bits(0xA5A5).to_f32(),
            };
            let written = self.layout.shift..self.layout.shift + self.case.items() * self.case.width;
            let bad = (0..values.len()).find(|at| !written.contains(at) && values[*at] != poison);
            assert_eq!(bad, None, "{}: written outside {written:?}", self.what());
            values[written].to_vec()
        }

        /// The output is what the CPU makes of the case.
        fn check(&self, stream: &Stream) {
            let table = Tables::new(self.case);
            let expected = on_cpu(self.case, &table.get(self.layout.table), Isa::best()).unwrap();
            let expected = rounded(&expected, self.layout.output);
            assert_same(&self.what(), &self.output(stream), &expected, &self.case.shape());
        }
    }

    fn run(stream: &Stream, jobs: &[Job<'_>]) -> u64 {
        let fault = stream.upload("fault", &[u64::MAX]).unwrap();
        let lookups: Vec<Lookup> = jobs.iter().map(|job| job.lookup.clone()).collect();
        embedding::enqueue(stream, &lookups, &fault).unwrap();
        stream.download(&fault).unwrap()[0]
    }

    fn fault_of(stage: u16, row: u64) -> u64 {
        u64::from(stage) << 48 | row
    }

    /// Every case in turn, its table and output in every type: nine lookups of a launch.
    #[test]
    fn device_equals_cpu() {
        let Some(device) = device::device() else { return };
        let stream = device.stream().unwrap();
        for case in cases() {
            let jobs: Vec<Job<'_>> =
                layouts(0, 0).into_iter().map(|layout| Job::new(&stream, &case, layout, 3)).collect();
            assert_eq!(run(&stream, &jobs), u64::MAX, "{}", case.what);
            jobs.iter().for_each(|job| job.check(&stream));
        }
    }

    /// Tables and outputs that start anywhere: 16-byte access must be left alone where it does not fit.
    #[test]
    fn memory_that_is_not_aligned() {
        let Some(device) = device::device() else { return };
        let stream = device.stream().unwrap();
        for width in [4, 8, 9, 24] {
            let mut list =
                vec![Case::gather("gather", width, Random::new(4).values(7 * width), random_ids(40, 7))];
            list.extend(Case::all_bags(&[3, 0, 12], 6, width, None));
            for shift in [1, 2, 3, 4, 7, 8, 9] {
                for case in &list {
                    let jobs: Vec<Job<'_>> = layouts(shift, 0)
                        .into_iter()
                        .map(|layout| Job::new(&stream, case, layout, 0))
                        .collect();
                    assert_eq!(run(&stream, &jobs), u64::MAX);
                    jobs.iter().for_each(|job| job.check(&stream));
                }
            }
        }
    }

    /// Fewer entries than there is room for: what lies behind them is not looked at, and their outputs not touched.
    #[test]
    fn entries_behind_the_count_are_left_alone() {
        let Some(device) = device::device() else { return };
        let stream = device.stream().unwrap();
        for items in [0, 1, 5, 300] {
            for width in [5, 8] {
                let mut list = vec![Case::gather(
                    "gather",
                    width,
                    Random::new(4).values(9 * width),
                    random_ids(items, 9),
                )];
                list.extend(Case::all_bags(&vec![2; items], 9, width, Some(2)));
                for case in &list {
                    for spare in [1, 700] {
                        let jobs: Vec<Job<'_>> = layouts(1, spare)
                            .into_iter()
                            .map(|layout| Job::new(&stream, case, layout, 0))
                            .collect();
                        assert_eq!(run(&stream, &jobs), u64::MAX);
                        jobs.iter().for_each(|job| job.check(&stream));
                    }
                }
            }
        }
    }

    /// Tables of all types, widths and ways to pool side by side, more of them than a launch takes; some without work.
    #[test]
    fn many_tables() {
        let Some(device) = device::device() else { return };
        let stream = device.stream().unwrap();
        let cases: Vec<Case> = cases().into_iter().filter(|case| case.items() < 400).collect();
        let mut random = Random::new(6);
        for count in [0, 1, 2, 15, 16, 17, 33, 100] {
            let jobs: Vec<Job<'_>> = (0..count)
                .map(|stage| {
                    let case = &cases[random.below(cases.len())];
                    let layout = layouts(random.below(2), random.below(2))[random.below(9)];
                    Job::new(&stream, case, layout, u16::try_from(stage).unwrap())
                })
                .collect();
            assert_eq!(run(&stream, &jobs), u64::MAX, "{count} lookups");
            jobs.iter().for_each(|job| job.check(&stream));
        }
    }

    /// The least entry with an id outside the table is named, whatever runs first, wherever the id is in it, and the
    /// entries without one are right.
    #[test]
    fn refused_ids() {
        let Some(device) = device::device() else { return };
        let stream = device.stream().unwrap();
        for id in [3, -1, i64::MAX, i64::MIN, 1 << 32, -(1 << 32) + 1] {
            for width in [3, 8, 260] {
                let table = Random::new(4).values(3 * width);
                for bad in [&[0][..], &[39], &[17, 38], &[0, 1, 2, 39]] {
                    let mut ids = random_ids(40, 3);
                    bad.iter().for_each(|&at| ids[at] = id);
                    let mut list = vec![Case::gather("refused", width, table.clone(), ids.clone())];
                    for case in Case::all_bags(&[1; 40], 3, width, Some(2)) {
                        list.push(Case { ids: ids.clone(), ..case });
                    }
                    check_refused(&stream, &list, |at| bad.contains(&at));
                }
                for place in 0..19 {
                    let list: Vec<Case> = Case::all_bags(&[4, 0, 19, 3], 3, width, Some(5))
                        .map(|case| {
                            let mut ids = vec![1; 26];
                            ids[4 + place] = id;
                            Case { ids, ..case }
                        })
                        .collect();
                    check_refused(&stream, &list, |at| at == 2);
                    assert_eq!(first_unknown(&list[0].ids[4..23], 3, Some(5)), Some((place, id)));
                }
            }
        }
    }

    fn check_refused(stream: &Stream, list: &[Case], refused: impl Fn(usize) -> bool) {
        for (stage, case) in (5..).zip(list) {
            let job = Job::new(stream, case, Layout { shift: 4, spare: 3, ..PLAIN }, stage);
            let first = (0..case.items()).find(|&at| refused(at)).unwrap();
            assert_eq!(
                run(stream, std::slice::from_ref(&job)),
                fault_of(stage, first as u64),
                "{}",
                job.what()
            );
            let output = job.output(stream);
            let known = Case { unknown: UnknownId::Row(0), ..case.clone() };
            let expected = on_cpu(&known, &Tables::new(case).get(Precision::F32), Isa::best()).unwrap();
            for at in (0..case.items()).filter(|&at| !refused(at)) {
                let row = at * case.width..(at + 1) * case.width;
                assert_same(
                    &format!("{}, row {at}", job.what()),
                    &output[row.clone()],
                    &expected[row],
                    &[case.width],
                );
            }
        }
    }

    /// Of several lookups with refused ids, the least stage; a table without rows refuses every id and is not read.
    #[test]
    fn the_least_stage_is_reported() {
        let Some(device) = device::device() else { return };
        let stream = device.stream().unwrap();
        let good = Case::gather("good", 4, vec![1.0; 8], vec![0, 1]);
        let bad = Case::gather("bad", 4, vec![1.0; 8], vec![0, 1, 2]);
        let none = Case::gather("no rows", 4, Vec::new(), vec![0, 1]);
        let jobs = [(&good, 1), (&bad, 9), (&bad, 4), (&none, 7)]
            .map(|(case, stage)| Job::new(&stream, case, PLAIN, stage));
        assert_eq!(run(&stream, &jobs), fault_of(4, 2));
        assert_eq!(run(&stream, &jobs[3..]), fault_of(7, 0));
        jobs[0].check(&stream);
    }

    /// Offsets and counts that no caller should send read and write nothing out of bounds.
    #[test]
    fn wrong_offsets_stay_in_bounds() {
        let Some(device) = device::device() else { return };
        let stream = device.stream().unwrap();
        let case = Case::bags(&[2, 3], 3, 8, (Pooling::Sum, true), None);
        for offsets in [[0, 5, u64::MAX], [u64::MAX, 0, 5], [9, 7, 1 << 40], [5, 5, 6], [5, 0, 5]] {
            let job = Job::new(&stream, &case, Layout { shift: 4, ..PLAIN }, 0);
            stream.upload_to(&offsets, &job.lookup.bags.as_ref().unwrap().offsets).unwrap();
            run(&stream, std::slice::from_ref(&job));
            job.output(&stream);
        }
        let mut job = Job::new(&stream, &case, Layout { shift: 4, ..PLAIN }, 0);
        job.lookup.items = Rows::new(2, stream.upload("count", &[u32::MAX]).unwrap()).unwrap();
        run(&stream, std::slice::from_ref(&job));
        job.check(&stream);
    }

    /// A recorded graph serves other ids, weights and numbers of entries.
    #[test]
    fn replayed_with_other_ids() {
        let Some(device) = device::device() else { return };
        let stream = device.stream().unwrap();
        const MOST: usize = 40;
        let table = Random::new(21).values(9 * 8);
        let whole = Case::gather("gather", 8, table.clone(), random_ids(MOST, 9));
        let full = Case::bags(&[3; MOST], 9, 8, (Pooling::Sum, true), Some(2));
        let (one, two) = (Job::new(&stream, &whole, PLAIN, 0), Job::new(&stream, &full, PLAIN, 1));
        let count = stream.upload("count", &[0u32]).unwrap();
        let fault = stream.upload("fault", &[u64::MAX]).unwrap();
        let mut lookups = [one.lookup, two.lookup];
        for lookup in &mut lookups {
            lookup.items = Rows::new(MOST, count.clone()).unwrap();
        }
        let graph = stream.record(|stream| embedding::enqueue(stream, &lookups, &fault)).unwrap();
        for items in [MOST, 1, 0, 17] {
            let lengths: Vec<usize> = (0..items).map(|i| (i + items) % 4).collect();
            // Weights of 1 stand for none.
            let mut pooled = Case::bags(&lengths, 9, 8, (Pooling::Sum, items != 17), Some(2));
            let gathered = Case { ids: random_ids(items + 1, 9)[1..].to_vec(), ..whole.clone() };
            stream.upload_to(&[u32::try_from(items).unwrap()], &count).unwrap();
            stream.upload_to(&gathered.ids, &lookups[0].ids.part(0..items).unwrap()).unwrap();
            let bags = lookups[1].bags.clone().unwrap();
            let used = 0..pooled.ids.len();
            stream.upload_to(&pooled.ids, &lookups[1].ids.part(used.clone()).unwrap()).unwrap();
            let case_bags = pooled.bags.as_mut().unwrap();
            let offsets: Vec<u64> = case_bags.offsets.iter().map(|&offset| offset as u64).collect();
            stream.upload_to(&offsets, &bags.offsets.part(0..items + 1).unwrap()).unwrap();
            let weights = case_bags.weights.clone().unwrap_or(vec![1.0; used.len()]);
            stream.upload_to(&weights, &bags.weights.unwrap().part(used).unwrap()).unwrap();
            for lookup in &lookups {
                let bytes = lookup.output.as_f32().unwrap();
                stream.fill(&bytes, POISON).unwrap();
            }
            graph.launch().unwrap();
            for (lookup, case) in lookups.iter().zip([&gathered, &pooled]) {
                let found = lookup.output.download(&stream).unwrap();
                let (found, rest) = found.split_at(items * 8);
                let expected = on_cpu(case, &Tables::new(case).get(Precision::F32), Isa::best()).unwrap();
                assert_bits(&format!("{}, replayed", case.what), found, &expected, &[items, 8]);
                assert!(rest.iter().all(|x| x.to_bits() == 0xA5A5_A5A5), "{}", case.what);
            }
        }
        assert_eq!(stream.download(&fault).unwrap()[0], u64::MAX);
    }

    /// Every way the arguments can disagree; nothing is launched.
    #[test]
    fn refusals() {
        let Some(device) = device::device() else { return };
        let stream = device.stream().unwrap();
        let gathered = Case::gather("gather", 4, vec![1.0; 12], vec![0, 1]);
        let pooled = Case::bags(&[1, 2], 3, 4, (Pooling::Sum, true), None);
        let refused = |case: &Case, change: &dyn Fn(&mut Lookup)| {
            let (good, mut bad) = (Job::new(&stream, case, PLAIN, 0), Job::new(&stream, case, PLAIN, 0));
            change(&mut bad.lookup);
            let fault = stream.upload("fault", &[u64::MAX]).unwrap();
            let error = embedding::enqueue(&stream, &[good.lookup.clone(), bad.lookup], &fault).unwrap_err();
            let untouched = good.memory.download(&stream).unwrap();
            assert!(untouched.iter().all(|x| x.to_bits() == 0xA5A5_A5A5), "launched in spite of {error}");
            error.to_string()
        };
        fn bags(lookup: &mut Lookup) -> &mut embedding::Bags {
            lookup.bags.as_mut().unwrap()
        }
        for case in [&gathered, &pooled] {
            assert_eq!(
                refused(case, &|l| l.table_rows = 4),
                "embedding table has 12 elements, the shape [4, 4] needs 16"
            );
            assert_eq!(
                refused(case, &|l| l.width = 0),
                "embedding width 0 is beyond the limit of 2147483648"
            );
            assert!(
                refused(case, &|l| l.table_rows = usize::MAX).starts_with("embedding table has 12 elements")
            );
            assert_eq!(
                refused(case, &|l| l.output = l.output.part(0..7).unwrap()),
                "embedding output has 7 elements, the shape [2, 4] needs 8"
            );
            assert_eq!(
                refused(case, &|l| l.unknown = UnknownId::Row(3)),
                "default row 3 is beyond the limit of 2"
            );
        }
        assert_eq!(
            refused(&gathered, &|l| l.ids = l.ids.part(0..1).unwrap()),
            "ids has 1 elements, the shape [2] needs 2"
        );
        assert_eq!(
            refused(&pooled, &|l| bags(l).offsets = bags(l).offsets.part(0..2).unwrap()),
            "bag offsets has 2 elements, the shape [3] needs 3"
        );
        assert_eq!(
            refused(&pooled, &|l| l.ids = l.ids.part(0..2).unwrap()),
            "bag weights, which only sums take, has 3 elements, the shape [2] needs 2"
        );
        for pooling in [Pooling::Mean, Pooling::Max] {
            assert_eq!(
                refused(&pooled, &|l| bags(l).pooling = pooling),
                "bag weights, which only sums take, has 3 elements, the shape [0] needs 0"
            );
        }
        let fault = stream.upload("fault", &[0u64; 2]).unwrap();
        assert!(matches!(embedding::enqueue(&stream, &[], &fault), Err(CudaError::Length { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bags_on_the_device(
            lengths in prop::collection::vec(0usize..40, 0..12),
            rows in 3usize..30,
            width in 1usize..70,
            shift in 0usize..9,
        ) {
            let Some(device) = device::device() else { return Ok(()) };
            let stream = device.stream().unwrap();
            for padding_id in [None, Some(2)] {
                for case in Case::all_bags(&lengths, rows, width, padding_id) {
                    let jobs: Vec<Job<'_>> =
                        layouts(shift, 1).into_iter().map(|layout| Job::new(&stream, &case, layout, 0)).collect();
                    assert_eq!(run(&stream, &jobs), u64::MAX);
                    jobs.iter().for_each(|job| job.check(&stream));
                }
            }
        }
    }
}
