//! The table of kernels: what is embedded, what the launch code expects.

use std::marker::PhantomData;

use super::{conv, elementwise, embedding, linear, normalize, pixels, pool, topk};

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

/// Kernels that take the same arguments, without their type.
const fn infos<A: Arguments, const N: usize>(kernels: &[Kernel<A>; N]) -> [KernelInfo; N] {
    let mut infos = [kernels[0].info(); N];
    let mut at = 1;
    while at < N {
        infos[at] = kernels[at].info();
        at += 1;
    }
    infos
}

/// Every kernel that the library launches, in groups. A device resolves and checks all of them when it opens.
pub(crate) const KERNELS: &[&[KernelInfo]] = &[
    &infos(&embedding::KERNELS),
    &[normalize::F32.info()],
    &[linear::F32.narrow.info(), linear::F32.wide.info(), linear::F32.concatenate.info()],
    &[linear::F16.narrow.info(), linear::F16.wide.info(), linear::F16.concatenate.info()],
    &[linear::BF16.narrow.info(), linear::BF16.wide.info(), linear::BF16.concatenate.info()],
    &infos(&conv::TILE_128X128),
    &infos(&conv::TILE_128X64),
    &infos(&conv::TILE_64X64),
    &infos(&conv::PAIRS),
    &infos(&conv::GATHER),
    &infos(&conv::DIRECT),
    &infos(&elementwise::KERNELS),
    &infos(&pixels::CAST),
    &infos(&pixels::NORMALIZE),
    &infos(&pool::MAX),
    &infos(&pool::AVERAGE),
    &infos(&pool::GLOBAL_AVERAGE),
    &infos(&topk::SCAN_F32),
    &infos(&topk::SCAN_F16),
    &infos(&topk::SCAN_BF16),
    &[topk::MERGE.info()],
];

/// The binaries of the kernel files: file name without ending, image.
pub(crate) const IMAGES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// What the kernels were compiled for, as `sm_80 sm_90a compute_80`: machine code for each `sm`, and PTX that a driver
/// translates for cards after the `compute`. `None` in a build for the stand-in driver.
pub const TARGETS: Option<&str> = option_env!("MERCER_CUDA_TARGETS");
