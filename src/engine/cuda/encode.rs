//! The program of encoding: columns are uploaded, towers and a head run, and a search may follow.

use super::columns::ColumnPlace;
use super::corpus::{Corpus, Search, Target};
use super::fault::{QUERY_STAGE, VECTOR_STAGE};
use super::launch::Towers;
use super::program::{Frame, Launch, Output, Program};
use super::sizes::Buckets;
use super::towers::Op;
use super::work::{Kind, Work};
use super::{Encoder, Model};
use crate::cuda::head::Segment;
use crate::cuda::{CudaError, Place, normalize};
use crate::input::Features;

/// What an encoding runs with.
#[derive(Clone, Copy)]
pub(super) struct Task<'a> {
    pub(super) model: &'a Model,
    pub(super) work: &'a Work,
    /// What the vectors are searched in.
    pub(super) target: Option<Target<'a>>,
}

impl<'a> Task<'a> {
    pub(super) fn encoder(&self) -> &'a Encoder {
        self.model.encoder(self.work.side())
    }

    /// The key of the program that serves a batch.
    pub(super) fn key(&self, buckets: Buckets) -> Key {
        Key { kind: self.work.kind, target: self.target.map(|target| target.key()), buckets }
    }
}

#[derive(Clone, Copy, PartialEq)]
pub(super) struct Key {
    kind: Kind,
    target: Option<(u64, usize)>,
    buckets: Buckets,
}

/// The places of one encoding.
pub(super) struct Encoding {
    frame: Frame,
    columns: Vec<ColumnPlace>,
    /// Per run `[rows, width]`; those that are kept are downloaded.
    pub(super) outputs: Vec<Output<u8>>,
    /// What networks read: `[images, height, width, channels]`.
    pub(super) image: Place<u8>,
    /// The workspace of each tower in turn.
    pub(super) tower_workspace: Place<u8>,
    head_workspace: Place<u8>,
    end: End,
}

/// What becomes of the towers' outputs.
enum End {
    /// Nothing more.
    Towers,
    /// The head's output, `[batch, width]`, and the search for it.
    Vectors { vectors: Output<f32>, search: Option<Search> },
    /// The head's part of each tower, `[batch, part_outputs]`.
    Terms(Vec<Output<f32>>),
}

impl Encoding {
    /// Writes a batch to where it is uploaded from.
    pub(super) fn write(
        &self,
        model: &Model,
        features: &Features,
        upload: &mut [u8],
    ) -> Result<(), CudaError> {
        self.columns
            .iter()
            .try_for_each(|place| place.write(features.column(place.modality), model.precision, upload))
    }

    /// The vectors: downloaded if they are given out, or if the host has to check them before it trusts the search.
    pub(super) fn vectors(&self) -> Result<&Output<f32>, CudaError> {
        match &self.end {
            End::Vectors { vectors, .. } => Ok(vectors),
            End::Towers | End::Terms(_) => Err(CudaError::Graph { reason: "makes no vectors" }),
        }
    }

    pub(super) fn search(&self) -> Result<&Search, CudaError> {
        match &self.end {
            End::Vectors { search: Some(search), .. } => Ok(search),
            _ => Err(CudaError::Graph { reason: "does not search" }),
        }
    }

    pub(super) fn terms(&self) -> &[Output<f32>] {
        match &self.end {
            End::Terms(terms) => terms,
            End::Towers | End::Vectors { .. } => &[],
        }
    }

    /// The encoder's vectors from its towers, and the search for them.
    fn enqueue_vectors(
        &self,
        task: Task<'_>,
        launch: &Launch<'_>,
        segments: &[Segment],
        vectors: &Output<f32>,
        search: Option<(&Search, &Corpus)>,
    ) -> Result<(), CudaError> {
        let Launch { stream, batch, fault, .. } = launch;
        let (head, vectors) = (&task.encoder().head, vectors.of(launch.memory)?);
        let workspace = launch.scratch(&self.head_workspace)?;
        head.enqueue(stream, batch, segments, &workspace, &vectors, VECTOR_STAGE, fault)?;
        let Some((search, corpus)) = search else { return Ok(()) };
        if corpus.normalized {
            // Once more, as the catalogue does with any query.
            normalize::enqueue(stream, batch, corpus.dim, &vectors, QUERY_STAGE, fault)?;
        }
        search.enqueue(launch, corpus, &vectors)
    }
}

impl Program for Encoding {
    type Key = Key;
    type With<'a> = Task<'a>;

    fn plan(key: Key, task: Task<'_>) -> Result<Encoding, CudaError> {
        let Buckets { batch, images, .. } = key.buckets;
        let Task { model, work, target } = task;
        let (precision, encoder) = (model.precision, task.encoder());
        let mut frame = Frame::new(batch);
        let columns = work.columns.iter();
        let columns = columns.map(|&it| ColumnPlace::new(&mut frame.upload, it, key.buckets, precision));
        let columns: Vec<ColumnPlace> = columns.collect();

        let outputs = work.runs.iter().map(|run| {
            let values = columns[run.column].rows.saturating_mul(run.tower.width);
            frame.place(values.saturating_mul(precision.bytes()), run.kept)
        });
        let outputs = outputs.collect();
        let image = frame.scratch.place_values(precision, images.saturating_mul(work.image_values()));
        let workspaces = work.runs.iter().map(|run| match &run.tower.op {
            Op::Network(network) => network.workspace(images),
            Op::Linear(linear) | Op::LinearOver { linear, .. } => linear.workspace(columns[run.column].rows),
            Op::Embedding(_) | Op::Bag { .. } => 0,
        });
        let tower_workspace = frame.scratch.place(workspaces.max().unwrap_or(0));

        let mut head_workspace = 0;
        let end = match work.kind {
            Kind::RankerTowers => End::Towers,
            Kind::Terms => {
                head_workspace = encoder.head.workspace(batch);
                let values = batch.saturating_mul(encoder.head.part_outputs());
                End::Terms(encoder.towers.iter().map(|_| frame.place(values, true)).collect())
            }
            Kind::Vectors(_) | Kind::VectorsAndRanker(_) => {
                head_workspace = encoder.head.workspace(batch);
                let download = target.is_none_or(|target| !target.corpus.normalized);
                let vectors = frame.place(batch.saturating_mul(encoder.width), download);
                let search = target.map(|target| Search::new(&mut frame, target, model.device.info()));
                End::Vectors { vectors, search: search.transpose()? }
            }
        };
        let head_workspace = frame.scratch.place(head_workspace);
        Ok(Encoding { frame, columns, outputs, image, tower_workspace, head_workspace, end })
    }

    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn enqueue(&self, task: Task<'_>, launch: &Launch<'_>) -> Result<(), CudaError> {
        let columns = self.columns.iter();
        let columns = columns.map(|place| place.on_device(&launch.memory.upload, task.model.precision));
        let columns = columns.collect::<Result<Vec<_>, CudaError>>()?;
        let towers = Towers { program: self, task, launch, columns: &columns };
        let outputs = towers.enqueue()?;
        // The encoder's towers come first among the runs, those of the ranker after them.
        let segments = task.work.runs.iter().zip(&outputs).take(task.encoder().towers.len());
        let segments = segments
            .map(|(run, data)| Segment { index: columns[run.column].index.clone(), data: data.clone() });
        let segments: Vec<Segment> = segments.collect();
        match &self.end {
            End::Towers => Ok(()),
            End::Vectors { vectors, search } => {
                let search = search.as_ref().zip(task.target.map(|target| target.corpus));
                self.enqueue_vectors(task, launch, &segments, vectors, search)
            }
            End::Terms(terms) => {
                let workspace = launch.scratch(&self.head_workspace)?;
                for (at, (segment, term)) in segments.iter().zip(terms).enumerate() {
                    let (head, term) = (&task.encoder().head, term.of(launch.memory)?);
                    head.enqueue_parts(launch.stream, &launch.batch, at, segment, &workspace, &term)?;
                }
                Ok(())
            }
        }
    }
}
