//! Streams, events and graphs of the stand-in driver.

use cudarc::driver::sys::CUresult::{
    CUDA_ERROR_ILLEGAL_STATE, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, CUDA_ERROR_STREAM_CAPTURE_ISOLATION,
    CUDA_ERROR_STREAM_CAPTURE_UNJOINED, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
};
use cudarc::driver::sys::{
    CUdeviceptr, CUevent, CUfunction, CUstream, CUstreamCaptureMode, CUstreamCaptureStatus,
};

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
fn what_a_capture_forbids_goes_by_its_mode_and_by_thread() {
    use CUstreamCaptureMode::{
        CU_STREAM_CAPTURE_MODE_GLOBAL as GLOBAL, CU_STREAM_CAPTURE_MODE_RELAXED as RELAXED,
        CU_STREAM_CAPTURE_MODE_THREAD_LOCAL as THREAD_LOCAL,
    };
    /// A call, and in which modes it is refused to the thread that captures and to another one.
    type Call = (
        &'static str,
        fn(&Context) -> Answer,
        &'static [CUstreamCaptureMode],
        &'static [CUstreamCaptureMode],
    );
    const CALLS: [Call; 6] = [
        (
            "wait for the context",
            Context::synchronize,
            &[GLOBAL, THREAD_LOCAL, RELAXED],
            &[GLOBAL, THREAD_LOCAL, RELAXED],
        ),
        ("allocation", |c| c.allocate(16).map(|_| ()), &[GLOBAL, THREAD_LOCAL], &[GLOBAL]),
        ("free", |c| c.free(0x10), &[GLOBAL, THREAD_LOCAL], &[GLOBAL]),
        ("module", |c| c.module(b"EMU-MODULE faults\0").map(|_| ()), &[GLOBAL, THREAD_LOCAL], &[GLOBAL]),
        ("wait for another stream", |c| c.wait(c.stream()?), &[GLOBAL, THREAD_LOCAL], &[GLOBAL]),
        (
            "wait for an event outside",
            |c| outside(c).and_then(|e| c.wait_for_event(e)),
            &[GLOBAL, THREAD_LOCAL],
            &[GLOBAL],
        ),
    ];
    fn outside(context: &Context) -> Answer<CUevent> {
        let event = context.event()?;
        context.record(event, context.stream()?)?;
        Ok(event)
    }
    let _turn = Turn::new();
    let r = Reverse::new();
    for mode in [GLOBAL, THREAD_LOCAL, RELAXED] {
        for (what, call, own, others) in CALLS {
            let elsewhere = || std::thread::scope(|s| s.spawn(|| call(&Context::new()?)).join().unwrap());
            let here = || call(&r.context);
            for (by, refused) in [(&here as &dyn Fn() -> Answer, own), (&elsewhere, others)] {
                r.context.begin_capture_as(r.stream, mode).unwrap();
                let refused = refused.contains(&mode);
                let answer = by();
                let ended = r.context.end_capture(r.stream).map(|_| ());
                if refused {
                    assert_eq!(answer, Err(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED), "{what}, {mode:?}");
                    assert_eq!(ended, Err(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED), "{what}, {mode:?}");
                } else {
                    assert_ne!(answer, Err(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED), "{what}, {mode:?}");
                    assert_eq!(ended, Ok(()), "{what}, {mode:?}");
                }
            }
        }
    }
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
