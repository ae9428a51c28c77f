//! The cases on the CPU, and what its functions refuse.

use mercer::cpu::embedding::{Pooling, UnknownId};
use proptest::prelude::*;

use super::cases::{Case, CaseBags, cases, jagged, random_ids};
use super::oracle::{F32_TOLERANCE, Random, assert_close, with_threads};
use super::*;

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
