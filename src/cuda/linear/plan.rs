//! How a layer is cut into blocks, from its shape and the card alone.

use crate::cuda::{DeviceInfo, Precision};

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
/// Many of both: weights are read a quarter as often.
const WIDE: Tile = Tile { outputs: 128, rows: 64, stages: 3 };

impl Tile {
    /// Bytes of dynamic shared memory.
    fn shared(self, segments: usize) -> usize {
        self.stages * (self.outputs + self.rows) * 128 + segments * (self.rows + 1) * 4
    }

    /// About how long a block takes for a chunk, to compare tiles by. In f32 its products decide, eight times as many in
    /// the wide tile, which reads shared memory less often for each; tensor cores wait for what is copied, 192 lines
    /// against 80.
    fn time(self, precision: Precision) -> usize {
        match (precision, self == NARROW) {
            (Precision::F32, true) => 1,
            (Precision::F32, false) => 6,
            (Precision::F16 | Precision::Bf16, true) => 5,
            (Precision::F16 | Precision::Bf16, false) => 12,
        }
    }
}

/// Blocks of either tile that a multiprocessor is given at a time, where it has shared memory for them: registers allow
/// no more of the wide ones.
const RESIDENT: usize = 2;

/// Bytes of shared memory that a block takes beside the dynamic ones: its own, and those that the driver reserves.
const STATIC_SHARED: usize = 1 << 10;
const RESERVED_SHARED: usize = 1 << 10;

/// Bytes that the sums of spread chunks may take.
const MOST_PARTIALS: usize = 32 << 20;

/// What a plan is made for, beside the shape of the layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    precision: Precision,
    multiprocessors: usize,
    /// Bytes of shared memory of a multiprocessor.
    shared_memory: usize,
    /// The most segments of a launch.
    segments: usize,
}

impl Target {
    pub(super) fn new(precision: Precision, segments: usize, card: &DeviceInfo) -> Target {
        let shared_memory = card.shared_memory as usize + RESERVED_SHARED;
        Target { precision, multiprocessors: card.multiprocessors as usize, shared_memory, segments }
    }

    /// Blocks that the card runs at a time.
    fn slots(&self, tile: Tile) -> usize {
        let of_block = tile.shared(self.segments) + STATIC_SHARED + RESERVED_SHARED;
        self.multiprocessors.saturating_mul((self.shared_memory / of_block).clamp(1, RESIDENT))
    }
}

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
    /// The wide tile, unless there are few rows or outputs, or the blocks of the narrow one are done sooner: where the
    /// wide one has too few for the card. The narrow one reads the weights four times as often, which its time counts.
    pub(super) fn new(outputs: usize, chunks: usize, most: usize, target: &Target) -> Plan {
        let narrow = Plan::with(NARROW, outputs, chunks, most, target);
        if most <= NARROW.rows || outputs <= NARROW.outputs {
            return narrow;
        }
        let wide = Plan::with(WIDE, outputs, chunks, most, target);
        if narrow.time(target) < wide.time(target) { narrow } else { wide }
    }

    /// With fewer tiles than the card runs, the chunks of a tile are spread over several blocks, if there is room for
    /// their sums. These go through memory one by one, since they are added in order: fewer slices need as much room.
    fn with(tile: Tile, outputs: usize, chunks: usize, most: usize, target: &Target) -> Plan {
        let row_tiles = most.div_ceil(tile.rows);
        let tiles = row_tiles.saturating_mul(outputs.div_ceil(tile.outputs));
        let slices = (target.slots(tile) / tiles.max(1)).clamp(1, chunks.max(1));
        let spread = Plan { tile, row_tiles, tiles, slices, chunks };
        if spread.partials().saturating_mul(4) <= MOST_PARTIALS {
            spread
        } else {
            Plan { slices: 1, ..spread }
        }
    }

    /// An estimate to compare plans by: the blocks of the busiest multiprocessor, one after the other.
    fn time(&self, target: &Target) -> usize {
        let blocks = self.blocks().div_ceil(target.multiprocessors.max(1));
        let chunks = self.chunks.div_ceil(self.slices);
        blocks.saturating_mul(chunks).saturating_mul(self.tile.time(target.precision))
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
        self.tile.shared(segments)
    }
}

#[cfg(test)]
mod tests {
    use super::super::MOST_SEGMENTS;
    use super::*;
    use crate::cuda::elementwise::grid;

    /// Where a layer of one segment runs, with the shared memory of compute capability 9.0.
    fn target(precision: Precision, multiprocessors: usize) -> Target {
        Target { precision, multiprocessors, shared_memory: 228 << 10, segments: 1 }
    }

    const HALF: Precision = Precision::F16;

    #[test]
    fn few_rows_spread_the_chunks_over_the_card() {
        let of = |chunks, most, multiprocessors| {
            Plan::new(if chunks == 19 { 512 } else { 1024 }, chunks, most, &target(HALF, multiprocessors))
        };
        let plan = of(19, 1, 132);
        assert_eq!((plan.tile, plan.tiles, plan.slices), (NARROW, 8, 19));
        assert_eq!(plan.partials(), 8 * 19 * 64 * 16);
        // More chunks than blocks: several chunks a slice.
        assert_eq!(of(98, 1, 132).slices, 16);
        // The slices follow the card.
        assert_eq!(of(98, 1, 108).slices, 13);
        assert_eq!(of(98, 1, 4).slices, 1);
        assert_eq!(of(19, 17, 132).tile, WIDE);
        assert_eq!(Plan::new(1, 19, 65_536, &target(HALF, 132)).tile, NARROW);
    }

    #[test]
    fn many_rows_keep_their_sums_in_registers() {
        for precision in Precision::ALL {
            let plan = Plan::new(512, 19, 65_536, &target(precision, 132));
            assert_eq!((plan.tile, plan.row_tiles, plan.tiles, plan.slices), (WIDE, 1024, 4096, 1));
            assert_eq!((plan.partials(), plan.counters(false), plan.counters(true)), (0, 0, 5120));
        }
    }

    /// Inputs and outputs of a layer, its rows, and the plan: the narrow tile where blocks of the wide one leave more of
    /// the card idle than it saves.
    #[test]
    fn tiles_that_fill_the_card() {
        const F32: Precision = Precision::F32;
        for (precision, inputs, outputs, most, expected) in [
            (HALF, 768, 512, 17, (NARROW, 48)),
            (HALF, 768, 512, 64, (NARROW, 96)), // 12 wide ones
            (F32, 768, 512, 64, (NARROW, 96)),
            (HALF, 4864, 512, 64, (WIDE, 76)), // with one chunk each
            (HALF, 4864, 512, 512, (WIDE, 256)),
            (F32, 4864, 512, 512, (WIDE, 256)),
            // No room for the sums of chunks. Narrow tiles have eight times as many blocks; on tensor cores, each takes
            // almost half as long as a wide one.
            (F32, 4864, 512, 1024, (NARROW, 512)),
            (HALF, 4864, 512, 1024, (WIDE, 64)),
            (HALF, 25_088, 512, 192, (NARROW, 96)), // 12 wide ones
            (HALF, 4864, 512, 2048, (WIDE, 128)),
            (F32, 4864, 512, 2048, (WIDE, 128)),
        ] {
            let plan = Plan::new(outputs, inputs / 256, most, &target(precision, 132));
            let what = format!("{precision:?}, {inputs} inputs, {outputs} outputs, {most} rows");
            assert_eq!((plan.tile, plan.blocks()), expected, "{what}");
        }
    }

    /// What the tests on the device rely on: wide tiles on small cards, in slices and not, for the rows of narrow ones.
    #[test]
    fn plans_of_the_tests() {
        for precision in Precision::ALL {
            let of = |outputs, chunks, most, multiprocessors| {
                let plan = Plan::new(outputs, chunks, most, &target(precision, multiprocessors));
                (plan.tile, plan.slices > 1)
            };
            for outputs in [65, 127, 128, 129, 200] {
                assert_eq!(of(outputs, 2, 120, 132).0, NARROW, "{outputs} outputs");
                assert_eq!(of(outputs, 2, 120, 1).0, WIDE, "{outputs} outputs");
            }
            assert_eq!((of(512, 3, 64, 132), of(512, 3, 64, 1)), ((NARROW, true), (WIDE, false)));
            assert_eq!(of(512, 3, 4096, 132), (WIDE, false));
            assert_eq!((of(70, 6, 128, 132), of(70, 6, 128, 2)), ((NARROW, true), (WIDE, true)));
            assert_eq!((of(70, 6, 300, 132), of(70, 6, 300, 2)), ((NARROW, true), (WIDE, false)));
        }
    }

    /// Blocks of a multiprocessor, on cards of compute capability 8.0, 8.6 and 9.0.
    #[test]
    fn shared_memory_limits_the_slots() {
        for (kib, tile, segments, expected) in [
            (164, NARROW, 1, 2),
            (164, WIDE, 1, 2),
            (164, WIDE, 32, 1), // by half a KiB
            (100, NARROW, 1, 2),
            (100, WIDE, 1, 1),
            (228, WIDE, 32, 2),
        ] {
            let target = Target { precision: HALF, multiprocessors: 3, shared_memory: kib << 10, segments };
            assert_eq!(target.slots(tile), 3 * expected, "{kib} KiB, {tile:?}, {segments} segments");
        }
        let none = Target { precision: HALF, multiprocessors: 3, shared_memory: 0, segments: 1 };
        assert_eq!(none.slots(WIDE), 3);
    }

    /// The tiles cover the output, every chunk has a slice, and limits hold, for any shape.
    #[test]
    fn plans_cover_any_shape() {
        for outputs in [1, 63, 64, 65, 127, 128, 129, 512, 4096] {
            for chunks in [0, 1, 2, 98, 1 << 20] {
                for most in [0, 1, 15, 16, 17, 63, 64, 65, 4096, 65_536, 1 << 20, 1 << 31] {
                    for (multiprocessors, precision) in
                        [(0, HALF), (1, Precision::F32), (20, HALF), (132, Precision::F32), (1 << 19, HALF)]
                    {
                        let plan = Plan::new(outputs, chunks, most, &target(precision, multiprocessors));
                        assert!(plan.row_tiles * plan.tile.rows >= most);
                        assert!(plan.tiles * plan.tile.rows * plan.tile.outputs >= most * outputs);
                        assert!((1..=chunks.max(1)).contains(&plan.slices));
                        assert!(4 * plan.partials() <= MOST_PARTIALS);
                        let shared = plan.shared(MOST_SEGMENTS) + STATIC_SHARED;
                        assert!(shared <= 99 << 10, "sm_86 has no more");
                        let what = "blocks of a layer";
                        assert!(grid(what, plan.blocks()).is_ok(), "{outputs} outputs, {most} rows");
                    }
                }
            }
        }
    }

    /// 2^31 elements of output and more.
    #[test]
    fn large_outputs() {
        let plan = Plan::new(4096, 19, 1 << 20, &target(HALF, 132));
        assert_eq!((plan.tiles, plan.blocks()), (1 << 19, 1 << 19));
    }
}
