//! Linear layers and the fused head: GFLOP/s (two operations per multiply-add) and, for one row, GB/s of weights.
//! `BENCH_THREADS` sets the number of threads.
//!
//! With the feature `cuda` it is the card that is timed: see `benches/card/mod.rs`.
#![cfg_attr(feature = "cuda", allow(dead_code))] // what times the CPU
#![allow(missing_docs)] // the macros of criterion make public functions
#![allow(clippy::unwrap_used)] // a failed check ends the bench

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mercer::cpu::activation::Activation;
use mercer::cpu::head::{Head, Segment};
use mercer::cpu::linear::Linear;
use mercer::cpu::simd::Isa;

#[cfg(feature = "cuda")]
mod card;
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
#[cfg(not(feature = "cuda"))]
criterion_main!(benches);

#[cfg(feature = "cuda")]
mod cuda {
    use criterion::Criterion;
    use mercer::cpu::activation::Activation;
    use mercer::cuda::head::{Head, LayerWeights, Segment};
    use mercer::cuda::{Precision, Rows, Slice};
    use serde_json::json;

    use super::card::device::tolerance;
    use super::card::{Card, Work};
    use super::oracle::{assert_close, row_product};

    /// Widths of the segments and outputs, full and tiny.
    const HEAD: (&[usize], usize) = (&[4096, 768], 512);
    const TINY: (&[usize], usize) = (&[64, 24], 32);

    /// Every row has every segment.
    pub fn head(c: &mut Criterion) {
        let Some(card) = Card::open() else { return };
        let (widths, outputs) = card.size(HEAD, TINY);
        let inputs: usize = widths.iter().sum();
        let mut group = c.benchmark_group("cuda/head");
        for precision in [Precision::F32, Precision::F16] {
            let weight: Vec<f32> = (0..outputs * inputs).map(|at| card.value(precision, 7 * at)).collect();
            let layer = LayerWeights {
                outputs,
                inputs,
                weight: &weight,
                bias: None,
                activation: Activation::Identity,
            };
            let head = Head::new(&card.stream, precision, widths, &[layer], true).unwrap();
            for batch in [1, card.size(64, 4), card.size(4096, 20)] {
                let rows = Rows::exactly(&card.stream, batch).unwrap();
                let index: Vec<u32> = (0..u32::try_from(batch).unwrap()).collect();
                let segments: Vec<Segment> = widths
                    .iter()
                    .map(|width| Segment {
                        index: card.stream.upload("index", &index).unwrap(),
                        data: card.noise(precision, batch * width),
                    })
                    .collect();
                let workspace = Slice::<u8>::new(&card.device, "workspace", head.workspace(batch)).unwrap();
                let output = Slice::<f32>::new(&card.device, "output", batch * outputs).unwrap();
                let fault = card.fault();
                let enqueue = || head.enqueue(&card.stream, &rows, &segments, &workspace, &output, 0, &fault);
                enqueue().unwrap();

                assert_eq!(card.stream.download(&fault).unwrap(), [u64::MAX]);
                let found = card.stream.download(&output).unwrap();
                for row in [0, batch / 2, batch - 1] {
                    let mut expected = vec![0.0; outputs];
                    let mut first = 0;
                    for width in widths {
                        let at = row * width;
                        let x: Vec<f32> = (at..at + width).map(|at| card.value(precision, at)).collect();
                        let product = row_product(&weight, inputs, first, &x);
                        expected.iter_mut().zip(product).for_each(|(sum, x)| *sum += x);
                        first += width;
                    }
                    let norm = expected.iter().map(|x| x * x).sum::<f64>().sqrt();
                    expected.iter_mut().for_each(|x| *x /= norm);
                    let found = &found[row * outputs..(row + 1) * outputs];
                    assert_close(&format!("row {row}"), found, &expected, &[outputs], tolerance(precision));
                }

                let work = Work {
                    op: "head",
                    name: format!("concat_linear_l2_batch_{batch}"),
                    precision,
                    shape: json!({"batch": batch, "widths": widths, "outputs": outputs}),
                    bytes: (outputs + batch) * inputs * precision.bytes() + batch * outputs * 4,
                    operations: 2 * batch * inputs * outputs,
                };
                card.bench(&mut group, &work, enqueue);
            }
        }
        group.finish();
    }
}

#[cfg(feature = "cuda")]
criterion_group! {
    name = on_card;
    config = card::config();
    targets = cuda::head
}
#[cfg(feature = "cuda")]
criterion_main!(on_card);
