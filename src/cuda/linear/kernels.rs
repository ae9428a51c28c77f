//! The kernels of `kernels/head.cu` and `kernels/head_concatenate.cu`, and their arguments.

use crate::cuda::memory::Pointer;
use crate::cuda::{Arguments, CudaError, Kernel, Precision, Rows, Slice, Stream, to_u32};
use crate::model::Activation;

/// The most segments that a head takes.
pub(crate) const MOST_SEGMENTS: usize = 32;

/// One segment as a kernel takes it.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct SegmentArgs {
    pub(crate) data: Pointer,
    pub(crate) index: Pointer,
    pub(crate) rows: u32,
    pub(crate) width: u32,
    pub(crate) first: u32,
    pub(crate) chunk: u32,
}

impl SegmentArgs {
    pub(crate) const NONE: SegmentArgs =
        SegmentArgs { data: Pointer::NULL, index: Pointer::NULL, rows: 0, width: 0, first: 0, chunk: 0 };
}

/// The struct of every kernel of the head.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct HeadArgs {
    pub(crate) weight: Pointer,
    pub(crate) bias: Pointer,
    pub(crate) output: Pointer,
    pub(crate) wide: Pointer,
    pub(crate) partials: Pointer,
    pub(crate) counters: Pointer,
    pub(crate) fault: Pointer,
    pub(crate) rows: Pointer,
    pub(crate) outputs: u32,
    pub(crate) pitch: u32,
    pub(crate) segments: u32,
    pub(crate) chunks: u32,
    pub(crate) slices: u32,
    pub(crate) activation: u32,
    pub(crate) normalize: u32,
    pub(crate) stage: u32,
    pub(crate) precision: u32,
    pub(crate) most: u32,
    pub(crate) segment: [SegmentArgs; MOST_SEGMENTS],
}
const _: () = assert!(size_of::<HeadArgs>() == 104 + 32 * MOST_SEGMENTS);

// SAFETY: `repr(C)`, with the fields of the struct in `kernels/device/head.cuh`.
unsafe impl Arguments for HeadArgs {}

impl HeadArgs {
    /// Segments without a layer, for a batch.
    pub(crate) fn over(
        stream: &Stream,
        segments: &[SegmentArgs],
        rows: &Rows,
        outputs: usize,
        output: Output<'_>,
    ) -> Result<HeadArgs, CudaError> {
        let none = Pointer::NULL;
        let mut segment = [SegmentArgs::NONE; MOST_SEGMENTS];
        segment[..segments.len()].copy_from_slice(segments);
        Ok(HeadArgs {
            weight: none,
            bias: none,
            output: output.values,
            wide: output.wide,
            partials: none,
            counters: none,
            fault: output.normalize.map_or(Ok(none), |(_, fault)| fault.pointer_on(stream))?,
            rows: rows.pointer_on(stream)?,
            outputs: to_u32("outputs", outputs)?,
            pitch: 0,
            segments: to_u32("segments", segments.len())?,
            chunks: 0,
            slices: 1,
            activation: 0,
            normalize: output.normalize.is_some().into(),
            stage: output.normalize.map_or(0, |(stage, _)| stage.into()),
            precision: to_u32("precision", output.precision.index())?,
            most: to_u32("rows", rows.most())?,
            segment,
        })
    }
}

/// Where a launch stores its output, and how.
#[derive(Clone, Copy)]
pub(crate) struct Output<'a> {
    pub(crate) values: Pointer,
    pub(crate) precision: Precision,
    /// Stage and fault record of a normalisation.
    pub(crate) normalize: Option<(u16, &'a Slice<u64>)>,
    /// For a normalisation, the values before it in f32.
    pub(crate) wide: Pointer,
}

impl Output<'_> {
    /// Without normalisation.
    pub(crate) fn plain(values: Pointer, precision: Precision) -> Self {
        Output { values, precision, normalize: None, wide: Pointer::NULL }
    }
}

/// The kernels of one precision.
pub(crate) struct Kernels {
    pub(crate) narrow: Kernel<HeadArgs>,
    pub(crate) wide: Kernel<HeadArgs>,
    pub(crate) concatenate: Kernel<HeadArgs>,
}

pub(crate) const F32: Kernels = Kernels {
    narrow: Kernel::new("head", "head_f32_64x16", 128),
    wide: Kernel::new("head", "head_f32_128x64", 256),
    concatenate: Kernel::new("head_concatenate", "head_concatenate_f32", 256),
};
pub(crate) const F16: Kernels = Kernels {
    narrow: Kernel::new("head", "head_f16_64x16", 128),
    wide: Kernel::new("head", "head_f16_128x64", 256),
    concatenate: Kernel::new("head_concatenate", "head_concatenate_f16", 256),
};
pub(crate) const BF16: Kernels = Kernels {
    narrow: Kernel::new("head", "head_bf16_64x16", 128),
    wide: Kernel::new("head", "head_bf16_128x64", 256),
    concatenate: Kernel::new("head_concatenate", "head_concatenate_bf16", 256),
};

impl Kernels {
    pub(crate) fn of(precision: Precision) -> &'static Kernels {
        match precision {
            Precision::F32 => &F32,
            Precision::F16 => &F16,
            Precision::Bf16 => &BF16,
        }
    }
}

/// The number by which the kernels know an activation.
pub(crate) fn number(activation: Activation) -> u32 {
    match activation {
        Activation::Identity => 0,
        Activation::Relu => 1,
        Activation::Sigmoid => 2,
        Activation::Tanh => 3,
    }
}
