//! What the user reads when something is wrong: one line, a hint where one helps, and the exit code.

use super::{MODEL, Shop, mercer};

#[test]
fn command_lines_that_are_not_understood() {
    let explains = |command: &str| format!("`mercer {command}--help` explains the arguments");
    let cases: [(&[&str], &str, String); 11] = [
        (&[], "no command given", "`mercer --help` lists the commands".into()),
        (
            &["search"],
            "nothing to search for",
            "give a text, --image FILE, --user ID or --behaviour JSON, or several of them".into(),
        ),
        (&["serch"], "unrecognized subcommand 'serch'", "a similar subcommand exists: 'search'".into()),
        (
            &["search", "black", "jacket"],
            "unexpected argument 'jacket' found",
            "put a text of several words in quotes".into(),
        ),
        (
            &["search", "x", "--top", "0"],
            "invalid value '0' for '--top <N>': 0 is not in 1..=65536",
            explains("search "),
        ),
        (
            &["search", "x", "--user", "me"],
            "invalid value 'me' for '--user <ID>': invalid digit found in string",
            explains("search "),
        ),
        (
            &["search", "x", "--device", "gpu"],
            "invalid value 'gpu' for '--device <DEVICE>': a device is cpu, cuda or cuda:N",
            explains("search "),
        ),
        (
            &["search", "x", "--catalogue", "a", "--index", "b"],
            "the argument '--catalogue <FILE.jsonl>' cannot be used with '--index <DIR>'",
            explains("search "),
        ),
        (
            &["index"],
            "the following required arguments were not provided: --catalogue <FILE.jsonl> --output <DIR>",
            explains("index "),
        ),
        (
            &["knn", "--metric", "l2"],
            "invalid value 'l2' for '--metric <METRIC>' [possible values: cosine, ip]",
            explains("knn "),
        ),
        (
            &["search", "--behaviour", "[1"],
            "--behaviour: not JSON: EOF while parsing a list at line 1 column 2",
            "--behaviour '[0.1, 0.2, …]', or --behaviour @FILE".into(),
        ),
    ];
    for (arguments, error, hint) in cases {
        mercer(arguments).fails(2, error, Some(&hint));
    }
}

#[test]
fn help_and_version_go_to_standard_output() {
    let help = mercer(["--help"]).ok();
    for command in ["search", "index", "encode", "knn", "eval", "inspect", "devices"] {
        assert!(help.contains(&format!("\n  {command} ")), "{help}");
        assert!(mercer([command, "--help"]).ok().contains("Usage: mercer"), "{command}");
    }
    assert_eq!(mercer(["--version"]).ok(), format!("mercer {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn folders_and_files_that_are_not_there() {
    const MODEL_HINT: &str =
        "`--model DIR` names a folder with config.json, model.safetensors and, for text, tokenizer.json";
    mercer(["search", "x", "--model", "nowhere"]).fails(
        1,
        "no model in nowhere: there is no config.json",
        Some(MODEL_HINT),
    );
    mercer(["inspect", "--model", "nowhere"]).fails(
        1,
        "no model in nowhere: there is no config.json",
        Some(MODEL_HINT),
    );
    mercer(["search", "x", "--catalogue", "nowhere.jsonl"]).fails(
        1,
        "nowhere.jsonl: No such file or directory (os error 2)",
        Some("--catalogue names a file of JSON lines"),
    );
    mercer(["search", "x", "--index", "nowhere"]).fails(
        1,
        "nowhere: no catalogue here: manifest.json is missing",
        Some("`mercer index --catalogue FILE.jsonl --output DIR` makes an index"),
    );
    mercer(["search", "--image", "nowhere.png"]).fails(
        1,
        "nowhere.png: No such file or directory (os error 2)",
        Some("a photo's path counts from the folder of the file that names it, --image from here"),
    );
    mercer(["search", "--behaviour", "@nowhere.json"]).fails(
        1,
        "nowhere.json: No such file or directory (os error 2)",
        Some("--behaviour @FILE names a JSON file"),
    );
}

#[test]
fn photos_that_cannot_be_decoded() {
    let shop = Shop::new();
    let text = shop.write("text.png", "not an image");
    let run = mercer(["search", "--image", &text]);
    assert_eq!(run.code, Some(1));
    assert!(
        run.stderr.starts_with(&format!("error: {text}: not a JPEG, PNG or WebP image: ")),
        "{}",
        run.stderr
    );
    assert!(run.stderr.ends_with("hint: images are JPEG, PNG or WebP files\n"), "{}", run.stderr);

    let half = shop.path("half.png");
    let bytes = std::fs::read(format!("{MODEL}/photos/001.png")).unwrap();
    std::fs::write(&half, &bytes[..bytes.len() / 2]).unwrap();
    let run = mercer(["search", "--image", &half]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
    assert!(run.stderr.starts_with(&format!("error: {half}: ")), "{}", run.stderr);
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
}

#[test]
fn ids_beyond_their_table() {
    let run = mercer(["search", "--user", "1000000"]);
    let users =
        run.stderr.split("table of ").nth(1).unwrap().split(' ').next().unwrap().parse::<usize>().unwrap();
    let hint = format!("ids run from 0 to {}", users - 1);
    run.fails(1, &format!("user id 1000000 is not in the table of {users} rows"), Some(&hint));
    mercer(["search", "--user", "-1"]).fails(
        1,
        &format!("user id -1 is not in the table of {users} rows"),
        Some(&hint),
    );
}

#[test]
fn catalogues_that_are_wrong_are_told_by_their_line() {
    let shop = Shop::new();
    let path = shop.path("catalogue.jsonl");
    let good = &shop.lines[0];
    let missing = shop.path("missing.png");
    let cases = [
        ("{\"id\": 2,", format!("{path}:3: not JSON at column 9: EOF while parsing a value")),
        ("[]", format!("{path}:3: expected a JSON object, found an array of 0")),
        (
            r#"{"id": "two"}"#,
            format!(
                "{path}:3: field id: expected an integer from 0 to 9223372036854775807, found the string \"two\""
            ),
        ),
        (r#"{"text": "lamp"}"#, format!("{path}:3: a product needs an id")),
        (r#"{"id": 2, "title": "lamp"}"#, format!("{path}:3: nothing to encode: it has none of text, image")),
        (
            r#"{"id": 2, "user": 3}"#,
            format!("{path}:3: it has user, but this side of the model reads only text, image"),
        ),
        (
            r#"{"id": 2, "image": "missing.png"}"#,
            format!("{path}:3: {missing}: No such file or directory (os error 2)"),
        ),
    ];
    for (line, message) in cases {
        shop.write("catalogue.jsonl", &format!("{good}\n\n{line}\n"));
        let run = shop.run("search", &["lamp"]);
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
        assert_eq!(run.stderr.lines().next().unwrap(), format!("error: {message}"));
    }
    let id = &serde_json::from_str::<serde_json::Value>(good).unwrap()["id"];
    shop.write("catalogue.jsonl", &format!("{good}\n\n{good}\n"));
    shop.run("search", &["lamp"]).fails(1, &format!("{path}: id {id} on line 3 is already on line 1"), None);
}

#[test]
fn a_row_far_into_a_catalogue_is_told_by_its_own_line() {
    let shop = Shop::new();
    let path = shop.path("catalogue.jsonl");
    let lines: String = (0..150).map(|id| format!("{{\"id\": {id}, \"text\": \"lamp\"}}\n")).collect();
    shop.write("catalogue.jsonl", &(lines + "{\"id\": 150}\n"));
    shop.run("search", &["lamp"]).fails(
        1,
        &format!("{path}:151: nothing to encode: it has none of text, image"),
        None,
    );
}

#[test]
fn the_ranker_has_nothing_to_read() {
    let shop = Shop::new();
    let run = shop.run("search", &["--image", &format!("{MODEL}/photos/001.png"), "--rerank"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
    assert!(run.stderr.contains("error: nothing to rank by: it has none of "), "{}", run.stderr);
    assert!(run.stderr.ends_with("hint: leave --rerank out\n"), "{}", run.stderr);
}
