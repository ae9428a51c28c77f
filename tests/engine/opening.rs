//! Opening a model folder: options, and files that change or hold what they should not.

use mercer::engine::{MAX_ROWS_AT_ONCE, Source, UnknownId};
use mercer::input::Modality;
use mercer::{Device, Engine, ErrorKind, Options};

use super::{copy, edit_config, open, options, request};

on_each_device! {
    a_checkpoint_that_changes_in_place_gives_no_wrong_answer,
    options_that_the_model_cannot_follow_are_refused_at_open,
    values_that_are_not_finite_are_found_when_asked_for,
    unknown_ids_read_the_row_that_the_caller_names,
}

#[test]
fn the_fingerprint_is_of_the_files_that_were_opened() {
    let fingerprint = |folder: &tempfile::TempDir| {
        Engine::open(folder.path(), Options::default()).unwrap().fingerprint().unwrap().to_string()
    };
    let folder = copy("dense");
    let reference = fingerprint(&folder);
    assert_eq!(reference, open(Device::Cpu, "dense").fingerprint().unwrap());
    assert_eq!(reference.len(), 64);

    // Files that change under an open engine do not change what it is.
    let engine = Engine::open(folder.path(), Options::default()).unwrap();
    edit_config(&folder, |config| config["encoders"]["query"]["towers"][0]["pooling"] = "max".into());
    assert_eq!(engine.fingerprint().unwrap(), reference);

    // Each file counts.
    assert_ne!(fingerprint(&folder), reference, "config.json");
    let folder = copy("dense");
    let path = folder.path().join("tokenizer.json");
    let tokenizer = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, tokenizer.replace("w39", "w99")).unwrap();
    assert_ne!(fingerprint(&folder), reference, "tokenizer.json");
    let folder = copy("dense");
    let path = folder.path().join("model.safetensors");
    let mut weights = std::fs::read(&path).unwrap();
    *weights.last_mut().unwrap() ^= 1;
    std::fs::write(&path, weights).unwrap();
    assert_ne!(fingerprint(&folder), reference, "model.safetensors");
}

fn a_checkpoint_that_changes_in_place_gives_no_wrong_answer(device: Device) {
    let folder = copy("dense");
    let request = [request(Some(&[4, 9]), None, None)];
    let mapped = Engine::open(folder.path(), options(device)).unwrap();
    let copied = Engine::open(folder.path(), options(device).source(Source::Read)).unwrap();
    let answer = mapped.encode_queries(&request).unwrap();
    // Within the last page, where a mapping reads zeros.
    let file = std::fs::File::options().write(true).open(folder.path().join("model.safetensors")).unwrap();
    file.set_len(file.metadata().unwrap().len() - 16).unwrap();
    match device {
        Device::Cpu => {
            let error = mapped.encode_queries(&request).unwrap_err();
            assert!(matches!(error, mercer::Error::Weights(_)), "{error}");
        }
        _ => assert_eq!(mapped.encode_queries(&request).unwrap(), answer, "the device has its copy"),
    }
    assert_eq!(copied.encode_queries(&request).unwrap(), answer);
}

fn options_that_the_model_cannot_follow_are_refused_at_open(device: Device) {
    let open = |options| Engine::open("tests/golden/model/dense", options).unwrap_err().to_string();
    assert_eq!(
        open(options(device).unknown_ids(Modality::User, UnknownId::Row(6))),
        "row 6 stands in for unknown user ids, but the table of tower `user` has 6 rows"
    );
    assert_eq!(open(options(device).threads(0)), "an engine needs at least one thread");
    assert_eq!(open(options(device).contexts(0)), "a device needs at least one execution context");
    for rows in [0, MAX_ROWS_AT_ONCE + 1, usize::MAX] {
        let error = Engine::open("tests/golden/model/dense", options(device).rows_at_once(rows)).unwrap_err();
        let text = format!("a device cannot encode {rows} rows at once: 1 to 65536 are supported");
        assert_eq!((error.to_string(), error.kind()), (text, ErrorKind::Caller));
    }
    let folder = copy("dense");
    let path = folder.path().join("tokenizer.json");
    let tokenizer = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, tokenizer.replace("\"w39\": 39", "\"w39\": 50")).unwrap();
    assert_eq!(
        Engine::open(folder.path(), options(device)).unwrap_err().to_string(),
        "the tokenizer makes ids up to 50, but the table of tower `text` has 50 rows"
    );
    Engine::open(folder.path(), options(device).unknown_ids(Modality::Text, UnknownId::Row(0))).unwrap();
}

fn values_that_are_not_finite_are_found_when_asked_for(device: Device) {
    let folder = copy("dense");
    let path = folder.path().join("model.safetensors");
    let mut weights = std::fs::read(&path).unwrap();
    let end = weights.len();
    weights[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, weights).unwrap();
    Engine::open(folder.path(), options(device)).unwrap();
    let error = Engine::open(folder.path(), options(device).validate_values(true)).unwrap_err();
    assert!(error.to_string().contains("is NaN"), "{error}");
}

fn unknown_ids_read_the_row_that_the_caller_names(device: Device) {
    let options = options(device).unknown_ids(Modality::User, UnknownId::Row(3));
    let engine = Engine::open("tests/golden/model/dense", options).unwrap();
    let unknown = engine.encode_queries(&[request(None, Some(1 << 40), None)]).unwrap();
    assert_eq!(unknown, engine.encode_queries(&[request(None, Some(3), None)]).unwrap());
}
