//! What the CPU alone has: scores and normalisation by themselves, threads, refusals.

use mercer::cpu::OpError;
use mercer::cpu::normalize::{NormalizeError, normalize};
use mercer::cpu::score::{score, score_scalar, scores};
use mercer::cpu::simd::Isa;
use mercer::cpu::topk::scan;
use mercer::{Catalogue, Hit, Metric};
use proptest::prelude::*;

use super::*;

mod score_definition {
    use super::*;

    /// Tails of the elements, of the rows (tiles of 8) and of the queries (tiles of 4, 2, 1).
    #[test]
    fn every_length_and_tile_has_the_defined_bits() {
        for dim in DIMS {
            for (q, r) in [(1, 1), (1, 9), (2, 8), (3, 7), (4, 17), (5, 3), (7, 16), (19, 10)] {
                let (queries, rows) = (uniform(1, q * dim), uniform(2, r * dim));
                let expected: Vec<f32> = queries
                    .chunks(dim)
                    .flat_map(|a| rows.chunks(dim).map(move |b| oracle_score(a, b)))
                    .collect();
                for isa in Isa::available() {
                    let mut found = vec![f32::NAN; q * r];
                    scores(isa, dim, &queries, &rows, &mut found).unwrap();
                    assert_same_bits(&format!("{isa:?}, dim {dim}, {q} x {r}"), &found, &expected);
                }
                let scalar = score_scalar(&queries[..dim], &rows[..dim]).unwrap();
                assert_same_bits(
                    "scalar",
                    &[scalar, score(&queries[..dim], &rows[..dim]).unwrap()],
                    &[expected[0]; 2],
                );
            }
        }
    }

    /// An empty lane must keep its sign: products that underflow leave -0 in every lane that has elements.
    #[test]
    fn lanes_without_an_element_are_untouched() {
        let tiny = f32::from_bits(1);
        for dim in DIMS {
            let (a, b) = (vec![tiny; dim], vec![-tiny; dim]);
            let expected = oracle_score(&a, &b);
            for isa in Isa::available() {
                let mut found = [1.0];
                scores(isa, dim, &a, &b, &mut found).unwrap();
                assert_same_bits(&format!("{isa:?}, dim {dim}"), &found, &[expected]);
            }
        }
        assert_eq!(oracle_score(&[tiny; 64], &[-tiny; 64]).to_bits(), (-0.0f32).to_bits());
        assert_eq!(oracle_score(&[tiny; 33], &[-tiny; 33]).to_bits(), (-0.0f32).to_bits());
        assert_eq!(oracle_score(&[tiny; 31], &[-tiny; 31]).to_bits(), 0.0f32.to_bits());
    }

    /// Values of all magnitudes, where the order of additions shows.
    #[test]
    fn cancellation_and_subnormals() {
        for dim in DIMS {
            let scale = |i: usize| 2.0f32.powi(i32::try_from(i * 37 % 120).unwrap() - 60);
            let a: Vec<f32> = uniform(3, dim).iter().enumerate().map(|(i, x)| x * scale(i)).collect();
            let b: Vec<f32> = uniform(4, dim).iter().enumerate().map(|(i, x)| x * scale(i + 1)).collect();
            let sub: Vec<f32> = uniform(5, dim).iter().map(|x| x * 1e-40).collect();
            for (a, b) in [(&a, &b), (&a, &sub), (&sub, &sub)] {
                for isa in Isa::available() {
                    let mut found = [f32::NAN];
                    scores(isa, dim, a, b, &mut found).unwrap();
                    assert_same_bits(&format!("{isa:?}, dim {dim}"), &found, &[oracle_score(a, b)]);
                }
            }
        }
    }
}

mod normalisation {
    use super::*;

    /// The definition, with the exponent found by repeated halving and the scaling done by repeated exact steps in f64.
    fn oracle(row: &[f32]) -> Vec<f32> {
        let mut largest = row.iter().fold(0.0f64, |m, x| m.max(f64::from(x.abs())));
        let mut scale = 1.0f64;
        while largest >= 2.0 {
            (largest, scale) = (largest / 2.0, scale / 2.0);
        }
        while largest < 1.0 {
            (largest, scale) = (largest * 2.0, scale * 2.0);
        }
        let scaled: Vec<f32> = row.iter().map(|x| (f64::from(*x) * scale) as f32).collect();
        let norm = oracle_score(&scaled, &scaled).sqrt();
        scaled.iter().map(|x| x / norm).collect()
    }

    #[track_caller]
    fn check(row: &[f32]) {
        let mut found = row.to_vec();
        normalize(&mut found).unwrap();
        assert_same_bits(&format!("{} elements from {:e}", row.len(), row[0]), &found, &oracle(row));
    }

    /// Powers of two and their neighbours, subnormals, the largest value, rows that mix the extremes.
    #[test]
    fn every_magnitude() {
        for exponent in -149..128 {
            let power =
                (0..i32::abs(exponent)).fold(1.0f64, |x, _| if exponent < 0 { x / 2.0 } else { x * 2.0 });
            let power = power as f32;
            for first in [power, power.next_up(), power.next_down()] {
                if first > 0.0 {
                    check(&[first]);
                    check(&[first, -first, first / 3.0]);
                    check(&[first / 7.0, first, f32::from_bits(1), -0.0]);
                }
            }
        }
        check(&[f32::MAX; 4096]);
        check(&[f32::from_bits(1); 4096]);
        check(&[f32::MAX, f32::MIN_POSITIVE, f32::from_bits(3)]);
        for dim in DIMS {
            check(&uniform(6, dim));
        }
    }

    /// Scaled by a power of two, a row of normal numbers keeps its direction to the bit; the norm is 1 within the rounding.
    #[test]
    fn unit_length_whatever_the_scale() {
        let row = uniform(7, 300);
        let mut unit = row.clone();
        normalize(&mut unit).unwrap();
        // 300 / 32 fused steps, 5 additions, one root, one division: under 32 roundings of 2^-24.
        assert!((score(&unit, &unit).unwrap() - 1.0).abs() <= 32.0 * 2.0f32.powi(-24));
        let mut large: Vec<f32> = row.iter().map(|x| x * 2.0f32.powi(100)).collect();
        normalize(&mut large).unwrap();
        assert_same_bits("scaled", &large, &unit);
    }

    /// The first bad row is reported, whatever the threads do, with its position and value.
    #[test]
    fn vectors_without_a_direction() {
        for (value, text) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
            let mut rows = vec![1.0; 5 * 1000];
            (rows[5 * 400 + 3], rows[5 * 700]) = (value, f32::NAN);
            let error = normalize(&mut rows[5 * 400..][..5]).unwrap_err();
            assert_eq!(error.to_string(), format!("row 0 has {text} at position 3"));
            let error = Catalogue::new(Metric::Cosine, 5, (0..1000).collect(), rows).unwrap_err();
            assert_eq!(error.to_string(), format!("row 400 has {text} at position 3"));
        }
        assert_eq!(normalize(&mut [0.0, -0.0, 0.0, -0.0]), Err(NormalizeError::Zero { row: 0 }));
        assert_eq!(normalize(&mut []), Err(NormalizeError::Zero { row: 0 }));
    }
}

/// Nothing to answer, nothing to answer from.
#[test]
fn empty() {
    assert_eq!(scan(Isa::best(), 3, &[], &uniform(1, 9), &[0, 1, 2], 5), Ok(vec![]));
    assert_eq!(scan(Isa::best(), 3, &uniform(1, 6), &[], &[], 5), Ok(vec![vec![], vec![]]));
    assert_eq!(scan(Isa::best(), 3, &[], &[], &[], 5), Ok(vec![]));
}

/// Every way the arguments can disagree.
#[test]
fn refusals() {
    let text = |result: Result<_, OpError>| result.err().map(|error| error.to_string());
    let scan = |dim, queries: &[f32], rows: &[f32], ids: &[i64], k| {
        text(scan(Isa::best(), dim, queries, rows, ids, k).map(drop))
    };
    assert_eq!(scan(0, &[], &[], &[], 1).unwrap(), "vector length is 0");
    assert_eq!(scan(1, &[], &[], &[], 0).unwrap(), "k is 0");
    assert_eq!(scan(2, &[1.0; 3], &[], &[], 1).unwrap(), "queries: 3 values, expected 2");
    assert_eq!(scan(2, &[1.0; 2], &[1.0; 3], &[0], 1).unwrap(), "rows: 3 values, expected 2");
    assert!(scan(usize::MAX, &[], &[], &[0, 1], 1).unwrap().contains("too large"));
    let scores = |dim, queries: &[f32], rows: &[f32], out: &mut [f32]| {
        text(scores(Isa::best(), dim, queries, rows, out))
    };
    assert_eq!(scores(0, &[], &[], &mut []).unwrap(), "vector length is 0");
    assert_eq!(scores(2, &[1.0; 3], &[1.0; 2], &mut [0.0]).unwrap(), "queries: 3 values, expected 2");
    assert_eq!(scores(2, &[1.0; 2], &[1.0; 5], &mut [0.0; 2]).unwrap(), "rows: 5 values, expected 4");
    assert_eq!(scores(2, &[1.0; 2], &[1.0; 4], &mut [0.0]).unwrap(), "scores: 1 values, expected 2");
    for score in [score, score_scalar] {
        assert_eq!(score(&[], &[]), Ok(0.0));
        for (a, b) in [(&[][..], &[1.0][..]), (&[1.0], &[]), (&[1.0], &[1.0, 2.0])] {
            assert_eq!(
                score(a, b),
                Err(OpError::Length { what: "second vector", found: b.len(), expected: a.len() })
            );
        }
    }
}

/// A query's answer does not depend on the queries beside it or on the number of threads.
#[test]
fn batch_and_threads_do_not_matter() {
    let (dim, n, k) = (33, 4000, 25);
    let (queries, rows, ids) = (coarse(1, 150 * dim), coarse(2, n * dim), shuffled_ids(n));
    let expected = oracle_scan(dim, &queries, &rows, &ids, k);
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        for batch in [1, 17, 64, 150] {
            let found: Vec<Vec<Hit>> = pool.install(|| {
                queries
                    .chunks(batch * dim)
                    .flat_map(|q| scan(Isa::best(), dim, q, &rows, &ids, k).unwrap())
                    .collect()
            });
            assert_same_hits(&format!("{threads} threads, batch {batch}"), &found, &expected);
        }
    }
}

/// The largest batch and number of threads that are promised, against the same queries alone on one thread.
#[test]
fn the_largest_batch_on_the_most_threads() {
    let (dim, n, k, batch) = (5, 3000, 10, 4096);
    let (queries, rows, ids) = (coarse(1, batch * dim), coarse(2, n * dim), shuffled_ids(n));
    let scan_on = |threads: usize, batch: usize| -> Vec<Vec<Hit>> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let scan = |q| scan(Isa::best(), dim, q, &rows, &ids, k).unwrap();
        pool.install(|| queries.chunks(batch * dim).flat_map(scan).collect())
    };
    let alone = scan_on(1, 1);
    let first = 16;
    assert_same_hits("alone", &alone[..first], &oracle_scan(dim, &queries[..first * dim], &rows, &ids, k));
    for (threads, batch) in [(1, batch), (64, batch), (64, 1)] {
        let what = format!("{threads} threads, batch {batch}");
        assert_same_hits(&what, &scan_on(threads, batch), &alone);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bits that are numbers.
    #[test]
    fn any_scores(pairs in prop::collection::vec((-1e18f32..1e18, -1e18f32..1e18), 1..300)) {
        let (a, b): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
        let expected = oracle_score(&a, &b);
        for isa in Isa::available() {
            let mut found = [f32::NAN];
            scores(isa, a.len(), &a, &b, &mut found).unwrap();
            prop_assert_eq!(found[0].to_bits(), expected.to_bits());
        }
    }
}
