//! The one list of cases.

use mercer::cpu::conv::{ConvShape, Pair};

/// A convolution with values.
#[derive(Debug, Clone)]
pub struct Case {
    pub shape: ConvShape,
    pub batch: usize,
    pub height: usize,
    pub width: usize,
}

/// 3×3, stride 1, padding 1 over 5×6 pixels.
pub fn case(in_channels: usize, out_channels: usize) -> Case {
    let shape = ConvShape {
        in_channels,
        out_channels,
        kernel: Pair::square(3),
        stride: Pair::square(1),
        padding: Pair::square(1),
        dilation: Pair::square(1),
        groups: 1,
    };
    Case { shape, batch: 1, height: 5, width: 6 }
}

impl Case {
    pub fn kernel(mut self, height: usize, width: usize) -> Case {
        self.shape.kernel = Pair { height, width };
        self
    }
    pub fn stride(mut self, height: usize, width: usize) -> Case {
        self.shape.stride = Pair { height, width };
        self
    }
    pub fn padding(mut self, height: usize, width: usize) -> Case {
        self.shape.padding = Pair { height, width };
        self
    }
    pub fn dilation(mut self, height: usize, width: usize) -> Case {
        self.shape.dilation = Pair { height, width };
        self
    }
    pub fn groups(mut self, groups: usize) -> Case {
        self.shape.groups = groups;
        self
    }
    pub fn image(mut self, height: usize, width: usize) -> Case {
        (self.height, self.width) = (height, width);
        self
    }
    pub fn batch(mut self, batch: usize) -> Case {
        self.batch = batch;
        self
    }

    pub fn out(&self) -> Pair {
        self.shape.output(self.height, self.width).unwrap()
    }
}

/// The one list: every convolution that all backends compute.
pub fn cases() -> Vec<Case> {
    [
        channel_tails(),
        tile_edges(),
        borders(),
        strides(),
        dilations(),
        groups(),
        long_sums(),
        blocks(),
        device_tiles(),
        vec![case(3, 4).batch(0), case(4, 4).groups(4).batch(0)], // no images
    ]
    .concat()
}

/// Channels that do not fill a vector, a panel or a chunk, on both sides.
fn channel_tails() -> Vec<Case> {
    let tails = (1..=9).chain(15..=17).chain(31..=33);
    let mut cases: Vec<Case> =
        tails.flat_map(|channels| [case(channels, 5), case(3, channels), case(8, channels)]).collect();
    cases.extend([case(33, 65), case(64, 64), case(65, 33)]);
    cases
}

/// Output pixels around the heights of the CPU's tiles (4, 6 and 14 rows).
fn tile_edges() -> Vec<Case> {
    let widths = [1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 14, 15, 27, 28, 29];
    let point = |width| case(4, 8).image(width, 1).kernel(1, 1).padding(0, 0);
    widths.into_iter().flat_map(|width| [case(4, 8).image(1, width), point(width)]).collect()
}

/// Images of one pixel, and windows that are mostly or wholly padding.
fn borders() -> Vec<Case> {
    vec![
        case(3, 4).image(1, 1),
        case(3, 4).image(1, 1).kernel(1, 1).padding(0, 0),
        case(3, 4).image(1, 1).padding(3, 3),
        case(3, 4).image(2, 3).kernel(7, 7).padding(3, 3),
        case(3, 4).image(2, 3).kernel(1, 1).padding(2, 5),
        case(3, 4).image(4, 4).kernel(4, 2).padding(0, 0),
        case(3, 4).image(4, 5).kernel(3, 3).padding(2, 0),
        case(3, 4).image(4, 5).kernel(3, 3).padding(0, 2),
        case(3, 4).image(4, 5).padding(9, 7).stride(2, 3),
        case(8, 4).image(1, 1),
        case(8, 4).image(1, 1).padding(3, 3).batch(3),
        case(8, 4).image(2, 3).kernel(5, 5).padding(4, 4),
        case(8, 4).image(4, 5).padding(9, 7).stride(2, 3),
        case(8, 4).image(2, 3).kernel(1, 1).padding(0, 0).stride(1 << 40, 1 << 40),
    ]
}

/// Steps that skip pixels, or end before the last ones.
fn strides() -> Vec<Case> {
    let mut cases: Vec<Case> = (1..=5)
        .flat_map(|stride| {
            [
                case(3, 4).image(9, 11).stride(stride, 6 - stride),
                case(8, 4).image(9, 11).kernel(1, 1).padding(0, 0).stride(stride, stride),
                case(8, 9).image(8, 9).kernel(2, 2).padding(0, 0).stride(stride, stride),
            ]
        })
        .collect();
    cases.push(case(3, 64).image(31, 29).kernel(7, 7).padding(3, 3).stride(2, 2)); // the stem of a ResNet
    cases
}

/// Taps apart from each other, on one axis or both.
fn dilations() -> Vec<Case> {
    vec![
        case(5, 6).image(9, 10).dilation(2, 2).padding(2, 2),
        case(5, 6).image(9, 10).dilation(3, 1).padding(1, 2).stride(2, 1),
        case(5, 6).image(9, 10).dilation(1, 4).padding(0, 1),
        case(8, 6).image(9, 10).dilation(1, 4).padding(0, 1),
        case(16, 6).image(9, 10).dilation(3, 2).padding(3, 2),
        case(6, 6).image(9, 10).dilation(2, 3).padding(2, 2).groups(3),
        case(6, 6).image(9, 10).dilation(2, 3).padding(2, 2).groups(6),
    ]
}

/// Groups of one and of several channels in and out.
fn groups() -> Vec<Case> {
    let shapes = [(4, 4, 2), (6, 9, 3), (8, 66, 2), (70, 4, 2), (5, 5, 5), (33, 33, 33), (3, 12, 3)];
    let shapes = shapes.into_iter().flat_map(|(ins, outs, groups)| {
        let case = case(ins, outs).groups(groups);
        let (point, strided) = (case.clone(), case.clone());
        [case, point.kernel(1, 1).padding(0, 0), strided.stride(2, 2).padding(2, 0)]
    });
    shapes.collect()
}

/// Sums long enough to be taken in several runs, and pieces longer than a run.
fn long_sums() -> Vec<Case> {
    vec![case(512, 3).image(2, 2), case(1500, 3).image(1, 2).kernel(1, 1).padding(0, 0)]
}

/// Images of more than one block, with the last one shorter.
fn blocks() -> Vec<Case> {
    let case = case(64, 8).image(41, 37).batch(2);
    vec![case.clone(), case.kernel(1, 1).padding(0, 0).stride(2, 2)]
}

/// Pixels, channels and sums around the device's tiles: 64 and 128 pixels, 64 and 128 channels, sums of 32 (16 in f32), and
/// of fewer tiles than the pipeline has stages; tiles of two images.
pub fn device_tiles() -> Vec<Case> {
    let point = |ins, outs| case(ins, outs).kernel(1, 1).padding(0, 0);
    let mut cases = Vec::new();
    for pixels in [63, 64, 65, 127, 128, 129] {
        cases.extend([
            point(8, 9).image(1, pixels),
            point(8, 70).image(pixels, 1),
            point(5, 9).image(1, pixels),
        ]);
    }
    for outs in [31, 32, 40, 63, 64, 65, 96, 127, 128, 129, 136] {
        cases.extend([point(8, outs).image(9, 9), point(16, outs).image(2, 2).batch(3)]);
    }
    for ins in [8, 16, 24, 32, 40, 64, 72, 96, 128, 136] {
        cases.push(point(ins, 8).image(3, 3));
    }
    cases.extend([
        case(8, 72).image(11, 12).batch(3),
        case(24, 8).image(5, 5).batch(6),
        case(7, 70).batch(9),
    ]);
    cases
}
