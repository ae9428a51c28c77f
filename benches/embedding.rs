//! Embedding gather and bags in GB/s of table rows read and output written, beside a copy of as many bytes.
//! `BENCH_THREADS` sets the number of threads.
#![allow(missing_docs)] // the macros of criterion make public functions
#![allow(clippy::unwrap_used)] // a failed check ends the bench

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use half::f16;
use mercer::cpu::embedding::{Bags, Pooling, Table, UnknownId, Values, bags, gather};
use mercer::cpu::simd::Isa;

#[path = "../tests/oracle/mod.rs"]
mod oracle;

/// Bytes of each table: more than the caches of a core.
const TABLE: usize = 256 << 20;

fn bytes(len: usize) -> Throughput {
    Throughput::Bytes(u64::try_from(len).unwrap())
}

fn embedding(c: &mut Criterion) {
    let threads = std::env::var("BENCH_THREADS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let mut group = c.benchmark_group(format!("embedding/threads_{threads}"));
    let mut random = oracle::Random::new(1);
    let noise = random.values(1 << 20);
    let values: Vec<f32> = noise.iter().copied().cycle().take(TABLE / 4).collect();
    let halves: Vec<f16> = noise.iter().map(|&x| f16::from_f32(x)).cycle().take(TABLE / 4).collect();
    let mut output = vec![0.0f32; 16 << 20];

    let chunk = 1 << 14;
    group.throughput(bytes(output.len() * 8));
    group.bench_function("copy", |b| {
        use rayon::prelude::*;
        pool.install(|| {
            b.iter(|| {
                let from = values[..output.len()].par_chunks(chunk);
                output.par_chunks_mut(chunk).zip(from).for_each(|(to, from)| to.copy_from_slice(from));
            });
        });
    });
    for width in [64, 128, 512] {
        let rows = values.len() / width;
        let tables = [("f32", Values::F32(&values), 4), ("f16", Values::F16(&halves), 2)];
        for (name, values, size) in tables {
            let table = Table::new(rows, width, values).unwrap();
            let ids: Vec<i64> =
                (0..output.len() / width).map(|_| i64::try_from(random.below(rows)).unwrap()).collect();
            gather(Isa::best(), &table, &ids, UnknownId::Refuse, &mut output).unwrap();
            for (row, &id) in ids.iter().enumerate().step_by(97) {
                let at = usize::try_from(id).unwrap() * width;
                let stored = |at: usize| match values {
                    Values::F16(values) => values[at].to_f32(),
                    _ => noise[at % noise.len()],
                };
                assert!((0..width).all(|c| output[row * width + c] == stored(at + c)), "row {row}");
            }
            group.throughput(bytes(output.len() * (size + 4)));
            group.bench_function(format!("gather_{name}_{width}"), |b| {
                pool.install(|| {
                    b.iter(|| {
                        gather(Isa::best(), &table, &ids, UnknownId::Refuse, black_box(&mut output)).unwrap();
                    });
                });
            });

            let per_bag = 32;
            let offsets: Vec<usize> = (0..=ids.len() / per_bag).map(|bag| bag * per_bag).collect();
            let ids = &ids[..offsets[offsets.len() - 1]];
            let input = Bags { offsets: &offsets, ids, weights: None };
            let output = &mut output[..(offsets.len() - 1) * width];
            bags(Isa::best(), &table, input, Pooling::Sum, None, UnknownId::Refuse, output).unwrap();
            for bag in (0..offsets.len() - 1).step_by(97) {
                let mut expected = vec![0.0; width];
                for &id in &ids[bag * per_bag..(bag + 1) * per_bag] {
                    let at = usize::try_from(id).unwrap() * width;
                    for (c, sum) in expected.iter_mut().enumerate() {
                        let x = noise[(at + c) % noise.len()];
                        *sum += f64::from(if size == 2 { f16::from_f32(x).to_f32() } else { x });
                    }
                }
                let found = &output[bag * width..(bag + 1) * width];
                oracle::assert_close("bag", found, &expected, &[width], oracle::F32_TOLERANCE);
            }
            group.throughput(bytes(ids.len() * width * size));
            group.bench_function(format!("bag_sum_{name}_{width}"), |b| {
                pool.install(|| {
                    b.iter(|| {
                        let output = black_box(&mut *output);
                        bags(Isa::best(), &table, input, Pooling::Sum, None, UnknownId::Refuse, output)
                            .unwrap();
                    });
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
    targets = embedding
}
criterion_main!(benches);
