//! What a result does not depend on: batch, threads, the way in and the way out.

use mercer::engine::{Side, Source};
use mercer::input::{Bags, Column, Features, ImagePreprocessor, Modality, Values};
use mercer::{Catalogue, Engine, Image, Options, Request};
use proptest::prelude::*;

use super::{catalogue, common, copy, open, some_requests};

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
fn photos_give_the_vectors_of_their_pixels() {
    let engine = open("bags");
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
fn handles_cross_threads() {
    fn check<T: Clone + Send + Sync + 'static>() {}
    check::<Engine>();
    check::<Catalogue>();
}
