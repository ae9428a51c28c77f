//! Batches of requests to features, and configurations that contradict themselves.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::path::PathBuf;

use mercer::ErrorKind;
use mercer::input::{
    Bags, Behaviour, Features, Image, InputError, Modality, Preprocessor, Request, Values, check_inputs,
};
use mercer::model::{BehaviourInput, Inputs};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::json;

fn tokenizers() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/preprocess/tokenizers"))
}

fn inputs(json: serde_json::Value) -> Inputs {
    serde_json::from_value(json).unwrap()
}

fn everything() -> Inputs {
    inputs(json!({
        "text": { "tokenizer": "word_piece.json", "max_tokens": 8 },
        "image": { "height": 2, "width": 1, "resize": "exact", "mean": [0, 0, 0], "std": [1, 1, 1] },
        "behaviour": { "length": 2 },
    }))
}

fn open(inputs: &Inputs) -> Preprocessor {
    Preprocessor::open(&tokenizers(), inputs).unwrap()
}

fn text(text: &str) -> Request {
    Request { text: Some(text.to_owned()), ..Request::default() }
}

fn image(data: [u8; 3]) -> Request {
    Request { image: Some(Image::Rgb { width: 1, height: 1, data: data.to_vec() }), ..Request::default() }
}

fn behaviour(behaviour: Behaviour) -> Request {
    Request { behaviour: Some(behaviour), ..Request::default() }
}

fn items(ids: &[i64], weights: Option<&[f32]>) -> Request {
    behaviour(Behaviour::Items { ids: ids.to_vec(), weights: weights.map(<[f32]>::to_vec) })
}

#[test]
fn each_modality_has_a_column_of_the_rows_that_have_it() {
    let requests = [
        Request { user: Some(-3), ..text("黑色") },
        Request::default(),
        Request { behaviour: Some(Behaviour::Dense(vec![1.5, -2.0])), ..image([255, 0, 51]) },
        Request { user: Some(9), ..text("red dress") },
    ];
    let preprocessor = open(&everything());
    let features = preprocessor.features(&requests).unwrap();
    let column = |modality| features.column(modality).map(|column| (column.rows(), column.values()));
    let tokens = preprocessor.text().unwrap();
    let (first, second) = (tokens.ids("黑色").unwrap(), tokens.ids("red dress").unwrap());
    let bags = Bags {
        offsets: vec![0, first.len(), first.len() + second.len()],
        ids: [first, second].concat(),
        weights: None,
    };
    assert_eq!(features.batch(), 4);
    assert_eq!(column(Modality::Text), Some((&[0, 3][..], &Values::Bags(bags))));
    let photos = Values::Photos { height: 2, width: 1, data: [255, 0, 51].repeat(2) };
    assert_eq!(column(Modality::Image), Some((&[2][..], &photos)));
    assert_eq!(column(Modality::User), Some((&[0, 3][..], &Values::Ids(vec![-3, 9]))));
    let dense = Values::Dense { width: 2, data: vec![1.5, -2.0] };
    assert_eq!(column(Modality::Behaviour), Some((&[2][..], &dense)));

    assert_eq!(preprocessor.features(&[]).unwrap(), Features::new(0));
    assert_eq!(preprocessor.features(&[Request::default()]).unwrap(), Features::new(1));
}

#[test]
fn images_that_do_not_fill_their_shape_are_refused() {
    let set = |values| Features::new(2).set(Modality::Image, values).map_err(|error| error.to_string());
    let photos = |bytes| Values::Photos { height: 3, width: 4, data: vec![0; bytes] };
    assert_eq!(set(photos(72)), Ok(()));
    assert_eq!(set(photos(71)), Err("image features: 71 photo bytes, expected 72".into()));
    let huge = Values::Photos { height: usize::MAX, width: 2, data: Vec::new() };
    assert_eq!(set(huge), Err("image features: the shape of the photo bytes overflows".into()));
    let pixels = |data| Values::Pixels { height: 1, width: 1, data };
    assert_eq!(set(pixels(vec![0.0; 6])), Ok(()));
    assert_eq!(set(pixels(vec![0.0; 7])), Err("image features: 7 pixel values, expected 6".into()));
    assert_eq!(
        set(pixels(vec![0.0, 0.0, f32::NAN, 0.0, 0.0, 0.0])),
        Err("image features: pixel value 2 is NaN".into())
    );
}

#[test]
fn items_become_bags_and_absent_weights_are_one() {
    let preprocessor = open(&inputs(json!({ "behaviour": { "max_items": 3 } })));
    let bags = |requests: &[Request]| {
        let features = preprocessor.features(requests).unwrap();
        let Values::Bags(bags) = features.column(Modality::Behaviour).unwrap().values() else { panic!() };
        bags.clone()
    };
    let plain = bags(&[items(&[5, 6], None), items(&[], None), items(&[7], None)]);
    assert_eq!(plain, Bags { offsets: vec![0, 2, 2, 3], ids: vec![5, 6, 7], weights: None });
    let mixed = bags(&[items(&[5, 6], None), items(&[7], Some(&[0.5]))]);
    assert_eq!(
        mixed,
        Bags { offsets: vec![0, 2, 3], ids: vec![5, 6, 7], weights: Some(vec![1.0, 1.0, 0.5]) }
    );
}

fn refusal(inputs: &Inputs, request: Request) -> (String, ErrorKind) {
    let error = open(inputs).features(&[Request::default(), request]).unwrap_err();
    assert!(matches!(error, InputError::Row { row: 1, .. }), "{error:?}");
    let text = error.to_string();
    (text.strip_prefix("row 1: ").unwrap_or_else(|| panic!("{text}")).to_owned(), error.kind())
}

#[test]
fn a_modality_without_an_input_is_refused_not_dropped() {
    let caller = |text: &str| (text.to_owned(), ErrorKind::Caller);
    let none = Inputs::default();
    assert_eq!(refusal(&none, text("a")), caller("the model has no input for text"));
    assert_eq!(refusal(&none, image([0; 3])), caller("the model has no input for image"));
    let text_only = Inputs { text: everything().text, ..Inputs::default() };
    assert_eq!(refusal(&text_only, items(&[1], None)), caller("the model has no input for behaviour"));
}

#[test]
fn behaviour_must_have_the_models_form() {
    let caller = |text: &str| (text.to_owned(), ErrorKind::Caller);
    let dense = |values: &[f32]| refusal(&everything(), behaviour(Behaviour::Dense(values.to_vec())));
    assert_eq!(dense(&[1.0]), caller("behaviour of 1 values, the model reads 2"));
    assert_eq!(dense(&[]), caller("behaviour of 0 values, the model reads 2"));
    assert_eq!(dense(&[1.0, f32::NAN]), caller("behaviour value 1 is NaN"));
    assert_eq!(dense(&[f32::NEG_INFINITY, 1.0]), caller("behaviour value 0 is -inf"));
    assert_eq!(
        refusal(&everything(), items(&[1], None)),
        caller("behaviour as item ids, the model reads a dense vector")
    );
    let bag = inputs(json!({ "behaviour": { "max_items": 2 } }));
    assert_eq!(
        refusal(&bag, behaviour(Behaviour::Dense(vec![1.0]))),
        caller("behaviour as a dense vector, the model reads item ids")
    );
    assert_eq!(
        refusal(&bag, items(&[1, 2, 3], None)),
        caller("behaviour of 3 items, the model takes at most 2")
    );
    assert_eq!(refusal(&bag, items(&[1, 2], Some(&[1.0]))), caller("behaviour of 2 items with 1 weights"));
    assert_eq!(refusal(&bag, items(&[1], Some(&[f32::INFINITY]))), caller("behaviour weight 0 is inf"));
}

#[test]
fn a_broken_image_is_named_with_its_row_and_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("photo.jpg");
    std::fs::write(&path, "hello").unwrap();
    let request = Request { image: Some(Image::Path(path.clone())), ..Request::default() };
    let (message, kind) = refusal(&everything(), request);
    assert!(message.starts_with(&format!("{}: not a JPEG, PNG or WebP image", path.display())), "{message}");
    assert_eq!(kind, ErrorKind::CorruptData);
}

/// The findings of `inputs`, one line each.
fn findings(json: serde_json::Value) -> Vec<String> {
    let inputs = inputs(json);
    let findings: Vec<String> =
        check_inputs(&inputs).into_iter().map(|(path, message)| format!("{path}: {message}")).collect();
    if let Some(first) = findings.first() {
        let error = Preprocessor::open(&tokenizers(), &inputs).unwrap_err();
        assert_eq!(error.to_string(), format!("config.json: {first}"));
        assert_eq!(error.kind(), ErrorKind::CorruptData);
    }
    findings
}

#[test]
fn contradictions_in_the_configuration_are_all_found() {
    assert_eq!(check_inputs(&everything()), []);
    assert_eq!(check_inputs(&Inputs::default()), []);
    assert_eq!(
        findings(json!({
            "text": { "tokenizer": "../t.json", "max_tokens": 0 },
            "image": { "height": 0, "width": 20000, "resize": "exact", "resize_size": 4,
                       "mean": [0, 0, 0], "std": [1, 0, -1] },
            "behaviour": {},
        })),
        [
            "inputs.text.tokenizer: \"../t.json\" is not a path inside the model's folder",
            "inputs.text.max_tokens: 0, at least 1 is needed",
            "inputs.image.height: 0 is not within 1..=16384",
            "inputs.image.width: 20000 is not within 1..=16384",
            "inputs.image.resize_size: 4 given, but only \"shortest_side\" reads it",
            "inputs.image.std[1]: 0.0 is not a positive divisor that keeps pixels finite",
            "inputs.image.std[2]: -1.0 is not a positive divisor that keeps pixels finite",
            "inputs.behaviour: exactly one of length and max_items is needed, not neither",
        ]
    );
    let image = |resize_size: Option<usize>, std: f64| {
        findings(json!({ "image": {
            "height": 8, "width": 9, "resize": "shortest_side", "resize_size": resize_size,
            "mean": [0, 0, 0], "std": [1, 1, std],
        } }))
    };
    assert_eq!(image(Some(9), 1.0), Vec::<String>::new());
    assert_eq!(image(None, 1.0), ["inputs.image.resize_size: missing; \"shortest_side\" needs it"]);
    assert_eq!(
        image(Some(8), 1.0),
        ["inputs.image.resize_size: 8 is not within 9..=16384: the crop is 8x9 (height x width)"]
    );
    assert_eq!(
        image(Some(9), 1e-42),
        ["inputs.image.std[2]: 1e-42 is not a positive divisor that keeps pixels finite"]
    );
    assert_eq!(
        findings(json!({ "behaviour": { "length": 0, "max_items": 0 } })),
        [
            "inputs.behaviour: exactly one of length and max_items is needed, not both",
            "inputs.behaviour.length: 0, at least 1 is needed",
            "inputs.behaviour.max_items: 0, at least 1 is needed",
        ]
    );
    let mut infinite = everything();
    infinite.image.as_mut().unwrap().mean[1] = f32::INFINITY;
    infinite.image.as_mut().unwrap().std[0] = f32::NAN;
    let paths: Vec<String> = check_inputs(&infinite).into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["inputs.image.std[0]", "inputs.image.mean[1]"]);
}

fn seeded(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(7),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(seeded(64))]

    /// Whatever the schedule, the lowest bad row is the one reported, and good rows do not depend on the batch.
    #[test]
    fn the_lowest_bad_row_is_reported(bad in prop::collection::vec(prop::bool::weighted(0.1), 1..60), threads in 1usize..5) {
        let preprocessor = open(&everything());
        let requests: Vec<Request> =
            bad.iter().enumerate().map(|(row, &bad)| if bad { text("") } else { text(&"黑".repeat(1 + row % 8)) }).collect();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        match (pool.install(|| preprocessor.features(&requests)), bad.iter().position(|&bad| bad)) {
            (Err(InputError::Row { row, .. }), Some(lowest)) => prop_assert_eq!(row, lowest),
            (Ok(features), None) => {
                let Values::Bags(bags) = features.column(Modality::Text).unwrap().values() else { panic!() };
                for (row, request) in requests.iter().enumerate() {
                    let alone = preprocessor.text().unwrap().ids(request.text.as_ref().unwrap()).unwrap();
                    prop_assert_eq!(&bags.ids[bags.offsets[row]..bags.offsets[row + 1]], alone);
                }
            }
            (result, expected) => prop_assert!(false, "{result:?}, first bad row {expected:?}"),
        }
    }
}

#[test]
fn the_preprocessor_is_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Preprocessor>();
    let config = BehaviourInput { length: None, max_items: Some(1) };
    let preprocessor = open(&Inputs { behaviour: Some(config), ..Inputs::default() });
    std::thread::scope(|scope| {
        for id in 0..4 {
            let preprocessor = &preprocessor;
            scope.spawn(move || preprocessor.features(&[items(&[id], None)]).unwrap());
        }
    });
}
