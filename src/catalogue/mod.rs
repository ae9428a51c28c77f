//! Item vectors and their exact search.

mod aligned;
mod error;
mod search;
pub mod store;

pub use error::{CatalogueError, Role};
pub(crate) use search::{Answer, check_k};
pub use search::{Certificate, Hit, Hits};

use crate::cpu::normalize::{NormalizeError, check_row, normalize_rows};
use aligned::Aligned;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// The longest vector.
pub const MAX_DIM: usize = 4096;
/// The most hits of one answer.
pub const MAX_K: usize = 65_536;

/// What a score is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Inner product of normalised vectors.
    Cosine,
    /// Inner product of the vectors as given.
    InnerProduct,
}

/// Ids and vectors of products; cheap to clone, searched through `&self`.
///
/// Ids are 0 to `i64::MAX`, each once, in any order. Vectors have 1 to 4096 elements; none is zero, none holds NaN or
/// an infinity.
#[derive(Clone)]
pub struct Catalogue {
    inner: Arc<Inner>,
}

struct Inner {
    metric: Metric,
    dim: usize,
    ids: Vec<i64>,
    /// `[rows, dim]`, normalised for [`Metric::Cosine`].
    vectors: Aligned,
    /// The rows in order of their ids; `None` if they are in that order already.
    by_id: Option<Vec<usize>>,
    /// Unlike that of any other catalogue of this process.
    number: u64,
}

/// The number of the next catalogue.
static NUMBER: AtomicU64 = AtomicU64::new(0);

const _: () = {
    const fn is_send_and_sync<T: Send + Sync>() {}
    is_send_and_sync::<Catalogue>();
};

impl Catalogue {
    /// A catalogue of `vectors`, `[ids.len(), dim]`. For [`Metric::Cosine`] they are normalised as
    /// [`crate::cpu::normalize`] defines it; for [`Metric::InnerProduct`] they are kept as given.
    ///
    /// # Errors
    /// - [`CatalogueError::Dim`], [`CatalogueError::VectorsLength`]: the shape.
    /// - [`CatalogueError::NegativeId`], [`CatalogueError::DuplicateId`]: the ids.
    /// - [`CatalogueError::Zero`], [`CatalogueError::NotFinite`]: the first such row.
    /// - [`CatalogueError::NormTooLarge`]: for inner products, a row whose L2 norm exceeds 2^63.
    pub fn new(
        metric: Metric,
        dim: usize,
        ids: Vec<i64>,
        mut vectors: Vec<f32>,
    ) -> Result<Catalogue, CatalogueError> {
        check_shape(dim, ids.len(), vectors.len())?;
        if metric == Metric::Cosine {
            normalize_rows(dim, &mut vectors).map_err(|e| CatalogueError::from_row(Role::Row, e))?;
        }
        Catalogue::from_stored(metric, dim, ids, vectors)
    }

    /// A catalogue of vectors that are normalised already if `metric` asks for it: normalising twice may change bits.
    fn from_stored(
        metric: Metric,
        dim: usize,
        ids: Vec<i64>,
        vectors: Vec<f32>,
    ) -> Result<Catalogue, CatalogueError> {
        check_shape(dim, ids.len(), vectors.len())?;
        let by_id = sort_ids(&ids)?;
        check_vectors(Role::Row, dim, &vectors)?;
        let vectors = Aligned::new(vectors);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Ok(Catalogue { inner: Arc::new(Inner { metric, dim, ids, vectors, by_id, number }) })
    }

    /// Number of products.
    pub fn len(&self) -> usize {
        self.inner.ids.len()
    }

    /// Whether there are no products.
    pub fn is_empty(&self) -> bool {
        self.inner.ids.is_empty()
    }

    /// Length of a vector.
    pub fn dim(&self) -> usize {
        self.inner.dim
    }

    /// What a score is.
    pub fn metric(&self) -> Metric {
        self.inner.metric
    }

    /// The ids, by row.
    pub fn ids(&self) -> &[i64] {
        &self.inner.ids
    }

    /// The vectors as they are searched, `[len, dim]`.
    pub fn vectors(&self) -> &[f32] {
        &self.inner.vectors
    }

    /// The vector of a row as it is searched; `None` past the last row.
    pub fn vector(&self, row: usize) -> Option<&[f32]> {
        (row < self.len()).then(|| &self.inner.vectors[row * self.dim()..][..self.dim()])
    }

    /// The row that has this id.
    pub fn row_of(&self, id: i64) -> Option<usize> {
        let ids = &self.inner.ids;
        match &self.inner.by_id {
            None => ids.binary_search(&id).ok(),
            Some(rows) => rows.binary_search_by_key(&id, |&row| ids[row]).ok().map(|at| rows[at]),
        }
    }
}

/// What a catalogue is known by where a copy of it is kept: keeps nothing alive.
#[cfg_attr(not(feature = "cuda"), allow(dead_code))] // a device's copies are the only ones
pub(crate) struct CatalogueId {
    inner: Weak<Inner>,
    number: u64,
}

#[cfg_attr(not(feature = "cuda"), allow(dead_code))] // as above
impl CatalogueId {
    /// A number that no other catalogue of this process has.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Whether a handle of the catalogue is left.
    pub(crate) fn is_alive(&self) -> bool {
        self.inner.strong_count() > 0
    }

    /// Whether it is this catalogue's.
    pub(crate) fn is(&self, catalogue: &Catalogue) -> bool {
        self.number == catalogue.inner.number
    }
}

#[cfg_attr(not(feature = "cuda"), allow(dead_code))] // as above
impl Catalogue {
    /// What the catalogue is known by.
    pub(crate) fn id(&self) -> CatalogueId {
        CatalogueId { inner: Arc::downgrade(&self.inner), number: self.inner.number }
    }

    /// Refuses what [`Catalogue::search`] refuses of queries, `[batch, dim]`. On the calling thread alone, which may hold
    /// what others wait for.
    pub(crate) fn check_queries(&self, queries: &[f32]) -> Result<(), CatalogueError> {
        queries.chunks_exact(self.dim()).enumerate().try_for_each(|(at, query)| match self.metric() {
            // They are normalised before they are scored, so their length is of no matter.
            Metric::Cosine => {
                check_row(at, query).map(drop).map_err(|e| CatalogueError::from_row(Role::Query, e))
            }
            Metric::InnerProduct => check_vector(Role::Query, at, query),
        })
    }
}

impl std::fmt::Debug for Catalogue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalogue")
            .field("metric", &self.metric())
            .field("rows", &self.len())
            .field("dim", &self.dim())
            .finish()
    }
}

impl CatalogueError {
    fn from_row(role: Role, error: NormalizeError) -> CatalogueError {
        match error {
            NormalizeError::Zero { row } => CatalogueError::Zero { role, at: row },
            NormalizeError::NotFinite { row, position, value } => {
                CatalogueError::NotFinite { role, at: row, position, value }
            }
        }
    }
}

fn check_shape(dim: usize, rows: usize, values: usize) -> Result<(), CatalogueError> {
    if !(1..=MAX_DIM).contains(&dim) {
        return Err(CatalogueError::Dim { dim });
    }
    if rows.checked_mul(dim) != Some(values) {
        return Err(CatalogueError::VectorsLength { values, rows, dim });
    }
    Ok(())
}

/// The rows in order of their ids, `None` if they are in that order already.
fn sort_ids(ids: &[i64]) -> Result<Option<Vec<usize>>, CatalogueError> {
    if let Some(row) = ids.iter().position(|&id| id < 0) {
        return Err(CatalogueError::NegativeId { row, id: ids[row] });
    }
    if ids.is_sorted_by(|a, b| a < b) {
        return Ok(None);
    }
    let mut rows: Vec<usize> = (0..ids.len()).collect();
    rows.par_sort_unstable_by_key(|&row| (ids[row], row));
    match rows.windows(2).find(|pair| ids[pair[0]] == ids[pair[1]]) {
        Some(&[first, second]) => Err(CatalogueError::DuplicateId { id: ids[first], first, second }),
        _ => Ok(Some(rows)),
    }
}

/// Refuses vectors that are zero, not finite, or longer than 2^63.
///
/// The limit keeps every step of the defined score finite: by Cauchy-Schwarz the magnitudes of the products of two such
/// vectors sum to at most 2^126, and the roundings of at most 4096 / 32 + 5 steps enlarge a partial sum by less than a
/// factor of 2, so it stays below 2^127. Here the squares are summed in f64, which cannot overflow and whose
/// roundings are lost in the same factor.
fn check_vectors(role: Role, dim: usize, vectors: &[f32]) -> Result<(), CatalogueError> {
    vectors
        .par_chunks_exact(dim)
        .enumerate()
        .map(|(at, vector)| check_vector(role, at, vector))
        .find_map_first(Result::err)
        .map_or(Ok(()), Err)
}

/// [`check_vectors`] of vector number `at`.
fn check_vector(role: Role, at: usize, vector: &[f32]) -> Result<(), CatalogueError> {
    const MAX_SQUARE: f64 = (1u128 << 126) as f64;
    let largest = check_row(at, vector).map_err(|e| CatalogueError::from_row(role, e))?;
    if largest < 1e12 {
        return Ok(()); // at most 64 * 1e12 long
    }
    let square: f64 = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    match square <= MAX_SQUARE {
        true => Ok(()),
        false => Err(CatalogueError::NormTooLarge { role, at, norm: square.sqrt() }),
    }
}
