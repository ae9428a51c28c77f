//! What the stand-in driver refuses and what it finds out: launches out of range, pointers that are none, writes past an
//! allocation, the host's hand in device memory; and that the wrappers of both sides have the same names.

use cudarc::driver::sys::CUresult::{
    CUDA_ERROR_ILLEGAL_ADDRESS, CUDA_ERROR_INVALID_CONTEXT, CUDA_ERROR_INVALID_IMAGE,
    CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_NOT_FOUND, CUDA_ERROR_OUT_OF_MEMORY,
};
use cudarc::driver::sys::{CUdeviceptr, CUfunction};

use crate::Turn;
use crate::driver::{Answer, Context, DEFAULT_STREAM, Shape, explain};
use crate::variant::SUBJECT;

const N: u32 = 256;
const BYTES: usize = 1024;

fn function(context: &Context, name: &str) -> CUfunction {
    context.function(context.module(b"EMU-MODULE faults\0").unwrap(), name).unwrap()
}

fn launch(context: &Context, name: &str, input: CUdeviceptr, output: CUdeviceptr) -> Answer {
    let function = function(context, name);
    context.launch(function, Shape::new(1, N), DEFAULT_STREAM, &[input, output, N.into()])?;
    context.synchronize()
}

#[test]
fn images_and_kernels_that_are_not_there_are_refused() {
    let _turn = Turn::new();
    let context = Context::new().unwrap();
    assert_eq!(context.module(b"\x7fELF\0"), Err(CUDA_ERROR_INVALID_IMAGE));
    assert_eq!(context.module(b"EMU-MODULE none\0"), Err(CUDA_ERROR_INVALID_IMAGE));
    let module = context.module(b"EMU-MODULE faults\0").unwrap();
    assert_eq!(context.function(module, "probe_bits"), Err(CUDA_ERROR_NOT_FOUND), "of another module");
    assert!(context.function(module, "ok_reverse").is_ok());
}

#[test]
fn launches_out_of_range_are_refused_at_the_call() {
    let _turn = Turn::new();
    let context = Context::new().unwrap();
    let memory = context.allocate(BYTES).unwrap();
    let function = function(&context, "ok_reverse");
    let go = |shape: Shape| context.launch(function, shape, DEFAULT_STREAM, &[memory, memory, N.into()]);
    let fits = Shape::new(1, N);
    let refused = [
        Shape { grid: [0, 1, 1], ..fits },
        Shape { grid: [1 << 31, 1, 1], ..fits },
        Shape { grid: [1, 65_536, 1], ..fits },
        Shape { grid: [1, 1, 65_536], ..fits },
        Shape { block: [0, 1, 1], ..fits },
        Shape { block: [N + 1, 1, 1], ..fits }, // the kernel's launch bounds
        Shape { block: [1, 1, 65], ..fits },
        Shape { shared: 48 * 1024 + 1, ..fits },
    ];
    for shape in refused {
        let Shape { grid, block, shared } = shape;
        assert_eq!(go(shape), Err(CUDA_ERROR_INVALID_VALUE), "{grid:?} {block:?} {shared}");
    }
    assert_eq!(context.allow_shared(function, 228 * 1024), Err(CUDA_ERROR_INVALID_VALUE));
    context.allow_shared(function, 64 * 1024).unwrap();
    go(Shape { shared: 64 * 1024, ..fits }).unwrap();
    assert_eq!(context.synchronize(), Ok(()), "what was refused left no sticky error");
}

#[test]
fn pointers_that_a_kernel_may_not_follow_are_named() {
    let _turn = Turn::new();
    let on_host = [0.0f32; N as usize];
    let context = Context::new().unwrap();
    let memory = context.allocate(BYTES).unwrap();
    let address = on_host.as_ptr().addr() as u64;
    assert_eq!(launch(&context, "ok_reverse", address, memory), Err(CUDA_ERROR_ILLEGAL_ADDRESS));
    let text = explain(CUDA_ERROR_ILLEGAL_ADDRESS);
    assert!(text.contains("ok_reverse: parameter 0, bytes 0 to 8") && text.contains("host memory"), "{text}");
    assert_eq!(context.allocate(16), Err(CUDA_ERROR_ILLEGAL_ADDRESS), "the error is sticky");
    drop(context);

    let context = Context::new().unwrap();
    let (memory, freed) = (context.allocate(BYTES).unwrap(), context.allocate(BYTES).unwrap());
    context.free(freed).unwrap();
    assert_eq!(context.free(freed), Err(CUDA_ERROR_INVALID_VALUE));
    assert_eq!(launch(&context, "ok_reverse", memory, freed), Err(CUDA_ERROR_ILLEGAL_ADDRESS));
    let text = explain(CUDA_ERROR_ILLEGAL_ADDRESS);
    assert!(text.contains("freed device memory"), "{text}");
}

#[test]
fn a_write_past_an_allocation_is_found_even_inside_its_last_page() {
    let _turn = Turn::new();
    let context = Context::new().unwrap();
    let (input, output) = (context.allocate(BYTES).unwrap(), context.allocate(BYTES - 4).unwrap());
    assert_eq!(launch(&context, "ok_reverse", input, output), Err(CUDA_ERROR_ILLEGAL_ADDRESS));
    let text = explain(CUDA_ERROR_ILLEGAL_ADDRESS);
    assert!(text.contains("ok_reverse: write 0 bytes past the end of an allocation of 1020 bytes"), "{text}");
}

#[test]
fn copies_stay_inside_allocations() {
    let _turn = Turn::new();
    let context = Context::new().unwrap();
    let memory = context.allocate(BYTES).unwrap();
    let mut words = [0u32; 257];
    assert_eq!(context.upload(memory, &words), Err(CUDA_ERROR_INVALID_VALUE));
    assert_eq!(context.download(&mut words, memory), Err(CUDA_ERROR_INVALID_VALUE));
    assert_eq!(context.upload(memory + 4, &words[..256]), Err(CUDA_ERROR_INVALID_VALUE));
    context.upload(memory, &words[..256]).unwrap();
}

#[test]
fn memory_runs_out_and_contexts_end() {
    let turn = Turn::new();
    let context = Context::new().unwrap();
    turn.emulator.memory(4096);
    assert_eq!(context.allocate(4097), Err(CUDA_ERROR_OUT_OF_MEMORY));
    let half = context.allocate(2048).unwrap();
    assert_eq!(context.allocate(2049), Err(CUDA_ERROR_OUT_OF_MEMORY));
    context.free(half).unwrap();
    turn.emulator.fail_allocation(2);
    assert!(context.allocate(1).is_ok());
    assert_eq!(context.pinned(1).map(|_| ()), Err(CUDA_ERROR_OUT_OF_MEMORY));
    assert!(context.allocate(1).is_ok(), "running out is not sticky");
    turn.emulator.reset_counters();
    drop(context);
    assert_eq!(turn.emulator.count("leaked"), 2);
    assert!(turn.emulator.all_live().into_iter().all(|(_, count)| count == 0));
    let orphan = Context::new().unwrap();
    drop(Context::new().unwrap());
    assert!(orphan.allocate(1).is_ok(), "the first user still holds it");
    drop(orphan);
    assert_eq!(crate::driver::allocate_without_context(), Err(CUDA_ERROR_INVALID_CONTEXT));
}

#[test]
fn the_host_cannot_reach_device_memory() {
    let own = std::env::current_exe().unwrap();
    let output = std::process::Command::new(own)
        .args(["--exact", "rules::reads_device_memory", "--nocapture"])
        .env(SUBJECT, "read")
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(output.stdout.windows(7).all(|text| text != b"read it"), "the process dies where it reads");
}

/// What the process that the test above starts dies of.
#[test]
fn reads_device_memory() {
    if std::env::var_os(SUBJECT).is_none() {
        return;
    }
    let _turn = Turn::new();
    let context = Context::new().unwrap();
    let memory = context.allocate(BYTES).unwrap();
    println!("{}", crate::driver::peek(memory));
    println!("read it");
}

/// The names that a header defines with `DEV`.
fn wrappers(file: &str) -> Vec<String> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let text = std::fs::read_to_string(path).unwrap();
    let text: String =
        text.lines().filter(|line| !line.starts_with("#define DEV ")).collect::<Vec<_>>().join("\n");
    let outside = text.split("namespace emu {").enumerate().map(|(i, part)| {
        if i == 0 { part } else { part.split_once("}  // namespace emu").map_or("", |(_, rest)| rest) }
    });
    let mut names: Vec<String> = outside
        .flat_map(|part| part.split("DEV ").skip(1).filter_map(|rest| rest.split_once('(')))
        .filter_map(|(head, _)| head.split_whitespace().last().map(str::to_owned))
        .collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn both_sides_have_the_same_wrappers() {
    for (gpu, emulated) in [("ptx.cuh", "device.h"), ("ptx_sm90.cuh", "device_sm90.h")] {
        let gpu = wrappers(&format!("kernels/device/{gpu}"));
        assert!(gpu.len() > 8);
        assert_eq!(gpu, wrappers(&format!("emulator/{emulated}")));
    }
}
