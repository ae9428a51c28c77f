//! Convolution layers of ResNet-18 and a few others, in GFLOP/s (two operations per multiply-add), beside the
//! multiply-add peak of one thread. `BENCH_THREADS` sets the number of threads.
#![allow(missing_docs)] // the macros of criterion make public functions
#![allow(clippy::unwrap_used)] // a failed check ends the bench

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mercer::cpu::activation::Activation;
use mercer::cpu::conv::{Conv, ConvShape, Images, Pair};
use mercer::cpu::simd::{Isa, Kernel, Simd, dispatch};

#[path = "../tests/oracle/mod.rs"]
mod oracle;

/// Independent chains of multiply-adds that never leave their registers.
struct Peak {
    steps: usize,
}

const CHAINS: usize = 12;

impl Kernel for Peak {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (a, b) = (simd.splat(black_box(0.5)), simd.splat(black_box(1.0)));
        let mut sums = [b; CHAINS];
        for _ in 0..self.steps {
            for sum in &mut sums {
                *sum = simd.mul_add(a, *sum, b);
            }
        }
        black_box(sums);
    }
}

fn lanes(isa: Isa) -> u64 {
    struct Lanes;
    impl Kernel for Lanes {
        type Output = usize;
        fn run<S: Simd>(self, _: S) -> usize {
            S::LANES
        }
    }
    u64::try_from(dispatch(isa, Lanes)).unwrap()
}

fn peak(c: &mut Criterion) {
    let mut group = c.benchmark_group("peak");
    for isa in Isa::available().into_iter().filter(|&isa| isa != Isa::Portable) {
        let steps = 100_000;
        group.throughput(Throughput::Elements(2 * steps * 12 * lanes(isa)));
        group.bench_function(format!("{isa:?}"), |b| {
            b.iter(|| dispatch(isa, Peak { steps: usize::try_from(steps).unwrap() }));
        });
    }
    group.finish();
}

/// Name, side of the square image, input and output channels, kernel, stride, groups.
const LAYERS: [(&str, usize, usize, usize, usize, usize, usize); 9] = [
    ("stem_7x7_s2_3_64", 224, 3, 64, 7, 2, 1),
    ("56_3x3_64_64", 56, 64, 64, 3, 1, 1),
    ("56_3x3_s2_64_128", 56, 64, 128, 3, 2, 1),
    ("28_3x3_128_128", 28, 128, 128, 3, 1, 1),
    ("14_3x3_256_256", 14, 256, 256, 3, 1, 1),
    ("7_3x3_512_512", 7, 512, 512, 3, 1, 1),
    ("56_1x1_64_256", 56, 64, 256, 1, 1, 1),
    ("28_3x3_g32_128_128", 28, 128, 128, 3, 1, 32),
    ("28_depthwise_3x3_128", 28, 128, 128, 3, 1, 128),
];

fn layers(c: &mut Criterion) {
    let threads = std::env::var("BENCH_THREADS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let mut group = c.benchmark_group(format!("conv/threads_{threads}"));
    for (name, side, in_channels, out_channels, kernel, stride, groups) in LAYERS {
        let mut random = oracle::Random::new(7);
        let shape = ConvShape {
            in_channels,
            out_channels,
            kernel: Pair::square(kernel),
            stride: Pair::square(stride),
            padding: Pair::square(kernel / 2),
            dilation: Pair::square(1),
            groups,
        };
        let data = random.values(side * side * in_channels);
        let weight = random.values(shape.weights().unwrap());
        let conv = Conv::new(shape, &weight, None).unwrap();
        let input = Images { batch: 1, height: side, width: side, data: &data };
        let out = shape.output(side, side).unwrap();
        let mut output = vec![0.0; out.height * out.width * out_channels];

        conv.run(Isa::best(), input, None, Activation::Identity, &mut output).unwrap();
        let expected = oracle::conv(&shape, input, &weight, None);
        let dimensions = [1, out.height, out.width, out_channels];
        oracle::assert_close(name, &output, &expected, &dimensions, oracle::F32_TOLERANCE);

        let operations = 2 * output.len() * kernel * kernel * in_channels / groups;
        group.throughput(Throughput::Elements(u64::try_from(operations).unwrap()));
        group.bench_function(name, |b| {
            pool.install(|| {
                b.iter(|| {
                    conv.run(Isa::best(), input, None, Activation::Relu, black_box(&mut output)).unwrap()
                });
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(std::time::Duration::from_secs(1)).warm_up_time(std::time::Duration::from_millis(300));
    targets = peak, layers
}
criterion_main!(benches);
