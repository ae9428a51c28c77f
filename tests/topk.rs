//! The defined score, the defined normalisation and the exhaustive scan, against oracles written from the definitions. Each
//! scan runs on every instruction set of the CPU and on the CUDA device.
#![allow(clippy::panic, clippy::unwrap_used, clippy::cast_possible_truncation)] // test helpers

use mercer::cpu::OpError;
use mercer::cpu::normalize::{NormalizeError, normalize};
use mercer::cpu::score::{score, score_scalar, scores};
use mercer::cpu::simd::Isa;
use mercer::cpu::topk::scan;
#[cfg(feature = "cuda")]
use mercer::cuda::Precision;
use mercer::{Catalogue, Hit, Metric};
use proptest::prelude::*;

#[cfg(feature = "cuda")]
mod device;

/// Lengths around every tail: shorter than a vector, around 32 lanes and their multiples, the longest.
const DIMS: [usize; 24] =
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 100, 255, 256, 257, 4096];

/// The score in the words of its definition: 32 sums, lane l takes elements l, l + 32, …; then a tree over the lanes.
fn oracle_score(a: &[f32], b: &[f32]) -> f32 {
    let lane = |l: usize| (l..a.len()).step_by(32).fold(0.0f32, |sum, i| a[i].mul_add(b[i], sum));
    fn tree(lane: &dyn Fn(usize) -> f32, l: usize, distance: usize) -> f32 {
        match distance {
            32 => lane(l),
            _ => tree(lane, l, distance * 2) + tree(lane, l ^ distance, distance * 2),
        }
    }
    tree(&lane, 0, 1)
}

/// Every row scored, sorted whole, cut at k. Exchanges -0 for 0 by comparing numbers.
fn oracle_scan(dim: usize, queries: &[f32], rows: &[f32], ids: &[i64], k: usize) -> Vec<Vec<Hit>> {
    let answer = |query: &[f32]| {
        let mut all: Vec<Hit> = rows
            .chunks(dim)
            .enumerate()
            .map(|(row, x)| Hit { id: ids[row], row, score: oracle_score(query, x) })
            .collect();
        all.sort_by(|a, b| b.score.partial_cmp(&a.score).unwrap().then(a.id.cmp(&b.id)));
        all.truncate(k);
        all
    };
    queries.chunks(dim).map(answer).collect()
}

/// Values in [-1, 1) from a 64-bit linear congruential generator.
fn uniform(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// Few distinct values, so that many rows tie.
fn coarse(seed: u64, len: usize) -> Vec<f32> {
    uniform(seed, len).into_iter().map(|x| (x * 2.0).round() / 2.0).collect()
}

/// 0, 1, 2, … in an order that is neither ascending nor descending.
fn shuffled_ids(n: usize) -> Vec<i64> {
    let mut ids: Vec<i64> = (0..i64::try_from(n).unwrap()).collect();
    for i in 0..n {
        ids.swap(i, (i * 7919 + 13) % n);
    }
    ids
}

#[track_caller]
fn assert_same_bits(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}: lengths");
    for (at, (f, e)) in found.iter().zip(expected).enumerate() {
        assert_eq!(f.to_bits(), e.to_bits(), "{what}: position {at}: found {f:e}, expected {e:e}");
    }
}

#[track_caller]
fn assert_same_hits(what: &str, found: &[Vec<Hit>], expected: &[Vec<Hit>]) {
    assert_eq!(found.len(), expected.len(), "{what}: answers");
    for (query, (f, e)) in found.iter().zip(expected).enumerate() {
        for (rank, (f, e)) in f.iter().zip(e).enumerate() {
            let same = (f.id, f.row, f.score.to_bits()) == (e.id, e.row, e.score.to_bits());
            assert!(same, "{what}: query {query}, rank {rank}: found {f:?}, expected {e:?}");
        }
        assert_eq!(f.len(), e.len(), "{what}: query {query}: number of hits");
    }
}

/// Scans on every instruction set and on the device, and compares with the oracle.
#[track_caller]
fn check_scan(what: &str, dim: usize, queries: &[f32], rows: &[f32], ids: &[i64], k: usize) {
    let expected = oracle_scan(dim, queries, rows, ids, k);
    for isa in Isa::available() {
        let found = scan(isa, dim, queries, rows, ids, k).unwrap();
        assert_same_hits(&format!("{what}, {isa:?}, dim {dim}, k {k}"), &found, &expected);
    }
    #[cfg(feature = "cuda")]
    if let Some(search) = cuda::Search::new(dim, rows, ids, Precision::F32) {
        let found = search.run(queries, k);
        assert_same_hits(&format!("{what}, device, dim {dim}, k {k}"), &found, &expected);
    }
}

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

mod scan_semantics {
    use super::*;

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

    /// -0 equals +0, so the smaller id wins; each keeps its own bits in the answer.
    #[test]
    fn negative_zero_ties_with_zero() {
        // Only a product that underflows makes -0, and only if every lane has one.
        let (dim, tiny) = (32, f32::from_bits(1));
        let row = |i: usize| vec![if i.is_multiple_of(3) { -tiny } else { tiny }; dim];
        let rows: Vec<f32> = (0..1000).flat_map(row).collect();
        let query = vec![tiny; dim];
        check_scan("zeros", dim, &query, &rows, &shuffled_ids(1000), 40);
        let found = scan(Isa::best(), dim, &query, &[row(1), row(0)].concat(), &[5, 4], 1).unwrap();
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
        assert_same_hits(
            "alone",
            &alone[..first],
            &oracle_scan(dim, &queries[..first * dim], &rows, &ids, k),
        );
        for (threads, batch) in [(1, batch), (64, batch), (64, 1)] {
            let what = format!("{threads} threads, batch {batch}");
            assert_same_hits(&what, &scan_on(threads, batch), &alone);
        }
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    use std::sync::OnceLock;

    use half::{bf16, f16};
    use mercer::cuda::topk::{Corpus, MOST_WORKSPACE, Plan, enqueue};
    use mercer::cuda::{CudaError, Device, DeviceInfo, Rows, Slice, Stream};

    use super::*;

    fn open() -> Option<Device> {
        static DEVICE: OnceLock<Option<Device>> = OnceLock::new();
        DEVICE.get_or_init(device::device).clone()
    }

    /// A corpus on the device.
    pub struct Search<'a> {
        stream: Stream,
        corpus: Corpus,
        ids: &'a [i64],
        card: DeviceInfo,
    }

    impl<'a> Search<'a> {
        pub fn new(dim: usize, rows: &[f32], ids: &'a [i64], precision: Precision) -> Option<Search<'a>> {
            let device = open()?;
            let stream = device.stream().unwrap();
            let corpus = Corpus::upload(&stream, dim, rows, ids, precision).unwrap();
            Some(Search { stream, corpus, ids, card: device.info().clone() })
        }

        /// Plans as if the card had that many multiprocessors.
        fn on(mut self, multiprocessors: u32) -> Search<'a> {
            self.card.multiprocessors = multiprocessors;
            self
        }

        pub fn run(&self, queries: &[f32], k: usize) -> Vec<Vec<Hit>> {
            let batch = queries.len() / self.corpus.dim();
            let buffers = self.buffers(batch, k);
            self.stream.upload_to(queries, &buffers.queries).unwrap();
            let count = Rows::exactly(&self.stream, batch).unwrap();
            buffers.enqueue(self, &count).unwrap();
            self.hits(&buffers, k)
        }

        fn hits(&self, buffers: &Buffers, k: usize) -> Vec<Vec<Hit>> {
            let keys = self.stream.download(&buffers.keys).unwrap();
            keys.chunks(k).map(|keys| self.corpus.hits(self.ids, keys)).collect()
        }

        /// All poisoned but the queries, which are zeros.
        fn buffers(&self, most: usize, k: usize) -> Buffers {
            let plan = Plan::new(&self.corpus, k, most, &self.card).unwrap();
            assert!(plan.workspace() <= MOST_WORKSPACE);
            let device = self.stream.device();
            let queries = self.stream.upload("queries", &vec![0.0; most * self.corpus.dim()]).unwrap();
            let workspace = Slice::new(device, "workspace", plan.workspace()).unwrap();
            let keys = Slice::new(device, "keys", most * k).unwrap();
            self.stream.fill(&workspace, 0xA5).unwrap();
            self.stream.fill(&keys, 0xA5).unwrap();
            Buffers { plan, queries, workspace, keys }
        }
    }

    struct Buffers {
        plan: Plan,
        queries: Slice<f32>,
        workspace: Slice<u8>,
        keys: Slice<u64>,
    }

    impl Buffers {
        fn enqueue(&self, search: &Search<'_>, count: &Rows) -> Result<(), CudaError> {
            self.enqueue_on(&search.stream, search, count)
        }

        fn enqueue_on(&self, stream: &Stream, search: &Search<'_>, count: &Rows) -> Result<(), CudaError> {
            let Buffers { plan, queries, workspace, keys } = self;
            enqueue(stream, plan, &search.corpus, count, queries, workspace, keys)
        }
    }

    const POISON: u64 = 0xA5A5_A5A5_A5A5_A5A5;

    /// Rows of a step, steps of a partition, with every number of queries per warp and groups of warps.
    #[test]
    fn rows_and_queries_at_every_edge() {
        if open().is_none() {
            return;
        }
        for n in [0, 1, 7, 8, 9, 127, 128, 129, 255, 257, 513, 1537] {
            for batch in [1, 3, 5] {
                let (queries, rows) = (coarse(1, batch * 3), coarse(2, n * 3));
                check_scan("edges", 3, &queries, &rows, &shuffled_ids(n), 10);
            }
        }
        let (rows, ids) = (coarse(2, 300 * 33), shuffled_ids(300));
        for batch in [0, 1, 2, 4, 7, 8, 9, 16, 17, 31, 32, 33, 64, 100] {
            check_scan("batch", 33, &coarse(3, batch * 33), &rows, &ids, 5);
        }
    }

    /// Around the lanes of a warp, the spare places of a buffer, the keys that are sorted in shared memory, and no power of
    /// two among them; buffers are cut again and again where scores rise.
    #[test]
    fn k_at_every_edge() {
        if open().is_none() {
            return;
        }
        let n = 9000u16;
        let rising: Vec<f32> = (1..=n).map(f32::from).collect();
        let ids: Vec<i64> = (0..i64::from(n)).collect();
        for k in [1, 31, 33, 511, 513, 1025, 4096, 4097, 8999, 9000, 9001, 65_536] {
            for multiprocessors in [1, 132] {
                let what = format!("k {k} on {multiprocessors}");
                let search = Search::new(1, &rising, &ids, Precision::F32).unwrap().on(multiprocessors);
                let expected = oracle_scan(1, &[1.0, -1.0], &rising, &ids, k);
                assert_same_hits(&what, &search.run(&[1.0, -1.0], k), &expected);
            }
        }
    }

    /// Scores are of the rows as they are stored.
    #[test]
    fn stored_precisions() {
        if open().is_none() {
            return;
        }
        for dim in DIMS {
            let (n, batch) = (if dim > 1000 { 20 } else { 150 }, 5);
            let (queries, rows, ids) = (uniform(1, batch * dim), uniform(2, n * dim), shuffled_ids(n));
            let half: Vec<f32> = rows.iter().map(|&x| f16::from_f32(x).to_f32()).collect();
            let brain: Vec<f32> = rows.iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
            for (precision, stored) in [(Precision::F16, half), (Precision::Bf16, brain)] {
                let search = Search::new(dim, &rows, &ids, precision).unwrap();
                for batch in [1, 3, 5] {
                    let queries = &queries[..batch * dim];
                    let expected = oracle_scan(dim, queries, &stored, &ids, 20);
                    let what = format!("{precision:?}, dim {dim}, batch {batch}");
                    assert_same_hits(&what, &search.run(queries, 20), &expected);
                }
            }
        }
        // Subnormal halves are values like any other.
        let rows: Vec<f32> = uniform(3, 300).iter().map(|x| x * 2.0f32.powi(-16)).collect();
        let stored: Vec<f32> = rows.iter().map(|&x| f16::from_f32(x).to_f32()).collect();
        let ids = shuffled_ids(300);
        let found = Search::new(1, &rows, &ids, Precision::F16).unwrap().run(&[1.0], 300);
        assert_same_hits("subnormal", &found, &oracle_scan(1, &[1.0], &stored, &ids, 300));
    }

    /// The answer is the same however the work is cut: by partitions, by tiles, by groups of launches.
    #[test]
    fn the_card_and_the_batch_do_not_matter() {
        if open().is_none() {
            return;
        }
        let (dim, n, k, batch) = (20, 1500, 40, 33);
        let (queries, rows, ids) = (coarse(1, batch * dim), coarse(2, n * dim), shuffled_ids(n));
        let expected = oracle_scan(dim, &queries, &rows, &ids, k);
        for multiprocessors in [1, 3, 132] {
            let search = Search::new(dim, &rows, &ids, Precision::F32).unwrap().on(multiprocessors);
            for size in [1, 7, 33] {
                let parts = queries.chunks(size * dim).take(3);
                let found: Vec<_> = parts.flat_map(|queries| search.run(queries, k)).collect();
                let what = format!("{multiprocessors} multiprocessors, batch {size}");
                assert_same_hits(&what, &found, &expected[..found.len()]);
            }
        }
        // Less shared memory, so other tiles.
        let (queries, rows) = (uniform(1, 9 * 4096), uniform(2, 20 * 4096));
        let expected = oracle_scan(4096, &queries, &rows, &ids[..20], k);
        for shared_memory in [48 << 10, 99 << 10, 163 << 10, 227 << 10] {
            let mut search = Search::new(4096, &rows, &ids[..20], Precision::F32).unwrap();
            search.card.shared_memory = search.card.shared_memory.min(shared_memory);
            assert_same_hits("shared memory", &search.run(&queries, k), &expected);
        }
    }

    /// Answers so long that the workspace has room for a few queries only.
    #[test]
    fn several_groups_of_launches() {
        if open().is_none() {
            return;
        }
        let (n, k, batch) = (70_000, 65_536, 3);
        let rows = uniform(1, n);
        let ids: Vec<i64> = (0..i64::try_from(n).unwrap()).rev().collect();
        let search = Search::new(1, &rows, &ids, Precision::F32).unwrap().on(132);
        let queries = [1.0, -1.0, 0.5];
        assert!(search.buffers(64, k).plan.workspace() <= MOST_WORKSPACE);
        let expected = oracle_scan(1, &queries, &rows, &ids, k);
        assert_same_hits("long answers", &search.run(&queries[..batch], k), &expected);
    }

    /// One recorded graph answers any number of queries, again and again, and leaves what lies behind the number alone.
    #[test]
    fn a_graph_serves_every_count() {
        if open().is_none() {
            return;
        }
        let (dim, n, k, most) = (9, 2000, 70, 12);
        let (rows, ids) = (coarse(2, n * dim), shuffled_ids(n));
        let search = Search::new(dim, &rows, &ids, Precision::F32).unwrap();
        let (buffers, count) = (search.buffers(most, k), search.stream.upload("count", &[0u32]).unwrap());
        let batch = Rows::new(most, count.clone()).unwrap();
        let graph = search.stream.record(|stream| buffers.enqueue_on(stream, &search, &batch)).unwrap();
        for (round, number) in [12usize, 1, 0, 5, 8, 12].into_iter().enumerate() {
            let mut queries = coarse(round as u64, most * dim);
            let expected = oracle_scan(dim, &queries[..number * dim], &rows, &ids, k);
            queries[number * dim..].fill(f32::NAN);
            search.stream.upload_to(&queries, &buffers.queries).unwrap();
            search.stream.upload_to(&[u32::try_from(number).unwrap()], &count).unwrap();
            search.stream.fill(&buffers.keys, 0xA5).unwrap();
            graph.launch().unwrap();
            let found = search.hits(&buffers, k);
            assert_same_hits(&format!("{number} queries"), &found[..number], &expected);
            let keys = search.stream.download(&buffers.keys).unwrap();
            assert!(keys[number * k..].iter().all(|&key| key == POISON), "{number} queries");
        }
    }

    /// A query that holds NaN has no hits, and its neighbours have theirs.
    #[test]
    fn queries_that_are_not_finite() {
        if open().is_none() {
            return;
        }
        let (dim, n, k) = (5, 700, 600);
        let (mut queries, rows, ids) = (uniform(1, 4 * dim), uniform(2, n * dim), shuffled_ids(n));
        let mut expected = oracle_scan(dim, &queries, &rows, &ids, k);
        queries[dim + 2] = f32::NAN;
        expected[1].clear();
        let found = Search::new(dim, &rows, &ids, Precision::F32).unwrap().run(&queries, k);
        assert_same_hits("NaN", &found, &expected);
    }

    /// Every way the arguments can disagree.
    #[test]
    fn refusals() {
        let Some(device) = open() else { return };
        let stream = device.stream().unwrap();
        let upload = |dim, rows: &[f32], ids: &[i64], precision| {
            Corpus::upload(&stream, dim, rows, ids, precision).map(drop).unwrap_err().to_string()
        };
        assert!(upload(2, &[1.0; 3], &[0], Precision::F32).contains("vectors has 3 elements"));
        assert!(upload(0, &[], &[], Precision::F32).contains("vector length 0"));
        assert!(upload(4097, &[], &[], Precision::F32).contains("vector length 4097"));
        assert!(
            upload(1, &[1.0, -7e4], &[0, 1], Precision::F16).contains("70000 is beyond the limit of 65504")
        );

        let (rows, ids) = (uniform(1, 30), shuffled_ids(10));
        let search = Search::new(3, &rows, &ids, Precision::F32).unwrap();
        for k in [0, 65_537] {
            let error = Plan::new(&search.corpus, k, 1, &search.card).unwrap_err();
            assert!(matches!(error, CudaError::Limit { what: "k", .. }), "{error}");
        }
        let text = |buffers: &Buffers, most| {
            let count = Rows::exactly(&stream, most).unwrap();
            buffers.enqueue(&search, &count).unwrap_err().to_string()
        };
        let buffers = || search.buffers(2, 4);
        assert!(text(&buffers(), 3).contains("most queries"));
        let short = |what: &str, buffers: Buffers| assert!(text(&buffers, 2).starts_with(what), "{what}");
        short("queries", Buffers { queries: stream.upload("", &[0.0; 5]).unwrap(), ..buffers() });
        short("keys", Buffers { keys: stream.upload("", &[0; 9]).unwrap(), ..buffers() });
        short("workspace", Buffers { workspace: stream.upload("", &[0; 8]).unwrap(), ..buffers() });
        let other = Search::new(3, &rows[..27], &ids[..9], Precision::F32).unwrap();
        short("corpus", Buffers { plan: Plan::new(&other.corpus, 4, 2, &other.card).unwrap(), ..buffers() });
    }
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
