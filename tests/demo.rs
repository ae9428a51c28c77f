//! The demo shop in `weights/demo`: PyTorch's vectors, token ids and probabilities from the same files.
#![allow(clippy::unwrap_used, clippy::panic)] // a test may panic

mod common;

use common::{Golden, cosine};
use mercer::catalogue::store::RowFeatures;
use mercer::engine::{EngineError, RowError, Side};
use mercer::input::{Modality, Record, Values, read_records};
use mercer::{Catalogue, Engine, Error, Options, Request};

/// Contracts: the cosine of an f32 embedding with PyTorch's.
const EMBEDDING_COSINE: f64 = 0.999_999;
/// Contracts: f32 values, relative to the largest; a probability is at most 1.
const PROBABILITY: f32 = 2e-5;

fn open() -> Engine {
    Engine::open("weights/demo", Options::default()).unwrap()
}

/// The golden lines of one side.
fn lines(engine: &Engine, side: &str) -> Vec<Record> {
    let path = common::repository("weights/demo/golden.jsonl");
    let records = read_records(&path, &engine.config().inputs).unwrap();
    records.into_iter().filter(|record| record.json["side"] == side).collect()
}

fn requests(records: &[Record]) -> Vec<Request> {
    records.iter().map(|record| record.request.clone()).collect()
}

fn golden() -> Golden {
    Golden::open("weights/demo/golden.safetensors")
}

#[test]
fn texts_have_the_tokens_of_the_python_tokenizer() {
    let engine = open();
    for (encoder, side) in [(Side::Query, "query"), (Side::Item, "item")] {
        let lines = lines(&engine, side);
        let offsets = golden().sizes(&format!("{side}_offsets"));
        let tokens = golden().i64s(&format!("{side}_tokens"));
        let features = engine.preprocess(encoder, &requests(&lines)).unwrap();
        let column = features.column(Modality::Text).unwrap();
        let Values::Bags(bags) = column.values() else { panic!("{:?}", column.values()) };
        for (bag, &row) in column.rows().iter().enumerate() {
            let found = &bags.ids[bags.offsets[bag]..bags.offsets[bag + 1]];
            assert_eq!(
                found,
                &tokens[offsets[row]..offsets[row + 1]],
                "{side} {row}: {:?}",
                lines[row].request.text
            );
        }
    }
}

#[test]
fn both_encoders_give_pytorchs_vectors() {
    let engine = open();
    let queries = engine.encode_queries(&requests(&lines(&engine, "query"))).unwrap();
    let items = engine.encode_items(&requests(&lines(&engine, "item"))).unwrap();
    for (side, found) in [("query", queries), ("item", items)] {
        let expected = golden().f32s(side);
        assert_eq!(found.len(), expected.len(), "{side}");
        for (row, (found, expected)) in
            found.chunks(engine.dim()).zip(expected.chunks(engine.dim())).enumerate()
        {
            let cosine = cosine(found, expected);
            assert!(cosine >= EMBEDDING_COSINE, "{side} {row}: cosine {cosine}");
        }
    }
}

#[test]
fn the_ranker_gives_pytorchs_probabilities() {
    let engine = open();
    let (queries, items) = (lines(&engine, "query"), lines(&engine, "item"));
    let width = engine.ranker_width().unwrap();
    let mut vectors = vec![0.0; items.len() * engine.dim()];
    let mut data = vec![0.0; items.len() * width];
    engine.encode_items_for_ranking(&requests(&items), &mut vectors, &mut data).unwrap();
    let products = RowFeatures { width, data };
    let ids = (0..items.len()).map(|row| i64::try_from(row).unwrap()).collect();
    let catalogue = Catalogue::new(engine.metric(), engine.dim(), ids, vectors).unwrap();
    let mut checked = 0;
    for (pair, expected) in lines(&engine, "pair").iter().zip(golden().f32s("probability")) {
        let [query, item] =
            ["query", "item"].map(|side| usize::try_from(pair.json[side].as_u64().unwrap()).unwrap());
        let request = [queries[query].request.clone()];
        let hits = engine.search(&catalogue, &request, items.len()).unwrap();
        let ranked = match engine.rank(&request, &hits, &products) {
            Err(Error::Engine(EngineError::Row { source: RowError::NothingToRank { .. }, .. })) => {
                let only_image = Request { image: request[0].image.clone(), ..Request::default() };
                assert_eq!(request[0], only_image);
                continue;
            }
            ranked => ranked.unwrap(),
        };
        let found = ranked[0].iter().find(|ranked| ranked.hit.row == item).unwrap();
        let difference = (found.rank_score - expected).abs();
        assert!(
            difference <= PROBABILITY,
            "query {query}, item {item}: {} is not {expected}",
            found.rank_score
        );
        checked += 1;
    }
    assert!(checked >= 20, "{checked} pairs");
}

#[test]
fn a_black_down_jacket_is_found() {
    let engine = open();
    let products =
        read_records(&common::repository("weights/demo/catalogue.jsonl"), &engine.config().inputs).unwrap();
    assert!(products.len() >= 2000);
    let ids = products.iter().map(|product| product.id.unwrap()).collect();
    let vectors = engine.encode_items(&requests(&products)).unwrap();
    let catalogue = Catalogue::new(engine.metric(), engine.dim(), ids, vectors).unwrap();
    for text in ["黑色羽绒服", "black down jacket"] {
        let request = Request { text: Some(text.into()), ..Request::default() };
        let best = engine.search(&catalogue, &[request], 1).unwrap()[0][0];
        let product = &products[best.row];
        assert_eq!(
            (&product.json["category"], &product.json["color"]),
            (&"down_jacket".into(), &"black".into()),
            "{text}"
        );
    }
}
