//! `mercer search`: what is printed, and that it is the same whichever way it is asked for.

use std::collections::HashMap;
use std::io::Read;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{MODEL, PRODUCTS, Shop, hits, ids, mercer};

/// A behaviour vector of the demo model's length.
fn behaviour() -> String {
    let config = std::fs::read_to_string(format!("{MODEL}/config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    let length = config["inputs"]["behaviour"]["length"].as_u64().unwrap();
    let values: Vec<String> = (0..length).map(|at| if at % 7 == 0 { "1.25" } else { "0" }.into()).collect();
    format!("[{}]", values.join(", "))
}

fn photo() -> String {
    format!("{MODEL}/photos/001.png")
}

#[test]
fn every_combination_of_modalities() {
    let shop = Shop::new();
    let (photo, behaviour) = (photo(), behaviour());
    let file = format!("@{}", shop.write("behaviour.json", &behaviour));
    let lines: HashMap<i64, Value> = shop
        .lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .map(|line: Value| (line["id"].as_i64().unwrap(), line))
        .collect();
    let cases: [(&[&str], &[&str]); 7] = [
        (&["黑色羽绒服"], &["text"]),
        (&["--image", &photo], &["image"]),
        (&["--user", "7"], &["user"]),
        (&["--behaviour", &behaviour], &["behaviour"]),
        (&["--behaviour", &file, "--user", "7"], &["user", "behaviour"]),
        (&["black jacket", "--image", &photo], &["text", "image"]),
        (
            &["红色", "--image", &photo, "--user", "3", "--behaviour", &behaviour],
            &["text", "image", "user", "behaviour"],
        ),
    ];
    for (query, modalities) in cases {
        let answer = shop.run("search", &[query, &["--json"]].concat()).json();
        let hits = hits(&answer);
        assert_eq!(hits.len(), 10, "{query:?}");
        for (at, hit) in hits.iter().enumerate() {
            assert_eq!(hit["rank"], at + 1);
            let id = hit["id"].as_i64().unwrap();
            assert_eq!(hit["item"], lines[&id], "{query:?}");
            let fields = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
            assert_eq!(fields(&hit["item"]), fields(&lines[&id]), "the order of the fields");
            assert_eq!(fields(&hit["parts"]), modalities, "{query:?}");
            let parts: f64 =
                hit["parts"].as_object().unwrap().values().map(|part| part.as_f64().unwrap()).sum();
            let score = hit["score"].as_f64().unwrap();
            assert!((parts - score).abs() <= 1e-5, "{query:?} hit {at}: parts {parts}, score {score}");
        }
        for pair in hits.windows(2) {
            let key = |hit: &Value| (hit["score"].as_f64().unwrap(), hit["id"].as_i64().unwrap());
            let ((high, first), (low, second)) = (key(&pair[0]), key(&pair[1]));
            assert!(
                high > low || (high == low && first < second),
                "{query:?}: {high} {first}, {low} {second}"
            );
        }
    }
}

#[test]
fn the_default_is_the_demo_model_and_its_catalogue() {
    let stdout = mercer(["search", "黑色羽绒服"]).ok();
    let mut lines = stdout.lines();
    assert_eq!(
        lines.next().unwrap().split_whitespace().collect::<Vec<_>>(),
        ["rank", "score", "id", "title", "text"]
    );
    assert_eq!(lines.count(), 10);
}

#[test]
fn the_table_says_what_the_json_says() {
    let shop = Shop::new();
    let photo = photo();
    let query = ["black jacket", "--image", &photo, "--top", "4"];
    let table = shop.run("search", &query).ok();
    assert!(!table.contains('\u{1b}'), "{table:?}");
    let answer = shop.run("search", &[&query[..], &["--json"]].concat()).json();
    let mut lines = table.lines();
    let header: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(header, ["rank", "score", "id", "title", "text", "image"]);
    let rows: Vec<&str> = lines.collect();
    assert_eq!(rows.len(), 4);
    for (row, hit) in rows.iter().zip(hits(&answer)) {
        let cells: Vec<&str> = row.split_whitespace().collect();
        let four = |value: &Value| format!("{:.4}", value.as_f64().unwrap());
        assert_eq!(cells[..3], [hit["rank"].to_string(), four(&hit["score"]), hit["id"].to_string()]);
        assert!(row.contains(hit["item"]["title"].as_str().unwrap()), "{row}");
        assert_eq!(cells[cells.len() - 2..], [four(&hit["parts"]["text"]), four(&hit["parts"]["image"])]);
    }
}

#[test]
fn explain_adds_shares_and_the_certificate() {
    let shop = Shop::new();
    let table = shop.run("search", &["black jacket", "--user", "3", "--top", "2", "--explain"]).ok();
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].ends_with("user  shares"), "{table}");
    let last = lines.last().unwrap();
    assert!(last.starts_with(&format!("exact: {PRODUCTS} rows scanned, ")), "{table}");
    assert!(last.contains("on cpu"), "{table}");
}

#[test]
fn top_is_a_prefix_and_at_most_the_catalogue() {
    let shop = Shop::new();
    let all = shop.run("search", &["lamp", "--json", "--top", "500"]).json();
    assert_eq!(hits(&all).len(), PRODUCTS);
    let three = shop.run("search", &["lamp", "--json", "--top", "3"]).json();
    assert_eq!(hits(&three), &hits(&all)[..3]);
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let shop = Shop::new();
    let photo = photo();
    let query = ["lamp", "--image", &photo, "--user", "5", "--rerank", "--json", "--threads"];
    let one = shop.run("search", &[&query[..], &["1"]].concat()).ok();
    assert_eq!(shop.run("search", &[&query[..], &["3"]].concat()).ok(), one);
}

#[test]
fn rerank_orders_the_best_candidates_by_the_ranker() {
    let shop = Shop::new();
    let query = ["lamp", "--user", "5", "--json"];
    let plain = shop.run("search", &query).json();
    let ranked = shop.run("search", &[&query[..], &["--rerank=10"]].concat()).json();
    let (mut retrieved, mut reordered) = (ids(&plain), ids(&ranked));
    let scores: Vec<f64> = hits(&ranked).iter().map(|hit| hit["rank_score"].as_f64().unwrap()).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    assert!(scores.iter().all(|score| (0.0..=1.0).contains(score)), "{scores:?}");
    for hit in hits(&ranked) {
        let same = hits(&plain).iter().find(|plain| plain["id"] == hit["id"]).unwrap();
        assert_eq!((&hit["score"], &hit["parts"]), (&same["score"], &same["parts"]));
    }
    retrieved.sort_unstable();
    reordered.sort_unstable();
    assert_eq!(reordered, retrieved);
    let table = shop.run("search", &["lamp", "--user", "5", "--rerank", "--top", "2"]).ok();
    let header: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(header, ["rank", "ranker", "score", "id", "title", "text", "user"]);
}

#[test]
fn a_photo_is_found_from_the_current_folder() {
    let shop = Shop::new();
    std::fs::copy(photo(), shop.path("mine.png")).unwrap();
    let model = std::fs::canonicalize(MODEL).unwrap();
    let output = assert_cmd::Command::new(env!("CARGO_BIN_EXE_mercer"))
        .current_dir(shop.folder.path())
        .args(["search", "--image", "mine.png", "--catalogue", "catalogue.jsonl", "--json", "--model"])
        .arg(&model)
        .output()
        .unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found, shop.run("search", &["--image", &photo(), "--json"]).json());
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let shop = Shop::new();
    let mut child = Command::new(env!("CARGO_BIN_EXE_mercer"))
        .args(["search", "lamp", "--catalogue", &shop.path("catalogue.jsonl")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take()); // before the first byte is written
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert!(child.wait().unwrap().success(), "{stderr}");
    assert!(!stderr.contains("panic") && !stderr.contains("error"), "{stderr}");
}

#[test]
fn encoding_on_the_fly_says_how_to_save_it() {
    let shop = Shop::new();
    let run = shop.run("search", &["lamp"]);
    assert!(run.stderr.starts_with(&format!("hint: encoded {PRODUCTS} products in ")), "{}", run.stderr);
    assert!(run.stderr.contains("`mercer index`"), "{}", run.stderr);
    assert_eq!(run.stderr.lines().count(), 1);
}
