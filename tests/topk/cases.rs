//! Scans, grouped by the failure that they hunt.

use mercer::cpu::simd::Isa;
use mercer::cpu::topk::scan;
use proptest::prelude::*;

use super::{DIMS, check_scan, coarse, shuffled_ids, uniform};

/// Every tail of the vector length, with ids out of row order.
#[test]
fn every_length() {
    for dim in DIMS {
        let n = if dim > 1000 { 60 } else { 300 };
        check_scan("lengths", dim, &uniform(1, 3 * dim), &uniform(2, n * dim), &shuffled_ids(n), 10);
    }
}

/// k of one, k at the number of rows and past it, at the borders of the collection, and the largest k.
#[test]
fn every_k() {
    let (dim, n) = (5, 3000);
    let (queries, rows, ids) = (uniform(1, 2 * dim), uniform(2, n * dim), shuffled_ids(n));
    for k in [1, 2, 10, 255, 256, 257, 1499, 2999, 3000, 3001, 65_536] {
        check_scan("k", dim, &queries, &rows, &ids, k);
    }
    let n = 140_000; // more than a collection of the largest k holds
    check_scan("largest k", 1, &[1.0], &coarse(3, n), &shuffled_ids(n), 65_536);
    for n in [1, 7, 8, 9, 17] {
        check_scan("few rows", dim, &queries, &rows[..n * dim], &ids[..n], 10);
    }
}

/// All rows equal: ids alone decide, wherever blocks and cuts fall.
#[test]
fn all_rows_equal() {
    let (dim, n) = (4, 5000);
    let rows = uniform(1, dim).repeat(n);
    for k in [1, 10, 300, 5000] {
        check_scan("equal rows", dim, &uniform(2, 3 * dim), &rows, &shuffled_ids(n), k);
        let descending: Vec<i64> = (0..5000).rev().collect();
        check_scan("equal rows, ids descending", dim, &uniform(2, dim), &rows, &descending, k);
    }
}

/// Many ties at the k-th place, on both sides of block borders.
#[test]
fn ties_at_the_gate() {
    for (dim, n) in [(2, 4097), (3, 2049), (64, 1025)] {
        check_scan("ties", dim, &coarse(1, 5 * dim), &coarse(2, n * dim), &shuffled_ids(n), 20);
    }
}

/// Scores that rise with the row: every row passes the gate. And scores that fall: none does after the first.
#[test]
fn adversarial_order() {
    let n = 20_000u16;
    let rising: Vec<f32> = (1..=n).map(f32::from).collect();
    let falling: Vec<f32> = rising.iter().rev().copied().collect();
    let ids: Vec<i64> = (0..i64::from(n)).collect();
    for k in [1, 100, 7000] {
        check_scan("rising", 1, &[1.0, -1.0], &rising, &ids, k);
        check_scan("falling", 1, &[1.0, -1.0], &falling, &ids, k);
    }
}

/// Neighbouring floats are told apart, and the better one wins against a smaller id.
#[test]
fn one_ulp_apart() {
    let rows: Vec<f32> = (0..2000u32).map(|i| f32::from_bits(1.0f32.to_bits() + i / 2)).collect();
    check_scan("ulps", 1, &[1.0, -1.0], &rows, &shuffled_ids(2000), 50);
}

/// -0 equals +0, so the smaller id wins; each keeps its own bits in the answer, whatever the last lanes are without.
#[test]
fn negative_zero_ties_with_zero() {
    // Only a product that underflows makes -0, and only if every lane has one.
    let tiny = f32::from_bits(1);
    let row = |dim: usize, i: usize| vec![if i.is_multiple_of(3) { -tiny } else { tiny }; dim];
    for dim in [31, 32, 33, 63, 64, 127, 128, 129, 256, 290] {
        let rows: Vec<f32> = (0..200).flat_map(|i| row(dim, i)).collect();
        for batch in [1, 3] {
            check_scan("zeros", dim, &vec![tiny; batch * dim], &rows, &shuffled_ids(200), 90);
        }
    }
    let (query, rows) = (row(32, 1), [row(32, 1), row(32, 0)].concat());
    let found = scan(Isa::best(), 32, &query, &rows, &[5, 4], 1).unwrap();
    assert_eq!((found[0][0].id, found[0][0].score.to_bits()), (4, (-0.0f32).to_bits()));
}

/// Negative scores only; subnormal rows.
#[test]
fn negative_and_subnormal_scores() {
    let rows: Vec<f32> = uniform(1, 3 * 900).iter().map(|x| x.abs() + 0.1).collect();
    check_scan("negative", 3, &[-1.0, -0.5, -0.25], &rows, &shuffled_ids(900), 30);
    let rows: Vec<f32> = uniform(1, 3 * 900).iter().map(|x| x * 1e-41).collect();
    check_scan("subnormal", 3, &uniform(2, 6), &rows, &shuffled_ids(900), 30);
}

/// Ids up to the largest.
#[test]
fn large_ids() {
    let ids: Vec<i64> = (0..500).map(|i| i64::MAX - (i * 37) % 500).collect();
    check_scan("large ids", 2, &coarse(1, 4), &coarse(2, 1000), &ids, 20);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any shape, with many ties or none.
    #[test]
    fn any_shape(seed: u64, dim in 1usize..80, n in 0usize..1500, batch in 0usize..10, k in 1usize..600, ties: bool) {
        let values = if ties { coarse } else { uniform };
        let ids = shuffled_ids(n);
        let (queries, rows) = (values(seed, batch * dim), values(!seed, n * dim));
        check_scan("any shape", dim, &queries, &rows, &ids, k);
    }
}
