//! Convolution layers of ResNet-18 and a few others, in GFLOP/s (two operations per multiply-add), beside the
//! multiply-add peak of one thread. `BENCH_THREADS` sets the number of threads.
//!
//! With the feature `cuda` it is the card that is timed: see `benches/card/mod.rs`.
#![cfg_attr(feature = "cuda", allow(dead_code))] // what times the CPU
#![allow(missing_docs)] // the macros of criterion make public functions
#![allow(clippy::unwrap_used)] // a failed check ends the bench

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mercer::cpu::activation::Activation;
use mercer::cpu::conv::{Conv, ConvShape, Images, Pair};
use mercer::cpu::simd::{Isa, Kernel, Simd, dispatch};

#[cfg(feature = "cuda")]
mod card;
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
#[cfg(not(feature = "cuda"))]
criterion_main!(benches);

#[cfg(feature = "cuda")]
mod cuda {
    use criterion::Criterion;
    use mercer::cpu::activation::Activation;
    use mercer::cpu::conv::{self, ConvShape, Images, Pair};
    use mercer::cpu::simd::Isa;
    use mercer::cuda::conv::Conv;
    use mercer::cuda::{Precision, Rows, Tensor};
    use serde_json::json;

    use super::card::device::{round, tolerance};
    use super::card::{Card, Work};
    use super::oracle::{assert_close, wide};

    /// Network and layer, side of the square image, input and output channels, kernel, stride; padding is half the kernel.
    const LAYERS: [(&str, usize, usize, usize, usize, usize); 18] = [
        ("resnet50_conv1", 224, 3, 64, 7, 2),
        ("resnet50_2_1x1", 56, 64, 64, 1, 1),
        ("resnet50_2_3x3", 56, 64, 64, 3, 1),
        ("resnet50_2_1x1_up", 56, 64, 256, 1, 1),
        ("resnet50_3_down", 56, 256, 512, 1, 2),
        ("resnet50_3_3x3", 28, 128, 128, 3, 1),
        ("resnet50_3_1x1_up", 28, 128, 512, 1, 1),
        ("resnet50_4_1x1", 14, 1024, 256, 1, 1),
        ("resnet50_4_3x3", 14, 256, 256, 3, 1),
        ("resnet50_4_1x1_up", 14, 256, 1024, 1, 1),
        ("resnet50_5_3x3", 7, 512, 512, 3, 1),
        ("resnet50_5_1x1_up", 7, 512, 2048, 1, 1),
        ("vgg16_1_1", 224, 3, 64, 3, 1),
        ("vgg16_1_2", 224, 64, 64, 3, 1),
        ("vgg16_2_2", 112, 128, 128, 3, 1),
        ("vgg16_3_2", 56, 256, 256, 3, 1),
        ("vgg16_4_2", 28, 512, 512, 3, 1),
        ("vgg16_5_2", 14, 512, 512, 3, 1),
    ];

    const PRECISION: Precision = Precision::F16;

    pub fn layers(c: &mut Criterion) {
        let Some(card) = Card::open() else { return };
        let mut group = c.benchmark_group("cuda/conv");
        for (name, side, inputs, outputs, kernel, stride) in LAYERS {
            let tiny = |channels: usize| if channels > 8 { channels / 16 * 2 } else { channels };
            let [inputs, outputs] = [inputs, outputs].map(|full| card.size(full, tiny(full)));
            let side = card.size(side, (side / 14).max(3));
            let shape = ConvShape {
                in_channels: inputs,
                out_channels: outputs,
                kernel: Pair::square(kernel),
                stride: Pair::square(stride),
                padding: Pair::square(kernel / 2),
                dilation: Pair::square(1),
                groups: 1,
            };
            let size = Pair::square(side);
            let weight: Vec<f32> =
                (0..shape.weights().unwrap()).map(|at| card.value(PRECISION, 7 * at)).collect();
            let bias: Vec<f32> = (0..outputs).map(|at| card.value(Precision::F32, at)).collect();
            let layer = Conv::new(&card.stream, &shape, size, PRECISION, &weight, Some(&bias)).unwrap();
            let out = layer.output();
            for batch in [1, card.size(32, 2)] {
                let images = Rows::exactly(&card.stream, batch).unwrap();
                let input = card.noise(PRECISION, batch * side * side * inputs);
                let values = batch * out.height * out.width * outputs;
                let output = card.output(PRECISION, values);
                let enqueue = || layer.enqueue(&card.stream, &images, &input, None, true, &output);
                enqueue().unwrap();
                check(&card, name, &shape, side, &weight, &bias, &output);
                let work = Work {
                    op: "conv",
                    name: format!("{name}_batch_{batch}"),
                    precision: PRECISION,
                    shape: json!({
                        "batch": batch, "side": side, "in_channels": inputs, "out_channels": outputs,
                        "kernel": kernel, "stride": stride, "padding": kernel / 2,
                    }),
                    bytes: (input.len() + weight.len() + values) * PRECISION.bytes() + bias.len() * 4,
                    operations: 2 * values * kernel * kernel * inputs,
                };
                card.bench(&mut group, &work, enqueue);
            }
        }
        group.finish();
    }

    /// The first image is what the CPU makes of the same values.
    fn check(
        card: &Card,
        name: &str,
        shape: &ConvShape,
        side: usize,
        weight: &[f32],
        bias: &[f32],
        output: &Tensor,
    ) {
        let data: Vec<f32> =
            (0..side * side * shape.in_channels).map(|at| card.value(PRECISION, at)).collect();
        let out = shape.output(side, side).unwrap();
        let mut expected = vec![0.0; out.height * out.width * shape.out_channels];
        let input = Images { batch: 1, height: side, width: side, data: &data };
        let layer = conv::Conv::new(*shape, weight, Some(bias)).unwrap();
        layer.run(Isa::best(), input, None, Activation::Relu, &mut expected).unwrap();
        let found = output.part(0..expected.len()).unwrap().download(&card.stream).unwrap();
        let expected: Vec<f32> = expected.iter().map(|&x| round(PRECISION, x)).collect();
        let dimensions = [out.height, out.width, shape.out_channels];
        assert_close(name, &found, &wide(&expected), &dimensions, tolerance(PRECISION));
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
