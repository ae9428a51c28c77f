//! The catalogue: what it refuses, what it answers, and that it survives the disk.
#![allow(clippy::unwrap_used, clippy::panic)] // test helpers

mod construction;
mod damage;
#[path = "../oracle/mod.rs"]
mod oracle;
mod persistence;
mod search;

use mercer::catalogue::CatalogueError;
use mercer::{Catalogue, ErrorKind, Hits, Metric};

/// Values in [-1, 1).
fn uniform(seed: u64, len: usize) -> Vec<f32> {
    oracle::Random::new(seed).values(len)
}

fn generated(metric: Metric, dim: usize, rows: usize) -> Catalogue {
    let ids = (0..rows).map(|row| i64::try_from((row * 7919 + 5) % 100_003).unwrap()).collect();
    Catalogue::new(metric, dim, ids, uniform(3, rows * dim)).unwrap()
}

/// Every answer, ids and the bits of scores.
fn bits(answers: &[Hits]) -> Vec<Vec<(i64, usize, u32)>> {
    let of = |hits: &Hits| hits.iter().map(|hit| (hit.id, hit.row, hit.score.to_bits())).collect();
    answers.iter().map(of).collect()
}

#[track_caller]
fn assert_refused<T>(result: Result<T, CatalogueError>, message: &str, kind: ErrorKind) {
    let error = result.err().expect("accepted");
    assert_eq!((error.to_string().as_str(), error.kind()), (message, kind));
}
