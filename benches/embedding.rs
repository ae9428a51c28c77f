//! Embedding gather and bags in GB/s of table rows read and output written, beside a copy of as many bytes.
//! `BENCH_THREADS` sets the number of threads.
//!
//! With the feature `cuda` it is the card that is timed: see `benches/card/mod.rs`.
#![cfg_attr(feature = "cuda", allow(dead_code))] // what times the CPU
#![allow(missing_docs)] // the macros of criterion make public functions
#![allow(clippy::unwrap_used)] // a failed check ends the bench

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use half::f16;
use mercer::cpu::embedding::{Bags, Pooling, Table, UnknownId, Values, bags, gather};
use mercer::cpu::simd::Isa;

#[cfg(feature = "cuda")]
mod card;
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
#[cfg(not(feature = "cuda"))]
criterion_main!(benches);

#[cfg(feature = "cuda")]
mod cuda {
    use criterion::Criterion;
    use mercer::cpu::embedding::{self, Pooling, Table, UnknownId, Values};
    use mercer::cpu::simd::Isa;
    use mercer::cuda::embedding::{Bags, Lookup, enqueue};
    use mercer::cuda::{Precision, Rows, Slice, Tensor};
    use serde_json::json;

    use super::card::device::round;
    use super::card::{Card, Work};
    use super::oracle::{Random, assert_bits};

    const PER_BAG: usize = 32;

    /// A table on the card, and ids into it.
    struct Case<'a> {
        card: &'a Card,
        precision: Precision,
        width: usize,
        rows: usize,
        table: Tensor,
        ids: Vec<i64>,
    }

    pub fn embedding(c: &mut Criterion) {
        let Some(card) = Card::open() else { return };
        let mut group = c.benchmark_group("cuda/embedding");
        for precision in [Precision::F32, Precision::F16] {
            for width in [64, 128, 512] {
                let row = width * precision.bytes();
                let (rows, count) = (card.size(1 << 30, 1 << 14) / row, card.size(256 << 20, 1 << 16) / row);
                let mut random = Random::new(2);
                let ids = (0..count / PER_BAG * PER_BAG).map(|_| i64::try_from(random.below(rows)).unwrap());
                let ids: Vec<i64> = ids.collect();
                let table = card.noise(precision, rows * width);
                let case = Case { card: &card, precision, width, rows, table, ids };
                for bags in [false, true] {
                    let (lookup, work) = case.lookup(bags);
                    let fault = card.fault();
                    let lookups = [lookup];
                    enqueue(&card.stream, &lookups, &fault).unwrap();
                    case.check(&lookups[0], &fault);
                    card.bench(&mut group, &work, || enqueue(&card.stream, &lookups, &fault));
                }
            }
        }
        group.finish();
    }

    impl Case<'_> {
        fn lookup(&self, bags: bool) -> (Lookup, Work) {
            let &Case { card, precision, width, rows, ref table, ref ids } = self;
            let outputs = if bags { ids.len() / PER_BAG } else { ids.len() };
            let offsets: Vec<u64> = (0..=outputs).map(|bag| (bag * PER_BAG) as u64).collect();
            let of_bags = || Bags {
                offsets: card.stream.upload("offsets", &offsets).unwrap(),
                weights: None,
                pooling: Pooling::Sum,
                padding_id: None,
            };
            let lookup = Lookup {
                table: table.clone(),
                table_rows: rows,
                width,
                items: Rows::exactly(&card.stream, outputs).unwrap(),
                ids: card.stream.upload("ids", ids).unwrap(),
                bags: bags.then(of_bags),
                unknown: UnknownId::Refuse,
                output: card.output(precision, outputs * width),
                stage: 0,
            };
            let (kind, per_bag) = if bags { ("bag_sum", PER_BAG) } else { ("gather", 1) };
            let work = Work {
                op: "embedding",
                name: format!("{kind}_{width}"),
                precision,
                shape: json!({"table_rows": rows, "width": width, "ids": ids.len(), "per_bag": per_bag}),
                bytes: ids.len() * 8
                    + if bags { offsets.len() * 8 } else { 0 }
                    + (ids.len() + outputs) * width * precision.bytes(),
                operations: 0,
            };
            (lookup, work)
        }

        /// Some of the rows, bit for bit as the CPU pools them, rounded once.
        fn check(&self, lookup: &Lookup, fault: &Slice<u64>) {
            let &Case { card, precision, width, ref ids, .. } = self;
            assert_eq!(card.stream.download(fault).unwrap(), [u64::MAX]);
            let found = lookup.output.download(&card.stream).unwrap();
            let per_bag = if lookup.bags.is_some() { PER_BAG } else { 1 };
            for (bag, found) in found.chunks(width).enumerate().step_by(97) {
                let ids = &ids[bag * per_bag..(bag + 1) * per_bag];
                let at = ids.iter().map(|&id| usize::try_from(id).unwrap() * width);
                let stored: Vec<f32> =
                    at.flat_map(|at| (at..at + width).map(|at| card.value(precision, at))).collect();
                let table = Table::new(per_bag, width, Values::F32(&stored)).unwrap();
                let ids: Vec<i64> = (0..).take(per_bag).collect();
                let input = embedding::Bags { offsets: &[0, per_bag], ids: &ids, weights: None };
                let mut expected = vec![0.0; width];
                let unknown = UnknownId::Refuse;
                embedding::bags(Isa::best(), &table, input, Pooling::Sum, None, unknown, &mut expected)
                    .unwrap();
                let expected: Vec<f32> = expected.iter().map(|&x| round(precision, x)).collect();
                assert_bits(&format!("bag {bag}, {precision:?}"), found, &expected, &[width]);
            }
        }
    }
}

#[cfg(feature = "cuda")]
criterion_group! {
    name = on_card;
    config = card::config();
    targets = cuda::embedding
}
#[cfg(feature = "cuda")]
criterion_main!(on_card);
