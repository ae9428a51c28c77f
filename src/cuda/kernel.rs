//! The table of kernels: what is embedded, what the launch code expects.

use std::marker::PhantomData;

use super::{normalize, topk};

/// What a kernel takes: one struct, by value.
///
/// # Safety
/// The type is `#[repr(C)]` with the fields of the kernel's own struct in order, so that both have one layout.
pub(crate) unsafe trait Arguments: Copy + 'static {}

/// An entry point of a kernel file, with the type of its arguments.
pub(crate) struct Kernel<A> {
    info: KernelInfo,
    arguments: PhantomData<fn(A)>,
}

/// A kernel without its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KernelInfo {
    /// The file in `kernels/`, without its ending.
    pub(crate) module: &'static str,
    /// The entry point.
    pub(crate) name: &'static str,
    /// Threads of a block.
    pub(crate) threads: u32,
    /// Bytes of the argument struct.
    pub(crate) argument_bytes: usize,
}

impl<A: Arguments> Kernel<A> {
    /// The entry point `name` of `kernels/<module>.cu`, which runs in blocks of `threads`.
    pub(crate) const fn new(module: &'static str, name: &'static str, threads: u32) -> Kernel<A> {
        let argument_bytes = size_of::<A>();
        Kernel { info: KernelInfo { module, name, threads, argument_bytes }, arguments: PhantomData }
    }

    /// The kernel without its type.
    pub(crate) const fn info(&self) -> KernelInfo {
        self.info
    }
}

/// Every kernel that the library launches. A device resolves and checks all of them when it opens.
pub(crate) const KERNELS: &[KernelInfo] = &[
    normalize::F32.info(),
    topk::SCAN_F32[0].info(),
    topk::SCAN_F32[1].info(),
    topk::SCAN_F32[2].info(),
    topk::SCAN_F16[0].info(),
    topk::SCAN_F16[1].info(),
    topk::SCAN_F16[2].info(),
    topk::SCAN_BF16[0].info(),
    topk::SCAN_BF16[1].info(),
    topk::SCAN_BF16[2].info(),
    topk::MERGE.info(),
];

/// The binaries of the kernel files: file name without ending, image.
pub(crate) const IMAGES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/images.rs"));
