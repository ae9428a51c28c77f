//! `mercer index`, and searches in what it saved.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::{MODEL, PRODUCTS, Shop, mercer};

/// Every file of a folder with its bytes.
fn contents(folder: &str) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
}

#[test]
fn a_search_in_the_index_is_the_search_in_the_catalogue() {
    let shop = Shop::new();
    let index = shop.path("index");
    let said = shop.run("index", &["--output", &index]).ok();
    assert!(said.contains(&format!("{PRODUCTS} products")), "{said}");
    for query in
        [&["black jacket"][..], &["--user", "7", "--rerank=20"], &["红色", "--user", "1", "--top", "60"]]
    {
        let encoded = shop.run("search", &[query, &["--json"]].concat()).ok();
        let opened = mercer([&["search", "--index", &index, "--json"], query].concat());
        assert_eq!(opened.stderr, "");
        assert_eq!(opened.ok(), encoded, "{query:?}");
    }
}

#[test]
fn an_index_is_replaced_by_a_new_one() {
    let shop = Shop::new();
    let index = shop.index();
    shop.write("catalogue.jsonl", &shop.lines[..5].join("\n"));
    shop.index();
    let answer = mercer(["search", "lamp", "--index", &index, "--json"]).json();
    assert_eq!(super::hits(&answer).len(), 5);
}

#[test]
fn an_index_of_another_model_is_refused() {
    let shop = Shop::new();
    let index = shop.index();
    let model = shop.model(|_| {});
    let config = fs::read_to_string(model.join("config.json")).unwrap();
    fs::write(model.join("config.json"), config + "\n").unwrap();
    let run = mercer(["search", "lamp", "--index", &index, "--model", model.to_str().unwrap()]);
    assert_eq!(run.code, Some(1));
    assert!(
        run.stderr.starts_with(&format!("error: {index}: the index was made by model ")),
        "{}",
        run.stderr
    );
    assert!(run.stderr.ends_with("hint: make the index again with `mercer index`\n"), "{}", run.stderr);
    assert_eq!(run.stderr.lines().count(), 2);
}

#[test]
fn a_truncated_file_of_an_index_is_refused_by_name() {
    let shop = Shop::new();
    let index = shop.index();
    for (name, bytes) in contents(&index) {
        let path = Path::new(&index).join(&name);
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let run = mercer(["search", "lamp", "--index", &index]);
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{name}");
        assert!(run.stderr.starts_with(&format!("error: {}: ", path.display())), "{}", run.stderr);
        assert!(run.stderr.ends_with("hint: make the index again with `mercer index`\n"), "{}", run.stderr);
        fs::write(&path, bytes).unwrap();
    }
    mercer(["search", "lamp", "--index", &index]).ok();
}

#[test]
fn a_folder_with_other_files_is_not_written_to() {
    let shop = Shop::new();
    let folder = shop.path("photos");
    fs::create_dir(&folder).unwrap();
    fs::write(Path::new(&folder).join("cat.png"), b"mine").unwrap();
    shop.run("index", &["--output", &folder]).fails(
        1,
        &format!("{folder}: the folder holds cat.png and no catalogue; name an empty or a new folder"),
        None,
    );
    assert_eq!(contents(&folder), BTreeMap::from([("cat.png".into(), b"mine".to_vec())]));
}

#[test]
fn a_broken_image_leaves_no_index() {
    let shop = Shop::new();
    let line = format!(r#"{{"id": 1, "image": "{}"}}"#, shop.write("broken.png", "no image"));
    shop.write("catalogue.jsonl", &(shop.lines.join("\n") + "\n" + &line));
    let index = shop.path("index");
    let run = shop.run("index", &["--output", &index]);
    assert_eq!(run.code, Some(1));
    assert!(!Path::new(&index).exists());
}

/// Starts indexing a catalogue that takes a long time, and presses Ctrl-C.
#[cfg(unix)]
fn interrupt(shop: &Shop, index: &str) -> super::Run {
    use std::process::{Command, Stdio};
    use std::time::Duration;

    const COPIES: usize = 1000;
    let mut catalogue = String::new();
    for copy in 0..COPIES {
        for (at, line) in shop.lines.iter().enumerate() {
            let mut product: serde_json::Value = serde_json::from_str(line).unwrap();
            product["id"] = (copy * PRODUCTS + at).into();
            catalogue += &format!("{product}\n");
        }
    }
    let catalogue = shop.write("long.jsonl", &catalogue);
    let child = Command::new(env!("CARGO_BIN_EXE_mercer"))
        .args(["index", "--threads", "1", "--model", MODEL, "--catalogue", &catalogue, "--output", index])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_secs(2)); // the handler is set at once, the work takes many times longer
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    super::Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_no_half_written_index() {
    let shop = Shop::new();
    let index = shop.path("new");
    interrupt(&shop, &index).fails(130, "interrupted; nothing was written", None);
    assert!(!Path::new(&index).exists());
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_the_old_index_as_it_was() {
    let shop = Shop::new();
    let index = shop.index();
    let before = contents(&index);
    interrupt(&shop, &index).fails(130, "interrupted; nothing was written", None);
    assert_eq!(contents(&index), before);
}
