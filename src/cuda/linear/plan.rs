//! How a layer is cut into blocks, from its shape and the card alone.

use crate::cuda::CudaError;

/// The part of a layer's output that a block computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tile {
    outputs: usize,
    rows: usize,
    /// Steps of 128 bytes per line that are in shared memory at a time.
    stages: usize,
}

/// Few rows or outputs: what counts is that the weights arrive.
pub(super) const NARROW: Tile = Tile { outputs: 64, rows: 16, stages: 4 };
/// Many of both.
const WIDE: Tile = Tile { outputs: 128, rows: 64, stages: 3 };

/// Blocks of either tile that a multiprocessor runs at a time, where its shared memory has room for two of the wide ones.
/// With fewer tiles than the card runs, the chunks of a tile are spread over several blocks.
pub(super) const RESIDENT: usize = 2;

/// Bytes that the sums of spread chunks may take.
const MOST_PARTIALS: usize = 32 << 20;

/// How a layer is cut into blocks. It changes nothing in the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) tile: Tile,
    /// Tiles of rows.
    row_tiles: usize,
    tiles: usize,
    pub(super) slices: usize,
    chunks: usize,
}

impl Plan {
    /// For a card that runs `slots` blocks at a time.
    pub(super) fn new(outputs: usize, chunks: usize, most: usize, slots: usize) -> Plan {
        let tile = if most <= NARROW.rows || outputs <= NARROW.outputs { NARROW } else { WIDE };
        let row_tiles = most.div_ceil(tile.rows);
        let tiles = row_tiles.saturating_mul(outputs.div_ceil(tile.outputs));
        let slices = (slots / tiles.max(1)).clamp(1, chunks.max(1));
        let spread = Plan { tile, row_tiles, tiles, slices, chunks };
        if spread.partials().saturating_mul(4) <= MOST_PARTIALS {
            spread
        } else {
            Plan { slices: 1, ..spread }
        }
    }

    pub(super) fn blocks(&self) -> usize {
        self.tiles.saturating_mul(self.slices)
    }

    /// Number of f32 sums that go through memory.
    pub(super) fn partials(&self) -> usize {
        if self.slices == 1 {
            return 0;
        }
        self.tiles.saturating_mul(self.chunks).saturating_mul(self.tile.outputs * self.tile.rows)
    }

    /// Number of u32 counters that a launch finds as zeros.
    pub(super) fn counters(&self, normalize: bool) -> usize {
        if self.slices > 1 || normalize { self.tiles.saturating_add(self.row_tiles) } else { 0 }
    }

    /// Bytes of dynamic shared memory.
    pub(super) fn shared(&self, segments: usize) -> usize {
        let Tile { outputs, rows, stages } = self.tile;
        stages * (outputs + rows) * 128 + segments * (rows + 1) * 4
    }
}

/// Blocks as a launch takes them.
pub(crate) fn grid(blocks: usize) -> Result<u32, CudaError> {
    let limit = i32::MAX as usize;
    match u32::try_from(blocks) {
        Ok(blocks) if blocks as usize <= limit => Ok(blocks),
        _ => Err(CudaError::Limit { what: "blocks", value: blocks, limit }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::MOST_SEGMENTS;
    use super::*;

    #[test]
    fn few_rows_spread_the_chunks_over_the_card() {
        let plan = Plan::new(512, 19, 1, 264);
        assert_eq!((plan.tile, plan.tiles, plan.slices), (NARROW, 8, 19));
        assert_eq!(plan.partials(), 8 * 19 * 64 * 16);
        // More chunks than blocks: several chunks a slice.
        assert_eq!(Plan::new(1024, 98, 1, 264).slices, 16);
        // The slices follow the card.
        assert_eq!(Plan::new(1024, 98, 1, 216).slices, 13);
        assert_eq!(Plan::new(1024, 98, 1, 8).slices, 1);
        assert_eq!(Plan::new(512, 19, 17, 264).tile, WIDE);
        assert_eq!(Plan::new(1, 19, 65_536, 264).tile, NARROW);
    }

    #[test]
    fn many_rows_keep_their_sums_in_registers() {
        let plan = Plan::new(512, 19, 65_536, 264);
        assert_eq!((plan.tile, plan.row_tiles, plan.tiles, plan.slices), (WIDE, 1024, 4096, 1));
        assert_eq!((plan.partials(), plan.counters(false), plan.counters(true)), (0, 0, 5120));
    }

    /// The tiles cover the output, every chunk has a slice, and limits hold, for any shape.
    #[test]
    fn plans_cover_any_shape() {
        for outputs in [1, 63, 64, 65, 127, 128, 129, 512, 4096] {
            for chunks in [0, 1, 2, 98, 1 << 20] {
                for most in [0, 1, 15, 16, 17, 63, 64, 65, 4096, 65_536, 1 << 20, 1 << 31] {
                    for slots in [0, 1, 40, 264, 1 << 20] {
                        let plan = Plan::new(outputs, chunks, most, slots);
                        assert!(plan.row_tiles * plan.tile.rows >= most);
                        assert!(plan.tiles * plan.tile.rows * plan.tile.outputs >= most * outputs);
                        assert!((1..=chunks.max(1)).contains(&plan.slices));
                        assert!(4 * plan.partials() <= MOST_PARTIALS);
                        assert!(plan.shared(MOST_SEGMENTS) <= 99 << 10, "sm_86 has no more");
                        assert!(grid(plan.blocks()).is_ok(), "{outputs} outputs, {most} rows");
                    }
                }
            }
        }
    }

    /// 2^31 elements of output and more.
    #[test]
    fn large_outputs() {
        let plan = Plan::new(4096, 19, 1 << 20, 264);
        assert_eq!((plan.tiles, plan.blocks()), (1 << 19, 1 << 19));
        assert!(matches!(grid(1 << 31), Err(CudaError::Limit { .. })));
    }
}
