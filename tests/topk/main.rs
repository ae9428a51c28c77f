//! The defined score, the defined normalisation and the exhaustive scan, against oracles written from the definitions. Each
//! case of a scan runs on every instruction set of the CPU and on the CUDA device.
#![allow(clippy::panic, clippy::unwrap_used, clippy::cast_possible_truncation)] // test helpers

use mercer::Hit;
use mercer::cpu::simd::Isa;
use mercer::cpu::topk::scan;
#[cfg(feature = "cuda")]
use mercer::cuda::Precision;

mod cases;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
#[path = "../device/mod.rs"]
mod device;
#[path = "../oracle/mod.rs"]
mod oracle;

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

/// Values in [-1, 1).
fn uniform(seed: u64, len: usize) -> Vec<f32> {
    oracle::Random::new(seed).values(len)
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
