//! Embedding lookups and bags against their definition.
#![allow(clippy::panic, clippy::unwrap_used)] // a failed check ends the test

use half::{bf16, f16};
use mercer::cpu::OpError;
use mercer::cpu::embedding::{Bags, Pooling, Table, UnknownId, Values, bags, gather};
use mercer::cpu::simd::Isa;
use oracle::{F32_TOLERANCE, Random, assert_bits, assert_close, with_threads};
use proptest::prelude::*;

mod oracle;

/// One table in each storage type, and the values that each stands for.
struct Tables {
    rows: usize,
    width: usize,
    f32: Vec<f32>,
    f16: Vec<f16>,
    bf16: Vec<bf16>,
}

impl Tables {
    fn new(rows: usize, width: usize) -> Tables {
        let f32 = Random::new(21).values(rows * width);
        let f16 = f32.iter().map(|&x| f16::from_f32(x)).collect();
        let bf16 = f32.iter().map(|&x| bf16::from_f32(x)).collect();
        Tables { rows, width, f32, f16, bf16 }
    }

    fn all(&self) -> [(Table<'_>, Vec<f32>); 3] {
        let table = |values| Table::new(self.rows, self.width, values).unwrap();
        [
            (table(Values::F32(&self.f32)), self.f32.clone()),
            (table(Values::F16(&self.f16)), self.f16.iter().map(|x| x.to_f32()).collect()),
            (table(Values::Bf16(&self.bf16)), self.bf16.iter().map(|x| x.to_f32()).collect()),
        ]
    }
}

/// The definition: the ids that count, then sum, mean or maximum per column in f64.
fn pooled(
    values: &[f32],
    width: usize,
    bags: &Bags<'_>,
    pooling: Pooling,
    padding: Option<i64>,
    row: impl Fn(i64) -> usize,
) -> Vec<f64> {
    let mut output = Vec::new();
    for bag in bags.offsets.windows(2) {
        let counted: Vec<usize> = (bag[0]..bag[1]).filter(|&at| padding != Some(bags.ids[at])).collect();
        for column in 0..width {
            let value = |at: usize| f64::from(values[row(bags.ids[at]) * width + column]);
            let weight = |at: usize| bags.weights.map_or(1.0, |weights| f64::from(weights[at]));
            let sum: f64 = counted.iter().map(|&at| weight(at) * value(at)).sum();
            output.push(match pooling {
                _ if counted.is_empty() => 0.0,
                Pooling::Sum => sum,
                Pooling::Mean => sum / counted.len() as f64,
                Pooling::Max => counted.iter().map(|&at| value(at)).fold(f64::NEG_INFINITY, f64::max),
            });
        }
    }
    output
}

fn as_row(id: i64) -> usize {
    usize::try_from(id).unwrap()
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

fn check_bags(lengths: &[usize], rows: usize, width: usize) {
    let (offsets, ids, weights) = jagged(lengths, rows);
    for (table, values) in Tables::new(rows, width).all() {
        for padding in [None, Some(2), Some(-1)] {
            for (pooling, weights) in [
                (Pooling::Sum, None),
                (Pooling::Sum, Some(&weights[..])),
                (Pooling::Mean, None),
                (Pooling::Max, None),
            ] {
                let input = Bags { offsets: &offsets, ids: &ids, weights };
                let mut output = vec![f32::NAN; lengths.len() * width];
                bags(Isa::best(), &table, input, pooling, padding, UnknownId::Refuse, &mut output).unwrap();
                let expected = pooled(&values, width, &input, pooling, padding, as_row);
                let tolerance = if pooling == Pooling::Max { 0.0 } else { F32_TOLERANCE };
                let what = format!("{pooling:?}, padding {padding:?}, width {width}, bags {lengths:?}");
                assert_close(&what, &output, &expected, &[lengths.len(), width], tolerance);
                for isa in Isa::available() {
                    let mut other = vec![f32::NAN; output.len()];
                    bags(isa, &table, input, pooling, padding, UnknownId::Refuse, &mut other).unwrap();
                    assert_bits(&format!("{what} {isa:?}"), &other, &output, &[lengths.len(), width]);
                }
            }
        }
    }
}

/// Widths that do not fill a vector; rows are copied exactly.
#[test]
fn gather_widths() {
    for width in (0..=9).chain(15..=17).chain(31..=33).chain([64, 300]) {
        let ids = [3, 0, 6, 6, 1, 2];
        for (table, values) in Tables::new(7, width).all() {
            let expected: Vec<f32> =
                ids.iter().flat_map(|&id| values[as_row(id) * width..][..width].to_vec()).collect();
            for isa in Isa::available() {
                let mut output = vec![f32::NAN; ids.len() * width];
                gather(isa, &table, &ids, UnknownId::Refuse, &mut output).unwrap();
                assert_bits("gather", &output, &expected, &[ids.len(), width]);
            }
        }
    }
}

/// Lookups long enough for several tasks.
#[test]
fn gather_many() {
    let mut random = Random::new(2);
    let ids: Vec<i64> = (0..5000).map(|_| i64::try_from(random.below(1000)).unwrap()).collect();
    for (table, values) in Tables::new(1000, 24).all() {
        for threads in [1, 2, 5] {
            let mut output = vec![f32::NAN; ids.len() * 24];
            with_threads(threads, || gather(Isa::best(), &table, &ids, UnknownId::Refuse, &mut output))
                .unwrap();
            let expected: Vec<f32> =
                ids.iter().flat_map(|&id| values[as_row(id) * 24..][..24].to_vec()).collect();
            assert_bits("gather", &output, &expected, &[ids.len(), 24]);
        }
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

/// Bags that are empty, of one id, or hold only padding, at every place in the batch.
#[test]
fn bag_lengths() {
    check_bags(&[], 5, 4);
    check_bags(&[0], 5, 4);
    check_bags(&[0, 0, 0], 5, 4);
    check_bags(&[1], 5, 4);
    check_bags(&[0, 3, 0, 0, 7, 1, 0], 5, 4);
    check_bags(&[200, 0, 31], 50, 9);
    for width in (0..=9).chain(15..=17).chain(31..=33).chain([47, 63, 64, 65, 300]) {
        check_bags(&[2, 0, 5], 6, width);
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
    let tables = Tables::new(40, 19);
    for (table, _) in tables.all() {
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
    fn any_bags(lengths in prop::collection::vec(0usize..40, 0..12), rows in 3usize..30, width in 0usize..70) {
        check_bags(&lengths, rows, width);
    }
}
