//! Which modality brought how much of a score.
//!
//! The vector before normalisation is `v = sum over towers of W_t x_t + b`, so the cosine of a product `p` is
//! `v . p / |v| = sum over towers of (W_t x_t . p) / |v| + b . p / |v|`: one term per tower and one for the bias.

use super::{Engine, EngineError, Side};
use crate::Result;
use crate::catalogue::{Catalogue, Hit, Metric};
use crate::input::{Features, Modality, Request};
use crate::model::Normalize;

/// The parts of one score. They sum to it, up to the rounding of the score itself.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Parts {
    by_modality: [Option<f32>; Modality::ALL.len()],
    bias: f32,
}

impl Parts {
    /// What `modality` brought; `None` if the request did not have it.
    pub fn get(&self, modality: Modality) -> Option<f32> {
        self.by_modality[modality as usize]
    }

    /// The modalities that the request had, with what each brought.
    pub fn iter(&self) -> impl Iterator<Item = (Modality, f32)> {
        Modality::ALL.into_iter().filter_map(|modality| Some((modality, self.get(modality)?)))
    }

    /// What the head's bias brought whatever the request; 0 for a head without bias.
    pub fn bias(&self) -> f32 {
        self.bias
    }
}

impl Engine {
    /// Splits the scores of `hits` into one part per query modality: entry `[r][h]` explains `hits[r][h]`.
    ///
    /// # Errors
    /// [`EngineError::NotLinear`] if the query head has hidden layers or an activation, [`EngineError::HitLists`] if
    /// `hits` is not one list per request, [`EngineError::OtherCatalogue`] for hits of another catalogue, else as
    /// [`Engine::search`].
    pub fn explain<H: AsRef<[Hit]> + Sync>(
        &self,
        catalogue: &Catalogue,
        requests: &[Request],
        hits: &[H],
    ) -> Result<Vec<Vec<Parts>>> {
        self.check_explainable(catalogue, requests.len(), hits)?;
        let mut explained = Vec::with_capacity(requests.len());
        self.in_parts(Side::Query, requests, |part, features| {
            explained.extend(self.explain_rows(catalogue, features, &hits[part])?);
            Ok(())
        })?;
        Ok(explained)
    }

    /// [`Engine::explain`] for tensors, ready-made or of [`Engine::preprocess`].
    ///
    /// # Errors
    /// As [`Engine::explain`], and [`EngineError::Form`].
    pub fn explain_features<H: AsRef<[Hit]> + Sync>(
        &self,
        catalogue: &Catalogue,
        features: &Features,
        hits: &[H],
    ) -> Result<Vec<Vec<Parts>>> {
        self.check_explainable(catalogue, features.batch(), hits)?;
        self.install(|| self.explain_rows(catalogue, features, hits))
    }

    /// That the model splits scores, and that there is one list of hits of this catalogue per request.
    fn check_explainable<H: AsRef<[Hit]>>(
        &self,
        catalogue: &Catalogue,
        requests: usize,
        hits: &[H],
    ) -> Result<()> {
        self.check_catalogue(catalogue)?;
        if !self.inner.plan.query.is_linear() {
            return Err(EngineError::NotLinear.into());
        }
        if hits.len() != requests {
            return Err(EngineError::HitLists { hits: hits.len(), requests }.into());
        }
        let foreign = |hit: &&Hit| catalogue.ids().get(hit.row) != Some(&hit.id);
        match hits.iter().flat_map(|hits| hits.as_ref()).find(foreign) {
            Some(hit) => Err(EngineError::OtherCatalogue { row: hit.row, id: hit.id }.into()),
            None => Ok(()),
        }
    }

    /// The parts of each row's hits, which were checked.
    fn explain_rows<H: AsRef<[Hit]>>(
        &self,
        catalogue: &Catalogue,
        features: &Features,
        hits: &[H],
    ) -> Result<Vec<Vec<Parts>>> {
        self.check_modalities(Side::Query, features)?;
        let (backend, plan) = (&self.inner.backend, &self.inner.plan.query);
        let terms = backend.query_terms(features)?;
        let zeros = vec![0.0; plan.width];
        let bias = backend.query_bias().unwrap_or(&zeros);
        let scaled = plan.normalize == Normalize::L2 || catalogue.metric() == Metric::Cosine;
        let explain = |(row, hits): (usize, &H)| {
            let terms: Vec<(Modality, &[f32])> =
                terms.iter().filter_map(|term| Some((term.modality, term.of_row(row)?))).collect();
            let norm = if scaled { norm(&terms, bias) } else { 1.0 };
            let products = hits.as_ref().iter().filter_map(|hit| catalogue.vector(hit.row));
            products.map(|product| parts(&terms, bias, norm, product)).collect()
        };
        Ok(hits.iter().enumerate().map(explain).collect())
    }
}

/// The parts of one product's score.
fn parts(terms: &[(Modality, &[f32])], bias: &[f32], norm: f64, product: &[f32]) -> Parts {
    let mut by_modality = [None; Modality::ALL.len()];
    for &(modality, term) in terms {
        *by_modality[modality as usize].get_or_insert(0.0) += dot(term, product) / norm;
    }
    Parts { by_modality: by_modality.map(|part| part.map(to_f32)), bias: to_f32(dot(bias, product) / norm) }
}

/// The L2 norm of the sum of all terms.
fn norm(terms: &[(Modality, &[f32])], bias: &[f32]) -> f64 {
    let sum =
        |at: usize| terms.iter().map(|(_, term)| f64::from(term[at])).sum::<f64>() + f64::from(bias[at]);
    (0..bias.len()).map(|at| sum(at).powi(2)).sum::<f64>().sqrt()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

#[allow(clippy::cast_possible_truncation)] // rounding to f32 is the point
fn to_f32(x: f64) -> f32 {
    x as f32
}
