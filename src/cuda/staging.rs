//! Host memory that recorded work copies from and to.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::memory::Pinned;
use super::{CudaError, Device, Graph, Slice, Stream};

/// A stream with host memory for its uploads and downloads. Work that copies it has run when a call returns, so between
/// calls the memory is the caller's. After a wait that failed the device is lost and the memory is left to it: in its place
/// are zeros that nothing copies.
pub struct Staging {
    stream: Stream,
    upload: Pinned<u8>,
    download: Pinned<u8>,
}

/// A [`Staging`] while work is put on its stream.
pub struct Staged<'a> {
    stream: &'a Stream,
    upload: &'a Pinned<u8>,
    download: &'a Pinned<u8>,
}

/// Work that was recorded with a [`Staging`] and runs there.
pub struct StagedGraph(Graph);

impl StagedGraph {
    /// Whether all memory that the work uses is still there.
    pub(crate) fn is_whole(&self) -> bool {
        self.0.is_whole()
    }
}

impl Staging {
    /// A new stream with zeros to upload and to download to, in bytes.
    ///
    /// # Errors
    /// [`CudaError::HostMemory`], [`CudaError::OutOfMemory`], [`CudaError::Lost`], [`CudaError::Driver`];
    /// [`CudaError::Graph`] on a thread that records.
    pub fn new(device: &Device, upload: usize, download: usize) -> Result<Staging, CudaError> {
        Ok(Staging {
            stream: device.stream()?,
            upload: Pinned::new(device, "the staging buffer of uploads", upload)?,
            download: Pinned::new(device, "the staging buffer of downloads", download)?,
        })
    }

    /// The stream that everything runs on.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// What the next run uploads.
    pub fn to_upload(&mut self) -> &mut [u8] {
        &mut self.upload
    }

    /// What the last run downloaded.
    pub fn downloaded(&self) -> &[u8] {
        &self.download
    }

    /// Puts `work` on the stream and waits for it, also if only part of it could be put there or putting it there panicked.
    ///
    /// # Errors
    /// What `work` fails with; [`CudaError::Lost`] if it failed on the device; [`CudaError::Graph`] on a thread that records.
    pub fn run(&mut self, work: impl FnOnce(&Staged<'_>) -> Result<(), CudaError>) -> Result<(), CudaError> {
        self.stream.refuse_in_recording("cannot wait")?;
        self.stream.device().not_lost()?; // where nothing can be put there, there is nothing to wait for
        let enqueued = catch_unwind(AssertUnwindSafe(|| work(&self.staged(&self.stream))));
        let finished = self.stream.synchronize();
        if finished.is_err() {
            self.upload.leave();
            self.download.leave();
        }
        match enqueued {
            Ok(enqueued) => enqueued.and(finished),
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Records `work` instead of running it, as [`Stream::record`] does.
    ///
    /// # Errors
    /// As [`Stream::record`].
    pub fn record(
        &self,
        work: impl FnOnce(&Staged<'_>) -> Result<(), CudaError>,
    ) -> Result<StagedGraph, CudaError> {
        self.stream.record(|stream| work(&self.staged(stream))).map(StagedGraph)
    }

    /// Runs what was recorded here and waits for it.
    ///
    /// # Errors
    /// As [`Graph::launch`]; [`CudaError::Graph`] if it was recorded elsewhere, and on a thread that records;
    /// [`CudaError::Lost`] if it failed on the device.
    pub fn replay(&mut self, graph: &StagedGraph) -> Result<(), CudaError> {
        if !graph.0.stream().is(&self.stream) {
            return Err(CudaError::Graph { reason: "runs only where it was recorded" });
        }
        self.run(|_| graph.0.launch())
    }

    fn staged<'a>(&'a self, stream: &'a Stream) -> Staged<'a> {
        Staged { stream, upload: &self.upload, download: &self.download }
    }
}

impl Staged<'_> {
    /// The stream.
    pub fn stream(&self) -> &Stream {
        self.stream
    }

    /// Puts a copy from host to device on the stream: the first bytes, as many as `to` has.
    ///
    /// # Errors
    /// [`CudaError::Limit`] if there are fewer; [`CudaError::OtherDevice`], [`CudaError::Lost`], [`CudaError::Driver`].
    pub fn upload(&self, to: &Slice<u8>) -> Result<(), CudaError> {
        let limit = self.upload.len();
        if to.len() > limit {
            return Err(CudaError::Limit { what: "bytes to upload", value: to.len(), limit });
        }
        // SAFETY: the memory is long enough. It is lent to its owner only when nothing runs: a run borrows the `Staging`
        // exclusively and ends with a wait or, if that fails, by lending it no more; and a recording runs so too.
        unsafe { self.stream.enqueue_upload(self.upload.as_mut_ptr(), to) }
    }

    /// Puts a copy from device to host on the stream, to the first bytes, as many as `from` has.
    ///
    /// # Errors
    /// [`CudaError::Limit`] if there are fewer; [`CudaError::OtherDevice`], [`CudaError::Lost`], [`CudaError::Driver`].
    pub fn download(&self, from: &Slice<u8>) -> Result<(), CudaError> {
        let limit = self.download.len();
        if from.len() > limit {
            return Err(CudaError::Limit { what: "bytes to download", value: from.len(), limit });
        }
        // SAFETY: as in `upload`; while this lives, nobody reads the memory.
        unsafe { self.stream.enqueue_download(from, self.download.as_mut_ptr()) }
    }
}
