//! What a call costs in driver calls.

use mercer::catalogue::store::RowFeatures;
use mercer::engine::{Engine, Side};
use mercer::{Hit, Image, Request};

use super::{Turn, catalogue, common, cpu, open, options, requests};

/// Fails unless `work` was one launch of a graph and one wait.
#[track_caller]
fn is_one_launch_and_one_wait(turn: &Turn, what: &str, work: impl FnOnce()) {
    let emulator = &turn.emulator;
    emulator.reset_counters();
    work();
    assert_eq!(emulator.calls("cuGraphLaunch"), 1, "{what}");
    assert_eq!(emulator.calls("cuStreamSynchronize"), 1, "{what}");
    // Beside them, a thread makes the context its own: no allocation, no launch, no copy.
    let context = emulator.calls("cuCtxSetCurrent") + emulator.calls("cuCtxGetCurrent");
    assert_eq!(emulator.calls("") - context, 2, "{what}");
    assert_eq!(emulator.count("allocations"), 0, "{what}");
}

#[test]
fn a_warm_call_is_one_launch_and_one_wait() {
    let turn = Turn::new();
    let engine = open(options()).unwrap();
    let products = catalogue(&engine, "products", 300);
    engine.prepare(&products).unwrap();
    let requests = requests(12);
    turn.emulator.reset_counters();
    engine.encode_queries(&requests[..8]).unwrap();
    engine.search(&products, &requests[..8], 10).unwrap();
    assert_eq!(turn.emulator.count("allocations"), 0, "the first call of its kind and size");
    for first in 0..=4 {
        for rows in 5..=8 {
            let part = &requests[first..first + rows];
            is_one_launch_and_one_wait(&turn, "encode", || drop(engine.encode_queries(part).unwrap()));
            let search = || drop(engine.search(&products, part, 10).unwrap());
            is_one_launch_and_one_wait(&turn, "search", search);
        }
    }
    let texts: Vec<Request> = requests.iter().filter(|r| r.text.is_some()).cloned().collect();
    is_one_launch_and_one_wait(&turn, "text alone", || {
        engine.search(&products, &texts[..5], 10).unwrap();
    });
    let features = engine.preprocess(Side::Query, &requests[..6]).unwrap();
    is_one_launch_and_one_wait(&turn, "tensors", || {
        engine.search_features(&products, &features, 10).unwrap();
    });
    engine.prepare(&products).unwrap();
    assert_eq!(turn.emulator.count("allocations"), 0, "the catalogue is there");
    drop(engine);
    turn.nothing_is_left();
}

/// With and without photos; a call without them runs no network.
#[test]
fn a_call_without_photos_runs_no_network() {
    let turn = Turn::new();
    let engine = Engine::open("tests/golden/model/bags", options().rows_at_once(2)).unwrap();
    let text = Request { text: Some("w1".into()), ..Request::default() };
    let data = (0..=u8::MAX).cycle().take(21 * 26 * 3).collect();
    let photo = text.clone().with_image(Image::Rgb { width: 26, height: 21, data });
    let mut kernels = [0; 2];
    for (request, kernels) in [text, photo].into_iter().zip(&mut kernels) {
        let request = [request];
        engine.encode_queries(&request).unwrap();
        is_one_launch_and_one_wait(&turn, "encode", || drop(engine.encode_queries(&request).unwrap()));
        *kernels = turn.emulator.count("kernels");
    }
    assert!(kernels[0] > 0 && kernels[0] + 5 < kernels[1], "{kernels:?}");
    drop(engine);
    turn.nothing_is_left();
}

/// All pairs of all requests are one call, or as few as have room, and each gets the score that it gets alone.
#[test]
fn pairs_of_all_requests_are_ranked_together() {
    let turn = Turn::new();
    let engine = open(options()).unwrap();
    let width = engine.ranker_width().unwrap();
    let products = RowFeatures { width, data: common::values("ranker rows", 200 * width) };
    let requests: Vec<Request> =
        requests(12).into_iter().filter(|r| r.text.is_some() || r.behaviour.is_some()).take(8).collect();
    let hit = |row: usize| Hit { id: row as i64, row, score: 0.0 };
    // Of every request some, of one all, of one none.
    let some: Vec<Vec<Hit>> =
        (0..8).map(|at| (0..[40, 0, 7, 90][at % 4]).map(|n| hit(n * 2 + at)).collect()).collect();
    let many: Vec<Vec<Hit>> = (0..8).map(|at| (at..at + 150).map(hit).collect()).collect();
    for (hits, launches) in [(some, 2), (many, 3)] {
        let ranked = engine.rank(&requests, &hits, &products).unwrap();
        let emulator = &turn.emulator;
        emulator.reset_counters();
        assert_eq!(engine.rank(&requests, &hits, &products).unwrap(), ranked);
        assert_eq!(emulator.calls("cuGraphLaunch"), launches);
        assert_eq!(emulator.calls("cuStreamSynchronize"), launches);
        let context = emulator.calls("cuCtxSetCurrent") + emulator.calls("cuCtxGetCurrent");
        assert_eq!(emulator.calls("") - context, 2 * launches);
        assert_eq!(emulator.count("allocations"), 0);
        for (at, ranked) in ranked.iter().enumerate() {
            let alone = engine.rank(&requests[at..=at], &hits[at..=at], &products).unwrap();
            assert_eq!(&alone[0], ranked, "request {at}");
        }
        let expected = cpu().rank(&requests, &hits, &products).unwrap();
        for (ranked, expected) in ranked.iter().flatten().zip(expected.iter().flatten()) {
            assert!((ranked.rank_score - expected.rank_score).abs() < 1e-5, "{ranked:?}, {expected:?}");
        }
    }
    drop(engine);
    turn.nothing_is_left();
}
