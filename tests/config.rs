//! Every way a model's `config.json` can be wrong, with the text that a user reads.
#![allow(clippy::unwrap_used, clippy::panic)] // a test may panic

mod common;

use std::path::Path;

use mercer::model::{Config, Layer, Plan};
use mercer::weights::Checkpoint;
use mercer::{Engine, ErrorKind, Options};
use serde_json::{Value, json};

/// The `dense` golden model with its configuration changed by `edit`.
fn open(edit: impl FnOnce(&mut Value)) -> Result<Engine, mercer::Error> {
    open_edited("dense", edit)
}

/// The `bags` golden model, whose towers `query[2]` and `item[1]` are one convolutional network over 21x26 pixels.
fn open_bags(edit: impl FnOnce(&mut Value)) -> Result<Engine, mercer::Error> {
    open_edited("bags", edit)
}

fn open_edited(model: &str, edit: impl FnOnce(&mut Value)) -> Result<Engine, mercer::Error> {
    let mut config = read_config(model);
    edit(&mut config);
    open_text(model, &config.to_string())
}

fn read_config(model: &str) -> Value {
    serde_json::from_slice(&std::fs::read(golden(&format!("{model}/config.json"))).unwrap()).unwrap()
}

fn open_text(model: &str, config: &str) -> Result<Engine, mercer::Error> {
    let folder = tempfile::tempdir().unwrap();
    for file in ["model.safetensors", "tokenizer.json"] {
        std::fs::copy(golden(&format!("{model}/{file}")), folder.path().join(file)).unwrap();
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
            "at encoders.query.towers[0].poling: unknown field `poling`",
        ),
        (
            |c| c["encoders"]["query"]["towers"][0]["kind"] = json!("lstm"),
            "at encoders.query.towers[0].kind: unknown variant `lstm`",
        ),
        (
            |c| c["encoders"]["query"]["towers"][0]["input"] = json!("video"),
            "at encoders.query.towers[0].input: unknown variant `video`",
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

/// What is wrong inside a network is found at its place, wherever in its object `kind` and `op` stand.
#[test]
fn layers_are_refused_with_their_json_path() {
    type Edit = fn(&mut Value);
    let cases: [(Edit, &str); 12] = [
        (
            |t| t["layers"][5]["stirde"] = json!(1),
            ".layers[5].stirde: unknown field `stirde`, expected one of",
        ),
        (
            |t| t["layers"][5]["kernel"] = json!("3"),
            ".layers[5].kernel: invalid type: string \"3\", expected a number or [height, width]",
        ),
        (
            |t| t["layers"][5]["kernel"] = json!([3]),
            ".layers[5].kernel: invalid length 1, expected a number or [height, width]",
        ),
        (
            |t| t["layers"][5]["kernel"] = json!([3, 3, 3]),
            ".layers[5].kernel: invalid length 3, expected a number or [height, width]",
        ),
        (|t| t["layers"][5]["kernel"] = json!([3, -1]), ".layers[5].kernel[1]: invalid value: integer `-1`"),
        (
            |t| t["layers"][5]["kernel"] = json!(-3),
            ".layers[5].kernel: invalid value: integer `-3`, expected a number or [height, width]",
        ),
        (|t| t["layers"][5]["kernel"] = json!(1.5), ".layers[5].kernel: invalid type: floating point `1.5`"),
        (|t| t["layers"][5]["op"] = json!("conv3d"), ".layers[5].op: unknown variant `conv3d`"),
        (|t| t["layers"][5] = json!({"name": "a"}), ".layers[5]: missing field `op`"),
        (|t| t["layers"][5] = json!({"kernel": "x", "op": "max_pool"}), ".layers[5].kernel: invalid type"),
        (|t| t["layers"][5] = json!({"op": "max_pool"}), ".layers[5]: missing field `kernel`"),
        (|t| t["layers"][5] = json!(7), ".layers[5]: invalid type: integer `7`"),
    ];
    for (edit, expected) in cases {
        let error = message(open_bags(|c| edit(&mut c["encoders"]["query"]["towers"][2])));
        let expected = format!("at encoders.query.towers[2]{expected}");
        assert!(error.starts_with(&expected), "\nexpected {expected}\n   found {error}");
    }
}

/// A layer by itself, with the tag anywhere.
#[test]
fn towers_and_layers_survive_a_round_trip() {
    for model in ["bags", "dense"] {
        let config: Config = serde_json::from_value(read_config(model)).unwrap();
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config, "{text}");
    }
    let layer: Layer = serde_json::from_str(r#"{"kernel": [2, 3], "op": "max_pool"}"#).unwrap();
    let text = r#"{"op":"max_pool","kernel":[2,3],"padding":[0,0]}"#;
    assert_eq!(serde_json::to_string(&layer).unwrap(), text);
}

/// A key given twice would be settled silently: the last one would win.
#[test]
fn keys_given_twice_are_refused() {
    let valid = std::fs::read_to_string(golden("bags/config.json")).unwrap();
    for (once, twice, expected) in [
        (
            r#""clicked": "items.weight""#,
            r#""clicked": "a", "clicked": "items.weight""#,
            "at rename: field \"clicked\" is given twice",
        ),
        (
            r#""name": "shortcut","#,
            r#""name": "shortcut", "name": "shortcut","#,
            "at encoders.query.towers[2].layers[4]: field \"name\" is given twice",
        ),
        (
            r#""format_version": 1,"#,
            r#""format_version": 1, "format_version": 1,"#,
            "at .: field \"format_version\" is given twice",
        ),
    ] {
        assert!(valid.contains(once), "{once}");
        let error = message(open_text("bags", &valid.replacen(once, twice, 1)));
        assert!(error.starts_with(expected), "\nexpected {expected}\n   found {error}");
    }
}

/// A network that does not fit leaves its tensors unread; the network is what is reported, for every tower.
#[test]
fn networks_that_do_not_fit_are_reported_before_their_tensors() {
    let both = |c: &mut Value, edit: fn(&mut Value)| {
        edit(&mut c["encoders"]["query"]["towers"][2]);
        edit(&mut c["encoders"]["item"]["towers"][1]);
    };
    let error = message(open_bags(|c| both(c, |t| t["layers"][0]["kernel"] = json!([50, 3]))));
    let text = "layers[0]: a window of 50 does not fit a height of 25 (padding included)";
    assert_eq!(error, format!("at encoders.query.towers[2].{text}; at encoders.item.towers[1].{text}"));

    // Layers that are not in the file are told by their names.
    let error = message(open_bags(|c| {
        both(c, |t| {
            let tower = t.as_object_mut().unwrap();
            tower.remove("layers");
            tower.insert("architecture".into(), json!("vgg16"));
            tower.insert("features".into(), json!("pooled"));
        });
    }));
    let text = "architecture: vgg16, layer `features.30`: \
                a window of 2 does not fit a height of 1 (padding included)";
    assert_eq!(error, format!("at encoders.query.towers[2].{text}; at encoders.item.towers[1].{text}"));

    // Padding that only a run would have found too large.
    let error = message(open_bags(|c| {
        both(c, |t| {
            t["layers"][0]["padding"] = json!([2, 1 << 30]);
            t["layers"][0]["stride"] = json!([2, (1 << 30) / 6]);
        });
    }));
    let expected =
        "at encoders.query.towers[2].layers[0]: with its padding, a map of 25x2147483674x3 has more than";
    assert!(error.starts_with(expected), "{error}");
    let error = message(open_bags(|c| {
        both(c, |t| t["layers"][9] = json!({"op": "avg_pool", "kernel": 1u64 << 40, "padding": 1u64 << 39}));
    }));
    let expected = "at encoders.query.towers[2].layers[9]: area: a window of 1099511627776";
    assert!(error.starts_with(expected), "{error}");

    let error = message(open_bags(|c| {
        c["inputs"]["image"]["height"] = json!(16384);
        c["inputs"]["image"]["width"] = json!(16384);
    }));
    assert_eq!(error, "at inputs.image: a map of 16384x16384x3 has more than 268435456 values");
}

/// A wrong name in `rename` is the cause of the tensor that is missing without it.
#[test]
fn wrong_names_in_rename_are_reported_before_tensors() {
    let error = message(open_bags(|c| c["rename"] = json!({"cliked": "items.weight"})));
    assert_eq!(error, "at rename: the model reads no tensor named `cliked`");
}

/// Counters of batches are left unread under the name of the statistics that they belong to, or their own.
#[test]
fn batch_norm_counters_follow_renamed_statistics() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(golden("bags/tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    let bytes = std::fs::read(golden("bags/model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut config = read_config("bags");
    let mut tensors = std::collections::BTreeMap::new();
    for (name, view) in file.tensors() {
        let mut stored = name.clone();
        if let Some(tensor) = name.strip_prefix("image.late_norm.") {
            stored = format!("elsewhere.norm.{tensor}");
            if tensor != "num_batches_tracked" {
                config["rename"][&name] = json!(stored);
            }
        }
        tensors.insert(stored, view);
    }
    let counter = [0u8; 8];
    let view = || safetensors::tensor::TensorView::new(safetensors::Dtype::I64, vec![], &counter).unwrap();
    tensors.insert("elsewhere.norm.num_batches_tracked".into(), view());
    tensors.insert("counter".into(), view());
    config["rename"]["image.stem_norm.num_batches_tracked"] = json!("counter");
    let path = folder.path().join("model.safetensors");
    std::fs::write(path, safetensors::serialize(&tensors, None).unwrap()).unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    Engine::open(folder.path(), Options::default()).unwrap();
}

/// A configuration that was not read from a file is checked as one that was.
#[test]
fn a_plan_checks_its_configuration() {
    let mut config: Config = serde_json::from_value(read_config("bags")).unwrap();
    config.inputs.image = None;
    let checkpoint = Checkpoint::mmap(&golden("bags/model.safetensors")).unwrap();
    let error = Plan::new(&config, &checkpoint, Path::new("config.json")).unwrap_err().to_string();
    let text = "input: inputs.image is missing";
    assert_eq!(
        error,
        format!(
            "config.json: at encoders.query.towers[2].{text}; at encoders.item.towers[1].{text}; \
             at ranker.item_towers[0].{text}"
        )
    );
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

/// The error of the `dense` model with some tensors changed.
fn open_with_tensors(changed: &[(&str, &[usize])]) -> String {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json"] {
        std::fs::copy(golden(&format!("dense/{file}")), folder.path().join(file)).unwrap();
    }
    let mut tensors = common::Golden::open("tests/golden/model/dense/model.safetensors").tensors();
    for (name, shape) in changed {
        tensors.insert(name.to_string(), (shape.to_vec(), Vec::new()));
    }
    common::write_safetensors(&folder.path().join("model.safetensors"), &tensors);
    message(Engine::open(folder.path(), Options::default()))
}

#[test]
fn empty_matrices_are_refused() {
    let error =
        open_with_tensors(&[("user.weight", &[0, 10]), ("rank.1.weight", &[0, 8]), ("rank.1.bias", &[0])]);
    assert_eq!(
        error,
        "at encoders.query.towers[1].weight: `user.weight` has shape [0, 10]; \
         at ranker.head[1].weight: `rank.1.weight` has shape [0, 8]; \
         at ranker.head: ends in 0 values instead of one"
    );
}

/// Widths whose sum is beyond `usize`.
#[test]
fn widths_that_overflow_are_refused() {
    let error = open_with_tensors(&[("text.weight", &[0, 1 << 63]), ("user.weight", &[0, 1 << 63])]);
    assert!(error.contains("query_head.weight"), "{error}");
}

#[test]
fn what_is_not_a_model_is_refused() {
    let error = Engine::open("no/such/folder", Options::default()).unwrap_err();
    assert_eq!(error.to_string(), "no model in no/such/folder: there is no config.json");
    assert_eq!(error.kind(), ErrorKind::Caller);

    let error = Engine::open(Path::new("Cargo.toml"), Options::default()).unwrap_err();
    assert_eq!(error.to_string(), "no model in Cargo.toml: there is no config.json");

    assert!(message(open_text("dense", "")).starts_with("at .: EOF while parsing a value"));
    assert!(message(open_text("dense", "[]")).starts_with("at .: invalid length 0"));
    assert!(message(open_text("dense", "{}")).starts_with("at .: missing field `format_version`"));
    let valid = std::fs::read_to_string(golden("dense/config.json")).unwrap();
    assert!(message(open_text("dense", &format!("{valid} x"))).starts_with("at .: trailing characters"));
    let huge = " ".repeat(5 << 20);
    assert!(
        open_text("dense", &huge)
            .unwrap_err()
            .to_string()
            .ends_with("has 5242880 bytes; at most 4194304 are read")
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
