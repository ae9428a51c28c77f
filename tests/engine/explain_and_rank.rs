//! Parts of scores and the ranker, beside their golden values.

use mercer::catalogue::store::RowFeatures;
use mercer::engine::Side;
use mercer::input::Modality;
use mercer::{Catalogue, Device, Engine, Request};

use super::common::{self, Golden};
use super::{catalogue, copy, edit_config, open, options, products, request, some_requests};

on_each_device! {
    parts_sum_to_the_score,
    tensors_are_answered_as_their_requests,
    what_only_the_ranker_reads_can_be_supplied,
    equal_ranker_scores_go_by_id_and_numbers_only,
}

fn parts_sum_to_the_score(device: Device) {
    let engine = open(device, "dense");
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

fn tensors_are_answered_as_their_requests(device: Device) {
    let engine = open(device, "dense");
    let requests: Vec<Request> =
        some_requests().into_iter().filter(|r| r.text.is_some() || r.behaviour.is_some()).collect();
    let width = engine.ranker_width().unwrap();
    let (mut vectors, mut data) = (vec![0.0; 4 * engine.dim()], vec![0.0; 4 * width]);
    engine.encode_items_for_ranking(&products(), &mut vectors, &mut data).unwrap();
    let catalogue = Catalogue::new(engine.metric(), engine.dim(), vec![4, 3, 2, 1], vectors).unwrap();
    let products = RowFeatures { width, data };

    let features = engine.preprocess(Side::Query, &requests).unwrap();
    let hits = engine.search_features(&catalogue, &features, 3).unwrap();
    assert_eq!(hits.len(), requests.len());
    for (found, expected) in hits.iter().zip(engine.search(&catalogue, &requests, 3).unwrap()) {
        assert_eq!(found[..], expected[..]);
    }
    let parts = engine.explain_features(&catalogue, &features, &hits).unwrap();
    assert_eq!(parts, engine.explain(&catalogue, &requests, &hits).unwrap());
    let ranked = engine.rank_features(&features, &hits, &products).unwrap();
    assert_eq!(ranked, engine.rank(&requests, &hits, &products).unwrap());
}

fn what_only_the_ranker_reads_can_be_supplied(device: Device) {
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
    let engine = Engine::open(folder.path(), options(device)).unwrap();

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

fn equal_ranker_scores_go_by_id_and_numbers_only(device: Device) {
    let engine = open(device, "dense");
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
