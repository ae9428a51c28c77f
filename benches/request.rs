//! The whole request on the demo shop: text, photo, user and all three, from the raw request to the ten best products,
//! and the encoding of the catalogue.
#![allow(missing_docs)] // criterion's macros make the entry point
#![allow(clippy::unwrap_used)] // a bench may panic

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mercer::input::{Image, Record, read_records};
use mercer::{Catalogue, Engine, Options, Request};

struct Shop {
    engine: Engine,
    products: Vec<Record>,
    requests: Vec<Request>,
    catalogue: Catalogue,
}

fn open() -> Shop {
    let engine = Engine::open("weights/demo", Options::default()).unwrap();
    let products = read_records(Path::new("weights/demo/catalogue.jsonl"), &engine.config().inputs).unwrap();
    let requests: Vec<Request> = products.iter().map(|product| product.request.clone()).collect();
    let ids = products.iter().map(|product| product.id.unwrap()).collect();
    let vectors = engine.encode_items(&requests).unwrap();
    let catalogue = Catalogue::new(engine.metric(), engine.dim(), ids, vectors).unwrap();
    Shop { engine, products, requests, catalogue }
}

fn requests(c: &mut Criterion) {
    let shop = open();
    let text = Request::default().with_text("黑色羽绒服");
    // The file's bytes, as a server has them: decoding is part of the request, reading the disk is not.
    let photo = match &shop.requests[0].image {
        Some(Image::Path(path)) => Image::Encoded(std::fs::read(path).unwrap()),
        other => other.clone().unwrap(),
    };
    let kinds = [
        ("text", text.clone()),
        ("photo", Request::default().with_image(photo.clone())),
        ("user", Request::default().with_user(7)),
        ("text, photo and user", text.clone().with_image(photo).with_user(7)),
    ];
    let mut group = c.benchmark_group("request");
    for (name, request) in kinds {
        let search = || shop.engine.search(&shop.catalogue, std::slice::from_ref(&request), 10).unwrap();
        check(&shop, name, &request, &search()[0]);
        group.throughput(Throughput::Elements(1));
        group.bench_function(name, |b| b.iter(|| black_box(search())));
    }
    group.finish();
}

/// The hits are the best of the whole catalogue by the scores of a plain loop.
fn check(shop: &Shop, name: &str, request: &Request, hits: &[mercer::Hit]) {
    let query = shop.engine.encode_queries(std::slice::from_ref(request)).unwrap();
    let dot = |row: usize| -> f32 {
        query.iter().zip(shop.catalogue.vector(row).unwrap()).map(|(a, b)| a * b).sum()
    };
    let worst = hits.last().unwrap().score;
    for row in 0..shop.catalogue.len() {
        let found = hits.iter().any(|hit| hit.row == row);
        assert!(found || dot(row) <= worst + 1e-5, "{name}: row {row} scores {} above {worst}", dot(row));
    }
    if name == "text" {
        let best = &shop.products[hits[0].row].json;
        assert_eq!((&best["category"], &best["color"]), (&"down_jacket".into(), &"black".into()));
    }
}

fn catalogue(c: &mut Criterion) {
    let shop = open();
    let some = &shop.requests[..256];
    let vectors = shop.engine.encode_items(some).unwrap();
    let alone = shop.engine.encode_items(&some[100..101]).unwrap();
    assert_eq!(
        alone[..],
        vectors[100 * shop.engine.dim()..][..shop.engine.dim()],
        "a row does not see its batch"
    );
    let mut group = c.benchmark_group("catalogue");
    group.throughput(Throughput::Elements(256)).sample_size(10);
    group
        .bench_function("encode products", |b| b.iter(|| black_box(shop.engine.encode_items(some).unwrap())));
    group.finish();
}

criterion_group!(benches, requests, catalogue);
criterion_main!(benches);
