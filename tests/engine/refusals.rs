//! Every way a call can be wrong.

use mercer::catalogue::store::RowFeatures;
use mercer::engine::Side;
use mercer::input::{Bags, Features, Modality, Values};
use mercer::{Behaviour, Catalogue, Engine, ErrorKind, Hit, Options, Request};

use super::{catalogue, copy, edit_config, open, request};

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
fn tensors_that_cannot_be_answered_are_refused_with_their_row() {
    let engine = open("dense");
    let catalogue = catalogue(&engine);
    let products = RowFeatures { width: 24, data: vec![0.0; 4 * 24] };
    let bad = [request(Some(&[1]), None, None), request(None, Some(1), Some(&[1.0]))];
    let error = engine.preprocess(Side::Query, &bad).unwrap_err();
    assert_eq!(error.to_string(), "query 1: behaviour of 1 values, the model reads 12");
    assert_eq!(error.to_string(), engine.encode_queries(&bad).unwrap_err().to_string());

    let mut features = Features::new(3);
    let none: [Vec<Hit>; 3] = [const { Vec::new() }; 3];
    let messages = |features: &Features| {
        [
            engine.search_features(&catalogue, features, 1).unwrap_err().to_string(),
            engine.explain_features(&catalogue, features, &none).unwrap_err().to_string(),
            engine.rank_features(features, &none, &products).unwrap_err().to_string(),
        ]
    };
    features.set_rows(Modality::User, vec![0, 2], Values::Ids(vec![1, 1])).unwrap();
    assert_eq!(messages(&features), ["query 1: nothing to encode: it has none of text, user, behaviour"; 3]);
    features
        .set_rows(Modality::Behaviour, vec![0, 1], Values::Dense { width: 2, data: vec![1.0; 4] })
        .unwrap();
    let form = "behaviour features are vectors of 2; the tower `taste` reads vectors of 12";
    let nothing = "query 2: nothing to rank by: it has none of text, behaviour";
    assert_eq!(messages(&features), [form, form, nothing]);
    let error = engine.explain_features(&catalogue, &features, &none[1..]).unwrap_err();
    assert_eq!(error.to_string(), "2 lists of hits for 3 requests");
    let error = engine.rank_features(&features, &none[1..], &products).unwrap_err();
    assert_eq!(error.to_string(), "2 lists of hits for 3 requests");
}

#[test]
fn a_vector_without_direction_is_refused() {
    // An all-padding bag encodes to the bias; without other modalities and bias there is nothing to normalise.
    let folder = copy("dense");
    edit_config(&folder, |config| config["encoders"]["item"]["towers"][0]["padding_id"] = 7.into());
    let engine = Engine::open(folder.path(), Options::default()).unwrap();
    let error =
        engine.encode_items(&[request(Some(&[1]), None, None), request(Some(&[7]), None, None)]).unwrap_err();
    assert_eq!(error.to_string(), "item 1: it encodes to a vector of zeros, which cannot be normalised");
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
    let text =
        "query 299: its items have weights, which tower `taste` does not take: it does not pool by sum";
    assert_eq!(engine.encode_queries(&requests).unwrap_err().to_string(), text);
    assert_eq!(engine.preprocess(Side::Query, &requests).unwrap_err().to_string(), text);
}

#[test]
fn a_batch_larger_than_memory_would_hold_is_refused() {
    let engine = open("dense");
    let mut features = Features::new(usize::MAX / 16 + 1);
    let error = engine.encode_features(Side::Query, &features, &mut []).unwrap_err();
    assert!(error.to_string().starts_with("the output slice has 0 values"), "{error}");
    features.set_rows(Modality::User, vec![0, 1, usize::MAX / 16], Values::Ids(vec![0; 3])).unwrap();
    let error = engine.search_features(&catalogue(&engine), &features, 1).unwrap_err();
    assert_eq!(error.to_string(), "query 2: nothing to encode: it has none of text, user, behaviour");
}
