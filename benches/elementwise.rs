//! Ops that do little per value, in GB/s of memory read and written. `BENCH_THREADS` sets the number of threads.
#![allow(missing_docs)] // the macros of criterion make public functions
#![allow(clippy::unwrap_used)] // a failed check ends the bench

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mercer::cpu::activation::{Activation, add};
use mercer::cpu::batch_norm::{BatchNorm, ScaleShift};
use mercer::cpu::normalize::normalize;

#[path = "../tests/oracle/mod.rs"]
mod oracle;

/// A feature map: larger than the second-level cache, as between two convolutions of a batch.
const VALUES: usize = 1 << 20;
const CHANNELS: usize = 256;

/// Checks one run of `op`, then times it on the same values again and again.
fn case(
    c: &mut Criterion,
    (name, bytes_per_value): (&str, usize),
    op: impl Fn(&mut [f32]) + Sync,
    expected: impl Fn(usize, f32) -> f64,
) {
    let input = oracle::Random::new(1).values(VALUES);
    let mut values = input.clone();
    op(&mut values);
    for (at, (&found, &x)) in values.iter().zip(&input).enumerate() {
        let expected = expected(at, x);
        // A sum or a product and a sum, rounded at most twice; a norm of 256 values, under 32 times.
        let tolerance = 32.0 * 2.0f64.powi(-24) * (expected.abs() + 1.0);
        assert!(
            (f64::from(found) - expected).abs() <= tolerance,
            "{name}: {at}: {found}, expected {expected}"
        );
    }
    let threads = std::env::var("BENCH_THREADS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let workers = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let mut group = c.benchmark_group(format!("elementwise/threads_{threads}"));
    group.throughput(Throughput::Bytes(u64::try_from(bytes_per_value * VALUES).unwrap()));
    group.bench_function(name, |b| workers.install(|| b.iter(|| op(black_box(&mut values)))));
    group.finish();
}

fn ops(c: &mut Criterion) {
    case(c, ("relu", 8), |values| Activation::Relu.run(values), |_, x| f64::from(x).max(0.0));
    case(
        c,
        ("sigmoid", 8),
        |values| Activation::Sigmoid.run(values),
        |_, x| 1.0 / (1.0 + (-f64::from(x)).exp()),
    );

    let other = oracle::Random::new(2).values(VALUES);
    case(
        c,
        ("add_relu", 12),
        |values| add(values, &other, Activation::Relu).unwrap(),
        |at, x| (f64::from(x) + f64::from(other[at])).max(0.0),
    );

    // A scale below 1, so that values stay finite and normal when the op is applied to its own output.
    let mean = oracle::Random::new(3).values(CHANNELS);
    let norm = BatchNorm {
        gamma: &[0.5; CHANNELS],
        beta: &[0.25; CHANNELS],
        mean: &mean,
        variance: &[1.0; CHANNELS],
        eps: 0.0,
    };
    let scale_shift = ScaleShift::new(&norm).unwrap();
    case(
        c,
        ("batch_norm", 8),
        |values| scale_shift.run(values).unwrap(),
        |at, x| (f64::from(x) - f64::from(mean[at % CHANNELS])) * 0.5 + 0.25,
    );

    let rows = oracle::Random::new(1).values(VALUES);
    let square = |row: &[f32]| row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
    let norms: Vec<f64> = rows.chunks(CHANNELS).map(|row| square(row).sqrt()).collect();
    case(
        c,
        ("normalize", 8),
        |values| values.chunks_mut(CHANNELS).for_each(|row| normalize(row).unwrap()),
        |at, x| f64::from(x) / norms[at / CHANNELS],
    );
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(1))
        .warm_up_time(Duration::from_millis(200));
    targets = ops
}
criterion_main!(benches);
