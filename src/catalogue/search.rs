//! Searching: queries in, hits and certificates out.

use super::{Catalogue, CatalogueError, MAX_K, Metric, Role, check_vectors};
use crate::cpu::{normalize::normalize_rows, simd::Isa, topk};
use std::borrow::Cow;
use std::ops::Deref;

/// One product of an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// The product's id.
    pub id: i64,
    /// Its row in the catalogue.
    pub row: usize,
    /// The score, as [`crate::cpu::score`] defines it.
    pub score: f32,
}

/// The answer to one query: the hits, best first, and why they are the best.
#[derive(Debug, Clone, PartialEq)]
pub struct Hits {
    hits: Vec<Hit>,
    certificate: Certificate,
}

/// How an answer was proven to be the true top k. Every row of the catalogue is scanned; a row is rescored, which means
/// that its score is computed as defined, unless a bound shows that it cannot be among the k best.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Certificate {
    /// Rows that were looked at: all of them.
    pub rows_scanned: usize,
    /// Rows whose defined score was computed.
    pub rows_rescored: usize,
    /// The most by which the bound may have overestimated a score; 0 if every row was rescored.
    pub slack: f32,
    /// Whether a bound left too many rows and all were rescored after all.
    pub fallback: bool,
}

impl Hits {
    /// Hits that were found by scoring each of `rows` rows.
    pub(crate) fn exhaustive(hits: Vec<Hit>, rows: usize) -> Hits {
        let certificate =
            Certificate { rows_scanned: rows, rows_rescored: rows, slack: 0.0, fallback: false };
        Hits { hits, certificate }
    }

    /// Why these are the best.
    pub fn certificate(&self) -> Certificate {
        self.certificate
    }

    /// The hits alone.
    pub fn into_vec(self) -> Vec<Hit> {
        self.hits
    }
}

impl AsRef<[Hit]> for Hits {
    fn as_ref(&self) -> &[Hit] {
        &self.hits
    }
}

impl Deref for Hits {
    type Target = [Hit];

    fn deref(&self) -> &[Hit] {
        &self.hits
    }
}

impl<'a> IntoIterator for &'a Hits {
    type Item = &'a Hit;
    type IntoIter = std::slice::Iter<'a, Hit>;

    fn into_iter(self) -> Self::IntoIter {
        self.hits.iter()
    }
}

impl Catalogue {
    /// The `k` best products of each query: score descending, then id ascending; -0 equals +0. An answer has fewer than
    /// `k` hits only if the catalogue has fewer products. `queries` is `[batch, dim]`; for [`Metric::Cosine`] they
    /// are normalised as the rows are.
    ///
    /// An answer does not depend on the rest of the batch, the number of threads or the instruction set. Runs on the
    /// current rayon pool.
    ///
    /// # Errors
    /// - [`CatalogueError::K`], [`CatalogueError::QueriesLength`]: the shape.
    /// - [`CatalogueError::Zero`], [`CatalogueError::NotFinite`]: the first such query.
    /// - [`CatalogueError::NormTooLarge`]: for inner products, a query whose L2 norm exceeds 2^63.
    pub fn search(&self, queries: &[f32], k: usize) -> Result<Vec<Hits>, CatalogueError> {
        check_k(k)?;
        Ok(self.scan(&self.prepare(queries)?, k))
    }

    /// As [`Catalogue::search`], into the caller's slices: `ids` and `scores` are `[batch, k]`, `counts` is `[batch]`.
    /// Query `q` has `counts[q]` hits, from position `q * k` on; behind them, up to `k`, ids are -1, which no product
    /// has, and scores are NaN.
    ///
    /// # Errors
    /// As [`Catalogue::search`], and [`CatalogueError::OutputLength`]; the slices are then unchanged.
    pub fn search_into(
        &self,
        queries: &[f32],
        k: usize,
        ids: &mut [i64],
        scores: &mut [f32],
        counts: &mut [usize],
    ) -> Result<(), CatalogueError> {
        let answer = Answer::new(queries.len() / self.dim(), k, ids, scores, counts)?;
        answer.fill(&self.search(queries, k)?);
        Ok(())
    }

    /// Queries, `[batch, dim]`, as they are scored.
    pub(crate) fn prepare<'q>(&self, queries: &'q [f32]) -> Result<Cow<'q, [f32]>, CatalogueError> {
        if !queries.len().is_multiple_of(self.dim()) {
            return Err(CatalogueError::QueriesLength { values: queries.len(), dim: self.dim() });
        }
        match self.metric() {
            Metric::Cosine => {
                let mut queries = queries.to_vec();
                normalize_rows(self.dim(), &mut queries)
                    .map_err(|e| CatalogueError::from_row(Role::Query, e))?;
                Ok(Cow::Owned(queries))
            }
            Metric::InnerProduct => {
                check_vectors(Role::Query, self.dim(), queries)?;
                Ok(Cow::Borrowed(queries))
            }
        }
    }

    /// Answers prepared queries. The one place that decides how the catalogue is searched.
    fn scan(&self, queries: &[f32], k: usize) -> Vec<Hits> {
        topk::scan_whole_rows(Isa::best(), self.dim(), queries, self.vectors(), self.ids(), k)
            .into_iter()
            .map(|hits| Hits::exhaustive(hits, self.len()))
            .collect()
    }
}

/// Refuses a number of hits that no search takes.
pub(crate) fn check_k(k: usize) -> Result<(), CatalogueError> {
    if (1..=MAX_K).contains(&k) { Ok(()) } else { Err(CatalogueError::K { k }) }
}

/// A caller's slices for the hits of a batch.
pub(crate) struct Answer<'a> {
    k: usize,
    ids: &'a mut [i64],
    scores: &'a mut [f32],
    counts: &'a mut [usize],
}

impl<'a> Answer<'a> {
    /// The slices, if they have room for `batch` answers of `k` hits and no more.
    pub(crate) fn new(
        batch: usize,
        k: usize,
        ids: &'a mut [i64],
        scores: &'a mut [f32],
        counts: &'a mut [usize],
    ) -> Result<Answer<'a>, CatalogueError> {
        let pairs = batch.saturating_mul(k);
        for (what, found, needed) in
            [("ids", ids.len(), pairs), ("scores", scores.len(), pairs), ("counts", counts.len(), batch)]
        {
            if found != needed {
                return Err(CatalogueError::OutputLength { what, found, needed });
            }
        }
        Ok(Answer { k, ids, scores, counts })
    }

    /// Writes the hits of a search for `k`.
    pub(crate) fn fill(self, answers: &[Hits]) {
        let Answer { k, ids, scores, counts } = self;
        let rows = ids.chunks_exact_mut(k).zip(scores.chunks_exact_mut(k)).zip(counts);
        for (hits, ((ids, scores), count)) in answers.iter().zip(rows) {
            *count = hits.len();
            ids.fill(-1);
            scores.fill(f32::NAN);
            for (hit, (id, score)) in hits.iter().zip(ids.iter_mut().zip(scores)) {
                (*id, *score) = (hit.id, hit.score);
            }
        }
    }
}
