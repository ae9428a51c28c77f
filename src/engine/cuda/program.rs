//! The one shape of every call: some bytes are uploaded, kernels run, some bytes are downloaded, and where everything
//! lies was planned before.

use super::fault::Fault;
use crate::cuda::{CudaError, Layout, Place, Precision, Rows, Slice, Stream, Tensor, to_u32};

/// What one kind of call does for calls up to some size. It is planned once, recorded once, and run many times.
pub(super) trait Program: Sized {
    /// What tells programs apart: the sizes, and whatever decides what is launched.
    type Key: Copy + PartialEq;
    /// The weights and rows that it runs with. A program is only run with those that it was recorded with.
    type With<'a>: Copy;

    /// Finds a place for everything. A pure function of shapes.
    fn plan(key: Self::Key, with: Self::With<'_>) -> Result<Self, CudaError>;

    fn frame(&self) -> &Frame;

    /// Puts what is between upload and download on the stream.
    fn enqueue(&self, with: Self::With<'_>, launch: &Launch<'_>) -> Result<(), CudaError>;
}

/// The places that every program has, and the layouts that its others are in.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) upload: Layout,
    pub(super) scratch: Layout,
    pub(super) download: Layout,
    /// Rows that there is room for.
    pub(super) batch: usize,
    /// Rows that there are.
    count: Place<u32>,
    fault: Place<u64>,
}

impl Frame {
    pub(super) fn new(batch: usize) -> Frame {
        let (mut upload, mut download) = (Layout::default(), Layout::default());
        let (count, fault) = (upload.place(1), download.place(1));
        Frame { upload, scratch: Layout::default(), download, batch, count, fault }
    }

    pub(super) fn sizes(&self) -> Sizes {
        Sizes { upload: self.upload.bytes(), scratch: self.scratch.bytes(), download: self.download.bytes() }
    }

    /// A place for values that the device writes, and the caller reads or not.
    pub(super) fn place<T>(&mut self, len: usize, download: bool) -> Output<T> {
        let layout = if download { &mut self.download } else { &mut self.scratch };
        Output { place: layout.place(len), download }
    }

    /// Writes how many rows there are to where it is uploaded from.
    pub(super) fn write_count(&self, rows: usize, upload: &mut [u8]) -> Result<(), CudaError> {
        self.count.in_host_mut(upload)?.fill(to_u32("rows", rows)?);
        Ok(())
    }

    pub(super) fn fault(&self, download: &[u8]) -> Result<Option<Fault>, CudaError> {
        Ok(self.fault.in_host(download)?.first().and_then(|&record| Fault::read(record)))
    }
}

/// Bytes of a context's buffers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) upload: usize,
    pub(super) scratch: usize,
    pub(super) download: usize,
}

impl Sizes {
    /// The least that has room for either.
    pub(super) fn max(self, other: Sizes) -> Sizes {
        Sizes {
            upload: self.upload.max(other.upload),
            scratch: self.scratch.max(other.scratch),
            download: self.download.max(other.download),
        }
    }
}

/// The device's memory of one execution context.
pub(super) struct Memory {
    pub(super) upload: Slice<u8>,
    pub(super) scratch: Slice<u8>,
    pub(super) download: Slice<u8>,
}

/// A place that the device writes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output<T> {
    place: Place<T>,
    /// Whether the host gets it with every call.
    pub(super) download: bool,
}

impl<T: bytemuck::Pod> Output<T> {
    fn buffer<'a>(&self, memory: &'a Memory) -> &'a Slice<u8> {
        if self.download { &memory.download } else { &memory.scratch }
    }

    pub(super) fn of(&self, memory: &Memory) -> Result<Slice<T>, CudaError> {
        self.place.of(self.buffer(memory))
    }

    /// What was downloaded of it.
    ///
    /// # Errors
    /// [`CudaError::Graph`] if it stays on the device.
    pub(super) fn in_host<'a>(&self, download: &'a [u8]) -> Result<&'a [T], CudaError> {
        if !self.download {
            return Err(CudaError::Graph { reason: "does not download this" });
        }
        self.place.in_host(download)
    }
}

impl Output<u8> {
    pub(super) fn tensor(&self, memory: &Memory, precision: Precision) -> Result<Tensor, CudaError> {
        self.place.tensor(self.buffer(memory), precision)
    }
}

/// A program that is being put on a stream.
pub(super) struct Launch<'a> {
    pub(super) stream: &'a Stream,
    pub(super) memory: &'a Memory,
    pub(super) batch: Rows,
    pub(super) fault: Slice<u64>,
}

impl<'a> Launch<'a> {
    pub(super) fn new(
        frame: &Frame,
        stream: &'a Stream,
        memory: &'a Memory,
    ) -> Result<Launch<'a>, CudaError> {
        let batch = Rows::new(frame.batch, frame.count.of(&memory.upload)?)?;
        Ok(Launch { stream, memory, batch, fault: frame.fault.of(&memory.download)? })
    }

    /// A part of the scratch memory.
    pub(super) fn scratch<T: bytemuck::Pod>(&self, place: &Place<T>) -> Result<Slice<T>, CudaError> {
        place.of(&self.memory.scratch)
    }

    /// A part of what was uploaded.
    pub(super) fn uploaded<T: bytemuck::Pod>(&self, place: &Place<T>) -> Result<Slice<T>, CudaError> {
        place.of(&self.memory.upload)
    }
}
