//! Encoding: requests or ready-made tensors to vectors.

use std::collections::BTreeSet;
use std::ops::Range;

use super::error::in_batch;
use super::{Engine, EngineError, RowError, Side};
#[cfg(doc)]
use crate::Error;
use crate::Result;
use crate::input::{Behaviour, Features, ImagePreprocessor, InputError, Modality, Request};
use crate::model::{Pooling, TowerOp, TowerPlan};

/// Bytes of photos of one part of a call, unless one alone has more. Two parts are held together.
const PHOTO_BYTES_AT_ONCE: usize = 1 << 26;

impl Engine {
    /// Encodes requests into vectors `[requests.len(), dim]`.
    ///
    /// # Errors
    /// [`EngineError::Row`] for a request that cannot be read, has nothing to encode or an unknown id, or encodes to a
    /// vector without direction; [`Error::Weights`] if a mapped file was changed in place.
    pub fn encode_queries(&self, requests: &[Request]) -> Result<Vec<f32>> {
        self.encode_all(Side::Query, requests)
    }

    /// [`Engine::encode_queries`] into the caller's `[requests.len(), dim]`.
    ///
    /// # Errors
    /// As [`Engine::encode_queries`], and [`EngineError::OutputLength`].
    pub fn encode_queries_into(&self, requests: &[Request], vectors: &mut [f32]) -> Result<()> {
        self.encode_requests(Side::Query, requests, vectors, None)
    }

    /// Encodes products into vectors `[items.len(), dim]`.
    ///
    /// # Errors
    /// As [`Engine::encode_queries`].
    pub fn encode_items(&self, items: &[Request]) -> Result<Vec<f32>> {
        self.encode_all(Side::Item, items)
    }

    /// [`Engine::encode_items`] into the caller's `[items.len(), dim]`.
    ///
    /// # Errors
    /// As [`Engine::encode_queries_into`].
    pub fn encode_items_into(&self, items: &[Request], vectors: &mut [f32]) -> Result<()> {
        self.encode_requests(Side::Item, items, vectors, None)
    }

    /// Turns requests for one encoder into tensors, all at once. A request that is needed more than once, to search, to
    /// explain and to rank, is read and decoded once this way: see [`Engine::encode_features`],
    /// [`Engine::search_features`], [`Engine::explain_features`] and [`Engine::rank_features`].
    ///
    /// # Errors
    /// [`EngineError::Row`] for a request that cannot be read or whose items have weights that a tower does not take;
    /// [`Error::Input`] if the photos do not fit in memory together.
    pub fn preprocess(&self, side: Side, requests: &[Request]) -> Result<Features> {
        self.check_weights(side, requests)?;
        self.install(|| self.inner.preprocessor.features(requests)).map_err(|error| match error {
            InputError::Row { row, source } => {
                EngineError::Row { side, row, source: RowError::Input(*source) }.into()
            }
            other => other.into(),
        })
    }

    /// Encodes tensors, ready-made or of [`Engine::preprocess`], into the caller's `[features.batch(), dim]`.
    ///
    /// # Errors
    /// As [`Engine::encode_queries_into`], and [`EngineError::Form`] for a column of another form than its towers read. A
    /// device also refuses a bag of more ids than [`Options::rows_at_once`](super::Options::rows_at_once) requests have, as
    /// [`RowError::TooManyIds`].
    pub fn encode_features(&self, side: Side, features: &Features, vectors: &mut [f32]) -> Result<()> {
        check_output(features.batch(), self.encoder(side).width, vectors)?;
        self.install(|| self.run(side, features, vectors, None))
    }

    fn encode_all(&self, side: Side, requests: &[Request]) -> Result<Vec<f32>> {
        let mut vectors = vec![0.0; requests.len() * self.encoder(side).width]; // [rows, dim]
        self.encode_requests(side, requests, &mut vectors, None)?;
        Ok(vectors)
    }

    /// Encodes requests; `ranker_rows` as in [`Engine::encode_items_for_ranking`].
    pub(super) fn encode_requests(
        &self,
        side: Side,
        requests: &[Request],
        vectors: &mut [f32],
        mut ranker_rows: Option<&mut [f32]>,
    ) -> Result<()> {
        let dim = self.encoder(side).width;
        check_output(requests.len(), dim, vectors)?;
        let width = self.ranker_width().unwrap_or(0);
        self.in_parts(side, requests, |rows, features| {
            let vectors = &mut vectors[rows.start * dim..rows.end * dim];
            let ranker_rows = ranker_rows.as_mut().map(|all| &mut all[rows.start * width..rows.end * width]);
            self.run(side, features, vectors, ranker_rows)
        })
    }

    /// Preprocesses requests in parts of bounded memory and gives `work` the rows and tensors of each; while a device works
    /// on a part, the next is preprocessed. Errors count rows from the first request.
    pub(super) fn in_parts(
        &self,
        side: Side,
        requests: &[Request],
        mut work: impl FnMut(Range<usize>, &Features) -> Result<()> + Send,
    ) -> Result<()> {
        let photo = self.inner.preprocessor.image().map_or(1, ImagePreprocessor::bytes);
        let at_once = (PHOTO_BYTES_AT_ONCE / photo.max(1)).clamp(1, self.inner.backend.rows_at_once());
        let mut parts = requests.chunks(at_once).map(|part| self.preprocess(side, part));
        let mut first = 0;
        self.install(|| {
            let mut next = parts.next();
            while let Some(features) = next {
                let work = || {
                    let features = features?;
                    let rows = first..first + features.batch();
                    work(rows, &features)?;
                    Ok(features.batch())
                };
                // A thread that waits here holds no context: `work` has given its back.
                let (worked, following) = match parts.len() {
                    0 => (work(), None),
                    _ => rayon::join(work, || parts.next()),
                };
                first += worked.map_err(|error| in_batch(error, first))?;
                next = following;
            }
            Ok(())
        })
    }

    fn run(
        &self,
        side: Side,
        features: &Features,
        vectors: &mut [f32],
        ranker_rows: Option<&mut [f32]>,
    ) -> Result<()> {
        self.check_modalities(side, features)?;
        let towers = self.inner.backend.encode(side, features, vectors, ranker_rows.is_some())?;
        let Some(ranker_rows) = ranker_rows else { return Ok(()) };
        let width = self.ranker_width().unwrap_or(0);
        let mut first = 0;
        ranker_rows.fill(0.0);
        for tower in towers {
            for (&row, values) in tower.rows.iter().zip(tower.data.chunks_exact(tower.width)) {
                ranker_rows[row * width + first..][..tower.width].copy_from_slice(values);
            }
            first += tower.width;
        }
        Ok(())
    }

    /// Every row has a modality that the encoder reads, and each that it has is read by the encoder or the ranker.
    pub(super) fn check_modalities(&self, side: Side, features: &Features) -> Result<(), EngineError> {
        let encoder = modalities(&self.encoder(side).towers);
        let read: BTreeSet<Modality> =
            encoder.union(&modalities(self.ranker_towers(side))).copied().collect();
        // A row beyond as many as there are values matters only if an earlier one has none: memory goes by the values.
        let columns = encoder.iter().filter_map(|&modality| features.column(modality));
        let values: usize = columns.map(|column| column.rows().len()).sum();
        let mut seen = vec![false; features.batch().min(values + 1)];
        for modality in Modality::ALL {
            let Some(column) = features.column(modality) else { continue };
            if !read.contains(&modality) {
                let (row, reads) = (column.rows()[0], names(&read));
                return Err(EngineError::Row { side, row, source: RowError::Unread { modality, reads } });
            }
            if encoder.contains(&modality) {
                for &row in column.rows() {
                    if let Some(seen) = seen.get_mut(row) {
                        *seen = true;
                    }
                }
            }
        }
        match seen.iter().position(|&seen| !seen) {
            Some(row) => {
                Err(EngineError::Row { side, row, source: RowError::Empty { reads: names(&encoder) } })
            }
            None => Ok(()),
        }
    }

    /// No row has weights for a bag whose tower takes none.
    fn check_weights(&self, side: Side, requests: &[Request]) -> Result<(), EngineError> {
        let takes_none = |tower: &&TowerPlan| {
            tower.input == Modality::Behaviour
                && matches!(&tower.op, TowerOp::EmbeddingBag { pooling, .. } if *pooling != Pooling::Sum)
        };
        let mut towers = self.encoder(side).towers.iter().chain(self.ranker_towers(side));
        let Some(tower) = towers.find(takes_none) else { return Ok(()) };
        let weighted =
            |request: &Request| matches!(&request.behaviour, Some(Behaviour::Items { weights: Some(_), .. }));
        match requests.iter().position(weighted) {
            Some(row) => {
                Err(EngineError::Row { side, row, source: RowError::Weights { tower: tower.name.clone() } })
            }
            None => Ok(()),
        }
    }

    /// The ranker's towers of one side; none without a ranker.
    pub(super) fn ranker_towers(&self, side: Side) -> &[TowerPlan] {
        match (&self.inner.plan.ranker, side) {
            (Some(ranker), Side::Query) => &ranker.query_towers,
            (Some(ranker), Side::Item) => &ranker.item_towers,
            (None, _) => &[],
        }
    }
}

/// What some towers read.
pub(super) fn modalities(towers: &[TowerPlan]) -> BTreeSet<Modality> {
    towers.iter().map(|tower| tower.input).collect()
}

/// Modalities in words.
pub(super) fn names(modalities: &BTreeSet<Modality>) -> String {
    modalities.iter().map(|modality| modality.name()).collect::<Vec<_>>().join(", ")
}

/// The caller's slice has `width` values for each row.
pub(super) fn check_output(rows: usize, width: usize, output: &[f32]) -> Result<(), EngineError> {
    let (found, expected) = (output.len(), rows.saturating_mul(width));
    if found == expected { Ok(()) } else { Err(EngineError::OutputLength { found, expected, rows, width }) }
}
