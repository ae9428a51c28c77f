//! The shapes of convolutions and pools, and how their window slides over a map.

use super::Pair;

/// Why a convolution or pool cannot be, or its window cannot slide over a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WindowError {
    /// A size or step that must be at least 1 is 0.
    #[error("{what} is 0")]
    Zero {
        /// Which.
        what: &'static str,
    },
    /// The groups of a convolution do not divide its channels.
    #[error("{groups} groups do not divide {inputs} input and {outputs} output channels")]
    Groups {
        /// Number of groups.
        groups: usize,
        /// Input channels.
        inputs: usize,
        /// Output channels.
        outputs: usize,
    },
    /// A convolution has more weights than `usize` counts.
    #[error("weights of shape {shape:?} are too large")]
    Weights {
        /// `[out_channels, in_channels / groups, kernel height, kernel width]`
        shape: [usize; 4],
    },
    /// A pooling window could lie in the padding alone.
    #[error("padding of {padding} along the {axis} is more than half the window of {window}")]
    Padding {
        /// `height` or `width`.
        axis: &'static str,
        /// Padding on each side.
        padding: usize,
        /// Extent of the window.
        window: usize,
    },
    /// The window is larger than the padded map.
    #[error("a window of {window} does not fit a {axis} of {size} (padding included)")]
    Fit {
        /// `height` or `width`.
        axis: &'static str,
        /// Extent of the dilated kernel.
        window: usize,
        /// Extent of the padded map.
        size: usize,
    },
    /// The extent of the window or of the padded map, or the window's area, is beyond `usize`.
    #[error("{what}: a window of {kernel} (padding {padding}, dilation {dilation}) is too large")]
    Overflow {
        /// `height`, `width` or `area`.
        what: &'static str,
        /// Taps per axis.
        kernel: Pair,
        /// Padding on each side.
        padding: Pair,
        /// Distance between taps.
        dilation: Pair,
    },
}

/// A window of a convolution or a pool.
#[derive(Debug, Clone, Copy)]
struct Window {
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
}

impl Window {
    /// Number of windows per axis: `(size + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1`, as PyTorch.
    fn over(&self, height: usize, width: usize) -> Result<Pair, WindowError> {
        self.check()?;
        let Window { kernel, stride, padding, dilation } = *self;
        let along = |axis, size: usize, of: fn(Pair) -> usize| {
            let overflow = || WindowError::Overflow { what: axis, kernel, padding, dilation };
            let reach = of(dilation).checked_mul(of(kernel) - 1).and_then(|reach| reach.checked_add(1));
            let padded = of(padding).checked_mul(2).and_then(|both| both.checked_add(size));
            let (window, size) = (reach.ok_or_else(overflow)?, padded.ok_or_else(overflow)?);
            if window > size {
                return Err(WindowError::Fit { axis, window, size });
            }
            Ok((size - window) / of(stride) + 1)
        };
        Ok(Pair {
            height: along("height", height, |pair| pair.height)?,
            width: along("width", width, |pair| pair.width)?,
        })
    }

    fn check(&self) -> Result<(), WindowError> {
        let Window { kernel, stride, dilation, .. } = *self;
        for (what, pair) in [("kernel", kernel), ("stride", stride), ("dilation", dilation)] {
            positive(what, pair.height.min(pair.width))?;
        }
        Ok(())
    }
}

fn positive(what: &'static str, value: usize) -> Result<(), WindowError> {
    if value == 0 { Err(WindowError::Zero { what }) } else { Ok(()) }
}

/// The shape of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvShape {
    /// Input channels.
    pub in_channels: usize,
    /// Output channels.
    pub out_channels: usize,
    /// Taps per axis.
    pub kernel: Pair,
    /// Step between windows.
    pub stride: Pair,
    /// Zeros on each side.
    pub padding: Pair,
    /// Distance between taps.
    pub dilation: Pair,
    /// Groups of channels that do not see each other.
    pub groups: usize,
}

impl ConvShape {
    /// Height and width of the output for an input of `height * width` pixels.
    ///
    /// # Errors
    /// [`WindowError::Zero`], [`WindowError::Groups`], [`WindowError::Fit`] if the kernel is larger than the padded
    /// input, or [`WindowError::Overflow`].
    pub fn output(&self, height: usize, width: usize) -> Result<Pair, WindowError> {
        self.check()?;
        self.window().over(height, width)
    }

    /// Values of the weight tensor `[out_channels, in_channels / groups, kernel height, kernel width]`.
    ///
    /// # Errors
    /// [`WindowError::Zero`], [`WindowError::Groups`] or [`WindowError::Weights`].
    pub fn weights(&self) -> Result<usize, WindowError> {
        self.check()?;
        self.window().check()?;
        let inputs = self.in_channels / self.groups;
        let shape = [self.out_channels, inputs, self.kernel.height, self.kernel.width];
        let product = shape.iter().try_fold(1usize, |product, &side| product.checked_mul(side));
        product.ok_or(WindowError::Weights { shape })
    }

    fn window(&self) -> Window {
        let ConvShape { kernel, stride, padding, dilation, .. } = *self;
        Window { kernel, stride, padding, dilation }
    }

    fn check(&self) -> Result<(), WindowError> {
        let ConvShape { in_channels: inputs, out_channels: outputs, groups, .. } = *self;
        positive("in_channels", inputs)?;
        positive("out_channels", outputs)?;
        positive("groups", groups)?;
        match inputs.is_multiple_of(groups) && outputs.is_multiple_of(groups) {
            true => Ok(()),
            false => Err(WindowError::Groups { groups, inputs, outputs }),
        }
    }
}

/// The shape of a pooling window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolShape {
    /// Window, per axis.
    pub kernel: Pair,
    /// Step, per axis.
    pub stride: Pair,
    /// Padding on each side, per axis, at most half the window.
    pub padding: Pair,
}

impl PoolShape {
    /// Height and width of the output for an input of `height * width` pixels.
    ///
    /// # Errors
    /// [`WindowError::Zero`] (an image without pixels too), [`WindowError::Padding`] if a window could hold padding
    /// alone, [`WindowError::Fit`] if it is larger than the padded input, or [`WindowError::Overflow`].
    pub fn output(&self, height: usize, width: usize) -> Result<Pair, WindowError> {
        let PoolShape { kernel, stride, padding } = *self;
        if height == 0 || width == 0 {
            return Err(WindowError::Zero { what: "image side" });
        }
        let dilation = Pair::square(1);
        for (axis, padding, window) in
            [("height", padding.height, kernel.height), ("width", padding.width, kernel.width)]
        {
            if padding > window / 2 {
                return Err(WindowError::Padding { axis, padding, window });
            }
        }
        // The divisor of an average.
        if kernel.height.checked_mul(kernel.width).is_none() {
            return Err(WindowError::Overflow { what: "area", kernel, padding, dilation });
        }
        Window { kernel, stride, padding, dilation }.over(height, width)
    }
}
