//! `mercer eval` against what `mercer search` answers.

use serde_json::{Value, json};

use super::{Shop, hits, ids};

fn close(found: &Value, expected: f64) {
    let found = found.as_f64().unwrap();
    assert!((found - expected).abs() <= 1e-9, "found {found}, expected {expected}");
}

/// Writes queries and evaluates them.
fn eval(shop: &Shop, queries: &[Value], arguments: &[&str]) -> super::Run {
    let lines: String = queries.iter().map(|query| format!("{query}\n")).collect();
    let path = shop.write("queries.jsonl", &lines);
    shop.run("eval", &[&["--queries", &path], arguments].concat())
}

#[test]
fn measures_follow_from_the_rankings() {
    let shop = Shop::new();
    let text = ids(&shop.run("search", &["黑色羽绒服", "--json", "--top", "60"]).json());
    let user = ids(&shop.run("search", &["lamp", "--user", "4", "--json", "--top", "60"]).json());
    let queries = [
        json!({"text": "黑色羽绒服", "relevant": [text[1], text[4]]}), // ranks 2 and 5
        json!({"text": "lamp", "user": 4, "relevant": [user[0]]}),     // rank 1
        json!({"user": 4, "match": {"category": "no such category"}}), // nothing is relevant
    ];
    let found = eval(&shop, &queries, &["--json"]).json();
    assert_eq!(found["queries_without_relevant"], 1);
    assert_eq!(found["ranker"], Value::Null);
    let groups = found["retrieval"].as_object().unwrap();
    assert_eq!(groups.keys().collect::<Vec<_>>(), ["overall", "text", "text+user"]);

    let text = &groups["text"];
    assert_eq!(text["queries"], 1);
    for (name, expected) in [
        ("recall@1", 0.0),
        ("recall@10", 1.0),
        ("recall@50", 1.0),
        ("hit@1", 0.0),
        ("hit@10", 1.0),
        ("mrr", 0.5),
    ] {
        close(&text[name], expected);
    }
    let ndcg = (1.0 / 3f64.log2() + 1.0 / 6f64.log2()) / (1.0 + 1.0 / 3f64.log2());
    close(&text["ndcg@10"], ndcg);
    assert!(groups["text+user"].as_object().unwrap().values().all(|measure| measure.as_f64() == Some(1.0)));
    assert_eq!(groups["overall"]["queries"], 2);
    close(&groups["overall"]["recall@1"], 0.5);
    close(&groups["overall"]["mrr"], 0.75);
    close(&groups["overall"]["ndcg@10"], f64::midpoint(ndcg, 1.0));
}

#[test]
fn a_match_means_every_product_with_these_values() {
    let shop = Shop::new();
    let lines: Vec<Value> = shop.lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let color = &lines[0]["color"];
    let same = lines.iter().filter(|line| line["color"] == *color);
    let relevant: Vec<&Value> = same.map(|line| &line["id"]).collect();
    let by_match =
        eval(&shop, &[json!({"text": "lamp", "match": {"color": color}})], &["--json", "--ks", "3,7"]).json();
    let by_ids =
        eval(&shop, &[json!({"text": "lamp", "relevant": relevant})], &["--json", "--ks", "3,7"]).json();
    assert_eq!(by_match, by_ids);
    assert!(by_match["retrieval"]["text"]["recall@7"].is_number(), "{by_match}");
}

#[test]
fn the_ranker_is_measured_on_pairs() {
    let shop = Shop::new();
    let answer = shop.run("search", &["lamp", "--user", "4", "--rerank=60", "--top", "60", "--json"]).json();
    let (mut queries, mut pairs) = (Vec::new(), Vec::new());
    for (at, hit) in hits(&answer).iter().enumerate() {
        let label = u8::from(at % 3 == 0);
        queries.push(json!({"text": "lamp", "user": 4, "item": hit["id"], "label": label}));
        pairs.push((hit["rank_score"].as_f64().unwrap(), label == 1));
    }
    let found = eval(&shop, &queries, &["--json"]).json();
    let right = pairs.iter().filter(|(score, label)| (*score >= 0.5) == *label).count();
    assert_eq!(found["ranker"]["pairs"], 60);
    close(&found["ranker"]["accuracy"], right as f64 / 60.0);
    let (mut wins, mut all) = (0.0, 0.0);
    for (one, _) in pairs.iter().filter(|(_, label)| *label) {
        for (zero, _) in pairs.iter().filter(|(_, label)| !*label) {
            all += 1.0;
            wins += if one > zero {
                1.0
            } else if one == zero {
                0.5
            } else {
                0.0
            };
        }
    }
    close(&found["ranker"]["auc"], wins / all);
}

#[test]
fn tables_show_both() {
    let shop = Shop::new();
    let id: Value = serde_json::from_str::<Value>(&shop.lines[0]).unwrap()["id"].clone();
    let queries = [
        json!({"text": "lamp", "relevant": [id]}),
        json!({"user": 4, "item": id, "label": 1}),
        json!({"user": 5, "match": {"color": "no such color"}}),
    ];
    let text = eval(&shop, &queries, &[]).ok();
    for words in ["recall@10", "hit@1", "MRR", "NDCG@10", "overall", "left out: 1 queries", "AUC"] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn queries_that_say_nothing_are_refused_with_their_line() {
    let shop = Shop::new();
    let path = shop.path("queries.jsonl");
    let known: Value = serde_json::from_str::<Value>(&shop.lines[0]).unwrap()["id"].clone();
    let cases = [
        (json!({"text": "lamp"}), "expected one of the fields relevant, match and item"),
        (json!({"text": "lamp", "relevant": [1, 2]}), "field relevant: 1 is not the id of a product"),
        (json!({"text": "lamp", "relevant": 5}), "field relevant: expected an array of ids"),
        (json!({"text": "lamp", "match": {}}), "field match: expected an object with fields"),
        (json!({"text": "lamp", "item": known, "label": 2}), "field label: expected 0 or 1"),
        (
            json!({"match": {"color": "black"}}),
            "nothing to encode: it has none of text, image, user, behaviour",
        ),
        (json!({"user": 999_999, "relevant": [known]}), "user id 999999 is not in the table of"),
    ];
    for (query, message) in cases {
        let run = eval(&shop, &[json!({"text": "lamp", "relevant": [known]}), query], &[]);
        assert_eq!(run.code, Some(1), "{message}");
        let error = run.stderr.lines().find(|line| line.starts_with("error: ")).unwrap();
        assert!(error.starts_with(&format!("error: {path}:2: {message}")), "{error}");
    }
}
