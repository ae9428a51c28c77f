//! Exact top-10 over generated catalogues. Each case checks a sample of its answer against the scalar definition before
//! it is timed, and prints the rates that one search reached: bytes of vectors read once per batch, and two
//! floating-point operations per element and query.
//!
//! With the feature `cuda` it is the card that is timed: see `benches/card/mod.rs`.
#![cfg_attr(feature = "cuda", allow(dead_code))] // what times the CPU
#![allow(clippy::unwrap_used)] // a benchmark that cannot run must stop

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use mercer::cpu::normalize::normalize;
use mercer::cpu::score::score_scalar;
use mercer::{Catalogue, Metric};
use std::time::{Duration, Instant};

#[cfg(feature = "cuda")]
mod card;
#[cfg(feature = "cuda")]
#[path = "../tests/oracle/mod.rs"]
mod oracle;

const K: usize = 10;

/// Uniform values in [-1, 1) from a 64-bit linear congruential generator (Knuth's MMIX constants).
fn uniform(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// The first query's answer: scores by definition, in order, and none better in a sample of the rows.
fn check(catalogue: &Catalogue, queries: &[f32]) {
    let dim = catalogue.dim();
    let answers = catalogue.search(queries, K).unwrap();
    let mut query = queries[..dim].to_vec();
    normalize(&mut query).unwrap();
    let score = |row: usize| score_scalar(&query, catalogue.vector(row).unwrap()).unwrap();
    for hit in &answers[0] {
        assert_eq!(hit.score.to_bits(), score(hit.row).to_bits(), "row {}", hit.row);
    }
    assert!(answers[0].is_sorted_by(|a, b| (b.score, a.id) <= (a.score, b.id)));
    let last = answers[0][K - 1];
    for row in (0..catalogue.len()).step_by(97) {
        let listed = answers[0].iter().any(|hit| hit.row == row);
        assert!(listed || score(row) <= last.score, "row {row} is better than the last hit");
    }
}

fn topk(c: &mut Criterion) {
    let mut group = c.benchmark_group("topk");
    group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    for (rows, dim) in [(100_000, 128), (1_000_000, 256)] {
        let ids = (0..i64::try_from(rows).unwrap()).collect();
        let catalogue = Catalogue::new(Metric::Cosine, dim, ids, uniform(1, rows * dim)).unwrap();
        let queries = uniform(2, 64 * dim);
        for batch in [1, 8, 64] {
            let queries = &queries[..batch * dim];
            check(&catalogue, queries);
            let start = Instant::now();
            catalogue.search(queries, K).unwrap();
            let seconds = start.elapsed().as_secs_f64();
            let elements = (rows * dim) as f64;
            println!(
                "{rows} x {dim}, batch {batch}: {:.1} GB/s, {:.1} GFLOP/s",
                4.0 * elements / seconds / 1e9,
                2.0 * elements * batch as f64 / seconds / 1e9,
            );
            let case = BenchmarkId::new(format!("{rows}x{dim}"), batch);
            group.bench_function(case, |b| b.iter(|| catalogue.search(queries, K).unwrap()));
        }
    }
    group.finish();
}

criterion_group!(benches, topk);
#[cfg(not(feature = "cuda"))]
criterion_main!(benches);

#[cfg(feature = "cuda")]
mod cuda {
    use criterion::Criterion;
    use mercer::cpu::simd::Isa;
    use mercer::cpu::topk::scan;
    use mercer::cuda::topk::{Corpus, Plan, enqueue};
    use mercer::cuda::{Precision, Rows, Slice};
    use serde_json::json;

    use super::card::device::round;
    use super::card::{Card, Work};
    use super::{K, uniform};

    /// Queries whose answers are compared with the CPU's.
    const CHECKED: usize = 4;

    /// `BENCH_ROWS` sets the number of rows.
    pub fn topk(c: &mut Criterion) {
        let Some(card) = Card::open() else { return };
        let given = std::env::var("BENCH_ROWS").ok().and_then(|rows| rows.parse().ok());
        let (rows, dim) = (given.unwrap_or(card.size(1_000_000, 600)), card.size(256, 40));
        let ids: Vec<i64> = (0..i64::try_from(rows).unwrap()).collect();
        let vectors = uniform(1, rows * dim);
        let mut group = c.benchmark_group("cuda/topk");
        for precision in [Precision::F32, Precision::F16] {
            let corpus = Corpus::upload(&card.stream, dim, &vectors, &ids, precision).unwrap();
            let stored: Vec<f32> = vectors.iter().map(|&x| round(precision, x)).collect();
            for batch in [1, 8, 64] {
                let queries = uniform(2, batch * dim);
                let plan = Plan::new(&corpus, K, batch, card.device.info()).unwrap();
                let count = Rows::exactly(&card.stream, batch).unwrap();
                let on_card = card.stream.upload("queries", &queries).unwrap();
                let workspace = Slice::<u8>::new(&card.device, "workspace", plan.workspace()).unwrap();
                let keys = Slice::<u64>::new(&card.device, "keys", batch * K).unwrap();
                let run = || enqueue(&card.stream, &plan, &corpus, &count, &on_card, &workspace, &keys);
                run().unwrap();

                let checked = &queries[..batch.min(CHECKED) * dim];
                let expected = scan(Isa::best(), dim, checked, &stored, &ids, K).unwrap();
                let keys_found = card.stream.download(&keys).unwrap();
                for (query, (keys, expected)) in keys_found.chunks(K).zip(&expected).enumerate() {
                    let found = corpus.hits(&ids, keys);
                    let bits = |hits: &[mercer::Hit]| {
                        hits.iter().map(|h| (h.id, h.score.to_bits())).collect::<Vec<_>>()
                    };
                    assert_eq!(bits(&found), bits(expected), "query {query} of {batch}, {precision:?}");
                }

                let work = Work {
                    op: "topk",
                    name: format!("top{K}_{rows}x{dim}_batch_{batch}"),
                    precision,
                    shape: json!({"rows": rows, "dim": dim, "batch": batch, "k": K}),
                    bytes: rows * dim * precision.bytes() + batch * (dim * 4 + K * 8),
                    operations: 2 * rows * dim * batch,
                };
                card.bench(&mut group, &work, run);
            }
        }
        group.finish();
    }
}

#[cfg(feature = "cuda")]
criterion_group! {
    name = on_card;
    config = card::config();
    targets = cuda::topk
}
#[cfg(feature = "cuda")]
criterion_main!(on_card);
