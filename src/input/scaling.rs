//! From 8-bit pixels to the values that networks read.

use rayon::prelude::*;

/// Pixels that one task scales.
const PIXELS_PER_TASK: usize = 1 << 13;

/// The last step of a photo's way to a network, as torchvision's `ToTensor` and `Normalize`: the value of each 8-bit
/// value of each channel.
#[derive(Debug, Clone, PartialEq)]
pub struct PixelScaling {
    table: [[f32; 256]; 3],
}

impl PixelScaling {
    /// Scales by `(value / 255 - mean) / std` per channel (red, green, blue), in f32 in this order.
    pub fn new(mean: [f32; 3], std: [f32; 3]) -> PixelScaling {
        let scale = |channel: usize, value: u8| (f32::from(value) / 255.0 - mean[channel]) / std[channel];
        let mut table = [[0.0; 256]; 3];
        for (channel, scaled) in table.iter_mut().enumerate() {
            (0..=u8::MAX).zip(scaled).for_each(|(value, scaled)| *scaled = scale(channel, value));
        }
        PixelScaling { table }
    }

    /// What each 8-bit value of each channel becomes.
    pub fn table(&self) -> &[[f32; 256]; 3] {
        &self.table
    }

    /// Scales `photos`, `[.., 3]`, to values of the same shape, in parallel on rayon's current pool. Bytes after the
    /// last whole pixel are left out.
    pub fn scale(&self, photos: &[u8]) -> Vec<f32> {
        let [red, green, blue] = &self.table;
        let pixels = photos.as_chunks().0.par_iter().with_min_len(PIXELS_PER_TASK);
        let scaled =
            pixels.map(|&[r, g, b]| [red[usize::from(r)], green[usize::from(g)], blue[usize::from(b)]]);
        scaled.collect::<Vec<[f32; 3]>>().into_flattened()
    }
}
