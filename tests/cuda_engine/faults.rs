//! Each driver call of an open, a search and a drop fails once: a typed error or the right answer, nothing left behind, and
//! the next call is answered or says that the device is lost.

use mercer::{Engine, ErrorKind};

use super::{Turn, catalogue, check, open, options, requests};

/// The driver calls that the library makes.
const CALLS: [&str; 36] = [
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDeviceTotalMem_v2",
    "cuDriverGetVersion",
    "cuFuncGetAttribute",
    "cuFuncGetParamInfo",
    "cuFuncLoad",
    "cuFuncSetAttribute",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuInit",
    "cuLaunchKernel",
    "cuMemAlloc_v2",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemHostAlloc",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamSynchronize",
];

/// Of these, those that free. What one of them fails to free goes with the device's context.
const FREES: [&str; 7] = [
    "cuCtxSetCurrent", // comes before each
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuModuleUnload",
    "cuStreamDestroy_v2",
];

/// A context whose release fails stays for as long as the process.
const CONTEXT_RELEASE: &str = "cuDevicePrimaryCtxRelease_v2";

const NOT_SUPPORTED: i32 = 801;
const ILLEGAL_ADDRESS: i32 = 700;

/// A code, a call, and which of them: the first, one in the middle and the last of each call that `work` makes. The first
/// fails besides with a code that loses the device.
fn faults(turn: &Turn, work: impl FnOnce()) -> Vec<(i32, &'static str, u64)> {
    turn.emulator.reset_counters();
    work();
    let made = CALLS.map(|call| (call, turn.emulator.calls(call)));
    let sum: u64 = made.iter().map(|(_, count)| count).sum();
    assert_eq!(sum, turn.emulator.calls(""), "a call is not in the list");
    let mut faults = Vec::new();
    for (call, count) in made.into_iter().filter(|&(call, count)| count > 0 && call != CONTEXT_RELEASE) {
        faults.push((ILLEGAL_ADDRESS, call, 1));
        faults.extend([1, count.div_ceil(2), count].map(|n| (NOT_SUPPORTED, call, n)));
    }
    faults.dedup();
    faults
}

/// Runs `work` with a fault.
fn with_fault<T>(turn: &Turn, (code, call, n): (i32, &str, u64), work: impl FnOnce() -> T) -> T {
    turn.emulator.fail_call(call, n, code);
    let done = work();
    turn.emulator.fail_call(call, 0, 0);
    done
}

/// Fails unless nothing is alive, and everything was freed that could be.
#[track_caller]
fn everything_was_freed(turn: &Turn, fault: (i32, &str, u64)) {
    for (kind, count) in turn.emulator.all_live() {
        assert_eq!(count, 0, "{kind} left, {fault:?}");
    }
    if !FREES.contains(&fault.1) {
        assert_eq!(turn.emulator.count("leaked"), 0, "{fault:?}");
    }
}

#[test]
fn each_call_of_an_open_fails_once() {
    let turn = Turn::new();
    let faults = faults(&turn, || drop(open(options()).unwrap()));
    assert!(faults.len() > 60);
    for fault in faults {
        turn.emulator.reset_counters();
        if let Err(error) = with_fault(&turn, fault, || open(options())) {
            let kind = error.kind();
            assert!(matches!(kind, ErrorKind::Unsupported | ErrorKind::DeviceLost), "{fault:?}: {error}");
        }
        everything_was_freed(&turn, fault);
    }
    let engine = open(options()).unwrap();
    let products = catalogue(&engine, "products", 50);
    check(&engine, &products, &requests(3), 4, &engine.search(&products, &requests(3), 4).unwrap());
}

#[test]
fn each_call_of_a_search_fails_once() {
    let turn = Turn::new();
    let requests = requests(3);
    let mut k = 4;
    // A new catalogue and a new graph; the last catalogue is freed.
    let mut search = |engine: &Engine| -> mercer::Result<()> {
        k += 1;
        let products = catalogue(engine, "products", 50);
        let found = engine.search(&products, &requests, k)?;
        let expected = products.search(&engine.encode_queries(&requests)?, k)?;
        assert!(found.iter().zip(&expected).all(|(found, expected)| found[..] == expected[..]));
        Ok(())
    };
    let mut engine = open(options()).unwrap();
    search(&engine).unwrap();
    let faults = faults(&turn, || search(&engine).unwrap());
    let (mut failed, mut lost) = (0, 0);
    for fault in faults {
        turn.emulator.reset_counters();
        let answer = with_fault(&turn, fault, || search(&engine));
        failed += usize::from(answer.is_err());
        if let Err(error) = &answer {
            let kind = error.kind();
            assert!(matches!(kind, ErrorKind::Unsupported | ErrorKind::DeviceLost), "{fault:?}: {error}");
        }
        let next = search(&engine);
        match (&answer, &next) {
            (_, Err(error)) => assert_eq!(error.kind(), ErrorKind::DeviceLost, "{fault:?}: {error}"),
            (Err(error), Ok(())) => assert_eq!(error.kind(), ErrorKind::Unsupported, "{fault:?}: {error}"),
            (Ok(()), Ok(())) => {}
        }
        lost += usize::from(next.is_err());
        if next.is_err() || FREES.contains(&fault.1) {
            drop(engine);
            everything_was_freed(&turn, fault);
            engine = open(options()).unwrap();
        }
    }
    turn.emulator.reset_counters();
    drop(engine);
    turn.nothing_is_left();
    assert_eq!(turn.emulator.count("leaked"), 0);
    assert!(failed > 25 && lost > 10, "{failed}, {lost}");
}

#[test]
fn each_call_of_a_drop_fails_once() {
    let turn = Turn::new();
    let used = || {
        let engine = open(options()).unwrap();
        let products = catalogue(&engine, "products", 50);
        engine.search(&products, &requests(3), 4).unwrap();
        engine
    };
    let engine = used();
    for fault in faults(&turn, || drop(engine)) {
        let engine = used();
        turn.emulator.reset_counters();
        with_fault(&turn, fault, || drop(engine));
        everything_was_freed(&turn, fault);
    }
    drop(used());
    turn.nothing_is_left();
}
