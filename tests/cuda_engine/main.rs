//! The engine on the stand-in driver: what a call costs in driver calls, what is left after a failure, what threads,
//! catalogues and engines do to each other. The answers themselves are in `tests/engine`.
#![cfg(feature = "emulate")]
#![allow(clippy::panic, clippy::unwrap_used)] // a failed check ends the test

mod calls;
mod catalogues;
#[path = "../common/mod.rs"]
mod common;
#[path = "../device/mod.rs"]
mod device;
mod faults;
mod lost;
mod memory;
mod threads;

use device::emulator::Turn;
use mercer::{Behaviour, Catalogue, Device, Engine, Hits, Options, Request};

fn options() -> Options {
    Options::default().device(Device::Cuda(0)).rows_at_once(8).contexts(1)
}

/// The golden model without images, which is quick.
fn open(options: Options) -> mercer::Result<Engine> {
    Engine::open("tests/golden/model/dense", options)
}

/// The same model on the CPU, whose answers agree up to rounding.
fn cpu() -> Engine {
    open(Options::default()).unwrap()
}

/// Requests with a text, a user, a behaviour, and all of them, in turn.
fn requests(count: usize) -> Vec<Request> {
    let behaviour = common::values("behaviour", 12 * count);
    (0..count)
        .map(|n| Request {
            text: (n % 4 == 0 || n % 4 == 3).then(|| format!("w{} w{}", n % 39 + 1, n % 7 + 1)),
            image: None,
            user: (n % 4 == 1 || n % 4 == 3).then_some(n as i64 % 6),
            behaviour: (n % 4 >= 2).then(|| Behaviour::Dense(behaviour[12 * n..12 * n + 12].to_vec())),
        })
        .collect()
}

/// Products whose ids do not ascend.
fn catalogue(engine: &Engine, name: &str, rows: usize) -> Catalogue {
    let ids = (0..rows as i64).rev().collect();
    Catalogue::new(engine.metric(), engine.dim(), ids, common::values(name, rows * engine.dim())).unwrap()
}

/// Fails unless the answers are those of the catalogue for the engine's vectors.
#[track_caller]
fn check(engine: &Engine, catalogue: &Catalogue, requests: &[Request], k: usize, found: &[Hits]) {
    let vectors = engine.encode_queries(requests).unwrap();
    let expected = catalogue.search(&vectors, k).unwrap();
    assert_eq!(found.len(), expected.len());
    for (row, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_eq!(found[..], expected[..], "request {row}, k {k}");
    }
}
