//! Whole models against the golden outputs of PyTorch.

use std::collections::HashMap;

use mercer::catalogue::store::RowFeatures;
use mercer::engine::{Parts, Precision, Side};
use mercer::input::{Bags, Features, Modality, Values};
use mercer::{Behaviour, Catalogue, Device, Engine, Request};

use super::common::{self, Golden, assert_close, cosine};
use super::{open, options, request, words};

on_each_device! {
    every_tower_kind_gives_pytorchs_vectors,
    every_precision_keeps_the_direction,
    a_linear_head_gives_pytorchs_vectors_and_scores,
    parts_and_ranker_scores_are_pytorchs,
    the_classic_ranker_gives_pytorchs_probabilities,
}

/// Contracts: the cosine of an f32 embedding with PyTorch's.
const EMBEDDING_COSINE: f64 = 0.999_999;
/// Contracts: f32 values, relative to the largest.
const F32: f32 = 2e-5;

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

fn every_tower_kind_gives_pytorchs_vectors(device: Device) {
    let golden = Golden::open("tests/golden/model/bags/golden.safetensors");
    let engine = open(device, "bags");
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

/// In f32 on the CPU whatever the precision.
fn every_precision_keeps_the_direction(device: Device) {
    for (precision, least) in
        [(Precision::F32, EMBEDDING_COSINE), (Precision::F16, 0.9999), (Precision::Bf16, 0.999)]
    {
        let open = |model| {
            Engine::open(format!("tests/golden/model/{model}"), options(device).precision(precision)).unwrap()
        };
        let check = |name: &str, width: usize, found: &[f32], expected: &[f32]| {
            for (row, (found, expected)) in found.chunks(width).zip(expected.chunks(width)).enumerate() {
                let cosine = cosine(found, expected);
                assert!(cosine >= least, "{precision:?}, {name} {row}: cosine {cosine}");
            }
        };
        let golden = Golden::open("tests/golden/model/bags/golden.safetensors");
        let engine = open("bags");
        for (side, name) in [(Side::Query, "query"), (Side::Item, "item")] {
            let mut vectors = vec![0.0; 5 * engine.dim()];
            engine.encode_features(side, &bags_features(&golden, side), &mut vectors).unwrap();
            check(name, engine.dim(), &vectors, &golden.f32s(name));
        }
        let golden = Golden::open("tests/golden/model/dense/golden.safetensors");
        let engine = open("dense");
        let mut vectors = vec![0.0; 5 * engine.dim()];
        engine.encode_features(Side::Query, &dense_features(&golden), &mut vectors).unwrap();
        check("dense", engine.dim(), &vectors, &golden.f32s("query"));
    }
}

fn a_linear_head_gives_pytorchs_vectors_and_scores(device: Device) {
    let golden = Golden::open("tests/golden/model/dense/golden.safetensors");
    let engine = open(device, "dense");
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

fn parts_and_ranker_scores_are_pytorchs(device: Device) {
    let golden = Golden::open("tests/golden/model/dense/golden.safetensors");
    let engine = open(device, "dense");
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

fn the_classic_ranker_gives_pytorchs_probabilities(device: Device) {
    // One linear layer with a sigmoid over user, clicked items and a linear layer over the image tower.
    let golden = Golden::open("tests/golden/model/bags/golden.safetensors");
    let engine = open(device, "bags");
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
