//! Every way a model's `config.json` can be wrong, with the text that a user reads.
#![allow(clippy::unwrap_used, clippy::panic)] // a test may panic

mod common;

use std::path::Path;

use mercer::{Engine, ErrorKind, Options};
use serde_json::{Value, json};

/// The `dense` golden model with its configuration changed by `edit`.
fn open(edit: impl FnOnce(&mut Value)) -> Result<Engine, mercer::Error> {
    let mut config = serde_json::from_slice(&std::fs::read(golden("dense/config.json")).unwrap()).unwrap();
    edit(&mut config);
    open_text(&config.to_string())
}

fn open_text(config: &str) -> Result<Engine, mercer::Error> {
    let folder = tempfile::tempdir().unwrap();
    for file in ["model.safetensors", "tokenizer.json"] {
        std::fs::copy(golden(&format!("dense/{file}")), folder.path().join(file)).unwrap();
    }
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    Engine::open(folder.path(), Options::default())
}

fn golden(path: &str) -> std::path::PathBuf {
    common::repository("tests/golden/model").join(path)
}

/// The error's text after the path of `config.json`.
fn message(result: Result<Engine, mercer::Error>) -> String {
    let text = result.unwrap_err().to_string();
    match text.split_once("config.json: ") {
        Some((_, message)) => message.to_string(),
        None => text,
    }
}

#[test]
fn the_golden_model_opens() {
    let engine = open(|_| {}).unwrap();
    assert_eq!(engine.dim(), 31);
}

#[test]
fn contradictions_are_refused_with_their_json_path() {
    type Edit = fn(&mut Value);
    let cases: [(Edit, &str); 21] = [
        (|c| c["format_version"] = json!(2), "at format_version: 2 is not supported, expected 1"),
        (|c| c["extra"] = json!(1), "at extra: unknown field `extra`"),
        (
            |c| c["inputs"]["text"]["max_token"] = json!(3),
            "at inputs.text.max_token: unknown field `max_token`",
        ),
        (|c| c["inputs"]["behaviour"] = json!({}), "at inputs.behaviour"),
        (|c| c["inputs"]["text"]["max_tokens"] = json!(0), "at inputs.text.max_tokens"),
        (
            |c| c["inputs"]["text"]["max_tokens"] = json!(-1),
            "at inputs.text.max_tokens: invalid value: integer `-1`",
        ),
        (
            |c| c["encoders"]["query"]["towers"][0]["poling"] = json!("mean"),
            "at encoders.query.towers[0]: unknown field `poling`",
        ),
        (
            |c| c["encoders"]["query"]["towers"][0]["kind"] = json!("lstm"),
            "at encoders.query.towers[0].kind: unknown variant `lstm`",
        ),
        (
            |c| c["encoders"]["query"]["towers"][0]["input"] = json!("video"),
            "at encoders.query.towers[0]: unknown variant `video`",
        ),
        (
            |c| c["encoders"]["query"]["towers"][1]["name"] = json!("text"),
            "at encoders.query.towers[1].name: two towers are named `text`",
        ),
        (|c| c["encoders"]["item"]["towers"] = json!([]), "at encoders.item.towers: is empty"),
        (
            |c| c["encoders"]["item"]["towers"][0]["input"] = json!("image"),
            "at encoders.item.towers[0].input: inputs.image is missing",
        ),
        (
            |c| c["encoders"]["item"]["towers"][0]["input"] = json!("user"),
            "at encoders.item.towers[0].input: an embedding_bag reads a bag of ids, but user is an id",
        ),
        (
            |c| c["encoders"]["query"]["towers"][2]["over"] = json!("text"),
            "at encoders.query.towers[2].input: `over` is for a ranker's towers",
        ),
        (
            |c| c["ranker"]["query_towers"][1]["over"] = json!("picture"),
            "at ranker.query_towers[1].input: the encoder has no tower `picture`",
        ),
        (
            |c| c["ranker"]["query_towers"][1]["over"] = json!("text"),
            "at ranker.query_towers[1].input: tower `text` reads text, not behaviour",
        ),
        (
            |c| c["ranker"]["head"] = json!([]),
            "at ranker.head: is empty; its last layer must have one output",
        ),
        (
            |c| {
                c["ranker"]["head"].as_array_mut().unwrap().pop();
                c["ignore"] = json!(["rank.1."]);
            },
            "at ranker.head: ends in 8 values instead of one",
        ),
        (
            |c| c["rename"] = json!({"no.such": "text.weight"}),
            "at rename: the model reads no tensor named `no.such`",
        ),
        (
            |c| c["ranker"]["item_towers"] = json!([]),
            "at ranker.item_towers: is empty; every product would score the same",
        ),
        (|c| c["ignore"] = json!([""]), "at ignore[0]: an empty prefix would ignore every tensor"),
    ];
    for (edit, expected) in cases {
        let error = message(open(edit));
        assert!(error.starts_with(expected), "\nexpected {expected}\n   found {error}");
    }
}

#[test]
fn every_contradiction_is_reported_at_once() {
    let error = message(open(|c| {
        c["encoders"]["item"]["towers"] = json!([]);
        c["ranker"]["head"] = json!([]);
        c["ignore"] = json!([""]);
    }));
    assert_eq!(error.matches("at ").count(), 3, "{error}");
}

#[test]
fn tensors_that_disagree_are_all_reported_at_once() {
    let error = message(open(|c| {
        c["encoders"]["query"]["towers"][1]["weight"] = json!("user.table");
        c["encoders"]["query"]["head"][0]["bias"] = json!("text.weight");
    }));
    for part in ["user.table", "user.weight", "query_head.bias", "text.weight", "query_head.weight"] {
        assert!(error.contains(part), "{part} is not in:\n{error}");
    }
}

#[test]
fn widths_that_disagree_are_refused() {
    let error = message(open(|c| {
        c["encoders"]["item"]["head"] = json!([]);
        c["ignore"] = json!(["item_head."]);
    }));
    assert_eq!(error, "at encoders: query ends in 31 values, item in 24");
    let error = message(open(|c| c["encoders"]["item"]["towers"][0]["padding_id"] = json!(50)));
    assert_eq!(error, "at encoders.item.towers[0].padding_id: 50 is no row of `text.weight`, which has 50");
}

#[test]
fn empty_matrices_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json"] {
        std::fs::copy(golden(&format!("dense/{file}")), folder.path().join(file)).unwrap();
    }
    let file = common::Golden::open("tests/golden/model/dense/model.safetensors");
    let names = [
        "text.weight",
        "user.weight",
        "taste.weight",
        "taste.bias",
        "query_head.weight",
        "query_head.bias",
        "item_head.weight",
        "rank.0.weight",
        "rank.0.bias",
        "rank.1.weight",
        "rank.1.bias",
    ];
    let mut tensors: std::collections::BTreeMap<String, common::Tensor> =
        names.iter().map(|name| (name.to_string(), (file.shape(name), file.f32s(name)))).collect();
    tensors.insert("user.weight".into(), (vec![0, 10], Vec::new()));
    tensors.insert("rank.1.weight".into(), (vec![0, 8], Vec::new()));
    tensors.insert("rank.1.bias".into(), (vec![0], Vec::new()));
    common::write_safetensors(&folder.path().join("model.safetensors"), &tensors);
    let error = message(Engine::open(folder.path(), Options::default()));
    assert_eq!(
        error,
        "at encoders.query.towers[1].weight: `user.weight` has shape [0, 10]; \
         at ranker.head[1].weight: `rank.1.weight` has shape [0, 8]; \
         at ranker.head: ends in 0 values instead of one"
    );
}

#[test]
fn what_is_not_a_model_is_refused() {
    let error = Engine::open("no/such/folder", Options::default()).unwrap_err();
    assert_eq!(error.to_string(), "no model in no/such/folder: there is no config.json");
    assert_eq!(error.kind(), ErrorKind::Caller);

    let error = Engine::open(Path::new("Cargo.toml"), Options::default()).unwrap_err();
    assert_eq!(error.to_string(), "no model in Cargo.toml: there is no config.json");

    assert!(message(open_text("")).starts_with("at .: EOF while parsing a value"));
    assert!(message(open_text("[]")).starts_with("at .: invalid length 0"));
    assert!(message(open_text("{} {}")).starts_with("at .: missing field `format_version`"));
    let valid = std::fs::read_to_string(golden("dense/config.json")).unwrap();
    assert!(message(open_text(&format!("{valid} x"))).starts_with("at .: trailing characters"));
    let huge = " ".repeat(5 << 20);
    assert!(
        open_text(&huge).unwrap_err().to_string().ends_with("has 5242880 bytes; at most 4194304 are read")
    );
}

#[test]
fn a_missing_tokenizer_or_checkpoint_is_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(golden("dense/config.json"), folder.path().join("config.json")).unwrap();
    let error = Engine::open(folder.path(), Options::default()).unwrap_err().to_string();
    assert!(error.contains("model.safetensors"), "{error}");
    std::fs::copy(golden("dense/model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let error = Engine::open(folder.path(), Options::default()).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json"), "{error}");
}
