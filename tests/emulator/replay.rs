//! Streams, events and graphs of the stand-in driver.

use cudarc::driver::sys::CUresult::{
    CUDA_ERROR_ILLEGAL_STATE, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, CUDA_ERROR_STREAM_CAPTURE_ISOLATION,
    CUDA_ERROR_STREAM_CAPTURE_UNJOINED, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
};
use cudarc::driver::sys::{CUdeviceptr, CUfunction, CUstream, CUstreamCaptureStatus};

use crate::Turn;
use crate::driver::{Answer, Context, DEFAULT_STREAM, Shape};

const N: u16 = 256;
const BYTES: usize = 4 * N as usize;

/// A kernel that stores its input in reverse, and what it works on.
struct Reverse {
    context: Context,
    function: CUfunction,
    stream: CUstream,
    input: CUdeviceptr,
    output: CUdeviceptr,
}

impl Reverse {
    fn new() -> Reverse {
        let context = Context::new().unwrap();
        let module = context.module(b"EMU-MODULE faults\0").unwrap();
        let function = context.function(module, "ok_reverse").unwrap();
        let stream = context.stream().unwrap();
        let (input, output) = (context.allocate(BYTES).unwrap(), context.allocate(BYTES).unwrap());
        Reverse { context, function, stream, input, output }
    }

    fn launch(&self, stream: CUstream) -> Answer {
        let shape = Shape::new(1, N.into());
        self.context.launch(self.function, shape, stream, &[self.input, self.output, N.into()])
    }
}

fn ramp(start: f32) -> Vec<f32> {
    (0..N).map(|i| start + f32::from(i)).collect()
}

fn reversed(start: f32) -> Vec<f32> {
    ramp(start).into_iter().rev().collect()
}

#[test]
fn a_graph_replays_copies_fills_and_kernels_with_the_arguments_of_its_capture() {
    let turn = Turn::new();
    for lazy in [false, true] {
        turn.emulator.lazy_streams(lazy);
        let r = Reverse::new();
        let (input, output) = (r.context.pinned(N.into()).unwrap(), r.context.pinned(N.into()).unwrap());
        r.context.begin_capture(r.stream).unwrap();
        r.context.upload_async(r.input, input, r.stream).unwrap();
        r.context.fill_async(r.output, BYTES, r.stream).unwrap();
        r.launch(r.stream).unwrap();
        r.context.download_async(output, r.output, r.stream).unwrap();
        let exec = r.context.instantiate(r.context.end_capture(r.stream).unwrap()).unwrap();
        turn.emulator.reset_counters();
        for start in [0.0, 1000.0, -7.0] {
            input.copy_from_slice(&ramp(start));
            output.fill(f32::NAN);
            r.context.replay(exec, r.stream).unwrap();
            assert_eq!(output[0].is_nan(), lazy, "nothing has run before the wait if streams are late");
            r.context.wait(r.stream).unwrap();
            assert_eq!(output, reversed(start));
        }
        let counted = ["launches", "graph launches", "kernels", "copies", "fills", "allocations"];
        assert_eq!(counted.map(|what| turn.emulator.count(what)), [0, 3, 3, 6, 3, 0]);
    }
}

#[test]
fn calls_that_cannot_be_captured_spoil_the_capture() {
    let _turn = Turn::new();
    let r = Reverse::new();
    type Forbidden = fn(&Reverse) -> Answer;
    let forbidden: [(&str, Forbidden); 5] = [
        ("allocation", |r| r.context.allocate(16).map(|_| ())),
        ("free", |r| r.context.free(r.input)),
        ("pinned allocation", |r| r.context.pinned(16).map(|_| ())),
        ("synchronisation", |r| r.context.synchronize()),
        ("wait for the stream", |r| r.context.wait(r.stream)),
    ];
    for (what, call) in forbidden {
        r.context.begin_capture(r.stream).unwrap();
        assert_eq!(r.context.begin_capture(r.stream), Err(CUDA_ERROR_ILLEGAL_STATE));
        assert_eq!(call(&r), Err(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED), "{what}");
        let status = r.context.capture_status(r.stream).unwrap();
        assert_eq!(status, CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_INVALIDATED, "{what}");
        assert_eq!(r.launch(r.stream), Err(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED), "{what}");
        assert_eq!(r.context.end_capture(r.stream), Err(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED), "{what}");
        let status = r.context.capture_status(r.stream).unwrap();
        assert_eq!(status, CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE, "{what}");
        assert_eq!(r.context.wait(r.stream), Ok(()), "{what}: no sticky error");
    }
    assert_eq!(r.context.end_capture(r.stream), Err(CUDA_ERROR_ILLEGAL_STATE));
    let ended = r.context.stream().unwrap();
    r.context.begin_capture(ended).unwrap();
    r.context.end_stream(ended).unwrap();
    assert!(r.context.allocate(16).is_ok(), "the capture went with its stream");
    assert_eq!(r.context.begin_capture(DEFAULT_STREAM), Err(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED));
}

#[test]
fn a_capture_takes_in_streams_that_join_it() {
    let _turn = Turn::new();
    let r = Reverse::new();
    let other = r.context.stream().unwrap();
    let (fork, join) = (r.context.event().unwrap(), r.context.event().unwrap());
    let begin = || {
        r.context.begin_capture(r.stream).unwrap();
        r.context.record(fork, r.stream).unwrap();
        r.context.wait_for(other, fork).unwrap();
        r.launch(other).unwrap();
    };
    begin();
    assert_eq!(r.context.end_capture(r.stream), Err(CUDA_ERROR_STREAM_CAPTURE_UNJOINED));
    begin();
    r.context.record(join, other).unwrap();
    r.context.wait_for(r.stream, join).unwrap();
    let exec = r.context.instantiate(r.context.end_capture(r.stream).unwrap()).unwrap();
    r.context.upload(r.input, &ramp(3.0)).unwrap();
    r.context.replay(exec, r.stream).unwrap();
    let mut result = ramp(0.0);
    r.context.download(&mut result, r.output).unwrap();
    assert_eq!(result, reversed(3.0));

    r.context.record(fork, other).unwrap();
    r.context.begin_capture(r.stream).unwrap();
    assert_eq!(r.context.wait_for(r.stream, fork), Err(CUDA_ERROR_STREAM_CAPTURE_ISOLATION));
    assert_eq!(r.context.end_capture(r.stream), Err(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED));
}

#[test]
fn late_streams_show_a_missing_wait() {
    let turn = Turn::new();
    turn.emulator.lazy_streams(true);
    let r = Reverse::new();
    let other = r.context.stream().unwrap();
    let ready = r.context.event().unwrap();
    let output = r.context.pinned(N.into()).unwrap();
    for waits in [false, true] {
        r.context.upload(r.input, &ramp(1.0)).unwrap();
        r.context.fill_async(r.output, BYTES, DEFAULT_STREAM).unwrap();
        r.context.synchronize().unwrap();
        r.launch(r.stream).unwrap();
        r.context.record(ready, r.stream).unwrap();
        if waits {
            r.context.wait_for(other, ready).unwrap();
        }
        r.context.download_async(output, r.output, other).unwrap();
        r.context.wait(other).unwrap();
        assert_eq!(output == reversed(1.0), waits);
    }
}
