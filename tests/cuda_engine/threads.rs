//! Many threads on few execution contexts.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use mercer::ErrorKind;
use mercer::engine::{Side, WhenBusy};

use super::{Turn, catalogue, check, open, options, requests};

#[test]
fn a_call_without_a_context_is_refused_if_the_caller_says_so() {
    let turn = Turn::new();
    let engine = open(options().when_busy(WhenBusy::Refuse)).unwrap();
    let requests = requests(8);
    let expected = engine.encode_queries(&requests).unwrap();
    let (refused, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..5000 {
                    match engine.encode_queries(&requests) {
                        Ok(vectors) => assert_eq!(vectors, expected),
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::Overloaded);
                            assert_eq!(error.to_string(), "all 1 execution contexts are in use");
                            refused.fetch_add(1, Ordering::Relaxed);
                            done.store(true, Ordering::Relaxed);
                        }
                    }
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
        }
    });
    assert!(refused.into_inner() > 0);
    assert_eq!(engine.encode_queries(&requests).unwrap(), expected);
    drop(engine);
    turn.nothing_is_left();
}

/// A call in several parts is refused before the first or not at all.
#[test]
fn a_call_in_parts_keeps_its_context() {
    let turn = Turn::new();
    let engine = open(options().rows_at_once(2).when_busy(WhenBusy::Refuse)).unwrap();
    let features = engine.preprocess(Side::Query, &requests(9)).unwrap();
    let mut expected = vec![0.0; 9 * engine.dim()];
    engine.encode_features(Side::Query, &features, &mut expected).unwrap();
    turn.emulator.reset_counters();
    let (answered, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..1000 {
                    let mut vectors = vec![0.0; expected.len()];
                    match engine.encode_features(Side::Query, &features, &mut vectors) {
                        Ok(()) => {
                            assert_eq!(vectors, expected);
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::Overloaded);
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    if refused.load(Ordering::Relaxed) > 10 && answered.load(Ordering::Relaxed) > 3 {
                        break;
                    }
                }
            });
        }
    });
    assert!(refused.into_inner() > 0);
    assert_eq!(turn.emulator.calls("cuGraphLaunch"), 5 * answered.into_inner() as u64);
    drop(engine);
    turn.nothing_is_left();
}

/// Eight threads with calls of every kind and size on two contexts get the answers of one thread, however the device
/// orders its work.
#[test]
fn threads_get_the_answers_of_one() {
    const IN_ORDER: i32 = 0;
    const REVERSE: i32 = 1;
    const RANDOM: i32 = 2;
    let turn = Turn::new();
    let all = requests(9);
    for (lazy, order, seed) in
        [(false, IN_ORDER, 1), (true, RANDOM, 7), (true, REVERSE, 1), (false, RANDOM, 8)]
    {
        turn.emulator.lazy_streams(lazy);
        turn.emulator.schedule(order, seed);
        let engine = open(options().contexts(2).rows_at_once(4)).unwrap();
        let products = [catalogue(&engine, "a", 40), catalogue(&engine, "b", 150)];
        let vectors = engine.encode_queries(&all).unwrap();
        let hits = products.each_ref().map(|products| products.search(&vectors, 6).unwrap());
        let dim = engine.dim();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Memory comes and goes while other threads record.
                for n in 0..6 {
                    engine.prepare(&catalogue(&engine, "passing", 5 + n)).unwrap();
                }
            });
            for thread in 0..8 {
                let (engine, all, products, vectors, hits) = (&engine, &all, &products, &vectors, &hits);
                scope.spawn(move || {
                    for call in 0..6 {
                        let first = (thread + call) % 4;
                        let rows = first..all.len().min(first + 1 + (thread * 3 + call) % 8);
                        let part = &all[rows.clone()];
                        if call % 3 == 0 {
                            let found = engine.encode_queries(part).unwrap();
                            assert_eq!(found, vectors[rows.start * dim..rows.end * dim]);
                            continue;
                        }
                        let which = (thread + call) % 2;
                        let found = engine.search(&products[which], part, 6).unwrap();
                        for (found, row) in found.iter().zip(rows) {
                            assert_eq!(found[..], hits[which][row][..], "request {row}");
                        }
                    }
                });
            }
        });
        drop(engine);
        turn.nothing_is_left();
    }
}

/// Calls of many parts prepare ahead on few worker threads, and wait there for one context.
#[test]
fn calls_that_prepare_ahead_do_not_wait_for_each_other() {
    let turn = Turn::new();
    let engine = open(options().rows_at_once(2).threads(2)).unwrap();
    let products = catalogue(&engine, "products", 40);
    let requests = requests(12);
    let vectors = engine.encode_queries(&requests).unwrap();
    let hits = engine.search(&products, &requests, 5).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..4 {
                    assert_eq!(engine.encode_queries(&requests).unwrap(), vectors);
                    assert_eq!(engine.search(&products, &requests, 5).unwrap(), hits);
                }
            });
        }
    });
    drop(engine);
    turn.nothing_is_left();
}

/// A catalogue that many threads search first is brought to the device once.
#[test]
fn a_catalogue_is_uploaded_once() {
    let turn = Turn::new();
    let engine = open(options().contexts(2)).unwrap();
    let products = catalogue(&engine, "products", 60);
    let requests = requests(4);
    turn.emulator.reset_counters();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                check(&engine, &products, &requests, 5, &engine.search(&products, &requests, 5).unwrap());
            });
        }
    });
    assert_eq!(turn.emulator.count("allocations"), 2, "rows and ranks");
    drop(engine);
    turn.nothing_is_left();
}
