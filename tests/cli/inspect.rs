//! `mercer inspect`: what a model is made of, and all that is wrong with one.

use std::fs;

use safetensors::Dtype;

use super::{MODEL, Shop, mercer};

#[test]
fn the_demo_model_by_its_parts() {
    let text = mercer(["inspect"]).ok();
    for words in
        ["query encoder: ", "item encoder: ", "ranker: ", "embedding_bag, mean", "conv_stack", "text.weight"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
    let json = mercer(["inspect", "--json", "--model", MODEL]).json();
    assert_eq!(json["opens"], true);
    let groups = json["groups"].as_array().unwrap();
    assert_eq!(
        groups.iter().map(|group| group["name"].as_str().unwrap()).collect::<Vec<_>>(),
        ["query encoder", "item encoder", "ranker"]
    );
    let image = groups[0]["parts"].as_array().unwrap().iter().find(|part| part["name"] == "image").unwrap();
    assert!(image["multiply_adds"].as_u64().unwrap() > 0);
    let sizes = image["tensors"].as_array().unwrap().iter().map(|tensor| {
        let shape = tensor["shape"].as_array().unwrap();
        shape.iter().map(|length| length.as_u64().unwrap()).product::<u64>()
    });
    assert_eq!(image["parameters"].as_u64().unwrap(), sizes.sum::<u64>());
    let file = fs::metadata(format!("{MODEL}/model.safetensors")).unwrap().len();
    let bytes = json["file_bytes"].as_u64().unwrap();
    assert!(bytes < file && bytes > file - 100_000, "{bytes} of {file}"); // all but the header
}

#[test]
fn everything_that_is_wrong_is_listed() {
    let shop = Shop::new();
    let model = shop.model(|tensors| {
        tensors.remove("user.weight").unwrap();
        tensors.remove("query_head.weight").unwrap();
        tensors.insert("extra".into(), (Dtype::F32, vec![2], vec![0; 8]));
        let (_, shape, _) = tensors.get_mut("taste.bias").unwrap();
        shape.insert(0, 1);
    });
    let model = model.to_str().unwrap();
    let run = mercer(["inspect", "--model", model]);
    assert_eq!(run.code, Some(1));
    assert_eq!(run.stderr, format!("error: {model}: the model does not open: 4 problems\n"));
    for start in [
        "missing tensor user.weight [*, *]",
        "missing tensor query_head.weight [",
        "unexpected tensor extra F32 [2]",
        "tensor taste.bias has shape [1, ",
    ] {
        assert!(run.stdout.lines().any(|line| line.starts_with(start)), "{start}: {}", run.stdout);
    }
    let json = mercer(["inspect", "--json", "--model", model]);
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&json["opens"], json["problems"].as_array().unwrap().len()), (&false.into(), 4));

    let search = mercer(["search", "lamp", "--model", model]);
    assert_eq!(search.code, Some(1));
    assert_eq!(search.stderr.lines().count(), 2, "{}", search.stderr);
    assert!(search.stderr.contains("2 missing, 1 unexpected, 1 of another shape"), "{}", search.stderr);
    assert!(search.stderr.ends_with("hint: `mercer inspect --model DIR` lists all that is wrong\n"));
}

#[test]
fn faults_of_separate_files_are_listed_together() {
    let shop = Shop::new();
    let model = shop.model(|_| {});
    fs::write(model.join("tokenizer.json"), "{}").unwrap();
    let weights = model.join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() - 1]).unwrap();
    let run = mercer(["inspect", "--model", model.to_str().unwrap()]);
    assert_eq!(run.code, Some(1));
    assert!(
        run.stdout.contains("model.safetensors: ") && run.stdout.contains("tokenizer.json: "),
        "{}",
        run.stdout
    );
    assert!(run.stderr.ends_with(": the model does not open: 2 problems\n"), "{}", run.stderr);
}

#[test]
fn values_are_looked_at_if_asked() {
    let shop = Shop::new();
    let model = shop.model(|tensors| {
        let (dtype, _, bytes) = tensors.get_mut("user.weight").unwrap();
        match dtype {
            Dtype::F16 => bytes[6..8].copy_from_slice(&0x7E00u16.to_le_bytes()),
            _ => bytes[12..16].copy_from_slice(&f32::NAN.to_le_bytes()),
        }
    });
    let model = model.to_str().unwrap();
    mercer(["inspect", "--model", model]).ok();
    let run = mercer(["inspect", "--model", model, "--validate-values"]);
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(1), "tensor user.weight has NaN at element 3, 1 such in all\n")
    );
}
