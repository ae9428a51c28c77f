//! A device that is lost, and driver calls that fail without losing it.

use mercer::catalogue::store::RowFeatures;
use mercer::{Catalogue, Engine, Error, ErrorKind, Request};

use super::{Turn, catalogue, check, open, options, requests};

/// Fails unless every call answers `error` without asking the driver.
#[track_caller]
fn stays_lost(turn: &Turn, engine: &Engine, products: &Catalogue, error: &Error) {
    let requests = requests(3);
    let hits = vec![[mercer::Hit { id: products.ids()[0], row: 0, score: 1.0 }]; 3];
    let texts = vec![Request { text: Some("w1".into()), ..Request::default() }; 3];
    let width = engine.ranker_width().unwrap();
    let rows = RowFeatures { width, data: vec![0.0; width] };
    let other = catalogue(engine, "other", 3);
    turn.emulator.reset_counters();
    let answers = [
        engine.encode_queries(&requests).err(),
        engine.encode_items(&texts).err(),
        engine.encode_queries(&requests[..1]).err(),
        engine.search(products, &requests, 4).err(),
        engine.prepare(&other).err(),
        engine.search(&other, &requests, 4).err(),
        engine.explain(products, &requests, &hits).err(),
        engine.rank(&texts, &hits, &rows).err(),
    ];
    for (at, answer) in answers.iter().enumerate() {
        let answer = answer.as_ref().unwrap_or_else(|| panic!("call {at} was answered"));
        assert_eq!((answer.to_string(), answer.kind()), (error.to_string(), ErrorKind::DeviceLost));
    }
    assert_eq!(turn.emulator.calls(""), 0);
}

/// The device is lost in each kernel of a search in turn, of its first call and of a warm one.
#[test]
fn a_device_lost_in_a_call_stays_lost() {
    let turn = Turn::new();
    for (lazy, warm) in [(false, false), (true, true)] {
        let mut kernels = 0;
        for n in 1.. {
            let engine = open(options()).unwrap();
            let products = catalogue(&engine, "products", 50);
            engine.prepare(&products).unwrap();
            if warm {
                engine.search(&products, &requests(3), 4).unwrap();
            }
            turn.emulator.lazy_streams(lazy);
            turn.emulator.lose_device(n);
            let answer = engine.search(&products, &requests(3), 4);
            turn.emulator.lazy_streams(false);
            turn.emulator.lose_device(0);
            let Err(error) = answer else {
                drop(engine);
                break;
            };
            assert_eq!(error.kind(), ErrorKind::DeviceLost, "{error}");
            stays_lost(&turn, &engine, &products, &error);
            drop(engine);
            turn.nothing_is_left();
            kernels = n;
        }
        turn.nothing_is_left();
        assert!(kernels >= 5, "{kernels}");
    }
    let engine = open(options()).unwrap();
    let products = catalogue(&engine, "products", 50);
    check(&engine, &products, &requests(3), 4, &engine.search(&products, &requests(3), 4).unwrap());
}

/// Of the calls that a search makes, each fails once with codes that a context does not survive.
#[test]
fn a_code_that_no_context_survives_loses_the_device() {
    const ILLEGAL_ADDRESS: i32 = 700;
    const LAUNCH_TIMEOUT: i32 = 702;
    const ASSERT: i32 = 710;
    const MISALIGNED_ADDRESS: i32 = 716;
    const LAUNCH_FAILED: i32 = 719;
    const ECC_UNCORRECTABLE: i32 = 214;
    const UNKNOWN: i32 = 999;
    let turn = Turn::new();
    for code in [
        ILLEGAL_ADDRESS,
        LAUNCH_TIMEOUT,
        ASSERT,
        MISALIGNED_ADDRESS,
        LAUNCH_FAILED,
        ECC_UNCORRECTABLE,
        UNKNOWN,
    ] {
        for call in ["cuGraphLaunch", "cuStreamSynchronize"] {
            let engine = open(options()).unwrap();
            let products = catalogue(&engine, "products", 50);
            engine.prepare(&products).unwrap();
            turn.emulator.fail_call(call, 1, code);
            let error = engine.search(&products, &requests(3), 4).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::DeviceLost, "{call}, {code}: {error}");
            stays_lost(&turn, &engine, &products, &error);
            drop(engine);
            turn.nothing_is_left();
        }
    }
}

/// Other codes fail one call, whichever driver call they come from, and the next is answered.
#[test]
fn another_code_fails_one_call() {
    const OUT_OF_MEMORY: i32 = 2;
    const INVALID_HANDLE: i32 = 400;
    const NOT_SUPPORTED: i32 = 801;
    let turn = Turn::new();
    let engine = open(options()).unwrap();
    for (code, kind) in [
        (OUT_OF_MEMORY, ErrorKind::OutOfMemory),
        (INVALID_HANDLE, ErrorKind::Unsupported),
        (NOT_SUPPORTED, ErrorKind::Unsupported),
    ] {
        for call in [
            "cuStreamBeginCapture_v2",
            "cuMemcpyHtoDAsync_v2",
            "cuLaunchKernel",
            "cuMemcpyDtoHAsync_v2",
            "cuStreamEndCapture",
            "cuGraphInstantiateWithFlags",
            "cuGraphLaunch",
        ] {
            let products = catalogue(&engine, "products", 50); // of which there is no graph yet
            engine.prepare(&products).unwrap();
            turn.emulator.fail_call(call, 1, code);
            let error = engine.search(&products, &requests(3), 4).err();
            let error = error.unwrap_or_else(|| panic!("{call} was not called"));
            assert_eq!(error.kind(), kind, "{call}, {code}: {error}");
            turn.emulator.reset_counters();
            check(&engine, &products, &requests(3), 4, &engine.search(&products, &requests(3), 4).unwrap());
            assert_eq!(turn.emulator.count("allocations"), 0, "{call}, {code}: the context is as it was");
        }
    }
    drop(engine);
    turn.nothing_is_left();
}
