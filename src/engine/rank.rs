//! The ranker: a second opinion on retrieved products, from both sides' towers in one head.

use std::collections::BTreeSet;

use super::cpu::{Model, Output};
use super::{Engine, EngineError, Side, check_output, check_rows};
use crate::Result;
use crate::catalogue::Hit;
use crate::catalogue::store::RowFeatures;
use crate::cpu::head::Segment;
use crate::input::Request;
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
    /// what towers share is computed once. A modality that a product lacks leaves zeros, which the ranker's first,
    /// linear layer cannot tell from a skipped tower.
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
    /// every row of the catalogue. The ranker reads the modalities that its towers name; what else a request carries
    /// took part in the retrieval only.
    ///
    /// # Errors
    /// [`EngineError::NoRanker`], [`EngineError::HitLists`], [`EngineError::RankerRows`] if `products` cannot come from
    /// this ranker, [`EngineError::UnknownRow`] if it lacks a hit's row, [`EngineError::NothingToRank`] for a request
    /// without any modality that the ranker reads, else as [`Engine::encode_queries`].
    pub fn rank<H: AsRef<[Hit]> + Sync>(
        &self,
        requests: &[Request],
        hits: &[H],
        products: &RowFeatures,
    ) -> Result<Vec<Vec<RankedHit>>> {
        let plan = self.inner.plan.ranker.as_ref().ok_or(EngineError::NoRanker)?;
        let width = self.ranker_width().ok_or(EngineError::NoRanker)?;
        if hits.len() != requests.len() {
            return Err(EngineError::HitLists { hits: hits.len(), requests: requests.len() }.into());
        }
        let rows = products.data.len() / products.width.max(1);
        if products.width != width || products.data.len() != rows * width {
            let (found, values) = (products.width, products.data.len());
            return Err(EngineError::RankerRows { found, values, expected: width }.into());
        }
        check_rows(hits.iter().flat_map(|hits| hits.as_ref()), rows)?;
        let features = self.preprocess(requests)?;
        for row in 0..requests.len() {
            let reads = |tower: &TowerPlan| {
                features.column(tower.input).is_some_and(|column| column.rows().binary_search(&row).is_ok())
            };
            if !plan.query_towers.is_empty() && !plan.query_towers.iter().any(reads) {
                let names: BTreeSet<&str> =
                    plan.query_towers.iter().map(|tower| tower.input.name()).collect();
                let reads = names.into_iter().collect::<Vec<_>>().join(", ");
                return Err(EngineError::NothingToRank { row, reads }.into());
            }
        }
        self.install(|| {
            let model = &self.inner.model;
            let encoder = model.towers(Side::Query, &features)?;
            let towers = model.ranker_towers(Side::Query, &features, &encoder)?;
            let ranked = hits.iter().enumerate().map(|(row, hits)| {
                let hits = hits.as_ref();
                let scores = rank_row(model, plan, &towers, row, hits, products)?;
                let pairs = hits.iter().zip(scores);
                let mut ranked: Vec<RankedHit> =
                    pairs.map(|(&hit, rank_score)| RankedHit { hit, rank_score }).collect();
                ranked.sort_by(|a, b| b.rank_score.total_cmp(&a.rank_score).then(a.hit.id.cmp(&b.hit.id)));
                Ok(ranked)
            });
            ranked.collect()
        })
    }
}

/// The ranker's scores of request `row` with each of its hits.
fn rank_row(
    model: &Model,
    plan: &RankerPlan,
    towers: &[Output],
    row: usize,
    hits: &[Hit],
    products: &RowFeatures,
) -> Result<Vec<f32>> {
    let pairs: Vec<usize> = (0..hits.len()).collect();
    let repeated = towers.iter().map(|tower| tower.of_row(row).unwrap_or(&[]).repeat(hits.len()));
    let mut data: Vec<Vec<f32>> = repeated.collect(); // per tower [hits, width], empty where the request lacks it
    let mut first = 0;
    for tower in &plan.item_towers {
        let row_of = |hit: &Hit| &products.data[hit.row * products.width..][first..first + tower.width];
        data.push(hits.iter().flat_map(row_of).copied().collect());
        first += tower.width;
    }
    let segments = data.iter().map(|data| Segment { rows: if data.is_empty() { &[] } else { &pairs }, data });
    let mut scores = vec![0.0; hits.len()];
    model.rank(hits.len(), &segments.collect::<Vec<_>>(), &mut scores)?;
    Ok(scores)
}
