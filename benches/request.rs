//! The whole request on the demo shop: text, photo, user and all three, from the raw request to the ten best products,
//! and the encoding of the catalogue.
//!
//! With the feature `cuda` it is the card that is timed: see `benches/card/mod.rs`.
#![cfg_attr(feature = "cuda", allow(dead_code))] // what times the CPU
#![allow(missing_docs)] // criterion's macros make the entry point
#![allow(clippy::unwrap_used)] // a bench may panic

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mercer::input::{Image, Record, read_records};
use mercer::{Catalogue, Engine, Options, Request};

#[cfg(feature = "cuda")]
mod card;
#[cfg(feature = "cuda")]
#[path = "../tests/oracle/mod.rs"]
mod oracle;

struct Shop {
    engine: Engine,
    products: Vec<Record>,
    requests: Vec<Request>,
    catalogue: Catalogue,
}

/// The shop on the CPU, with at most that many of its products.
fn open(products: usize) -> Shop {
    let engine = Engine::open("weights/demo", Options::default()).unwrap();
    let mut records =
        read_records(Path::new("weights/demo/catalogue.jsonl"), &engine.config().inputs).unwrap();
    records.truncate(products);
    let products = records;
    let requests: Vec<Request> = products.iter().map(|product| product.request.clone()).collect();
    let ids = products.iter().map(|product| product.id.unwrap()).collect();
    let vectors = engine.encode_items(&requests).unwrap();
    let catalogue = Catalogue::new(engine.metric(), engine.dim(), ids, vectors).unwrap();
    Shop { engine, products, requests, catalogue }
}

fn requests(c: &mut Criterion) {
    let shop = open(usize::MAX);
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
    let shop = open(usize::MAX);
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
#[cfg(not(feature = "cuda"))]
criterion_main!(benches);

#[cfg(feature = "cuda")]
mod cuda {
    use std::time::Instant;

    use criterion::Criterion;
    use mercer::cuda::Precision;
    use mercer::engine::{Device, Side};
    use mercer::{Catalogue, Engine, Hits, Options, Request};
    use serde_json::json;

    use super::card::{Card, Work};

    const K: usize = 10;

    /// From preprocessed requests to the ten best products, by the clock of the host: upload, kernels, download.
    pub fn requests(c: &mut Criterion) {
        let Some(card) = Card::open() else { return };
        let shop = super::open(card.size(usize::MAX, 24));
        let mut group = c.benchmark_group("cuda/request");
        for precision in [Precision::F32, Precision::F16] {
            let options = Options::default().device(Device::Cuda(0)).precision(precision);
            let engine = Engine::open("weights/demo", options).unwrap();
            engine.prepare(&shop.catalogue).unwrap();
            for batch in [1, card.size(32, 2)] {
                for image in [false, true] {
                    let requests: Vec<Request> =
                        shop.requests.iter().take(batch).map(|request| query(request, image)).collect();
                    let features = engine.preprocess(Side::Query, &requests).unwrap();
                    let search = || engine.search_features(&shop.catalogue, &features, K).unwrap();
                    check(&shop.catalogue, &shop.engine, &requests, precision, &search());
                    let kind = if image { "text_image_user" } else { "text_user" };
                    let work = Work {
                        op: "request",
                        name: format!("{kind}_batch_{batch}"),
                        precision,
                        shape: json!({"batch": batch, "rows": shop.catalogue.len(), "k": K}),
                        bytes: 0,
                        operations: 0,
                    };
                    card.bench_by(&mut group, &work, || {
                        let start = Instant::now();
                        std::hint::black_box(search());
                        start.elapsed()
                    });
                }
            }
        }
        group.finish();
    }

    /// A product's own words, and its picture if asked for, by a user.
    fn query(product: &Request, image: bool) -> Request {
        let mut query = Request::default().with_text(product.text.clone().unwrap_or_default()).with_user(7);
        query.image = product.image.clone().filter(|_| image);
        query
    }

    /// The scores are the CPU's, rank by rank, within the rounding of the encoders; products that close may change places.
    fn check(
        catalogue: &Catalogue,
        on_cpu: &Engine,
        requests: &[Request],
        precision: Precision,
        found: &[Hits],
    ) {
        let expected = on_cpu.search(catalogue, requests, K).unwrap();
        let allowed = if precision == Precision::F32 { 1e-5 } else { 1e-2 };
        for (request, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found.len(), expected.len(), "request {request}");
            for (rank, (found, expected)) in found.iter().zip(expected.iter()).enumerate() {
                let (found, expected) = (found.score, expected.score);
                let what = format!("request {request}, rank {rank}: {found}, the CPU has {expected}");
                assert!((found - expected).abs() <= allowed, "{what}");
            }
        }
    }
}

#[cfg(feature = "cuda")]
criterion_group! {
    name = on_card;
    config = card::config();
    targets = cuda::requests
}
#[cfg(feature = "cuda")]
criterion_main!(on_card);
