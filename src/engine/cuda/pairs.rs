//! The program of ranking: pairs of a request and a product are uploaded as both sides' tower outputs, and the ranker's
//! head gives each a score.

use super::columns::{ABSENT, copy, round_into};
use super::program::{Frame, Launch, Output, Program};
use super::sizes::{bucket, wide_bucket};
use super::{Model, Ranker};
use crate::Result;
use crate::cuda::head::Segment;
use crate::cuda::{CudaError, Place, Precision, to_u32};
use crate::engine::backend::{Pair, Pairs};

/// Pairs that a context has room for, or more if it encodes more rows at once.
pub(super) const LEAST_PAIRS: usize = 1024;

/// What a ranking runs with.
#[derive(Clone, Copy)]
pub(super) struct RankerTask<'a> {
    pub(super) ranker: &'a Ranker,
    pub(super) precision: Precision,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RankingKey {
    /// Pairs that there is room for.
    pub(super) pairs: usize,
    /// Requests that they are of.
    pub(super) requests: usize,
}

/// The places of one ranking.
pub(super) struct Ranking {
    frame: Frame,
    /// Per query tower the request of each pair, `[pairs]`, and its output for each request, `[requests, width]`.
    query: Vec<(Place<u32>, Place<u8>)>,
    /// `[pairs]`: each pair has a product of its own.
    own: Place<u32>,
    /// Per item tower its output for each pair's product, `[pairs, width]`.
    items: Vec<Place<u8>>,
    workspace: Place<u8>,
    /// `[pairs]`
    scores: Output<f32>,
}

/// Some pairs, with the requests that they are of.
struct Part<'a> {
    pairs: &'a [Pair],
    /// Ascending.
    requests: Vec<usize>,
}

impl<'a> Part<'a> {
    fn new(pairs: &'a [Pair]) -> Part<'a> {
        let mut requests: Vec<usize> = pairs.iter().map(|pair| pair.request).collect();
        requests.dedup();
        Part { pairs, requests }
    }

    fn key(&self, most: usize) -> RankingKey {
        let pairs = bucket(self.pairs.len(), most);
        RankingKey { pairs, requests: wide_bucket(self.requests.len(), pairs) }
    }
}

impl Ranking {
    /// Writes pairs to where they are uploaded from.
    fn write(
        &self,
        ranker: &Ranker,
        precision: Precision,
        all: &Pairs<'_>,
        part: &Part<'_>,
        upload: &mut [u8],
    ) -> Result<(), CudaError> {
        for ((index, data), tower) in self.query.iter().zip(all.towers) {
            let outputs: Vec<_> = part.requests.iter().map(|&request| tower.of_row(request)).collect();
            let rows = rows_of(data.in_host_mut(upload)?, tower.width, precision);
            for (output, to) in outputs.iter().zip(rows) {
                round_into(output.unwrap_or(&[]), precision, to)?;
            }
            let mut at = 0;
            for (pair, to) in part.pairs.iter().zip(index.in_host_mut(upload)?) {
                at += usize::from(pair.request != part.requests[at]);
                *to = if outputs[at].is_some() { to_u32("requests", at)? } else { ABSENT };
            }
        }
        for (at, to) in (0..).zip(self.own.in_host_mut(upload)?).take(part.pairs.len()) {
            *to = at;
        }
        let (mut first, width) = (0, all.products.width);
        for (place, tower) in self.items.iter().zip(&ranker.item) {
            let rows = rows_of(place.in_host_mut(upload)?, tower.width, precision);
            for (pair, to) in part.pairs.iter().zip(rows) {
                let values = &all.products.data[pair.product * width..][first..first + tower.width];
                round_into(values, precision, to)?;
            }
            first += tower.width;
        }
        Ok(())
    }
}

/// The rows of `[any, width]` values.
fn rows_of(data: &mut [u8], width: usize, precision: Precision) -> impl Iterator<Item = &mut [u8]> {
    data.chunks_mut((width * precision.bytes()).max(1))
}

impl Program for Ranking {
    type Key = RankingKey;
    type With<'a> = RankerTask<'a>;

    fn plan(key: RankingKey, task: RankerTask<'_>) -> Result<Ranking, CudaError> {
        let RankerTask { ranker, precision } = task;
        let RankingKey { pairs, requests } = key;
        let mut frame = Frame::new(pairs);
        let upload = &mut frame.upload;
        let query = ranker.query.iter().map(|tower| {
            let values = requests.saturating_mul(tower.width);
            (upload.place(pairs), upload.place_values(precision, values))
        });
        let query = query.collect();
        let own = upload.place(pairs);
        let items = ranker.item.iter();
        let items = items.map(|tower| upload.place_values(precision, pairs.saturating_mul(tower.width)));
        let items = items.collect();
        let workspace = frame.scratch.place(ranker.head.workspace(pairs));
        let scores = frame.place(pairs, true);
        Ok(Ranking { frame, query, own, items, workspace, scores })
    }

    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn enqueue(&self, task: RankerTask<'_>, launch: &Launch<'_>) -> Result<(), CudaError> {
        let upload = &launch.memory.upload;
        let own = self.own.of(upload)?;
        let segment =
            |index, data: &Place<u8>| Ok(Segment { index, data: data.tensor(upload, task.precision)? });
        let query = self.query.iter().map(|(index, data)| segment(index.of(upload)?, data));
        let segments = query.chain(self.items.iter().map(|data| segment(own.clone(), data)));
        let segments = segments.collect::<Result<Vec<Segment>, CudaError>>()?;
        let (workspace, scores) = (launch.scratch(&self.workspace)?, self.scores.of(launch.memory)?);
        // Nothing is normalised: no stage reports.
        let Launch { stream, batch, fault, .. } = launch;
        task.ranker.head.enqueue(stream, batch, &segments, &workspace, &scores, 0, fault)
    }
}

impl Model {
    /// Pairs that are ranked together, at most.
    pub(super) fn most_pairs(&self) -> usize {
        self.rooms.rows_at_once.max(LEAST_PAIRS)
    }

    /// One score per pair.
    pub(super) fn rank_pairs(&self, ranker: &Ranker, pairs: &Pairs<'_>, scores: &mut [f32]) -> Result<()> {
        if pairs.pairs.is_empty() {
            return Ok(());
        }
        let task = RankerTask { ranker, precision: self.precision };
        let most = self.most_pairs();
        let mut context = self.contexts.check_out(self.when_busy)?;
        for (part, scores) in pairs.pairs.chunks(most).zip(scores.chunks_mut(most)) {
            let part = Part::new(part);
            let finished =
                context.run::<Ranking>(part.key(most), task, part.pairs.len(), |ranking, upload| {
                    ranking.write(ranker, self.precision, pairs, &part, upload)
                })?;
            finished.expect_no_fault("head")?;
            copy(&finished.program.scores.in_host(finished.download)?[..scores.len()], scores)?;
        }
        Ok(())
    }
}

/// The key of the largest ranking.
pub(super) fn largest(most: usize) -> RankingKey {
    RankingKey { pairs: most, requests: most }
}
