//! Saving and opening: what comes back, what is left alone, and saves that were stopped.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mercer::catalogue::CatalogueError;
use mercer::catalogue::store::{self, Contents, Items, MANIFEST, RowFeatures};
use mercer::{Catalogue, ErrorKind, Metric};

use super::{assert_refused, bits, uniform};

pub fn contents(seed: u64, rows: usize, with_features: bool) -> Contents {
    let ids = (0..rows).map(|row| i64::try_from((row * 7 + 3) % 1009).unwrap()).collect();
    let catalogue = Catalogue::new(Metric::Cosine, 5, ids, uniform(seed, rows * 5)).unwrap();
    let items =
        Items::new((0..rows).map(|row| format!(r#"{{"id":{row},"title":"羽绒服 {seed}"}}"#))).unwrap();
    let features = with_features.then(|| RowFeatures { width: 3, data: uniform(seed, rows * 3) });
    Contents { catalogue, items, features, model: format!("model {seed}") }
}

#[track_caller]
fn assert_same(found: &Contents, expected: &Contents) {
    let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(found.catalogue.metric(), expected.catalogue.metric());
    assert_eq!(found.catalogue.dim(), expected.catalogue.dim());
    assert_eq!(found.catalogue.ids(), expected.catalogue.ids());
    assert_eq!(bits(found.catalogue.vectors()), bits(expected.catalogue.vectors()));
    assert_eq!(found.items, expected.items);
    assert_eq!(found.features, expected.features);
    assert_eq!(found.model, expected.model);
}

pub fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
}

fn write(folder: &Path, files: &BTreeMap<String, Vec<u8>>) {
    fs::create_dir_all(folder).unwrap();
    files.iter().for_each(|(name, bytes)| fs::write(folder.join(name), bytes).unwrap());
}

/// The message without the path before it.
pub fn text(error: &CatalogueError) -> String {
    error.to_string().split_once(": ").unwrap().1.to_string()
}

#[test]
fn round_trip() {
    let folder = tempfile::tempdir().unwrap();
    for (at, (rows, features)) in
        [(100, true), (100, false), (1, true), (0, false), (0, true)].iter().enumerate()
    {
        let expected = contents(1, *rows, *features);
        let path = folder.path().join(at.to_string()).join("created");
        store::save(&path, &expected).unwrap();
        let found = store::open(&path).unwrap();
        assert_same(&found, &expected);
        let query = uniform(8, 5);
        let answer = |contents: &Contents| bits(&contents.catalogue.search(&query, 30).unwrap());
        assert_eq!(answer(&found), answer(&expected));
        assert_eq!(files(&path).len(), 3);
        store::save(&path, &found).unwrap();
        assert_same(&store::open(&path).unwrap(), &expected);
    }
}

/// Lines are kept as they are, empty ones and those with a carriage return too.
#[test]
fn items() {
    let lines = ["", "{}", "a\r", "", "黑色"];
    let items = Items::new(lines).unwrap();
    assert_eq!(items.iter().collect::<Vec<_>>(), lines);
    assert_eq!((items.get(4), items.get(5), items.len(), items.is_empty()), (Some("黑色"), None, 5, false));
    assert_eq!(Items::new(["a", "b\nc"]).unwrap_err().to_string(), "item 1 has a line break");
}

#[test]
fn the_file_is_safetensors() {
    let folder = tempfile::tempdir().unwrap();
    let expected = contents(1, 10, true);
    store::save(folder.path(), &expected).unwrap();
    let files = files(folder.path());
    let (name, bytes) = files.iter().find(|(name, _)| name.ends_with(".safetensors")).unwrap();
    assert_eq!(*name, format!("vectors-{}.safetensors", blake3::hash(bytes).to_hex()));
    let tensors = safetensors::SafeTensors::deserialize(bytes).unwrap();
    let shape = |name| tensors.tensor(name).unwrap().shape().to_vec();
    assert_eq!([shape("ids"), shape("vectors"), shape("features")], [vec![10], vec![10, 5], vec![10, 3]]);
    let vectors = tensors.tensor("vectors").unwrap().data();
    assert_eq!(vectors, bytemuck::cast_slice::<f32, u8>(expected.catalogue.vectors()));
}

/// Side data that does not fit is refused before anything is written.
#[test]
fn side_data_that_does_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let good = contents(1, 4, true);
    let features = |width, values: &[f32]| Contents {
        features: Some(RowFeatures { width, data: values.to_vec() }),
        ..good.clone()
    };
    for (contents, message) in [
        (
            Contents { items: Items::new(["{}"; 3]).unwrap(), ..good.clone() },
            "items for 3 rows, the catalogue has 4",
        ),
        (features(2, &[0.0; 6]), "features for 3 rows, the catalogue has 4"),
        (features(2, &[0.0; 7]), "7 feature values in rows of width 2"),
        (features(0, &[]), "0 feature values in rows of width 0"),
        (features(1, &[0.0, 1.0, f32::NAN, 0.0]), "the features of row 2 have NaN at position 0"),
    ] {
        assert_refused(store::save(&path, &contents), message, ErrorKind::Caller);
    }
    assert!(!path.exists());
}

/// Folders that are not ours are neither opened nor written to; a file of ours does not make them so.
#[test]
fn foreign_folders() {
    let folder = tempfile::tempdir().unwrap();
    let good = contents(1, 4, false);
    let none = |error: CatalogueError| {
        assert_eq!(
            (text(&error).as_str(), error.kind()),
            ("no catalogue here: manifest.json is missing", ErrorKind::Caller)
        );
    };
    none(store::open(folder.path()).unwrap_err());
    none(store::open(folder.path().join("missing")).unwrap_err());
    for (name, bytes) in [
        ("photo.png", "x"),
        ("vectors-1.safetensors", "x"),
        ("items-of-mine.jsonl", "x"),
        (MANIFEST, "{\"name\": \"a web page\"}"),
        (MANIFEST, "not JSON"),
    ] {
        let path = folder.path().join("foreign");
        write(&path, &BTreeMap::from([(name.to_string(), bytes.into())]));
        let before = files(&path);
        let error = store::save(&path, &good).unwrap_err();
        let message = format!("the folder holds {name} and no catalogue; name an empty or a new folder");
        assert_eq!((text(&error), error.kind()), (message, ErrorKind::Caller));
        assert_eq!(files(&path), before);
        fs::remove_dir_all(&path).unwrap();
    }
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    assert_eq!(store::save(&file, &good).unwrap_err().kind(), ErrorKind::Io);
}

/// Files that the caller put beside a catalogue stay; files of earlier and of unfinished saves go.
#[test]
fn only_our_own_files_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    store::save(folder.path(), &contents(1, 4, false)).unwrap();
    for name in ["notes.txt", "vectors-1.safetensors", ".mercer-left.tmp"] {
        fs::write(folder.path().join(name), name).unwrap();
    }
    store::save(folder.path(), &contents(2, 4, false)).unwrap();
    let names: Vec<String> = files(folder.path()).into_keys().collect();
    assert_eq!(names.len(), 5, "{names:?}");
    assert!(names.contains(&"notes.txt".into()) && names.contains(&"vectors-1.safetensors".into()));
    assert_same(&store::open(folder.path()).unwrap(), &contents(2, 4, false));
}

/// Stopped after any step, a save leaves the old or the new catalogue, and the next save succeeds.
#[test]
fn stopped_anywhere() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (contents(1, 5, true), contents(2, 7, false));
    let state = |name: &str, contents: &Contents| {
        let path = folder.path().join(name);
        store::save(&path, contents).unwrap();
        files(&path)
    };
    let (before, after) = (state("old", &old), state("new", &new));
    let named = |files: &BTreeMap<String, Vec<u8>>, start: &str| {
        let (name, bytes) = files.iter().find(|(name, _)| name.starts_with(start)).unwrap();
        (name.clone(), bytes.clone())
    };
    let (vectors, items, manifest) =
        (named(&after, "vectors-"), named(&after, "items-"), named(&after, MANIFEST));
    let half = |file: &(String, Vec<u8>)| (".mercer-0a.tmp".to_string(), file.1[..file.1.len() / 2].to_vec());
    let left = [
        vec![half(&vectors)],
        vec![vectors.clone()],
        vec![vectors.clone(), half(&items)],
        vec![vectors.clone(), items.clone()],
        vec![vectors.clone(), items.clone(), half(&manifest)],
        vec![vectors.clone(), items.clone(), manifest.clone()],
    ];
    for (step, left) in left.into_iter().enumerate() {
        let finished = step == 5;
        let left: BTreeMap<String, Vec<u8>> = left.into_iter().collect();
        // Over an older catalogue.
        let path = folder.path().join(format!("over {step}"));
        write(&path, &before);
        write(&path, &left);
        assert_same(&store::open(&path).unwrap(), if finished { &new } else { &old });
        store::save(&path, &new).unwrap();
        assert_eq!(files(&path), after, "step {step}");
        // Into a new folder.
        let path = folder.path().join(format!("fresh {step}"));
        write(&path, &left);
        assert_eq!(store::open(&path).is_ok(), finished, "step {step}");
        store::save(&path, &new).unwrap();
        assert_eq!(files(&path), after, "step {step}");
    }
}
