//! JSON-lines files, honest and lying.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use mercer::ErrorKind;
use mercer::input::{
    Behaviour, Image, InputError, MAX_LINE_BYTES, Record, Records, check_unique_ids, read_records,
};
use mercer::model::{BehaviourInput, Inputs};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

fn dense() -> Inputs {
    Inputs { behaviour: Some(BehaviourInput { length: Some(2), max_items: None }), ..Inputs::default() }
}

fn items() -> Inputs {
    Inputs { behaviour: Some(BehaviourInput { length: None, max_items: Some(9) }), ..Inputs::default() }
}

/// Reads `content` from a file `items.jsonl`; gives its folder too.
fn read(content: impl AsRef<[u8]>, inputs: &Inputs) -> (PathBuf, Result<Vec<Record>, InputError>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("items.jsonl");
    std::fs::write(&path, content).unwrap();
    (folder.path().to_owned(), read_records(&path, inputs))
}

fn records(content: impl AsRef<[u8]>) -> Vec<Record> {
    read(content, &dense()).1.unwrap()
}

/// The refusal of `content` after the file's name and a colon.
fn refusal_with(content: impl AsRef<[u8]>, inputs: &Inputs) -> String {
    let (folder, result) = read(content, inputs);
    let error = result.expect_err("a lying file passed");
    assert_eq!(error.kind(), ErrorKind::Caller);
    assert!(std::error::Error::source(&error).is_some());
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    let file = format!("{}:", folder.join("items.jsonl").display());
    text.strip_prefix(&file).unwrap_or_else(|| panic!("{text}")).to_owned()
}

fn refusal(content: impl AsRef<[u8]>) -> String {
    refusal_with(content, &dense())
}

#[test]
fn every_field_is_read_and_the_line_is_kept() {
    let line = r#"{"title": "包", "id": 7, "text": "黑色", "image": "a/b.png", "user": 3, "behaviour": [1, 0.5], "price": 9.5}"#;
    let (folder, result) = read(line, &dense());
    let [record] = &result.unwrap()[..] else { panic!() };
    assert_eq!((record.line, record.id), (1, Some(7)));
    assert_eq!(record.request.text.as_deref(), Some("黑色"));
    assert_eq!(record.request.image, Some(Image::Path(folder.join("a/b.png"))));
    assert_eq!(record.request.user, Some(3));
    assert_eq!(record.request.behaviour, Some(Behaviour::Dense(vec![1.0, 0.5])));
    let names: Vec<&String> = record.json.keys().collect();
    assert_eq!(names, ["title", "id", "text", "image", "user", "behaviour", "price"]);
    assert_eq!(record.json["price"], 9.5);
}

#[test]
fn null_is_absent() {
    let [with_null, empty] =
        &records("{\"id\":null,\"text\":null,\"image\":null,\"user\":null,\"behaviour\":null}\n{}\n")[..]
    else {
        panic!()
    };
    assert_eq!(with_null.request, empty.request);
    assert_eq!((with_null.id, empty.id), (None, None));
    assert!(with_null.json.contains_key("text"));
}

#[test]
fn behaviour_takes_the_models_form() {
    let read = |line: &str, inputs: &Inputs| read(line, inputs).1.unwrap()[0].request.behaviour.clone();
    let bare = r#"{"behaviour": [4, 2]}"#;
    let unweighted = Some(Behaviour::Items { ids: vec![4, 2], weights: None });
    assert_eq!(read(bare, &dense()), Some(Behaviour::Dense(vec![4.0, 2.0])));
    assert_eq!(read(bare, &items()), unweighted);
    assert_eq!(read(r#"{"behaviour": {"items": [4, 2]}}"#, &dense()), unweighted);
    assert_eq!(
        read(r#"{"behaviour": {"values": [4, 2]}}"#, &items()),
        Some(Behaviour::Dense(vec![4.0, 2.0]))
    );
    assert_eq!(
        read(r#"{"behaviour": {"weights": [0.5, 2], "items": [4, 2]}}"#, &items()),
        Some(Behaviour::Items { ids: vec![4, 2], weights: Some(vec![0.5, 2.0]) })
    );
}

#[test]
fn blank_lines_marks_and_carriage_returns_are_tolerated() {
    assert_eq!(records(""), []);
    assert_eq!(records("\n\r\n  \t\n"), []);
    assert_eq!(records("\u{feff}"), []);
    let lines: Vec<(usize, Option<i64>)> = records("\u{feff}{\"id\":1}\r\n\r\n \n{\"id\":2}\n{\"id\":3}")
        .iter()
        .map(|record| (record.line, record.id))
        .collect();
    assert_eq!(lines, [(1, Some(1)), (4, Some(2)), (5, Some(3))]);
}

#[test]
fn lines_that_are_no_objects_are_refused() {
    assert_eq!(refusal("{}\nhello"), "2: not JSON at column 1: expected value");
    assert_eq!(refusal("{\"id\": 1"), "1: not JSON at column 8: EOF while parsing an object");
    assert_eq!(refusal("{\"id\": 1} {}"), "1: not JSON at column 11: trailing characters");
    assert_eq!(refusal("{\"id\": NaN}"), "1: not JSON at column 8: expected value");
    assert_eq!(refusal("{\"x\": 1e999}"), "1: not JSON at column 11: number out of range");
    assert_eq!(refusal("[1, 2]"), "1: expected a JSON object, found an array of 2");
    assert_eq!(refusal("\"text\""), "1: expected a JSON object, found the string \"text\"");
    assert_eq!(refusal("null"), "1: expected a JSON object, found null");
    // A byte order mark counts only before the first line.
    assert_eq!(refusal("{}\n\u{feff}{}"), "2: not JSON at column 1: expected value");
    let deep = "[".repeat(10_000);
    assert!(refusal(format!("{{\"x\": {deep}")).contains("recursion limit exceeded"));
}

#[test]
fn a_field_given_twice_is_refused() {
    assert_eq!(refusal(r#"{"id": 1, "id": 1}"#), r#"1: not JSON at column 14: field "id" is given twice"#);
    assert!(
        refusal(r#"{"behaviour": {"items": [1], "items": [2]}}"#).contains(r#"field "items" is given twice"#)
    );
}

#[test]
fn wrong_bytes_are_found() {
    assert_eq!(refusal(b"{}\n{\"text\": \"\xff\"}"), "2: not UTF-8 at byte 11");
    // UTF-16.
    assert_eq!(refusal(b"\xff\xfe{\0}\0"), "1: not UTF-8 at byte 1");
    // A PNG.
    assert_eq!(refusal(b"\x89PNG\r\n"), "1: not UTF-8 at byte 1");
}

#[test]
fn long_lines_are_refused_without_reading_them_whole() {
    let most = usize::try_from(MAX_LINE_BYTES).unwrap();
    let line = |bytes: usize| format!("{{\"x\":\"{}\"}}", "a".repeat(bytes - 8));
    assert_eq!(records(format!("\u{feff}{}\r\n{{}}", line(most))).len(), 2);
    assert_eq!(refusal(format!("{{}}\n{}", line(most + 1))), "2: longer than 1048576 bytes");
    assert_eq!(refusal(" ".repeat(3 * most)), "1: longer than 1048576 bytes");
}

#[test]
fn wrong_values_of_known_fields_are_refused() {
    for (line, expected) in [
        (r#"{"id": -1}"#, "field id: expected an integer from 0 to 9223372036854775807, found -1"),
        (r#"{"id": 1.0}"#, "field id: expected an integer from 0 to 9223372036854775807, found 1.0"),
        (
            r#"{"id": "7"}"#,
            "field id: expected an integer from 0 to 9223372036854775807, found the string \"7\"",
        ),
        (
            r#"{"id": 9223372036854775808}"#,
            "field id: expected an integer from 0 to 9223372036854775807, found 9223372036854775808",
        ),
        (r#"{"text": 5}"#, "field text: expected a string, found 5"),
        (r#"{"text": ["a"]}"#, "field text: expected a string, found an array of 1"),
        (r#"{"image": true}"#, "field image: expected a path, found true"),
        (r#"{"image": ""}"#, "field image: expected a path, found the string \"\""),
        (r#"{"user": 1.5}"#, "field user: expected an integer, found 1.5"),
        (r#"{"user": {}}"#, "field user: expected an integer, found an object"),
        (
            r#"{"behaviour": [1, "2"]}"#,
            "field behaviour[1]: expected a number that f32 holds, found the string \"2\"",
        ),
        (r#"{"behaviour": [1e39]}"#, "field behaviour[0]: expected a number that f32 holds, found 1e+39"),
        (r#"{"behaviour": {"values": 3}}"#, "field behaviour.values: expected an array, found 3"),
        (
            r#"{"behaviour": {"items": [1, null]}}"#,
            "field behaviour.items[1]: expected an integer, found null",
        ),
        (
            r#"{"behaviour": {"items": [1], "weights": ["x"]}}"#,
            "field behaviour.weights[0]: expected a number that f32 holds, found the string \"x\"",
        ),
        (
            r#"{"behaviour": {"items": [1], "weight": [1]}}"#,
            "field behaviour: expected an array, {\"values\": [...]} or {\"items\": [...], \"weights\": [...]}, \
             found an object with fields [\"items\", \"weight\"]",
        ),
        (
            r#"{"behaviour": 3}"#,
            "field behaviour: expected an array, {\"values\": [...]} or {\"items\": [...], \"weights\": [...]}, found 3",
        ),
    ] {
        assert_eq!(refusal(format!("{{}}\n{line}\n{{}}")), format!("2: {expected}"));
    }
    assert_eq!(
        refusal_with(r#"{"behaviour": [1, 2.5]}"#, &items()),
        "1: field behaviour[1]: expected an integer, found 2.5"
    );
    let long = format!(r#"{{"user": "{}"}}"#, "色".repeat(1000));
    assert_eq!(
        refusal(long),
        format!("1: field user: expected an integer, found the string \"{}\"…", "色".repeat(40))
    );
}

#[test]
fn missing_files_and_folders_are_errors() {
    let error = read_records(Path::new("no/such.jsonl"), &dense()).unwrap_err();
    assert!(error.to_string().starts_with("no/such.jsonl: No such file"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Caller);
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(read_records(folder.path(), &dense()).unwrap_err().kind(), ErrorKind::Io);
}

#[test]
fn the_iterator_ends_after_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("items.jsonl");
    std::fs::write(&path, "{\"id\":1}\nhello\n{\"id\":2}\n").unwrap();
    let mut records = Records::open(&path, &dense()).unwrap();
    assert_eq!(records.next().unwrap().unwrap().id, Some(1));
    assert!(records.next().unwrap().is_err());
    assert!(records.next().is_none());
}

#[test]
fn duplicate_ids_are_refused_with_both_lines() {
    let error =
        check_unique_ids(&records("{\"id\":4}\n{}\n{\"id\":5}\n\n{}\n{\"id\":4}\n{\"id\":5}")).unwrap_err();
    assert_eq!(error.to_string(), "id 4 on line 6 is already on line 1");
    assert_eq!(error.kind(), ErrorKind::Caller);
    check_unique_ids(&records("{\"id\":4}\n{}\n{}\n{\"id\":0}")).unwrap();
}

fn seeded(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(7),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(seeded(256))]

    #[test]
    fn any_bytes_are_read_or_refused(content in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(content, &items());
    }

    #[test]
    fn what_is_written_is_read(
        id in prop::option::of(0..=i64::MAX), text in prop::option::of(any::<String>()), user in prop::option::of(any::<i64>())
    ) {
        let line = serde_json::json!({ "id": id, "text": text, "user": user }).to_string();
        let [record] = &records(line)[..] else { panic!() };
        prop_assert_eq!(record.id, id);
        prop_assert_eq!(&record.request.text, &text);
        prop_assert_eq!(record.request.user, user);
    }
}
