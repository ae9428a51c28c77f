//! What the benches of the CUDA backend share: the card, how work on it is timed, what is reported.
//!
//! Every run starts from a cold L2: a buffer larger than any is overwritten before, which also keeps the device busy until
//! the host has put the work on the stream. Times are between events of the device; the reported one is the median. Beside it
//! stand the bytes that the work cannot avoid moving (every input and output once) over the time, as a share of what a large
//! copy inside the card reaches (bytes read and written), and the floating-point operations over the time. The rate of the
//! matrix units is not known here: `tools/peers/gpu.py` measures it.
//!
//! `BENCH_SIZES=tiny` shrinks every shape, for the stand-in driver; so does `--test`. `MERCER_BENCH_JSON` names a file that
//! gets a line of JSON per measurement, from which the peer takes its shapes.
#![allow(dead_code)] // each bench uses its own part

use std::cell::RefCell;
use std::io::Write;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};
use half::{bf16, f16};
use mercer::cuda::{CudaError, Device, Precision, Slice, Stream, Tensor};
use serde_json::{Value, json};

use crate::oracle::Random;

#[path = "../../tests/device/mod.rs"]
pub mod device;

/// Values of noise before it repeats: a prime, so that rows differ.
const NOISE: usize = 1_048_573;

/// The card, and what it is compared with.
pub struct Card {
    pub device: Device,
    pub stream: Stream,
    noise: Vec<f32>,
    flush: Slice<u8>,
    /// Bytes per second of a large copy, read and written.
    copy: f64,
    tiny: bool,
}

/// A measurement.
pub struct Work {
    /// The op; a file of `benches/`.
    pub op: &'static str,
    /// What tells it from others of the op.
    pub name: String,
    pub precision: Precision,
    /// What a peer needs to know to do the same.
    pub shape: Value,
    /// Bytes that must be moved: every input read once, every output written once.
    pub bytes: usize,
    /// Floating-point operations, two per multiply-add; 0 if they do not count.
    pub operations: usize,
}

/// The settings of every bench on a card.
pub fn config() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(300))
        .nresamples(2_000)
}

/// Whether this run measures, or else only checks answers.
fn measures() -> bool {
    let given = |flag: &str| std::env::args().any(|argument| argument == flag);
    given("--bench") && !given("--test")
}

impl Card {
    /// The card, or `None` with a printed reason where there is none; `MERCER_REQUIRE_GPU=1` makes that a failure.
    pub fn open() -> Option<Card> {
        let device = device::device()?;
        let stream = device.stream().unwrap();
        let tiny = !measures() || std::env::var("BENCH_SIZES").is_ok_and(|sizes| sizes == "tiny");
        let bytes = |full: usize| if tiny { full >> 12 } else { full };
        let noise = Random::new(1).values(NOISE);
        let flush = Slice::new(&device, "flush", bytes(256 << 20)).unwrap();
        let mut card = Card { device, stream, noise, flush, copy: 0.0, tiny };
        card.copy = card.measure_copy(bytes(1 << 30));
        let info = card.device.info();
        let (major, minor) = info.capability;
        println!("{}, compute capability {major}.{minor}, copies {:.1} GB/s", info.name, card.copy / 1e9);
        Some(card)
    }

    /// The full size of something, or the tiny one.
    pub fn size<T>(&self, full: T, tiny: T) -> T {
        if self.tiny { tiny } else { full }
    }

    /// The noise that every tensor of a card repeats, at one place of it.
    pub fn value(&self, precision: Precision, at: usize) -> f32 {
        device::round(precision, self.noise[at % NOISE])
    }

    /// `len` values of noise.
    pub fn noise(&self, precision: Precision, len: usize) -> Tensor {
        let first = &self.noise[..len.min(NOISE)];
        let encoded: Vec<u8> = match precision {
            Precision::F32 => bytemuck::cast_slice(first).to_vec(),
            Precision::F16 => first.iter().flat_map(|&x| f16::from_f32(x).to_ne_bytes()).collect(),
            Precision::Bf16 => first.iter().flat_map(|&x| bf16::from_f32(x).to_ne_bytes()).collect(),
        };
        let bytes = Slice::new(&self.device, "noise", len * precision.bytes()).unwrap();
        let mut filled = encoded.len();
        self.stream.upload_to(&encoded, &bytes.part(0..filled).unwrap()).unwrap();
        while filled < bytes.len() {
            let more = filled.min(bytes.len() - filled);
            let (from, to) = (bytes.part(0..more), bytes.part(filled..filled + more));
            self.stream.copy(&from.unwrap(), &to.unwrap()).unwrap();
            filled += more;
        }
        Tensor::over(bytes, precision).unwrap()
    }

    /// Memory for an output, full of NaN.
    pub fn output(&self, precision: Precision, len: usize) -> Tensor {
        let bytes = Slice::<u8>::new(&self.device, "output", len * precision.bytes()).unwrap();
        self.stream.fill(&bytes, 0xFF).unwrap();
        Tensor::over(bytes, precision).unwrap()
    }

    /// A fault record without a fault.
    pub fn fault(&self) -> Slice<u64> {
        self.stream.upload("fault record", &[u64::MAX]).unwrap()
    }

    /// Times what `enqueue` puts on the card's stream, and reports it.
    pub fn bench(
        &self,
        group: &mut BenchmarkGroup<'_, WallTime>,
        work: &Work,
        enqueue: impl Fn() -> Result<(), CudaError>,
    ) {
        self.bench_by(group, work, || self.time(&enqueue));
    }

    /// Calls `run`, which says how long it took, as often as criterion wants, and reports it.
    pub fn bench_by(
        &self,
        group: &mut BenchmarkGroup<'_, WallTime>,
        work: &Work,
        mut run: impl FnMut() -> Duration,
    ) {
        group.sampling_mode(SamplingMode::Flat);
        let count = |number: usize| u64::try_from(number).unwrap();
        group.throughput(match work.operations {
            0 => Throughput::Bytes(count(work.bytes)),
            operations => Throughput::Elements(count(operations)),
        });
        let times = RefCell::new(Vec::new());
        group.bench_function(format!("{}/{:?}", work.name, work.precision).to_lowercase(), |b| {
            b.iter_custom(|iterations| {
                let mut sum = Duration::ZERO;
                for _ in 0..iterations {
                    let time = run();
                    times.borrow_mut().push(time);
                    sum += time;
                }
                sum
            });
        });
        // Empty if the command line filters it out.
        let mut times = times.into_inner();
        if measures() && !times.is_empty() {
            times.sort_unstable();
            self.report(work, times[times.len() / 2].as_secs_f64());
        }
    }

    /// From a cold cache.
    fn time(&self, enqueue: impl Fn() -> Result<(), CudaError>) -> Duration {
        self.stream.fill(&self.flush, 0x55).unwrap();
        self.stream.time(enqueue).unwrap()
    }

    fn measure_copy(&self, bytes: usize) -> f64 {
        let from = self.noise(Precision::F32, bytes / 4).as_f32().unwrap();
        let to = Slice::<f32>::new(&self.device, "copy", bytes / 4).unwrap();
        let mut times: Vec<Duration> = (0..7).map(|_| self.time(|| self.stream.copy(&from, &to))).collect();
        times.sort_unstable();
        2.0 * bytes as f64 / times[3].as_secs_f64()
    }

    fn report(&self, work: &Work, seconds: f64) {
        let (bytes, operations) = (work.bytes as f64 / seconds, work.operations as f64 / seconds);
        let share = bytes / self.copy;
        let mut line = format!("{} {}, {:?}: {:.4} ms", work.op, work.name, work.precision, seconds * 1e3);
        if work.bytes > 0 {
            line += &format!(", {:.1} GB/s, {:.0} % of the copy", bytes / 1e9, share * 1e2);
        }
        if work.operations > 0 {
            line += &format!(", {:.2} TFLOP/s", operations / 1e12);
        }
        println!("{line}");
        let Some(path) = std::env::var_os("MERCER_BENCH_JSON") else { return };
        let line = json!({
            "op": work.op,
            "name": work.name,
            "dtype": format!("{:?}", work.precision).to_lowercase(),
            "shape": work.shape,
            "median_ms": seconds * 1e3,
            "bytes": work.bytes,
            "operations": work.operations,
            "gb_per_s": bytes / 1e9,
            "tflop_per_s": operations / 1e12,
            "copy_gb_per_s": self.copy / 1e9,
            "share_of_copy": share,
            "card": self.device.info().name,
        });
        let mut file = std::fs::File::options().create(true).append(true).open(path).unwrap();
        writeln!(file, "{line}").unwrap();
    }
}
