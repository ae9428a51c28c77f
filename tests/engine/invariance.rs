//! What a result does not depend on: batch, threads, the way in and the way out.

use mercer::engine::{Side, Source};
use mercer::input::{Bags, Column, Features, ImagePreprocessor, Modality, Values};
use mercer::{Behaviour, Catalogue, Device, Engine, Image, Request};
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use super::common;
use super::{catalogue, copy, open, options, some_requests};

on_each_device! {
    a_row_does_not_see_the_rest_of_its_batch,
    answers_do_not_depend_on_the_rows_at_once,
    long_bags_give_the_same_vectors,
    bits_do_not_depend_on_batch_threads_or_how_the_weights_are_held,
    photos_give_the_vectors_of_their_pixels,
    networks_over_the_same_photos_do_not_see_each_other,
    unaligned_tables_give_the_same_vectors,
    answers_in_the_callers_slices_are_the_same,
}

fn bits_do_not_depend_on_batch_threads_or_how_the_weights_are_held(device: Device) {
    let requests = some_requests();
    let reference = open(device, "dense").encode_queries(&requests).unwrap();
    let engine = open(device, "dense");
    for (row, request) in requests.iter().enumerate() {
        let alone = engine.encode_queries(std::slice::from_ref(request)).unwrap();
        assert_eq!(bits(&alone), bits(&reference[row * engine.dim()..][..engine.dim()]), "row {row}");
    }
    let mut many = Vec::new();
    (0..140).for_each(|_| many.extend_from_slice(&requests)); // more rows than are encoded at once
    assert_eq!(bits(&engine.encode_queries(&many).unwrap()), bits(&reference.repeat(140)));
    for options in [
        options(device).threads(1),
        options(device).threads(5),
        options(device).source(Source::Read).validate_values(true),
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

fn bits(vectors: &[f32]) -> Vec<u32> {
    vectors.iter().map(|x| x.to_bits()).collect()
}

/// A row's text, user, and whether it has behaviour.
type Row = (Option<Vec<i64>>, Option<i64>, bool);

/// A row of a ready-made batch has the same bits alone, whatever the others have or lack.
fn a_row_does_not_see_the_rest_of_its_batch(device: Device) {
    let engine = open(device, "dense");
    let features = |rows: &[Row]| {
        let mut features = Features::new(rows.len());
        let with = |has: &dyn Fn(&Row) -> bool| -> Vec<usize> {
            (0..rows.len()).filter(|&row| has(&rows[row])).collect()
        };
        let texts = with(&|row| row.0.is_some());
        let mut bags = Bags { offsets: vec![0], ..Bags::default() };
        for &row in &texts {
            bags.ids.extend(rows[row].0.as_ref().unwrap());
            bags.offsets.push(bags.ids.len());
        }
        features.set_rows(Modality::Text, texts, Values::Bags(bags)).unwrap();
        let users = with(&|row| row.1.is_some());
        let ids = users.iter().map(|&row| rows[row].1.unwrap()).collect();
        features.set_rows(Modality::User, users, Values::Ids(ids)).unwrap();
        let tastes = with(&|row| row.2);
        let data = common::values("taste", 12).repeat(tastes.len());
        features.set_rows(Modality::Behaviour, tastes, Values::Dense { width: 12, data }).unwrap();
        features
    };
    let encode = |rows: &[Row]| {
        let mut vectors = vec![0.0; rows.len() * engine.dim()];
        engine.encode_features(Side::Query, &features(rows), &mut vectors).unwrap();
        bits(&vectors)
    };
    let text = prop::option::of(prop::collection::vec(0i64..50, 0..6));
    let row = (text, prop::option::of(0i64..6), any::<bool>());
    let row = row
        .prop_filter("a row has something", |(text, user, taste)| text.is_some() || user.is_some() || *taste);
    let cases = if device == Device::Cpu { 64 } else { 16 };
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(rows in prop::collection::vec(row, 1..12))| {
        let together = encode(&rows);
        for (at, row) in rows.iter().enumerate() {
            prop_assert_eq!(&encode(std::slice::from_ref(row))[..], &together[at * engine.dim()..][..engine.dim()]);
        }
    });
}

/// Requests of the `bags` model with every modality there and missing, photos among them.
fn requests_with_photos() -> Vec<Request> {
    let mut requests = Vec::new();
    for n in 0..11u8 {
        let data = (n..=u8::MAX).cycle().take(24 * 30 * 3).collect();
        let image = (n % 3 == 0).then_some(Image::Rgb { width: 30, height: 24, data });
        let n = i64::from(n);
        let weights = (n % 2 == 0).then(|| vec![0.5, 2.0]);
        let clicks = Behaviour::Items { ids: vec![n % 5, 1], weights };
        requests.push(Request {
            image,
            text: (n % 4 != 0).then(|| super::words(&[n + 1, 5, n + 1])),
            user: (n % 5 != 2).then_some(n % 4),
            behaviour: (n % 3 != 2).then_some(clicks),
        });
    }
    requests
}

/// Neither the memory of a device nor the order of a batch shows in an answer, and a search gives what the catalogue gives
/// for the encoder's vectors.
fn answers_do_not_depend_on_the_rows_at_once(device: Device) {
    let reference = open(device, "bags");
    let requests = requests_with_photos();
    let vectors = reference.encode_queries(&requests).unwrap();
    let dim = reference.dim();
    let products =
        Catalogue::new(reference.metric(), dim, (0..90).rev().collect(), common::values("p", 90 * dim));
    let products = products.unwrap();
    let hits = products.search(&vectors, 7).unwrap();
    for rows in [1, 3, 8, 64] {
        let engine = Engine::open("tests/golden/model/bags", options(device).rows_at_once(rows)).unwrap();
        assert_eq!(bits(&engine.encode_queries(&requests).unwrap()), bits(&vectors), "{rows} at once");
        let mut shuffled: Vec<usize> = (0..requests.len()).collect();
        shuffled.sort_by_key(|row| row * 7 % 11);
        let batch: Vec<Request> = shuffled.iter().map(|&row| requests[row].clone()).collect();
        let features = engine.preprocess(Side::Query, &batch).unwrap();
        for (&row, found) in shuffled.iter().zip(engine.search_features(&products, &features, 7).unwrap()) {
            assert_eq!(found[..], hits[row][..], "{rows} at once, request {row}");
        }
    }
}

/// Ready-made bags may be longer than those of requests: of one row up to what all rows of a batch may have.
fn long_bags_give_the_same_vectors(device: Device) {
    let engine = Engine::open("tests/golden/model/dense", options(device).rows_at_once(8)).unwrap();
    let vectors = |engine: &Engine, lengths: &[usize]| {
        let mut bags = Bags { offsets: vec![0], ..Bags::default() };
        for &length in lengths {
            bags.ids.extend((0..50).cycle().take(length));
            bags.offsets.push(bags.ids.len());
        }
        let mut features = Features::new(lengths.len());
        features.set(Modality::Text, Values::Bags(bags)).unwrap();
        let mut vectors = vec![0.0; lengths.len() * engine.dim()];
        engine.encode_features(Side::Item, &features, &mut vectors).map(|()| features).map(|features| {
            let products = catalogue(engine);
            assert_eq!(engine.search_features(&products, &features, 65_536).unwrap().len(), lengths.len());
            bits(&vectors)
        })
    };
    let alone = |length| vectors(&engine, &[length]).unwrap();
    let lengths = [1, 128, 127, 2, 100, 128, 128, 128, 128, 128, 3]; // 16 ids a request, 8 requests
    assert_eq!(vectors(&engine, &lengths).unwrap(), lengths.map(alone).concat());
    let beyond = vectors(&engine, &[1, 129]);
    match device {
        Device::Cpu => assert_eq!(beyond.unwrap().len(), 2 * engine.dim()),
        _ => {
            let refused = "item 1: text of 129 ids, the device has room for 128";
            assert_eq!(beyond.unwrap_err().to_string(), refused);
        }
    }
}

fn photos_give_the_vectors_of_their_pixels(device: Device) {
    let engine = open(device, "bags");
    let photo = |seed: u8| {
        let data = (seed..=u8::MAX).cycle().take(30 * 40 * 3).collect();
        Request::default().with_image(Image::Rgb { width: 40, height: 30, data })
    };
    let requests = [photo(0), photo(9), photo(100)];
    let features = engine.preprocess(Side::Item, &requests).unwrap();
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

/// A device may store the photos in another way for a network that begins with a convolution than for one that does not.
fn networks_over_the_same_photos_do_not_see_each_other(device: Device) {
    let folder = tempfile::tempdir().unwrap();
    let weight: Vec<u8> =
        common::values("weight", 5 * 3 * 9).into_iter().flat_map(f32::to_le_bytes).collect();
    let conv = TensorView::new(Dtype::F32, vec![5, 3, 3, 3], &weight).unwrap();
    let weights = safetensors::serialize([("first.conv.weight", &conv), ("last.conv.weight", &conv)], None);
    std::fs::write(folder.path().join("model.safetensors"), weights.unwrap()).unwrap();
    let convolution = json!([{"op": "conv", "name": "conv", "out_channels": 5, "kernel": 3, "stride": 2},
        {"op": "relu"}, {"op": "global_avg_pool"}]);
    let pool = json!([{"op": "max_pool", "kernel": 2}, {"op": "global_avg_pool"}]);
    let tower = |name: &str, layers: &Value| json!({"name": name, "input": "image", "kind": "conv_stack", "prefix": format!("{name}."), "layers": layers});
    let towers = [tower("first", &convolution), tower("pool", &pool), tower("last", &convolution)];
    let open = |towers: &[Value]| {
        let unread: Vec<String> = ["first", "last"]
            .into_iter()
            .filter(|&name| towers.iter().all(|tower| tower["name"] != name))
            .map(|name| format!("{name}."))
            .collect();
        let encoder = json!({"towers": towers, "head": [], "normalize": "none"});
        let image = json!({"height": 9, "width": 10, "resize": "exact", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]});
        let config = json!({"format_version": 1, "inputs": {"image": image}, "ignore": unread,
            "encoders": {"query": encoder, "item": encoder}});
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        Engine::open(folder.path(), options(device)).unwrap()
    };
    let photos: Vec<Request> = (0..3u8)
        .map(|n| Image::Rgb {
            width: 10,
            height: 9,
            data: (n * 40..=u8::MAX).cycle().take(9 * 10 * 3).collect(),
        })
        .map(|image| Request::default().with_image(image))
        .collect();
    let alone: Vec<(Vec<f32>, usize)> = towers
        .iter()
        .map(|tower| {
            let engine = open(std::slice::from_ref(tower));
            (engine.encode_items(&photos).unwrap(), engine.dim())
        })
        .collect();
    let together = open(&towers).encode_items(&photos).unwrap();
    for (row, found) in together.chunks(13).enumerate() {
        let expected: Vec<f32> =
            alone.iter().flat_map(|(vectors, dim)| &vectors[row * dim..(row + 1) * dim]).copied().collect();
        assert_eq!(bits(found), bits(&expected), "photo {row}");
        assert_eq!(bits(&found[..5]), bits(&found[8..]), "equal networks, photo {row}");
    }
}

fn unaligned_tables_give_the_same_vectors(device: Device) {
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
    let engine = Engine::open(folder.path(), options(device)).unwrap();
    let requests = some_requests();
    assert_eq!(
        engine.encode_queries(&requests).unwrap(),
        open(device, "dense").encode_queries(&requests).unwrap()
    );
}

fn answers_in_the_callers_slices_are_the_same(device: Device) {
    let engine = open(device, "dense");
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
fn handles_cross_threads() {
    fn check<T: Clone + Send + Sync + 'static>() {}
    check::<Engine>();
    check::<Catalogue>();
}
