//! Linear layers and the fused head: GFLOP/s (two operations per multiply-add) and, for one row, GB/s of weights.
//! `BENCH_THREADS` sets the number of threads.
#![allow(missing_docs)] // the macros of criterion make public functions
#![allow(clippy::unwrap_used)] // a failed check ends the bench

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mercer::cpu::activation::Activation;
use mercer::cpu::head::{Head, Segment};
use mercer::cpu::linear::Linear;
use mercer::cpu::simd::Isa;

#[path = "../tests/oracle/mod.rs"]
mod oracle;

fn threads() -> usize {
    std::env::var("BENCH_THREADS").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

/// Widths of the segments, outputs.
const HEADS: [(&[usize], usize); 3] =
    [(&[128, 512, 64, 32], 256), (&[768, 512, 256], 512), (&[25_088], 1024)];

fn head(c: &mut Criterion) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads()).build().unwrap();
    let mut group = c.benchmark_group(format!("head/threads_{}", threads()));
    for (widths, outputs) in HEADS {
        let mut random = oracle::Random::new(3);
        let inputs: usize = widths.iter().sum();
        let weight = random.values(outputs * inputs);
        let layer = Linear::new(outputs, inputs, &weight, None, Activation::Identity).unwrap();
        let head = Head::new(widths, vec![layer]).unwrap();
        for batch in [1, 16, 256] {
            let data: Vec<Vec<f32>> = widths.iter().map(|width| random.values(batch * width)).collect();
            let all: Vec<usize> = (0..batch).collect();
            // Every other row lacks the first of several segments.
            let odd: Vec<usize> = (0..batch).filter(|row| batch == 1 || row % 2 == 1).collect();
            let segments: Vec<Segment<'_>> = data
                .iter()
                .enumerate()
                .map(|(s, data)| {
                    let rows = if s == 0 && widths.len() > 1 { &odd } else { &all };
                    Segment { rows, data: &data[..rows.len() * widths[s]] }
                })
                .collect();
            let mut output = vec![0.0; batch * outputs];
            head.run(Isa::best(), batch, &segments, &mut output).unwrap();
            let last = batch - 1;
            let mut expected = vec![0.0; outputs];
            let mut first = 0;
            for (segment, width) in segments.iter().zip(widths) {
                let row = &segment.data[segment.data.len() - width..];
                for (sum, x) in expected.iter_mut().zip(oracle::row_product(&weight, inputs, first, row)) {
                    *sum += x;
                }
                first += width;
            }
            let found = &output[last * outputs..];
            oracle::assert_close("last row", found, &expected, &[outputs], oracle::F32_TOLERANCE);

            let products: usize = segments.iter().map(|segment| segment.data.len() * outputs).sum();
            let name = format!("{inputs}x{outputs}/batch_{batch}");
            if batch == 1 {
                group.throughput(Throughput::Bytes(u64::try_from(4 * products).unwrap()));
            } else {
                group.throughput(Throughput::Elements(u64::try_from(2 * products).unwrap()));
            }
            group.bench_function(name, |b| {
                pool.install(|| {
                    b.iter(|| head.run(Isa::best(), batch, &segments, black_box(&mut output)).unwrap());
                });
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(1))
        .warm_up_time(Duration::from_millis(200));
    targets = head
}
criterion_main!(benches);
