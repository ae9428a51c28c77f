//! The exhaustive top-k scan: every query's defined score with every row, the best `k` kept.
//!
//! The rows are cut into blocks that stay in a core's second-level cache while all queries of a batch pass over them, so
//! a batch reads the rows once. Each query has a gate, the score of its k-th best row so far: a score below it
//! cannot be in the answer, and comparing is all that happens to nearly every score. What passes is collected per
//! query, shared by all threads, and cut back to the best `k` when the collection is full.
//!
//! The answer is the best `k` under a total order, so it does not depend on which thread saw which row when. Beside
//! the answer, memory is one collection of at most `k + max(k, 256)` candidates per query and one block of
//! scores per thread.

use super::error::{OpError, expect, positive};
use super::score::scores_of_whole_rows;
use super::simd::Isa;
use crate::catalogue::Hit;
use rayon::prelude::*;
use std::cmp::Ordering;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// Bytes of rows in a block.
const BLOCK_BYTES: usize = 256 << 10;
/// Rows in a block, at most.
const BLOCK_ROWS: usize = 1024;
/// Queries that one task takes over a block, at most.
const BLOCK_QUERIES: usize = 64;
/// Candidates that a collection holds beyond `k`, at least.
const SPARE: usize = 256;
/// Scores that are compared with the gate before anything branches.
const GATE_WIDTH: usize = 16;

/// The best `k` rows of each query, best first: score descending (as numbers, so -0 equals +0), then id ascending.
/// Fewer than `k` if there are fewer rows.
///
/// `queries` is `[batch, dim]`, `rows` is `[n, dim]`, `ids` is `[n]` without duplicates; every score is finite. Runs
/// on the current rayon pool; the answer does not depend on the number of threads, the batch or `isa`.
///
/// # Errors
/// [`OpError::Zero`] if `dim` or `k` is 0; [`OpError::Length`] or [`OpError::Overflow`] if a slice does not have its
/// shape.
pub fn scan(
    isa: Isa,
    dim: usize,
    queries: &[f32],
    rows: &[f32],
    ids: &[i64],
    k: usize,
) -> Result<Vec<Vec<Hit>>, OpError> {
    positive("vector length", dim)?;
    positive("k", k)?;
    expect("rows", rows.len(), &[ids.len(), dim])?;
    expect("queries", queries.len(), &[queries.len() / dim, dim])?;
    Ok(scan_whole_rows(isa, dim, queries, rows, ids, k))
}

/// [`scan`] with arguments that were checked.
pub(crate) fn scan_whole_rows(
    isa: Isa,
    dim: usize,
    queries: &[f32],
    rows: &[f32],
    ids: &[i64],
    k: usize,
) -> Vec<Vec<Hit>> {
    let batch = queries.len() / dim;
    let k = k.min(ids.len());
    let collections: Vec<Collection> = (0..batch).map(|_| Collection::new(k)).collect();

    let block_rows = (BLOCK_BYTES / (dim * size_of::<f32>())).clamp(1, BLOCK_ROWS);
    let (row_blocks, query_blocks) = (ids.len().div_ceil(block_rows), batch.div_ceil(BLOCK_QUERIES));
    // Neighbouring tasks share their rows.
    (0..row_blocks * query_blocks).into_par_iter().for_each_init(Scratch::default, |scratch, task| {
        let first_row = task / query_blocks * block_rows;
        let first_query = task % query_blocks * BLOCK_QUERIES;
        let block = &rows[first_row * dim..ids.len().min(first_row + block_rows) * dim];
        let queries = &queries[first_query * dim..batch.min(first_query + BLOCK_QUERIES) * dim];
        let count = block.len() / dim;
        scratch.scores.resize(queries.len() / dim * count, 0.0);
        scores_of_whole_rows(isa, dim, queries, block, &mut scratch.scores);
        for (collection, scores) in collections[first_query..].iter().zip(scratch.scores.chunks_exact(count))
        {
            pass_gate(collection.gate(), first_row, ids, scores, &mut scratch.passed);
            collection.take(&mut scratch.passed);
        }
    });
    collections.into_par_iter().map(Collection::into_hits).collect()
}

/// What one thread works in.
#[derive(Default)]
struct Scratch {
    /// `[queries of the task, rows of the block]`
    scores: Vec<f32>,
    /// The rows of the block that pass one query's gate.
    passed: Vec<Hit>,
}

/// Adds the rows `first_row..` whose score is not below `gate` to `passed`. An equal score passes: its id may be the
/// smaller one.
fn pass_gate(gate: f32, first_row: usize, ids: &[i64], scores: &[f32], passed: &mut Vec<Hit>) {
    for (chunk, scores) in scores.chunks(GATE_WIDTH).enumerate() {
        if scores.iter().fold(false, |any, &score| any | (score >= gate)) {
            let first_row = first_row + chunk * GATE_WIDTH;
            let hits = (first_row..).zip(scores).map(|(row, &score)| Hit { id: ids[row], row, score });
            passed.extend(hits.filter(|hit| hit.score >= gate));
        }
    }
}

/// The order of answers: the better hit is the lesser. Adding 0 turns -0 into +0.
fn by_rank(a: &Hit, b: &Hit) -> Ordering {
    (b.score + 0.0).total_cmp(&(a.score + 0.0)).then(a.id.cmp(&b.id))
}

/// The best rows of one query so far, offered by all threads.
struct Collection {
    /// How many rows the answer has.
    k: usize,
    /// The bits of the k-th best score at the last cut: no row below it is in the answer. It only rises, and a thread
    /// that reads an old value lets more rows pass, never fewer, so it needs no ordering with `hits`.
    gate: AtomicU32,
    hits: Mutex<Vec<Hit>>,
}

impl Collection {
    fn new(k: usize) -> Collection {
        Collection { k, gate: AtomicU32::new(f32::NEG_INFINITY.to_bits()), hits: Mutex::default() }
    }

    fn gate(&self) -> f32 {
        f32::from_bits(self.gate.load(Relaxed))
    }

    /// Moves the hits of `passed` in that the gate still lets pass.
    fn take(&self, passed: &mut Vec<Hit>) {
        if passed.is_empty() {
            return;
        }
        let mut hits = self.hits.lock().unwrap_or_else(PoisonError::into_inner);
        for hit in passed.drain(..).filter(|hit| hit.score >= self.gate()) {
            hits.push(hit);
            if hits.len() == self.k + self.k.max(SPARE) {
                hits.select_nth_unstable_by(self.k - 1, by_rank);
                hits.truncate(self.k);
                self.gate.store(hits[self.k - 1].score.to_bits(), Relaxed);
            }
        }
    }

    fn into_hits(self) -> Vec<Hit> {
        let mut hits = self.hits.into_inner().unwrap_or_else(PoisonError::into_inner);
        hits.sort_unstable_by(by_rank);
        hits.truncate(self.k);
        hits
    }
}
