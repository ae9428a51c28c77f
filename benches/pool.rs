//! Pooling layers, in GB/s of input read. `BENCH_THREADS` sets the number of threads.
//!
//! With the feature `cuda` it is the card that is timed: see `benches/card/mod.rs`.
#![cfg_attr(feature = "cuda", allow(dead_code))] // what times the CPU
#![allow(missing_docs)] // the macros of criterion make public functions
#![allow(clippy::unwrap_used)] // a failed check ends the bench

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mercer::cpu::conv::{Images, Pair};
use mercer::cpu::pool::{PoolKind, PoolShape, pool};
use mercer::cpu::simd::Isa;

#[cfg(feature = "cuda")]
mod card;
#[path = "../tests/oracle/mod.rs"]
mod oracle;

/// Name, kind, side of the square image, channels, window, stride, padding.
const LAYERS: [(&str, PoolKind, usize, usize, usize, usize, usize); 4] = [
    ("max_112_3x3_s2", PoolKind::Max, 112, 64, 3, 2, 1),
    ("max_224_2x2_s2", PoolKind::Max, 224, 64, 2, 2, 0),
    ("average_56_2x2_s2", PoolKind::Average { count_include_pad: true }, 56, 256, 2, 2, 0),
    ("average_7_global", PoolKind::Average { count_include_pad: true }, 7, 512, 7, 1, 0),
];

fn layers(c: &mut Criterion) {
    let threads = std::env::var("BENCH_THREADS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let workers = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let mut group = c.benchmark_group(format!("pool/threads_{threads}"));
    for (name, kind, side, channels, window, stride, padding) in LAYERS {
        let data = oracle::Random::new(5).values(side * side * channels);
        let input = Images { batch: 1, height: side, width: side, data: &data };
        let [kernel, stride, padding] = [window, stride, padding].map(Pair::square);
        let shape = PoolShape { kernel, stride, padding };
        let out = shape.output(side, side).unwrap();
        let mut output = vec![0.0; out.height * out.width * channels];
        pool(Isa::best(), kind, &shape, channels, input, &mut output).unwrap();
        let expected = oracle::pool(kind, &shape, channels, input);
        let dimensions = [1, out.height, out.width, channels];
        oracle::assert_close(name, &output, &expected, &dimensions, oracle::F32_TOLERANCE);

        group.throughput(Throughput::Bytes(u64::try_from(4 * data.len()).unwrap()));
        group.bench_function(name, |b| {
            workers.install(|| {
                b.iter(|| {
                    pool(Isa::best(), kind, &shape, channels, input, black_box(&mut output)).unwrap();
                });
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(1))
        .warm_up_time(Duration::from_millis(200));
    targets = layers
}
#[cfg(not(feature = "cuda"))]
criterion_main!(benches);

#[cfg(feature = "cuda")]
mod cuda {
    use criterion::Criterion;
    use mercer::cpu::conv::{Images, Pair};
    use mercer::cpu::pool::{self, PoolKind, PoolShape};
    use mercer::cpu::simd::Isa;
    use mercer::cuda::pool::{enqueue, enqueue_global_average};
    use mercer::cuda::{Precision, Rows};
    use mercer::model::MapShape;
    use serde_json::json;

    use super::card::device::tolerance;
    use super::card::{Card, Work};
    use super::oracle::{assert_close, wide};

    const PRECISION: Precision = Precision::F16;

    pub fn layers(c: &mut Criterion) {
        let Some(card) = Card::open() else { return };
        let mut group = c.benchmark_group("cuda/pool");
        for (name, kind, side, channels, window, stride, padding) in super::LAYERS {
            let (side, channels) = (card.size(side, (side / 14).max(window)), card.size(channels, 8));
            let batch = card.size(32, 2);
            let is_global = window == side && kind != PoolKind::Max;
            let shape = PoolShape {
                kernel: Pair::square(window),
                stride: Pair::square(stride),
                padding: Pair::square(padding),
            };
            let map = MapShape { height: side, width: side, channels };
            let out = shape.output(side, side).unwrap();
            let images = Rows::exactly(&card.stream, batch).unwrap();
            let input = card.noise(PRECISION, batch * map.len());
            let output = card.output(PRECISION, batch * out.height * out.width * channels);
            let run = || match is_global {
                true => enqueue_global_average(&card.stream, &images, map, &input, &output),
                false => enqueue(&card.stream, &images, kind, &shape, map, &input, &output),
            };
            run().unwrap();

            let data: Vec<f32> = (0..map.len()).map(|at| card.value(PRECISION, at)).collect();
            let first = Images { batch: 1, height: side, width: side, data: &data };
            let mut expected = vec![0.0; output.len() / batch];
            pool::pool(Isa::best(), kind, &shape, channels, first, &mut expected).unwrap();
            let found = output.part(0..expected.len()).unwrap().download(&card.stream).unwrap();
            let dimensions = [out.height, out.width, channels];
            assert_close(name, &found, &wide(&expected), &dimensions, tolerance(PRECISION));

            let work = Work {
                op: "pool",
                name: name.into(),
                precision: PRECISION,
                shape: json!({
                    "batch": batch, "side": side, "channels": channels, "kernel": window, "stride": stride,
                    "padding": padding, "kind": if kind == PoolKind::Max { "max" } else { "average" },
                }),
                bytes: (input.len() + output.len()) * PRECISION.bytes(),
                operations: 0,
            };
            card.bench(&mut group, &work, run);
        }
        group.finish();
    }
}

#[cfg(feature = "cuda")]
criterion_group! {
    name = on_card;
    config = card::config();
    targets = cuda::layers
}
#[cfg(feature = "cuda")]
criterion_main!(on_card);
