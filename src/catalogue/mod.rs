//! Item vectors and their exact search.

mod error;

pub use error::CatalogueError;

use serde::{Deserialize, Serialize};

/// What a score is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Inner product of normalised vectors.
    Cosine,
    /// Inner product of the vectors as given.
    InnerProduct,
}

/// One product of an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// The product's id.
    pub id: i64,
    /// Its row in the catalogue.
    pub row: usize,
    /// The defined score.
    pub score: f32,
}

/// Ids and vectors of products; cheap to clone, searched through `&self`.
#[derive(Debug, Clone)]
pub struct Catalogue {}
