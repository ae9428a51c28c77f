//! The ranker: a second opinion on retrieved products, from both sides' towers in one head.

use super::backend::{Pair, Pairs};
use super::encode::{check_output, modalities, names};
use super::{Engine, EngineError, RowError, Side};
use crate::Result;
use crate::catalogue::Hit;
use crate::catalogue::store::RowFeatures;
use crate::input::{Features, Modality, Request};
use crate::model::{RankerPlan, TowerPlan};

/// A retrieved product with the ranker's score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RankedHit {
    /// The product as it was retrieved.
    pub hit: Hit,
    /// The output of the ranker's last layer: a probability if that is a sigmoid.
    pub rank_score: f32,
}

impl Engine {
    /// Values per product that [`Engine::rank`] needs: the widths of the ranker's item towers. `None` without a ranker.
    pub fn ranker_width(&self) -> Option<usize> {
        let towers = &self.inner.plan.ranker.as_ref()?.item_towers;
        Some(towers.iter().map(|tower: &TowerPlan| tower.width).sum())
    }

    /// [`Engine::encode_items_into`] that also gives the ranker's side of each product, `[items.len(), ranker_width]`;
    /// what towers share is computed once. Where a product lacks a modality, the ranker's tower of it gives zeros.
    ///
    /// # Errors
    /// As [`Engine::encode_items_into`]; [`EngineError::NoRanker`].
    pub fn encode_items_for_ranking(
        &self,
        items: &[Request],
        vectors: &mut [f32],
        ranker_rows: &mut [f32],
    ) -> Result<()> {
        let width = self.ranker_width().ok_or(EngineError::NoRanker)?;
        check_output(items.len(), width, ranker_rows)?;
        self.encode_requests(Side::Item, items, vectors, Some(ranker_rows))
    }

    /// Scores each request's retrieved products with the ranker and orders them by that score, best first, then id
    /// ascending. A list of hits is the answer of a search, or any choice of rows. `products` holds the ranker's side of
    /// every row of the catalogue that the hits are from, which cannot be checked here. The ranker reads the modalities
    /// that its towers name; what else a request carries took part in the retrieval only.
    ///
    /// # Errors
    /// [`EngineError::NoRanker`], [`EngineError::HitLists`], [`EngineError::RankerRows`] if `products` cannot come from
    /// this ranker, [`EngineError::OtherCatalogue`] if it lacks a hit's row, [`RowError::NothingToRank`] for a request
    /// without any modality that the ranker reads, [`EngineError::RankNotFinite`], else as [`Engine::encode_queries`].
    pub fn rank<H: AsRef<[Hit]> + Sync>(
        &self,
        requests: &[Request],
        hits: &[H],
        products: &RowFeatures,
    ) -> Result<Vec<Vec<RankedHit>>> {
        let plan = self.check_rankable(requests.len(), hits, products)?;
        let mut ranked = Vec::with_capacity(requests.len());
        self.in_parts(Side::Query, requests, |part, features| {
            ranked.extend(self.rank_rows(plan, features, &hits[part], products)?);
            Ok(())
        })?;
        Ok(ranked)
    }

    /// [`Engine::rank`] for tensors, ready-made or of [`Engine::preprocess`].
    ///
    /// # Errors
    /// As [`Engine::rank`], and [`EngineError::Form`].
    pub fn rank_features<H: AsRef<[Hit]> + Sync>(
        &self,
        features: &Features,
        hits: &[H],
        products: &RowFeatures,
    ) -> Result<Vec<Vec<RankedHit>>> {
        let plan = self.check_rankable(features.batch(), hits, products)?;
        self.install(|| self.rank_rows(plan, features, hits, products))
    }

    /// The ranker, if there is one list of hits per request and `products` has the rows that they name.
    fn check_rankable<H: AsRef<[Hit]>>(
        &self,
        requests: usize,
        hits: &[H],
        products: &RowFeatures,
    ) -> Result<&RankerPlan, EngineError> {
        let plan = self.inner.plan.ranker.as_ref().ok_or(EngineError::NoRanker)?;
        let width = self.ranker_width().ok_or(EngineError::NoRanker)?;
        if hits.len() != requests {
            return Err(EngineError::HitLists { hits: hits.len(), requests });
        }
        let rows = products.data.len() / products.width.max(1);
        if products.width != width || products.data.len() != rows * width {
            let (found, values) = (products.width, products.data.len());
            return Err(EngineError::RankerRows { found, values, expected: width });
        }
        match hits.iter().flat_map(|hits| hits.as_ref()).find(|hit| hit.row >= rows) {
            Some(hit) => Err(EngineError::OtherCatalogue { row: hit.row, id: hit.id }),
            None => Ok(plan),
        }
    }

    /// Each row's hits, which were checked, in the ranker's order.
    fn rank_rows<H: AsRef<[Hit]>>(
        &self,
        plan: &RankerPlan,
        features: &Features,
        hits: &[H],
        products: &RowFeatures,
    ) -> Result<Vec<Vec<RankedHit>>> {
        self.check_modalities(Side::Query, features)?;
        check_has_any(plan, features)?;
        let backend = self.inner.backend.as_ref();
        let towers = backend.ranker_query_towers(features)?;
        let pairs = hits.iter().enumerate().flat_map(|(request, hits)| {
            hits.as_ref().iter().map(move |hit| Pair { request, product: hit.row })
        });
        let pairs: Vec<Pair> = pairs.collect();
        let mut scores = vec![0.0; pairs.len()];
        backend.rank(&Pairs { pairs: &pairs, towers: &towers, products }, &mut scores)?;
        let mut scores = scores.as_slice();
        let rank = |hits: &H| {
            let (of_request, rest) = scores.split_at(hits.as_ref().len());
            scores = rest;
            Ok(in_order(hits.as_ref(), of_request)?)
        };
        hits.iter().map(rank).collect()
    }
}

/// Every row has a modality that the ranker's query towers read, if there are any.
fn check_has_any(plan: &RankerPlan, features: &Features) -> Result<(), EngineError> {
    let reads = modalities(&plan.query_towers);
    let has = |row: usize, modality: &Modality| {
        features.column(*modality).is_some_and(|column| column.rows().binary_search(&row).is_ok())
    };
    let lacks_all = |row: &usize| !reads.is_empty() && !reads.iter().any(|modality| has(*row, modality));
    match (0..features.batch()).find(lacks_all) {
        Some(row) => {
            let source = RowError::NothingToRank { reads: names(&reads) };
            Err(EngineError::Row { side: Side::Query, row, source })
        }
        None => Ok(()),
    }
}

/// Hits with their scores, best first; scores compare as numbers, so that -0 equals +0.
fn in_order(hits: &[Hit], scores: &[f32]) -> Result<Vec<RankedHit>, EngineError> {
    let pairs = hits.iter().zip(scores);
    if let Some((hit, &value)) = pairs.clone().find(|(_, score)| !score.is_finite()) {
        return Err(EngineError::RankNotFinite { id: hit.id, value });
    }
    let mut ranked: Vec<RankedHit> = pairs.map(|(&hit, &rank_score)| RankedHit { hit, rank_score }).collect();
    ranked
        .sort_by(|a, b| (b.rank_score + 0.0).total_cmp(&(a.rank_score + 0.0)).then(a.hit.id.cmp(&b.hit.id)));
    Ok(ranked)
}
