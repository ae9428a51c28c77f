//! `mercer encode`, and `mercer devices`.

use mercer::npy::read_f32;
use mercer::{Engine, Image, Options, Request};

use super::{MODEL, PRODUCTS, Shop, mercer};

#[test]
fn rows_are_the_librarys_vectors_in_the_files_order() {
    let shop = Shop::new();
    let input =
        shop.write("queries.jsonl", "{\"text\": \"黑色羽绒服\"}\n\n{\"user\": 3, \"text\": \"lamp\"}\n");
    let output = shop.path("queries.npy");
    let said = mercer(["encode", "--encoder", "query", "--input", &input, "--output", &output]).ok();
    let found = read_f32(&output).unwrap();
    let engine = Engine::open(MODEL, Options::default()).unwrap();
    let requests = [
        Request { text: Some("黑色羽绒服".into()), ..Request::default() },
        Request { text: Some("lamp".into()), user: Some(3), ..Request::default() },
    ];
    assert_eq!((found.rows, found.cols), (2, engine.dim()));
    assert_eq!(found.data, engine.encode_queries(&requests).unwrap());
    assert_eq!(said, format!("{output}: 2 rows of {} float32\n", engine.dim()));
}

#[test]
fn items_in_chunks_are_items_one_by_one() {
    let shop = Shop::new();
    let (input, output) = (shop.path("catalogue.jsonl"), shop.path("items.npy"));
    mercer(["encode", "--encoder", "item", "--input", &input, "--output", &output]).ok();
    let found = read_f32(&output).unwrap();
    let engine = Engine::open(MODEL, Options::default()).unwrap();
    assert_eq!((found.rows, found.cols), (PRODUCTS, engine.dim()));
    for at in [0, PRODUCTS - 1] {
        let line: serde_json::Value = serde_json::from_str(&shop.lines[at]).unwrap();
        let text = |name: &str| line[name].as_str().unwrap().to_owned();
        let image = Some(Image::Path(text("image").into()));
        let item = Request { text: Some(text("text")), image, ..Request::default() };
        let expected = engine.encode_items(&[item]).unwrap();
        assert_eq!(found.data[at * engine.dim()..][..engine.dim()], expected, "row {at}");
    }
}

#[test]
fn devices_say_what_runs_and_why_not() {
    let stdout = mercer(["devices"]).ok();
    let lines: Vec<&str> = stdout.lines().collect();
    assert!(
        lines[1].starts_with("cpu") && lines[1].contains("portable") && lines[1].contains("threads"),
        "{stdout}"
    );
    let (runs, why) = match (cfg!(feature = "emulate"), cfg!(feature = "cuda")) {
        (true, _) => ("cuda:0  yes", "emulated"),
        (false, true) => ("cuda:0", ""), // what this machine has
        (false, false) => ("cuda:0  no", "this build has no CUDA support"),
    };
    assert!(lines[2].starts_with(runs) && lines[2].contains(why), "{stdout}");
}

/// The same products on a card as on the processor; a card that is not there is an error, not another device.
#[test]
fn a_device_is_taken_as_asked() {
    let shop = Shop::new();
    let search = |device: &str| {
        mercer(["search", "red dress", "--catalogue", &shop.path("catalogue.jsonl"), "--device", device])
    };
    let refused = search("cuda:9");
    assert_eq!(refused.code, Some(1));
    let why = if cfg!(feature = "cuda") { "no CUDA d" } else { "this build has no CUDA support" };
    assert!(refused.stderr.contains(why), "{}", refused.stderr);
    if cfg!(feature = "emulate") {
        assert_eq!(search("cuda").ok(), search("cpu").ok());
    }
}
