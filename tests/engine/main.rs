//! Whole models: the golden outputs of PyTorch, invariances, and every way a call can be wrong.
#![allow(clippy::unwrap_used, clippy::panic)] // a test may panic

#[path = "../common/mod.rs"]
mod common;
#[cfg(feature = "cuda")]
#[path = "../device/mod.rs"]
mod device;

/// Makes tests of functions of a device: `cpu::<name>` and, if it is built in, `cuda::<name>`.
macro_rules! on_each_device {
    ($($test:ident),* $(,)?) => {
        mod cpu {
            $(#[test]
            fn $test() {
                super::$test(mercer::Device::Cpu);
            })*
        }

        #[cfg(feature = "cuda")]
        mod cuda {
            $(#[test]
            fn $test() {
                if crate::device::device().is_some() {
                    super::$test(mercer::Device::Cuda(0));
                }
            })*
        }
    };
}

mod explain_and_rank;
mod golden;
mod invariance;
mod opening;
mod refusals;

use mercer::{Behaviour, Catalogue, Device, Engine, Options, Request};

fn options(device: Device) -> Options {
    Options::default().device(device)
}

fn open(device: Device, model: &str) -> Engine {
    Engine::open(format!("tests/golden/model/{model}"), options(device)).unwrap()
}

/// Words of the golden tokenizer are `w1` to `w39`; their ids are their numbers.
fn words(ids: &[i64]) -> String {
    ids.iter().map(|id| format!("w{id}")).collect::<Vec<_>>().join(" ")
}

/// Requests whose features are known: token ids below 40, so that they can be written as words.
fn request(text: Option<&[i64]>, user: Option<i64>, behaviour: Option<&[f32]>) -> Request {
    Request {
        text: text.map(words),
        image: None,
        user,
        behaviour: behaviour.map(|values| Behaviour::Dense(values.to_vec())),
    }
}

fn some_requests() -> Vec<Request> {
    let behaviour: Vec<f32> = common::values("behaviour", 12);
    vec![
        request(Some(&[4, 9]), None, None),
        request(Some(&[7, 7, 23]), Some(5), None),
        request(None, Some(0), None),
        request(None, None, Some(&behaviour)),
        request(Some(&[1, 2, 3, 39]), Some(2), Some(&behaviour)),
    ]
}

fn products() -> Vec<Request> {
    [&[1, 2][..], &[3], &[4, 5], &[6, 7, 38]].into_iter().map(|ids| request(Some(ids), None, None)).collect()
}

fn catalogue(engine: &Engine) -> Catalogue {
    let vectors = engine.encode_items(&products()).unwrap();
    Catalogue::new(engine.metric(), engine.dim(), vec![40, 30, 20, 10], vectors).unwrap()
}

/// A copy of a golden model.
fn copy(model: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(format!("tests/golden/model/{model}/{file}"), folder.path().join(file)).unwrap();
    }
    folder
}

fn edit_config(folder: &tempfile::TempDir, edit: impl FnOnce(&mut serde_json::Value)) {
    let path = folder.path().join("config.json");
    let mut config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    edit(&mut config);
    std::fs::write(path, config.to_string()).unwrap();
}
