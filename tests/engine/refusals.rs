//! Every way a call can be wrong.

use mercer::catalogue::store::RowFeatures;
use mercer::engine::Side;
use mercer::input::{Bags, Features, Modality, Values};
use mercer::{Behaviour, Catalogue, Device, Engine, ErrorKind, Hit, Metric, Request};

use super::common::{self, Golden};
use super::{catalogue, copy, edit_config, open, options, request};

on_each_device! {
    calls_that_cannot_be_answered_are_refused_with_their_row,
    ready_made_tensors_of_another_form_are_refused,
    tensors_that_cannot_be_answered_are_refused_with_their_row,
    a_vector_without_direction_is_refused,
    a_vector_that_is_not_finite_is_refused,
    a_query_that_cannot_be_scored_is_refused,
    weights_for_a_pooling_without_weights_name_their_row,
    of_several_parts_the_first_that_is_wrong_is_told,
    a_batch_larger_than_memory_would_hold_is_refused,
}

fn calls_that_cannot_be_answered_are_refused_with_their_row(device: Device) {
    let engine = open(device, "dense");
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
    let error = open(device, "bags").explain(&open_catalogue_13(), &user, &hits).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the query head is not one linear layer: a score does not split into parts"
    );
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

fn open_catalogue_13() -> Catalogue {
    Catalogue::new(Metric::InnerProduct, 13, vec![1], vec![1.0; 13]).unwrap()
}

fn ready_made_tensors_of_another_form_are_refused(device: Device) {
    let engine = open(device, "bags");
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

fn tensors_that_cannot_be_answered_are_refused_with_their_row(device: Device) {
    let engine = open(device, "dense");
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

fn a_vector_without_direction_is_refused(device: Device) {
    // An all-padding bag encodes to the bias; without other modalities and bias there is nothing to normalise.
    let folder = copy("dense");
    edit_config(&folder, |config| config["encoders"]["item"]["towers"][0]["padding_id"] = 7.into());
    let engine = Engine::open(folder.path(), options(device)).unwrap();
    let error =
        engine.encode_items(&[request(Some(&[1]), None, None), request(Some(&[7]), None, None)]).unwrap_err();
    assert_eq!(error.to_string(), "item 1: it encodes to a vector of zeros, which cannot be normalised");
}

/// The `dense` model with row 9 of the text table, which no product has, replaced by a value.
fn with_text_row_9(value: f32) -> tempfile::TempDir {
    let folder = copy("dense");
    let mut tensors = Golden::open("tests/golden/model/dense/model.safetensors").tensors();
    let (shape, data) = tensors.get_mut("text.weight").unwrap();
    data[9 * shape[1]..10 * shape[1]].fill(value);
    common::write_safetensors(&folder.path().join("model.safetensors"), &tensors);
    folder
}

fn a_vector_that_is_not_finite_is_refused(device: Device) {
    for value in [f32::NAN, f32::INFINITY] {
        let engine = Engine::open(with_text_row_9(value).path(), options(device)).unwrap();
        let mut many = vec![request(Some(&[1]), None, None); 300];
        many[299] = request(Some(&[9]), None, None);
        let error = engine.encode_items(&many).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("item 299: it encodes to a vector with "), "{text}");
        assert!(text.ends_with(" at position 0, which cannot be normalised"), "{text}");
    }
}

/// An encoder that does not normalise leaves the refusal to the search, which names the row and the value.
fn a_query_that_cannot_be_scored_is_refused(device: Device) {
    for (metric, normalize) in [(Metric::Cosine, "l2"), (Metric::InnerProduct, "none")] {
        let open = |value: f32| {
            let folder = with_text_row_9(value);
            edit_config(&folder, |config| {
                let encoders = &mut config["encoders"];
                encoders["item"]["normalize"] = normalize.into();
                let query = &mut encoders["query"];
                query["normalize"] = "none".into();
                query["towers"] = serde_json::json!([query["towers"][0]]);
                query["head"] = serde_json::json!([{"weight": "item_head.weight"}]);
                config["ignore"] = serde_json::json!(["query_head.", "user."]);
            });
            Engine::open(folder.path(), options(device)).unwrap()
        };
        let mut many = vec![request(Some(&[1]), None, None); 300];
        many[299] = request(Some(&[9]), None, None);
        let message = |value: f32| {
            let engine = open(value);
            assert_eq!(engine.metric(), metric);
            engine.encode_queries(&many).unwrap(); // it is no use, but it is what the model says
            engine.search(&catalogue(&engine), &many, 1).unwrap_err().to_string()
        };
        assert_eq!(message(0.0), "query 299 is all zeros");
        assert_eq!(message(f32::NAN), "query 299 has NaN at position 0");
        let engine = open(1e25);
        let long = engine.search(&catalogue(&engine), &many, 1);
        match metric {
            Metric::Cosine => assert_eq!(long.unwrap().len(), 300),
            Metric::InnerProduct => {
                let error = long.unwrap_err().to_string();
                assert!(error.starts_with("query 299 has length "), "{error}");
            }
        }
    }
}

fn weights_for_a_pooling_without_weights_name_their_row(device: Device) {
    let folder = copy("bags");
    edit_config(&folder, |config| {
        config["encoders"]["query"]["towers"][4]["pooling"] = "mean".into();
        config["ranker"]["query_towers"][1]["pooling"] = "mean".into();
    });
    let engine = Engine::open(folder.path(), options(device)).unwrap();
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

/// Parts are prepared ahead of those that run.
fn of_several_parts_the_first_that_is_wrong_is_told(device: Device) {
    let engine = open(device, "dense");
    let mut requests = vec![request(None, Some(1), None); 300];
    requests[299] = request(None, None, Some(&[1.0]));
    let unreadable = "query 299: behaviour of 1 values, the model reads 12";
    assert_eq!(engine.encode_queries(&requests).unwrap_err().to_string(), unreadable);
    for (row, id) in [(250, 77), (10, 99)] {
        requests[row] = request(None, Some(id), None);
        let unknown = format!("query {row}: user id {id} is not in the table of 6 rows");
        assert_eq!(engine.encode_queries(&requests).unwrap_err().to_string(), unknown);
    }
    requests[10] = request(None, None, None);
    let error = engine.encode_queries(&requests).unwrap_err();
    assert_eq!(error.to_string(), "query 10: nothing to encode: it has none of text, user, behaviour");
}

fn a_batch_larger_than_memory_would_hold_is_refused(device: Device) {
    let engine = open(device, "dense");
    let mut features = Features::new(usize::MAX / 16 + 1);
    let error = engine.encode_features(Side::Query, &features, &mut []).unwrap_err();
    assert!(error.to_string().starts_with("the output slice has 0 values"), "{error}");
    features.set_rows(Modality::User, vec![0, 1, usize::MAX / 16], Values::Ids(vec![0; 3])).unwrap();
    let error = engine.search_features(&catalogue(&engine), &features, 1).unwrap_err();
    assert_eq!(error.to_string(), "query 2: nothing to encode: it has none of text, user, behaviour");
}
