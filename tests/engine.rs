//! Whole models: the golden outputs of PyTorch, invariances, and every way a call can be wrong.
#![allow(clippy::unwrap_used, clippy::panic)] // a test may panic

mod common;

use std::collections::HashMap;

use common::{Golden, assert_close, cosine};
use mercer::catalogue::store::RowFeatures;
use mercer::engine::{Parts, Side, Source, UnknownId};
use mercer::input::{Bags, Column, Features, ImagePreprocessor, Modality, Values};
use mercer::{Behaviour, Catalogue, Engine, ErrorKind, Image, Options, Request};
use proptest::prelude::*;

/// Contracts: the cosine of an f32 embedding with PyTorch's.
const EMBEDDING_COSINE: f64 = 0.999_999;
/// Contracts: f32 values, relative to the largest.
const F32: f32 = 2e-5;

fn open(model: &str) -> Engine {
    Engine::open(format!("tests/golden/model/{model}"), Options::default()).unwrap()
}

fn bags(golden: &Golden, name: &str, weights: bool) -> Values {
    Values::Bags(Bags {
        offsets: golden.sizes(&format!("{name}.offsets")),
        ids: golden.i64s(&format!("{name}.ids")),
        weights: weights.then(|| golden.f32s(&format!("{name}.weights"))),
    })
}

/// The inputs of the `bags` model; the item encoder reads text and image only.
fn bags_features(golden: &Golden, side: Side) -> Features {
    let mut features = Features::new(5);
    features.set_rows(Modality::Text, golden.sizes("text.rows"), bags(golden, "text", false)).unwrap();
    let pixels = Values::Pixels { height: 21, width: 26, data: golden.f32s("image.pixels") };
    features.set_rows(Modality::Image, golden.sizes("image.rows"), pixels).unwrap();
    if side == Side::Query {
        features
            .set_rows(Modality::User, golden.sizes("user.rows"), Values::Ids(golden.i64s("user.ids")))
            .unwrap();
        features
            .set_rows(Modality::Behaviour, golden.sizes("behaviour.rows"), bags(golden, "behaviour", true))
            .unwrap();
    }
    features
}

/// The inputs of the `dense` model's query encoder.
fn dense_features(golden: &Golden) -> Features {
    let mut features = Features::new(5);
    features.set_rows(Modality::Text, golden.sizes("text.rows"), bags(golden, "text", false)).unwrap();
    features
        .set_rows(Modality::User, golden.sizes("user.rows"), Values::Ids(golden.i64s("user.ids")))
        .unwrap();
    let behaviour = Values::Dense { width: 12, data: golden.f32s("behaviour.values") };
    features.set_rows(Modality::Behaviour, golden.sizes("behaviour.rows"), behaviour).unwrap();
    features
}

#[test]
fn every_tower_kind_gives_pytorchs_vectors() {
    let golden = Golden::open("tests/golden/model/bags/golden.safetensors");
    let engine = open("bags");
    for (side, name) in [(Side::Query, "query"), (Side::Item, "item")] {
        let mut vectors = vec![0.0; 5 * engine.dim()];
        engine.encode_features(side, &bags_features(&golden, side), &mut vectors).unwrap();
        let expected = golden.f32s(name);
        for (row, (found, expected)) in vectors.chunks(13).zip(expected.chunks(13)).enumerate() {
            let cosine = cosine(found, expected);
            assert!(cosine >= EMBEDDING_COSINE, "{name} {row}: cosine {cosine}");
        }
        assert_close(name, &vectors, &expected, F32);
    }
}

#[test]
fn photos_give_the_vectors_of_their_pixels() {
    let engine = open("bags");
    let photo = |seed: u8| {
        let data = (seed..=u8::MAX).cycle().take(30 * 40 * 3).collect();
        Request::default().with_image(Image::Rgb { width: 40, height: 30, data })
    };
    let requests = [photo(0), photo(9), photo(100)];
    let features = engine.preprocess(&requests).unwrap();
    let Some(Values::Photos { height: 21, width: 26, data }) =
        features.column(Modality::Image).map(Column::values)
    else {
        panic!("{features:?}")
    };
    let scaling = ImagePreprocessor::new(engine.config().inputs.image.as_ref().unwrap()).unwrap();
    let data = scaling.scaling().scale(data);
    let mut scaled = Features::new(3);
    scaled.set(Modality::Image, Values::Pixels { height: 21, width: 26, data }).unwrap();
    let encode = |features: &Features| {
        let mut vectors = vec![0.0; 3 * engine.dim()];
        engine.encode_features(Side::Item, features, &mut vectors).unwrap();
        vectors.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
    };
    assert_eq!(encode(&features), encode(&scaled));
    let found = engine.encode_items(&requests).unwrap();
    assert_eq!(encode(&features), found.into_iter().map(f32::to_bits).collect::<Vec<u32>>());
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

#[test]
fn a_linear_head_gives_pytorchs_vectors_and_scores() {
    let golden = Golden::open("tests/golden/model/dense/golden.safetensors");
    let engine = open("dense");
    let mut queries = vec![0.0; 5 * engine.dim()];
    engine.encode_features(Side::Query, &dense_features(&golden), &mut queries).unwrap();
    assert_close("query", &queries, &golden.f32s("query"), F32);
    let mut items = Features::new(4);
    items.set(Modality::Text, bags(&golden, "items", false)).unwrap();
    let mut vectors = vec![0.0; 4 * engine.dim()];
    engine.encode_features(Side::Item, &items, &mut vectors).unwrap();
    assert_close("item", &vectors, &golden.f32s("item"), F32);

    let catalogue = Catalogue::new(engine.metric(), engine.dim(), vec![0, 1, 2, 3], vectors).unwrap();
    let scores = golden.f32s("scores"); // [5, 4]
    for (row, hits) in catalogue.search(&queries, 4).unwrap().iter().enumerate() {
        for hit in hits.iter() {
            assert_close("score", &[hit.score], &[scores[row * 4 + hit.row]], F32);
        }
    }
}

#[test]
fn parts_and_ranker_scores_are_pytorchs() {
    let golden = Golden::open("tests/golden/model/dense/golden.safetensors");
    let engine = open("dense");
    // The golden inputs as requests: ids beyond the tokenizer's words are left to the tensor form above.
    let behaviour = golden.f32s("behaviour.values");
    let rows = [
        request(None, Some(5), Some(&behaviour[..12])), // batch row 1 without its text
        request(None, Some(0), None),                   // batch row 2
        request(None, None, Some(&behaviour[12..24])),  // batch row 3
    ];
    let items = [words(&[1, 2]), words(&[3]), words(&[4, 5])]; // the fourth has id 48
    let items: Vec<Request> = items.map(|text| Request { text: Some(text), ..Request::default() }).into();
    let width = engine.ranker_width().unwrap();
    let mut vectors = vec![0.0; items.len() * engine.dim()];
    let mut ranker_rows = vec![0.0; items.len() * width];
    engine.encode_items_for_ranking(&items, &mut vectors, &mut ranker_rows).unwrap();
    assert_eq!(vectors, engine.encode_items(&items).unwrap());
    let catalogue = Catalogue::new(engine.metric(), engine.dim(), vec![0, 1, 2], vectors).unwrap();
    let hits = engine.search(&catalogue, &rows, 3).unwrap();
    let parts = engine.explain(&catalogue, &rows, &hits).unwrap();
    let part = |row: usize, item: usize| -> &Parts {
        let at = hits[row].iter().position(|hit| hit.row == item).unwrap();
        &parts[row][at]
    };
    for (row, batch_row, modality) in [(1, 2, Modality::User), (2, 3, Modality::Behaviour)] {
        let name = modality.name();
        let (golden_part, bias) = (golden.f32s(&format!("parts.{name}")), golden.f32s("parts.bias"));
        for item in 0..3 {
            let found = part(row, item);
            assert_close(name, &[found.get(modality).unwrap()], &[golden_part[batch_row * 4 + item]], F32);
            assert_close("bias", &[found.bias()], &[bias[batch_row * 4 + item]], F32);
            assert_eq!(found.iter().count(), 1);
        }
    }
    let products = RowFeatures { width, data: ranker_rows };
    let ranked = engine.rank(&rows[2..], &hits[2..], &products).unwrap();
    let (pairs, expected) = (golden.i64s("pairs"), golden.f32s("rank"));
    let golden_rank: HashMap<(i64, i64), f32> =
        pairs.chunks(2).zip(expected).map(|(pair, score)| ((pair[0], pair[1]), score)).collect();
    for found in &ranked[0] {
        assert_close("rank", &[found.rank_score], &[golden_rank[&(3, found.hit.id)]], F32);
    }
    assert!(ranked[0].is_sorted_by(|a, b| a.rank_score >= b.rank_score));
}

#[test]
fn the_classic_ranker_gives_pytorchs_probabilities() {
    // One linear layer with a sigmoid over user, clicked items and a linear layer over the image tower.
    let golden = Golden::open("tests/golden/model/bags/golden.safetensors");
    let engine = open("bags");
    let features = bags_features(&golden, Side::Query);
    let Some(Values::Bags(clicks)) = features.column(Modality::Behaviour).map(|column| column.values())
    else {
        panic!("behaviour is a bag")
    };
    let click = |bag: usize| {
        let range = clicks.offsets[bag]..clicks.offsets[bag + 1];
        let weights = clicks.weights.as_ref().map(|weights| weights[range.clone()].to_vec());
        Some(Behaviour::Items { ids: clicks.ids[range].to_vec(), weights })
    };
    let ids = golden.i64s("user.ids");
    let request = |user: usize, behaviour| Request { user: Some(ids[user]), behaviour, ..Request::default() };
    let requests = [request(0, None), request(1, click(0)), request(2, click(1))]; // batch rows 0, 2, 4
    // Products from ready-made tensors: the ranker's side is the linear layer over the image tower.
    let (tower, image_rows) = (golden.f32s("tower.image"), golden.sizes("image.rows"));
    let model = Golden::open("tests/golden/model/bags/model.safetensors");
    let (weight, bias) = (model.f32s("rank.image.weight"), model.f32s("rank.image.bias"));
    let mut products = RowFeatures { width: 6, data: vec![0.0; 5 * 6] };
    for (row, features) in image_rows.into_iter().zip(tower.chunks(20)) {
        for output in 0..6 {
            let sum: f32 = weight[output * 20..][..20].iter().zip(features).map(|(w, x)| w * x).sum();
            products.data[row * 6 + output] = sum + bias[output];
        }
    }
    let vectors = common::values("any", 5 * engine.dim());
    let catalogue = Catalogue::new(engine.metric(), engine.dim(), (0..5).collect(), vectors).unwrap();
    let hits = engine.search(&catalogue, &requests, 5).unwrap();
    let ranked = engine.rank(&requests, &hits, &products).unwrap();
    for (pair, expected) in golden.i64s("pairs").chunks(2).zip(golden.f32s("rank")) {
        let query = [0, 2, 4].iter().position(|row| *row == pair[0]).unwrap();
        let found = ranked[query].iter().find(|ranked| ranked.hit.id == pair[1]).unwrap();
        assert_close(&format!("pair {pair:?}"), &[found.rank_score], &[expected], F32);
    }
}

#[test]
fn parts_sum_to_the_score() {
    let engine = open("dense");
    let catalogue = catalogue(&engine);
    let requests = some_requests();
    let hits = engine.search(&catalogue, &requests, 10).unwrap();
    let parts = engine.explain(&catalogue, &requests, &hits).unwrap();
    for (row, (hits, parts)) in hits.iter().zip(parts).enumerate() {
        assert_eq!(hits.len(), 4, "k > n gives what there is");
        for (hit, parts) in hits.iter().zip(parts) {
            let sum = parts.iter().map(|(_, part)| part).sum::<f32>() + parts.bias();
            assert!((sum - hit.score).abs() < 1e-6, "request {row}: parts {sum}, score {}", hit.score);
            let has = |modality| parts.get(modality).is_some();
            assert_eq!(has(Modality::Text), requests[row].text.is_some());
            assert_eq!(has(Modality::User), requests[row].user.is_some());
            assert_eq!(has(Modality::Behaviour), requests[row].behaviour.is_some());
            assert!(!has(Modality::Image));
        }
    }
}

#[test]
fn bits_do_not_depend_on_batch_threads_or_how_the_weights_are_held() {
    let requests = some_requests();
    let reference = open("dense").encode_queries(&requests).unwrap();
    let bits = |vectors: &[f32]| vectors.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let engine = open("dense");
    for (row, request) in requests.iter().enumerate() {
        let alone = engine.encode_queries(std::slice::from_ref(request)).unwrap();
        assert_eq!(bits(&alone), bits(&reference[row * engine.dim()..][..engine.dim()]), "row {row}");
    }
    let mut many = Vec::new();
    (0..140).for_each(|_| many.extend_from_slice(&requests)); // more rows than are encoded at once
    assert_eq!(bits(&engine.encode_queries(&many).unwrap()), bits(&reference.repeat(140)));
    for options in [
        Options::default().threads(1),
        Options::default().threads(5),
        Options::default().source(Source::Read).validate_values(true),
    ] {
        let engine = Engine::open("tests/golden/model/dense", options).unwrap();
        assert_eq!(bits(&engine.encode_queries(&requests).unwrap()), bits(&reference));
    }
    let clones: Vec<_> = (0..4)
        .map(|_| {
            let (engine, requests) = (engine.clone(), requests.clone());
            std::thread::spawn(move || engine.encode_queries(&requests).unwrap())
        })
        .collect();
    for clone in clones {
        assert_eq!(bits(&clone.join().unwrap()), bits(&reference));
    }
}

/// A row's text, user, and whether it has behaviour.
type Row = (Option<Vec<i64>>, Option<i64>, bool);

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// A row of a ready-made batch has the same bits alone, whatever the others have or lack.
    #[test]
    fn a_row_does_not_see_the_rest_of_its_batch(
        rows in prop::collection::vec((prop::option::of(prop::collection::vec(0i64..50, 0..6)), prop::option::of(0i64..6), any::<bool>()), 1..12)
    ) {
        let engine = open("dense");
        let rows: Vec<_> = rows.into_iter().filter(|(text, user, taste)| text.is_some() || user.is_some() || *taste).collect();
        let features = |rows: &[Row]| {
            let mut features = Features::new(rows.len());
            let with = |has: &dyn Fn(usize) -> bool| (0..rows.len()).filter(|&row| has(row)).collect::<Vec<_>>();
            let texts = with(&|row| rows[row].0.is_some());
            let mut bags = Bags { offsets: vec![0], ..Bags::default() };
            for &row in &texts {
                bags.ids.extend(rows[row].0.as_ref().unwrap());
                bags.offsets.push(bags.ids.len());
            }
            features.set_rows(Modality::Text, texts, Values::Bags(bags)).unwrap();
            let users = with(&|row| rows[row].1.is_some());
            let ids = users.iter().map(|&row| rows[row].1.unwrap()).collect();
            features.set_rows(Modality::User, users, Values::Ids(ids)).unwrap();
            let tastes = with(&|row| rows[row].2);
            let data = common::values("taste", 12).repeat(tastes.len());
            features.set_rows(Modality::Behaviour, tastes, Values::Dense { width: 12, data }).unwrap();
            features
        };
        let encode = |rows: &[Row]| {
            let mut vectors = vec![0.0; rows.len() * engine.dim()];
            engine.encode_features(Side::Query, &features(rows), &mut vectors).unwrap();
            vectors.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
        };
        let together = encode(&rows);
        for (at, row) in rows.iter().enumerate() {
            prop_assert_eq!(&encode(std::slice::from_ref(row))[..], &together[at * engine.dim()..][..engine.dim()]);
        }
    }
}

#[test]
fn calls_that_cannot_be_answered_are_refused_with_their_row() {
    let engine = open("dense");
    let message = |requests: &[Request]| engine.encode_queries(requests).unwrap_err().to_string();
    let fine = request(Some(&[1]), None, None);
    let one = std::slice::from_ref(&fine);
    let empty = Request::default();
    assert_eq!(
        message(&[fine.clone(), empty.clone()]),
        "query 1: nothing to encode: it has none of text, user, behaviour"
    );
    let mut many = vec![fine.clone(); 300];
    many[299] = empty;
    assert!(
        message(&many).starts_with("query 299: nothing to encode"),
        "rows count from the start of the whole batch"
    );
    many[299] = request(None, Some(6), None);
    assert_eq!(message(&many), "query 299: user id 6 is not in the table of 6 rows");
    many[299] = request(None, Some(-1), None);
    assert_eq!(message(&many), "query 299: user id -1 is not in the table of 6 rows");
    many[299] = request(Some(&[1]), None, Some(&[1.0, 2.0]));
    assert!(message(&many).starts_with("query 299: "), "{}", message(&many));
    let item = request(Some(&[1]), Some(1), None);
    assert_eq!(
        engine.encode_items(&[item]).unwrap_err().to_string(),
        "item 0: it has user, but this side of the model reads only text"
    );
    let mut short = vec![0.0; 30];
    let error = engine.encode_queries_into(one, &mut short).unwrap_err();
    assert_eq!(error.to_string(), "the output slice has 30 values; 1 rows of 31 need 31");
    assert_eq!(error.kind(), ErrorKind::Caller);
    assert!(engine.encode_queries(&[]).unwrap().is_empty());

    let narrow = Catalogue::new(engine.metric(), 3, vec![1], vec![1.0, 0.0, 0.0]).unwrap();
    let error = engine.search(&narrow, one, 1).unwrap_err();
    assert_eq!(error.to_string(), "the catalogue has 3 values per vector, the model 31");
    let catalogue = catalogue(&engine);
    let hits = engine.search(&catalogue, one, 1).unwrap();
    let error = engine.explain(&catalogue, &[], &hits).unwrap_err();
    assert_eq!(error.to_string(), "1 lists of hits for 0 requests");
    let products = RowFeatures { width: 24, data: vec![0.0; 24] };
    let hits = engine.search(&catalogue, one, 4).unwrap();
    let error = engine.rank(one, &hits[..1], &products).unwrap_err();
    assert!(error.to_string().ends_with("which the catalogue does not have there"), "{error}");
    let products = RowFeatures { width: 23, data: vec![0.0; 4 * 23] };
    let error = engine.rank(one, &hits, &products).unwrap_err();
    assert_eq!(error.to_string(), "92 ranker values in rows of 23; the ranker reads rows of 24");
    let one_product = Catalogue::new(engine.metric(), 31, vec![7], vec![1.0; 31]).unwrap();
    let error = engine.explain(&one_product, one, &hits).unwrap_err();
    assert!(error.to_string().starts_with("a hit names product "), "{error}");
    let products = RowFeatures { width: 24, data: vec![0.0; 4 * 24] };
    let user = [request(None, Some(1), None)];
    let hits = engine.search(&catalogue, &user, 4).unwrap();
    let error = engine.rank(&user, &hits, &products).unwrap_err();
    assert_eq!(error.to_string(), "query 0: nothing to rank by: it has none of text, behaviour");
    let error = open("bags").explain(&open_catalogue_13(), &user, &hits).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the query head is not one linear layer: a score does not split into parts"
    );
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

fn open_catalogue_13() -> Catalogue {
    Catalogue::new(mercer::Metric::InnerProduct, 13, vec![1], vec![1.0; 13]).unwrap()
}

#[test]
fn ready_made_tensors_of_another_form_are_refused() {
    let engine = open("bags");
    let mut vectors = vec![0.0; engine.dim()];
    let mut message = |modality, values| {
        let mut features = Features::new(1);
        features.set(modality, values).unwrap();
        engine.encode_features(Side::Query, &features, &mut vectors).unwrap_err().to_string()
    };
    assert_eq!(
        message(Modality::Text, Values::Ids(vec![1])),
        "text features are ids; the tower `text` reads bags of ids"
    );
    assert_eq!(
        message(Modality::Image, Values::Pixels { height: 2, width: 26, data: vec![0.0; 2 * 26 * 3] }),
        "image features are images of 2 x 26 pixels; the tower `image` reads images of 21 x 26 pixels"
    );
    assert_eq!(
        message(Modality::Image, Values::Photos { height: 21, width: 2, data: vec![0; 21 * 2 * 3] }),
        "image features are photos of 21 x 2 pixels; the tower `image` reads images of 21 x 26 pixels"
    );
    let weighted = Bags { offsets: vec![0, 1], ids: vec![1], weights: Some(vec![2.0]) };
    assert_eq!(
        message(Modality::Text, Values::Bags(weighted)),
        "text: weights are taken by sum pooling only"
    );
    assert_eq!(
        message(Modality::Text, Values::Bags(Bags { offsets: vec![0, 2], ids: vec![1, 40], weights: None })),
        "query 0: text id 40 is not in the table of 40 rows"
    );
}

#[test]
fn unknown_ids_read_the_row_that_the_caller_names() {
    let options = Options::default().unknown_ids(Modality::User, UnknownId::Row(3));
    let engine = Engine::open("tests/golden/model/dense", options).unwrap();
    let unknown = engine.encode_queries(&[request(None, Some(1 << 40), None)]).unwrap();
    assert_eq!(unknown, engine.encode_queries(&[request(None, Some(3), None)]).unwrap());
}

#[test]
fn a_vector_without_direction_is_refused() {
    // An all-padding bag encodes to the bias; without other modalities and bias there is nothing to normalise.
    let folder = tempfile::tempdir().unwrap();
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read("tests/golden/model/dense/config.json").unwrap()).unwrap();
    config["encoders"]["item"]["towers"][0]["padding_id"] = 7.into();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    for file in ["model.safetensors", "tokenizer.json"] {
        std::fs::copy(format!("tests/golden/model/dense/{file}"), folder.path().join(file)).unwrap();
    }
    let engine = Engine::open(folder.path(), Options::default()).unwrap();
    let error =
        engine.encode_items(&[request(Some(&[1]), None, None), request(Some(&[7]), None, None)]).unwrap_err();
    assert_eq!(error.to_string(), "item 1: it encodes to a vector of zeros, which cannot be normalised");
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

#[test]
fn the_fingerprint_is_of_the_files_that_were_opened() {
    let fingerprint = |folder: &tempfile::TempDir| {
        Engine::open(folder.path(), Options::default()).unwrap().fingerprint().unwrap().to_string()
    };
    let folder = copy("dense");
    let reference = fingerprint(&folder);
    assert_eq!(reference, open("dense").fingerprint().unwrap());
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

#[test]
fn a_checkpoint_that_changes_in_place_gives_no_answer() {
    let folder = copy("dense");
    let request = [request(Some(&[4, 9]), None, None)];
    let mapped = Engine::open(folder.path(), Options::default()).unwrap();
    let copied = Engine::open(folder.path(), Options::default().source(Source::Read)).unwrap();
    let answer = mapped.encode_queries(&request).unwrap();
    // Within the last page, where a mapping reads zeros.
    let file = std::fs::File::options().write(true).open(folder.path().join("model.safetensors")).unwrap();
    file.set_len(file.metadata().unwrap().len() - 16).unwrap();
    let error = mapped.encode_queries(&request).unwrap_err();
    assert!(matches!(error, mercer::Error::Weights(_)), "{error}");
    assert_eq!(copied.encode_queries(&request).unwrap(), answer);
}

#[test]
fn options_that_the_model_cannot_follow_are_refused_at_open() {
    let open = |options| Engine::open("tests/golden/model/dense", options).unwrap_err().to_string();
    assert_eq!(
        open(Options::default().unknown_ids(Modality::User, UnknownId::Row(6))),
        "row 6 stands in for unknown user ids, but the table of tower `user` has 6 rows"
    );
    assert_eq!(open(Options::default().threads(0)), "an engine needs at least one thread");
    let folder = copy("dense");
    let path = folder.path().join("tokenizer.json");
    let tokenizer = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, tokenizer.replace("\"w39\": 39", "\"w39\": 50")).unwrap();
    assert_eq!(
        Engine::open(folder.path(), Options::default()).unwrap_err().to_string(),
        "the tokenizer makes ids up to 50, but the table of tower `text` has 50 rows"
    );
    Engine::open(folder.path(), Options::default().unknown_ids(Modality::Text, UnknownId::Row(0))).unwrap();
}

#[test]
fn values_that_are_not_finite_are_found_when_asked_for() {
    let folder = copy("dense");
    let path = folder.path().join("model.safetensors");
    let mut weights = std::fs::read(&path).unwrap();
    let end = weights.len();
    weights[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, weights).unwrap();
    Engine::open(folder.path(), Options::default()).unwrap();
    let error = Engine::open(folder.path(), Options::default().validate_values(true)).unwrap_err();
    assert!(error.to_string().contains("is NaN"), "{error}");
}

#[test]
fn what_only_the_ranker_reads_can_be_supplied() {
    let folder = copy("dense");
    edit_config(&folder, |config| {
        // Without its own behaviour tower, the query encoder reads the first 34 columns of its head.
        config["encoders"]["query"]["towers"].as_array_mut().unwrap().pop();
        config["encoders"]["query"]["head"][0] = serde_json::json!({"weight": "narrow"});
        config["ignore"] = serde_json::json!(["query_head."]);
    });
    let mut tensors = Golden::open("tests/golden/model/dense/model.safetensors").tensors();
    tensors.insert("narrow".into(), (vec![31, 34], common::values("narrow", 31 * 34)));
    common::write_safetensors(&folder.path().join("model.safetensors"), &tensors);
    let engine = Engine::open(folder.path(), Options::default()).unwrap();

    let behaviour = common::values("behaviour", 12);
    let with = [request(Some(&[4]), None, Some(&behaviour))];
    let without = [request(Some(&[4]), None, None)];
    assert_eq!(engine.encode_queries(&with).unwrap(), engine.encode_queries(&without).unwrap());
    let alone = [request(None, None, Some(&behaviour))];
    assert_eq!(
        engine.encode_queries(&alone).unwrap_err().to_string(),
        "query 0: nothing to encode: it has none of text, user"
    );
    let width = engine.ranker_width().unwrap();
    let (mut vectors, mut data) = (vec![0.0; 4 * engine.dim()], vec![0.0; 4 * width]);
    engine.encode_items_for_ranking(&products(), &mut vectors, &mut data).unwrap();
    let catalogue = Catalogue::new(engine.metric(), engine.dim(), vec![4, 3, 2, 1], vectors).unwrap();
    let hits = engine.search(&catalogue, &with, 4).unwrap();
    let products = RowFeatures { width, data };
    let scores = |requests: &[Request]| -> Vec<f32> {
        engine.rank(requests, &hits, &products).unwrap()[0].iter().map(|ranked| ranked.rank_score).collect()
    };
    assert_ne!(scores(&with), scores(&without), "the ranker reads the behaviour");
}

#[test]
fn equal_ranker_scores_go_by_id_and_numbers_only() {
    let engine = open("dense");
    let catalogue = catalogue(&engine);
    let one = [request(Some(&[1]), None, None)];
    let hits = engine.search(&catalogue, &one, 4).unwrap();
    let width = engine.ranker_width().unwrap();
    let mut products = RowFeatures { width, data: vec![0.5; 4 * width] };
    let ids: Vec<i64> =
        engine.rank(&one, &hits, &products).unwrap()[0].iter().map(|ranked| ranked.hit.id).collect();
    assert_eq!(ids, [10, 20, 30, 40]);
    products.data[2 * width] = f32::NAN; // row 2 is product 20
    let error = engine.rank(&one, &hits, &products).unwrap_err();
    assert_eq!(error.to_string(), "the ranker scores product 20 as NaN");
}

#[test]
fn weights_for_a_pooling_without_weights_name_their_row() {
    let folder = copy("bags");
    edit_config(&folder, |config| {
        config["encoders"]["query"]["towers"][4]["pooling"] = "mean".into();
        config["ranker"]["query_towers"][1]["pooling"] = "mean".into();
    });
    let engine = Engine::open(folder.path(), Options::default()).unwrap();
    let items = |weights| Request {
        behaviour: Some(Behaviour::Items { ids: vec![1, 2], weights }),
        ..Request::default()
    };
    let mut requests = vec![items(None); 300];
    engine.encode_queries(&requests).unwrap();
    requests[299] = items(Some(vec![1.0, 2.0]));
    assert_eq!(
        engine.encode_queries(&requests).unwrap_err().to_string(),
        "query 299: its items have weights, which tower `taste` does not take: it does not pool by sum"
    );
}

#[test]
fn unaligned_tables_give_the_same_vectors() {
    // A header of another length moves every tensor off its alignment.
    let folder = copy("dense");
    let path = folder.path().join("model.safetensors");
    let weights = std::fs::read(&path).unwrap();
    let length = usize::try_from(u64::from_le_bytes(*weights.first_chunk().unwrap())).unwrap();
    let mut moved = (length as u64 + 1).to_le_bytes().to_vec();
    moved.extend_from_slice(&weights[8..8 + length]);
    moved.push(b' ');
    moved.extend_from_slice(&weights[8 + length..]);
    std::fs::write(&path, moved).unwrap();
    let engine = Engine::open(folder.path(), Options::default()).unwrap();
    let requests = some_requests();
    assert_eq!(engine.encode_queries(&requests).unwrap(), open("dense").encode_queries(&requests).unwrap());
}

#[test]
fn answers_in_the_callers_slices_are_the_same() {
    let engine = open("dense");
    let catalogue = catalogue(&engine);
    let requests = some_requests();
    let (mut ids, mut scores, mut counts) = ([0; 5 * 6], [0.0; 5 * 6], [0; 5]);
    engine.search_into(&catalogue, &requests, 6, &mut ids, &mut scores, &mut counts).unwrap();
    assert_eq!(counts, [4; 5]);
    for (row, hits) in engine.search(&catalogue, &requests, 6).unwrap().iter().enumerate() {
        for (at, hit) in hits.iter().enumerate() {
            assert_eq!((ids[row * 6 + at], scores[row * 6 + at]), (hit.id, hit.score));
        }
    }
}

#[test]
fn a_batch_larger_than_memory_would_hold_is_refused() {
    let engine = open("dense");
    let features = Features::new(usize::MAX / 16 + 1);
    let error = engine.encode_features(Side::Query, &features, &mut []).unwrap_err();
    assert!(error.to_string().starts_with("the output slice has 0 values"), "{error}");
}

#[test]
fn handles_cross_threads() {
    fn check<T: Clone + Send + Sync + 'static>() {}
    check::<Engine>();
    check::<Catalogue>();
}
