//! The ranker's head over pairs of a request and a product.

use std::ops::Range;

use super::columns::{ABSENT, round_into};
use super::program::Memory;
use crate::cpu::head::Segment;
use crate::cuda::head::{self, Head};
use crate::cuda::{CudaError, Layout, Place, Precision, Rows, Staged};

/// The places of one call of `batch` pairs.
pub(super) struct Pairs {
    pub(super) upload: Layout,
    pub(super) scratch: Layout,
    pub(super) download: Layout,
    pub(super) scores: Place<f32>,
    batch: usize,
    count: Place<u32>,
    segments: Vec<SegmentPlace>,
    workspace: Place<u8>,
    fault: Place<u64>,
}

struct SegmentPlace {
    width: usize,
    index: Place<u32>,
    data: Place<u8>,
}

impl Pairs {
    pub(super) fn new(widths: &[usize], head: &Head, precision: Precision, batch: usize) -> Pairs {
        let (mut upload, mut scratch, mut download) =
            (Layout::default(), Layout::default(), Layout::default());
        let count = upload.place(1);
        let segments = widths.iter().map(|&width| SegmentPlace {
            width,
            index: upload.place(batch),
            data: upload.place_values(precision, batch.saturating_mul(width)),
        });
        let segments = segments.collect();
        let workspace = scratch.place(head.workspace(batch));
        let (fault, scores) = (download.place(1), download.place(batch));
        Pairs { upload, scratch, download, scores, batch, count, segments, workspace, fault }
    }

    /// Writes the pairs `rows` of the segments into the buffer that is uploaded.
    pub(super) fn write(
        &self,
        segments: &[Segment<'_>],
        rows: Range<usize>,
        precision: Precision,
        upload: &mut [u8],
    ) {
        self.count.in_host_mut(upload).fill(u32::try_from(rows.len()).unwrap_or(u32::MAX));
        for (place, segment) in self.segments.iter().zip(segments) {
            let (first, last) = (
                segment.rows.partition_point(|&row| row < rows.start),
                segment.rows.partition_point(|&row| row < rows.end),
            );
            let index = place.index.in_host_mut(upload);
            index.fill(ABSENT);
            for (at, &row) in (0u32..).zip(&segment.rows[first..last]) {
                index[row - rows.start] = at;
            }
            let data = &segment.data[first * place.width..last * place.width];
            round_into(data, precision, place.data.in_host_mut(upload));
        }
    }

    /// Puts the call on a stream: upload, the head, download.
    pub(super) fn enqueue(
        &self,
        head: &Head,
        precision: Precision,
        staged: &Staged<'_>,
        memory: &Memory,
    ) -> Result<(), CudaError> {
        let fault = self.fault.of(&memory.download)?;
        staged.stream().fill(&fault, 0xFF)?;
        staged.upload(&memory.upload.part(0..self.upload.bytes())?)?;
        let batch = Rows::new(self.batch, self.count.of(&memory.upload)?)?;
        let segments = self.segments.iter().map(|place| {
            let (index, data) =
                (place.index.of(&memory.upload)?, place.data.tensor(&memory.upload, precision)?);
            Ok(head::Segment { index, data })
        });
        let segments = segments.collect::<Result<Vec<head::Segment>, CudaError>>()?;
        let workspace = self.workspace.of(&memory.scratch)?;
        let scores = self.scores.of(&memory.download)?;
        head.enqueue(staged.stream(), &batch, &segments, &workspace, &scores, 0, &fault)?;
        staged.download(&memory.download.part(0..self.download.bytes())?)
    }
}
