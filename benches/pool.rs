//! Pooling layers, in GB/s of input read. `BENCH_THREADS` sets the number of threads.
#![allow(missing_docs)] // the macros of criterion make public functions
#![allow(clippy::unwrap_used)] // a failed check ends the bench

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mercer::cpu::conv::{Images, Pair};
use mercer::cpu::pool::{PoolKind, PoolShape, pool};
use mercer::cpu::simd::Isa;

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
criterion_main!(benches);
