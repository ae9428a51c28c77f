//! Convolution with its epilogue; `kernels/conv.cu` and, in groups, `kernels/conv_direct.cu`.

use super::elementwise::{self, grid};
use super::memory::Pointer;
use super::{Arguments, CudaError, Kernel, Precision, Rows, Slice, Stream, Tensor, to_u32};
use crate::cpu::conv::{ConvShape, Pair};

/// The struct of all convolution kernels.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct ConvArgs {
    input: Pointer,
    weight: Pointer,
    bias: Pointer,
    residual: Pointer,
    output: Pointer,
    taps: Pointer,
    images: Pointer,
    most: u32,
    height: u32,
    width: u32,
    in_channels: u32,
    out_height: u32,
    out_width: u32,
    out_channels: u32,
    stride_height: u32,
    stride_width: u32,
    padding_height: u32,
    padding_width: u32,
    depth: u32,
    groups: u32,
    relu: u32,
}
const _: () = assert!(size_of::<ConvArgs>() == 112);

// SAFETY: `repr(C)`, with the fields of the struct in `kernels/device/conv.cuh`.
unsafe impl Arguments for ConvArgs {}

type ConvKernel = Kernel<ConvArgs>;

/// The kernels of one tile, by precision: f32, f16, bf16.
pub(crate) const TILE_128X128: [ConvKernel; 3] = [
    Kernel::new("conv", "conv_128x128_f32", 256),
    Kernel::new("conv", "conv_128x128_f16", 256),
    Kernel::new("conv", "conv_128x128_bf16", 256),
];
pub(crate) const TILE_128X64: [ConvKernel; 3] = [
    Kernel::new("conv", "conv_128x64_f32", 256),
    Kernel::new("conv", "conv_128x64_f16", 256),
    Kernel::new("conv", "conv_128x64_bf16", 256),
];
pub(crate) const TILE_64X64: [ConvKernel; 3] = [
    Kernel::new("conv", "conv_64x64_f32", 128),
    Kernel::new("conv", "conv_64x64_f16", 128),
    Kernel::new("conv", "conv_64x64_bf16", 128),
];
pub(crate) const PAIRS: [ConvKernel; 3] = [
    Kernel::new("conv", "conv_pairs_f32", 256),
    Kernel::new("conv", "conv_pairs_f16", 256),
    Kernel::new("conv", "conv_pairs_bf16", 256),
];
pub(crate) const GATHER: [ConvKernel; 3] = [
    Kernel::new("conv", "conv_gather_f32", 256),
    Kernel::new("conv", "conv_gather_f16", 256),
    Kernel::new("conv", "conv_gather_bf16", 256),
];
pub(crate) const DIRECT: [ConvKernel; 3] = [
    Kernel::new("conv_direct", "conv_direct_f32", 256),
    Kernel::new("conv_direct", "conv_direct_f16", 256),
    Kernel::new("conv_direct", "conv_direct_bf16", 256),
];

/// Bytes along the summed axis that a tile has.
const TILE_ROW: usize = 64;
const STAGES: usize = 3;
/// A line that no image has, whatever line the window starts in.
const NOWHERE: i32 = 1 << 30;
/// Values of a padded map at most, so that places in it fit the kernels' 32 bits and no line is [`NOWHERE`].
pub(super) const MOST_PADDED: usize = 1 << 28;

/// How a convolution runs, and with it the layout of its weights. A function of the layer alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    /// Implicit GEMM that copies 16 bytes of a tap at a time.
    Gemm,
    /// The same, 8 bytes at a time.
    Pairs,
    /// The same, a value at a time.
    Gather,
    /// One thread per value.
    Direct,
}

impl Algorithm {
    fn of(shape: &ConvShape, precision: Precision) -> Algorithm {
        let bytes = shape.in_channels * precision.bytes();
        if shape.groups > 1 {
            Algorithm::Direct
        } else if bytes.is_multiple_of(16) {
            Algorithm::Gemm
        } else if bytes.is_multiple_of(8) {
            Algorithm::Pairs
        } else {
            Algorithm::Gather
        }
    }
}

/// Output pixels and channels that a block computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tile {
    /// 128 pixels, 128 channels.
    Wide,
    /// 128 pixels, 64 channels.
    Narrow,
    /// 64 pixels, 64 channels.
    Small,
}

impl Tile {
    /// The largest tile with work for every multiprocessor. No tile changes a bit: the order of a sum is the same in all.
    fn of(pixels: usize, out_channels: usize, multiprocessors: u32) -> Tile {
        let tiles: &[Tile] = if out_channels > Tile::Narrow.channels() {
            &[Tile::Wide, Tile::Narrow]
        } else {
            &[Tile::Narrow]
        };
        let fills = |tile: &&Tile| tile.blocks(pixels, out_channels) >= multiprocessors as usize;
        *tiles.iter().find(fills).unwrap_or(&Tile::Small)
    }

    fn pixels(self) -> usize {
        match self {
            Tile::Wide | Tile::Narrow => 128,
            Tile::Small => 64,
        }
    }

    fn channels(self) -> usize {
        match self {
            Tile::Wide => 128,
            Tile::Narrow | Tile::Small => 64,
        }
    }

    fn blocks(self, pixels: usize, out_channels: usize) -> usize {
        pixels.div_ceil(self.pixels()).saturating_mul(out_channels.div_ceil(self.channels()))
    }
}

/// How an [`Algorithm`] is launched. Only [`Algorithm::Gemm`] has tiles to choose from: `Pairs` and `Gather` take the
/// narrow one for every size. No plan splits a sum. So few images may leave much of a card idle: a stem with 112 x 112
/// output pixels is 98 blocks for one image, a layer of 7 x 7 pixels and 512 channels 8 of the small tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    Gemm(Tile),
    Pairs,
    Gather,
    Direct,
}

impl Plan {
    /// The plan for `pixels` output pixels.
    fn of(algorithm: Algorithm, pixels: usize, out_channels: usize, multiprocessors: u32) -> Plan {
        match algorithm {
            Algorithm::Gemm => Plan::Gemm(Tile::of(pixels, out_channels, multiprocessors)),
            Algorithm::Pairs => Plan::Pairs,
            Algorithm::Gather => Plan::Gather,
            Algorithm::Direct => Plan::Direct,
        }
    }

    fn tile(self) -> Option<Tile> {
        match self {
            Plan::Gemm(tile) => Some(tile),
            Plan::Pairs | Plan::Gather => Some(Tile::Narrow),
            Plan::Direct => None,
        }
    }

    fn kernel(self, precision: Precision) -> &'static ConvKernel {
        let kernels = match self {
            Plan::Gemm(Tile::Wide) => &TILE_128X128,
            Plan::Gemm(Tile::Narrow) => &TILE_128X64,
            Plan::Gemm(Tile::Small) => &TILE_64X64,
            Plan::Pairs => &PAIRS,
            Plan::Gather => &GATHER,
            Plan::Direct => &DIRECT,
        };
        &kernels[precision.index()]
    }

    /// Bytes of shared memory.
    fn shared(self) -> u32 {
        let lines = self.tile().map_or(0, |tile| tile.pixels() + tile.channels());
        u32::try_from(STAGES * lines * TILE_ROW).unwrap_or(u32::MAX)
    }

    /// Blocks for `pixels` output pixels.
    fn blocks(self, pixels: usize, out_channels: usize, multiprocessors: u32) -> Result<u32, CudaError> {
        let Some(tile) = self.tile() else {
            return Ok(elementwise::blocks(pixels.saturating_mul(out_channels), multiprocessors));
        };
        grid("blocks of a convolution", tile.blocks(pixels, out_channels))
    }
}

/// One tap as the kernels take it: line, column and offset in values from the first tap of a window; then 0.
type Tap = [i32; 4];

/// A convolution over maps of one size, its weights on the device.
#[derive(Debug)]
pub struct Conv {
    shape: ConvShape,
    size: Pair,
    out: Pair,
    precision: Precision,
    algorithm: Algorithm,
    /// Length of the sum, as the kernel takes it.
    depth: u32,
    weight: Tensor,
    bias: Slice<f32>,
    taps: Slice<Tap>,
}

impl Conv {
    /// Packs and uploads `weight: [out_channels, in_channels / groups, kernel height, kernel width]` and
    /// `bias: [out_channels]` for maps of `size`. Weights are rounded to `precision`, the bias stays f32. A batch norm is
    /// folded in first, with [`BatchNorm::fold`](crate::cpu::batch_norm::BatchNorm::fold).
    ///
    /// # Errors
    /// [`CudaError::Shape`] for a shape that is none, [`CudaError::Length`] if a slice does not fit it,
    /// [`CudaError::Limit`] for a padded map of more than 2^28 values; as [`Stream::upload`].
    pub fn new(
        stream: &Stream,
        shape: &ConvShape,
        size: Pair,
        precision: Precision,
        weight: &[f32],
        bias: Option<&[f32]>,
    ) -> Result<Conv, CudaError> {
        let out = shape.output(size.height, size.width).map_err(CudaError::shape)?;
        super::expect("convolution weight", weight.len(), &[shape.weights().map_err(CudaError::shape)?])?;
        let bias = bias.map_or_else(|| vec![0.0; shape.out_channels], <[f32]>::to_vec);
        super::expect("convolution bias", bias.len(), &[shape.out_channels])?;
        check_size(shape, size, out)?;
        let algorithm = Algorithm::of(shape, precision);
        let taps = taps(shape, size, precision, algorithm);
        let depth = match algorithm {
            Algorithm::Direct => taps.len(),
            _ => depth(shape, precision),
        };
        let weight = pack(shape, precision, algorithm, weight);
        Ok(Conv {
            shape: *shape,
            size,
            out,
            precision,
            algorithm,
            depth: to_u32("length of a convolution's sum", depth)?,
            weight: Tensor::upload(stream, "convolution weights", precision, &weight)?,
            bias: stream.upload("convolution bias", &bias)?,
            taps: stream.upload("convolution taps", &taps)?,
        })
    }

    /// Height and width of the output.
    pub fn output(&self) -> Pair {
        self.out
    }

    /// Computes `relu(conv(input) + bias + residual)`, the last two parts where asked for:
    /// `input: [images.most(), height, width, in_channels]`,
    /// `residual` and `output: [images.most(), out height, out width, out_channels]`, all in the convolution's precision and
    /// at multiples of 16 bytes. `residual` may be `output`; `input` may not.
    ///
    /// # Errors
    /// [`CudaError::Precision`], [`CudaError::Length`], [`CudaError::Alignment`]; [`CudaError::Limit`] for more blocks than a
    /// grid has; what the launch fails with.
    pub fn enqueue(
        &self,
        stream: &Stream,
        images: &Rows,
        input: &Tensor,
        residual: Option<&Tensor>,
        relu: bool,
        output: &Tensor,
    ) -> Result<(), CudaError> {
        let (shape, size, out) = (&self.shape, self.size, self.out);
        let outputs = [images.most(), out.height, out.width, shape.out_channels];
        let inputs = [images.most(), size.height, size.width, shape.in_channels];
        input.expect("convolution input", self.precision, &inputs)?;
        output.expect("convolution output", self.precision, &outputs)?;
        if let Some(residual) = residual {
            residual.expect("convolution residual", self.precision, &outputs)?;
        }
        let pixels = outputs[..3].iter().product();
        let number = |value| to_u32("side of a convolution", value);
        let channels = |value| to_u32("channels of a convolution", value);
        let arguments = ConvArgs {
            input: input.pointer_on(stream)?,
            weight: self.weight.pointer_on(stream)?,
            bias: self.bias.pointer_on(stream)?,
            residual: residual.map_or(Ok(Pointer::NULL), |tensor| tensor.pointer_on(stream))?,
            output: output.pointer_on(stream)?,
            taps: self.taps.pointer_on(stream)?,
            images: images.pointer_on(stream)?,
            most: to_u32("images", images.most())?,
            height: number(size.height)?,
            width: number(size.width)?,
            in_channels: channels(shape.in_channels)?,
            out_height: number(out.height)?,
            out_width: number(out.width)?,
            out_channels: channels(shape.out_channels)?,
            // A step beyond the padded map is never taken.
            stride_height: number(shape.stride.height.min(MOST_PADDED))?,
            stride_width: number(shape.stride.width.min(MOST_PADDED))?,
            padding_height: number(shape.padding.height)?,
            padding_width: number(shape.padding.width)?,
            depth: self.depth,
            groups: to_u32("groups of a convolution", shape.groups)?,
            relu: relu.into(),
        };
        let multiprocessors = stream.device().info().multiprocessors;
        let plan = Plan::of(self.algorithm, pixels, shape.out_channels, multiprocessors);
        let blocks = plan.blocks(pixels, shape.out_channels, multiprocessors)?;
        // SAFETY: the pointers are of this stream; `expect` checked input, residual and output; the weights were packed for
        // the shape.
        unsafe { stream.launch(plan.kernel(self.precision), [blocks, 1, 1], plan.shared(), &arguments) }
    }
}

/// That offsets in the padded input and in the output of one image fit the kernels' 32 bits.
fn check_size(shape: &ConvShape, size: Pair, out: Pair) -> Result<(), CudaError> {
    check_padded(size, shape.padding, shape.in_channels)?;
    check_padded(out, Pair::square(0), shape.out_channels)
}

/// That a map with its padding has no more values than [`MOST_PADDED`].
pub(super) fn check_padded(size: Pair, padding: Pair, channels: usize) -> Result<(), CudaError> {
    let padded = |size: usize, padding: usize| padding.saturating_mul(2).saturating_add(size);
    let pixels = padded(size.height, padding.height).saturating_mul(padded(size.width, padding.width));
    let (value, limit) = (pixels.saturating_mul(channels), MOST_PADDED);
    if value > limit {
        return Err(CudaError::Limit { what: "values of a padded map", value, limit });
    }
    Ok(())
}

/// Length of the sum in the GEMM kernels: taps times channels, up to a whole number of tiles.
fn depth(shape: &ConvShape, precision: Precision) -> usize {
    let taps = shape.kernel.height * shape.kernel.width;
    (taps * shape.in_channels).next_multiple_of(TILE_ROW / precision.bytes())
}

/// The table that leads from a place in the sum to a place in the input: an entry for every copy of a tap's channels, or
/// for every tap.
fn taps(shape: &ConvShape, size: Pair, precision: Precision, algorithm: Algorithm) -> Vec<Tap> {
    let Pair { height, width } = shape.kernel;
    let (step, places) = match algorithm {
        Algorithm::Gemm => (16 / precision.bytes(), depth(shape, precision)),
        Algorithm::Pairs => (8 / precision.bytes(), depth(shape, precision)),
        Algorithm::Gather => (1, depth(shape, precision)),
        Algorithm::Direct => (shape.in_channels, shape.in_channels * height * width),
    };
    let int = |value: usize| i32::try_from(value).unwrap_or(NOWHERE);
    let entry = |at: usize| {
        let (tap, channel) = (at * step / shape.in_channels, at * step % shape.in_channels);
        if tap >= height * width {
            return [NOWHERE, 0, 0, 0];
        }
        let line = tap / width * shape.dilation.height;
        let column = tap % width * shape.dilation.width;
        let offset = (line * size.width + column) * shape.in_channels + channel;
        [int(line), int(column), int(offset), 0]
    };
    (0..places / step).map(entry).collect()
}

/// The weights in the order in which the kernel reads them.
fn pack(shape: &ConvShape, precision: Precision, algorithm: Algorithm, weight: &[f32]) -> Vec<f32> {
    let (inputs, outputs) = (shape.in_channels / shape.groups, shape.out_channels);
    let taps = shape.kernel.height * shape.kernel.width;
    let value = |output: usize, tap: usize, input: usize| weight[(output * inputs + input) * taps + tap];
    if algorithm == Algorithm::Direct {
        let at = |at: usize| value(at % outputs, at / outputs / inputs, at / outputs % inputs);
        return (0..weight.len()).map(at).collect(); // [taps, inputs, outputs]
    }
    let depth = depth(shape, precision);
    let mut packed = vec![0.0; outputs * depth]; // [outputs, depth]
    for (output, row) in packed.chunks_exact_mut(depth).enumerate() {
        for (at, to) in row[..taps * inputs].iter_mut().enumerate() {
            *to = value(output, at / inputs, at % inputs);
        }
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(in_channels: usize, out_channels: usize, kernel: usize) -> ConvShape {
        let (kernel, padding) = (Pair::square(kernel), Pair::square(kernel / 2));
        let (stride, dilation) = (Pair::square(1), Pair::square(1));
        ConvShape { in_channels, out_channels, kernel, stride, padding, dilation, groups: 1 }
    }

    #[test]
    fn the_layer_chooses_the_algorithm() {
        for (ins, precision, expected) in [
            (64, Precision::F16, Algorithm::Gemm),
            (3, Precision::F16, Algorithm::Gather),
            (12, Precision::Bf16, Algorithm::Pairs),
            (6, Precision::Bf16, Algorithm::Gather),
            (6, Precision::F32, Algorithm::Pairs),
            (5, Precision::F32, Algorithm::Gather),
            (12, Precision::F32, Algorithm::Gemm), // 48 bytes are three chunks
        ] {
            let found = Algorithm::of(&shape(ins, 64, 3), precision);
            assert_eq!(found, expected, "{ins} channels, {precision:?}");
        }
        let depthwise = ConvShape { groups: 32, ..shape(32, 32, 3) };
        assert_eq!(Algorithm::of(&depthwise, Precision::F16), Algorithm::Direct);
    }

    #[test]
    fn the_largest_tile_that_fills_the_card() {
        for (pixels, channels, multiprocessors, expected) in [
            (14 * 14, 256, 132, Tile::Small),
            (32 * 14 * 14, 256, 132, Tile::Narrow), // 49 x 2 wide tiles, 49 x 4 narrow ones
            (64 * 14 * 14, 256, 132, Tile::Wide),
            (128 * 131, 64, 132, Tile::Small),
            (128 * 131 + 1, 64, 132, Tile::Narrow),
            (128 * 132, 65, 132, Tile::Wide),
            (1 << 40, 64, 132, Tile::Narrow), // half of a wide tile would be empty
            (1, 1, 1, Tile::Narrow),
            (0, 64, 1, Tile::Small),
            (usize::MAX, usize::MAX, 132, Tile::Wide),
        ] {
            let found = Tile::of(pixels, channels, multiprocessors);
            assert_eq!(found, expected, "{pixels} pixels, {channels} channels, {multiprocessors}");
        }
    }

    #[test]
    fn blocks_cover_pixels_and_channels() {
        for (plan, pixels, channels, expected) in [
            (Plan::Gemm(Tile::Wide), 0, 128, 0),
            (Plan::Gemm(Tile::Wide), 1, 1, 1),
            (Plan::Gemm(Tile::Wide), 129, 129, 4),
            (Plan::Gemm(Tile::Narrow), 128, 65, 2),
            (Plan::Gemm(Tile::Small), 65, 64, 2),
            (Plan::Gather, 129, 64, 2),
            // 65,536 images of 224x224, and 2^31 values.
            (Plan::Gemm(Tile::Narrow), 65_536 * 224 * 224, 64, 25_690_112),
            (Plan::Gemm(Tile::Wide), 1 << 24, 128, 1 << 17),
            (Plan::Direct, 3, 256, 3),
            (Plan::Direct, 65_536 * 224 * 224, 64, 1056),
        ] {
            let what = format!("{plan:?}, {pixels} pixels, {channels} channels");
            assert_eq!(plan.blocks(pixels, channels, 132), Ok(expected), "{what}");
        }
        for pixels in [1 << 39, usize::MAX] {
            assert!(
                matches!(Plan::Gemm(Tile::Wide).blocks(pixels, 512, 132), Err(CudaError::Limit { .. })),
                "{pixels} pixels"
            );
        }
    }

    #[test]
    fn shared_memory_fits_the_smallest_card() {
        for plan in [Plan::Gemm(Tile::Wide), Plan::Gemm(Tile::Narrow), Plan::Gemm(Tile::Small), Plan::Pairs] {
            assert!(plan.shared() <= 48 << 10, "{plan:?}"); // two blocks in the 100 KiB of compute capability 8.6
        }
        assert_eq!(Plan::Direct.shared(), 0);
    }

    /// Through the tables, a sum over all places is the convolution of the definition.
    #[test]
    fn tables_lead_each_place_to_its_tap() {
        let size = Pair { height: 7, width: 9 };
        for (ins, precision) in
            [(3, Precision::F16), (4, Precision::F16), (16, Precision::F16), (4, Precision::F32)]
        {
            let shape = ConvShape { dilation: Pair { height: 2, width: 3 }, ..shape(ins, 1, 3) };
            let algorithm = Algorithm::of(&shape, precision);
            let weight: Vec<f32> = (0_u8..).take(shape.weights().unwrap()).map(f32::from).collect();
            let (taps, packed) =
                (taps(&shape, size, precision, algorithm), pack(&shape, precision, algorithm, &weight));
            let step = packed.len() / taps.len();
            for (at, &found) in packed.iter().enumerate() {
                let ([line, column, offset, _], channel) = (taps[at / step], at % step);
                if line == NOWHERE {
                    assert_eq!(found, 0.0, "padding at {at}");
                    continue;
                }
                let [line, column, offset] = [line, column, offset].map(|x| usize::try_from(x).unwrap());
                let channel = channel + offset - (line * size.width + column) * ins;
                let expected = weight[(channel * 3 + line / 2) * 3 + column / 3];
                assert_eq!(
                    found, expected,
                    "{ins} channels, place {at}: line {line}, column {column}, channel {channel}"
                );
            }
        }
    }

    #[test]
    fn maps_beyond_32_bits_are_refused() {
        let check = |shape: &ConvShape, side: usize| {
            check_size(shape, Pair::square(side), shape.output(side, side).unwrap())
        };
        assert_eq!(check(&shape(1, 1, 1), 1 << 14), Ok(()));
        assert!(matches!(check(&shape(1, 1, 1), (1 << 14) + 1), Err(CudaError::Limit { .. })));
        assert!(matches!(check(&shape(1, 2, 1), 1 << 14), Err(CudaError::Limit { .. })));
        let far =
            ConvShape { padding: Pair::square(1 << 40), stride: Pair::square(1 << 41), ..shape(1, 1, 1) };
        assert!(matches!(check(&far, 1), Err(CudaError::Limit { .. })));
    }
}
