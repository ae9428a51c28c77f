//! Opening a checkpoint and using it for the first time: what a serving process pays before its first answer. The
//! peer is the safetensors crate over a buffer it is given.
//!
//! The file is in the page cache, so this measures the work of the library and of the kernel, not of a disk.

use std::hint::black_box;
use std::path::{Path, PathBuf};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use half::f16;
use mercer::weights::{Checkpoint, Source};
use safetensors::{Dtype, SafeTensors, serialize_to_file, tensor::TensorView};

/// As many tensors as a deep network has; together large enough to be far beyond the caches of a core.
const TENSORS: usize = 256;
const ROWS: usize = 64;
const COLUMNS: usize = 1024;
const ELEMENTS: usize = ROWS * COLUMNS;

fn value(tensor: usize, element: usize) -> f32 {
    // Small integers, exact in f16.
    f32::from(u8::try_from((tensor * 31 + element) % 251).unwrap_or(0)) - 125.0
}

fn name(tensor: usize) -> String {
    format!("layers.{tensor}.weight")
}

/// Every second tensor is F32, the others are F16.
fn generate(folder: &Path) -> PathBuf {
    let path = folder.join("model.safetensors");
    let data: Vec<Vec<u8>> = (0..TENSORS)
        .map(|tensor| {
            let values = (0..ELEMENTS).map(|element| value(tensor, element));
            if tensor % 2 == 0 {
                values.flat_map(f32::to_le_bytes).collect()
            } else {
                values.flat_map(|value| f16::from_f32(value).to_le_bytes()).collect()
            }
        })
        .collect();
    let views = data.iter().enumerate().map(|(tensor, bytes)| {
        let dtype = if tensor % 2 == 0 { Dtype::F32 } else { Dtype::F16 };
        (name(tensor), TensorView::new(dtype, vec![ROWS, COLUMNS], bytes).expect("bytes fit the shape"))
    });
    serialize_to_file(views, None, &path).expect("a writable temporary folder");
    path
}

/// The answers that the benchmark relies on.
fn check(checkpoint: &Checkpoint) {
    assert_eq!(checkpoint.len(), TENSORS);
    for tensor in 0..TENSORS {
        let view = checkpoint.tensor(&name(tensor)).expect("the tensor was written");
        assert_eq!(view.shape(), [ROWS, COLUMNS]);
        let values = view.to_f32().expect("a weight dtype");
        let wrong = (0..ELEMENTS).find(|&element| values[element] != value(tensor, element));
        assert_eq!(wrong, None, "first wrong element of tensor {tensor}");
    }
    checkpoint.validate_values().expect("finite values");
}

fn benches(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = generate(folder.path());
    for source in [Source::Mmap, Source::Read] {
        check(&Checkpoint::open(&path, source).expect("a valid file"));
    }
    let checkpoint = Checkpoint::mmap(&path).expect("a valid file");
    let bytes = u64::try_from(checkpoint.bytes()).expect("64 bits");

    let mut group = c.benchmark_group("weights/open");
    for source in [Source::Mmap, Source::Read] {
        group.bench_function(format!("{source:?}"), |b| {
            b.iter(|| Checkpoint::open(black_box(&path), source).expect("a valid file"));
        });
    }
    group.bench_function("peer safetensors, Read", |b| {
        b.iter(|| {
            let bytes = std::fs::read(black_box(&path)).expect("a readable file");
            SafeTensors::deserialize(&bytes).expect("a valid file").len()
        });
    });
    group.finish();

    let mut group = c.benchmark_group("weights/open and first use");
    group.throughput(Throughput::Bytes(bytes));
    for source in [Source::Mmap, Source::Read] {
        group.bench_function(format!("{source:?}"), |b| {
            b.iter(|| {
                let checkpoint = Checkpoint::open(black_box(&path), source).expect("a valid file");
                checkpoint.tensors().map(|view| touch(view.bytes())).fold(0, u64::wrapping_add)
            });
        });
    }
    group.bench_function("peer safetensors, Read", |b| {
        b.iter(|| {
            let bytes = std::fs::read(black_box(&path)).expect("a readable file");
            let tensors = SafeTensors::deserialize(&bytes).expect("a valid file");
            tensors.iter().map(|(_, view)| touch(view.data())).fold(0, u64::wrapping_add)
        });
    });
    // The floor: the same bytes read once from an open mapping.
    group.bench_function("floor, already open", |b| {
        b.iter(|| checkpoint.tensors().map(|view| touch(view.bytes())).fold(0, u64::wrapping_add));
    });
    group.finish();

    let mut group = c.benchmark_group("weights/all bytes");
    group.throughput(Throughput::Bytes(bytes));
    group.bench_function("to_f32", |b| {
        b.iter(|| {
            checkpoint.tensors().map(|view| view.to_f32().expect("a weight dtype").len()).sum::<usize>()
        });
    });
    group.bench_function("validate_values", |b| b.iter(|| checkpoint.validate_values()));
    group.bench_function("fingerprint", |b| {
        b.iter_batched(
            || Checkpoint::open(&path, Source::Read).expect("a valid file"),
            |fresh| fresh.fingerprint(),
            criterion::BatchSize::LargeInput,
        );
    });
    group.finish();
}

/// Reads every byte, eight at a time.
fn touch(bytes: &[u8]) -> u64 {
    let (words, _) = bytes.as_chunks();
    words.iter().map(|&word| u64::from_le_bytes(word)).fold(0, u64::wrapping_add)
}

criterion_group! {
    name = group;
    config = Criterion::default().sample_size(20);
    targets = benches
}
criterion_main!(group);
