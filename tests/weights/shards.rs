//! Checkpoints of several files, and every way an index can lie.

use mercer::ErrorKind;
use mercer::weights::{Checkpoint, WeightsError};

use super::{Folder, SOURCES, f32_file};

const INDEX: &str = "model.safetensors.index.json";

/// Shard `1.safetensors` holds a and b, shard `2.safetensors` holds c.
fn shards() -> Folder {
    let folder = Folder::new();
    folder.write("1.safetensors", f32_file(&[("a", &[2], &[1.0, 2.0]), ("b", &[], &[3.0])]));
    folder.write("2.safetensors", f32_file(&[("c", &[1, 1], &[4.0])]));
    folder
}

#[track_caller]
fn expect(folder: &Folder, index: &str, message: &str) {
    folder.write(INDEX, index);
    for source in SOURCES {
        let error = folder.refused(source);
        assert_eq!(folder.message(&error), message, "{source:?}");
        assert_eq!(error.kind(), ErrorKind::CorruptData, "{message}");
        assert!(!message.contains('\n'), "one line: {message}");
    }
}

#[test]
fn shards_make_one_checkpoint() {
    let folder = shards();
    folder.write(
        INDEX,
        r#"{"metadata":{"total_size":16},"weight_map":{"c":"2.safetensors","a":"1.safetensors","b":"1.safetensors"}}"#,
    );
    for source in SOURCES {
        let checkpoint = Checkpoint::open(folder.path(), source).unwrap();
        assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!((checkpoint.len(), checkpoint.bytes()), (3, 16));
        let files: Vec<_> = ["1.safetensors", "2.safetensors"].map(|name| folder.path().join(name)).into();
        assert_eq!(checkpoint.files().collect::<Vec<_>>(), files);
        let c = checkpoint.tensor("c").unwrap();
        assert_eq!((c.file(), c.shape()), (&*files[1], &[1, 1][..]));
        assert_eq!(c.to_f32().unwrap(), &[4.0][..]);
        assert_eq!(checkpoint.tensor("a").unwrap().to_f32().unwrap(), &[1.0, 2.0][..]);
        // Shards in name order, whatever the order of the index.
        let bytes = files.iter().flat_map(|file| std::fs::read(file).unwrap()).collect::<Vec<_>>();
        assert_eq!(checkpoint.fingerprint(), *blake3::hash(&bytes).as_bytes());
    }
}

#[test]
fn shards_may_lie_in_folders_below() {
    let folder = Folder::new();
    folder.write("parts/1.safetensors", f32_file(&[("a", &[1], &[1.0])]));
    folder.write(INDEX, r#"{"weight_map":{"a":"parts/1.safetensors"}}"#);
    assert_eq!(Checkpoint::mmap(folder.path()).unwrap().len(), 1);
}

#[test]
fn indexes_that_are_not_the_json_of_the_format() {
    let cases = [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("[]", "invalid type: sequence, expected an object at line 1 column 0"),
        ("{}", "missing field `weight_map` at line 1 column 2"),
        (r#"{"weight_map":{}}"#, "weight_map is empty"),
        (r#"{"weight_map":{"a":1}}"#, "invalid type: integer `1`, expected a string at line 1 column 20"),
        (
            r#"{"weight_map":{"a":"1.safetensors"},"weights":{}}"#,
            "unknown field `weights`, expected `metadata` or `weight_map` at line 1 column 45",
        ),
        (
            r#"{"weight_map":{"a":"1.safetensors"},"weight_map":{}}"#,
            "duplicate field `weight_map` at line 1 column 48",
        ),
        (
            r#"{"weight_map":{"a":"1.safetensors","a":"2.safetensors"}}"#,
            r#"weight_map has the key "a" twice"#,
        ),
        (r#"{"weight_map":{"a":"1.safetensors"}} x"#, "trailing characters at line 1 column 38"),
    ];
    for (index, message) in cases {
        expect(&shards(), index, &format!("DIR/{INDEX}: {message}"));
    }
}

#[test]
fn indexes_over_the_limit() {
    let folder = Folder::new();
    let index = folder.write(INDEX, "");
    std::fs::File::options().write(true).open(index).unwrap().set_len(100_000_001).unwrap(); // sparse
    for source in SOURCES {
        let message = folder.message(&folder.refused(source));
        assert_eq!(message, format!("DIR/{INDEX}: 100000001 bytes, the limit is 100000000"));
    }
}

#[test]
fn shard_names_that_leave_the_folder() {
    let folder = Folder::new();
    folder.write("secret.safetensors", f32_file(&[("a", &[1], &[1.0])]));
    let absolute = folder.path().join("secret.safetensors");
    let model = Folder(tempfile::tempdir_in(folder.path()).unwrap());
    for shard in ["../secret.safetensors", "x/../../secret.safetensors", "./a", "..", ".", "", "/"]
        .into_iter()
        .chain(absolute.to_str())
    {
        let index = serde_json::json!({ "weight_map": { "a": shard } }).to_string();
        model.write(INDEX, index);
        for source in SOURCES {
            let error = model.refused(source);
            let WeightsError::ShardOutsideFolder { shard: found, target: None, .. } = &error else {
                panic!("{shard}: {error}");
            };
            assert!(absolute.to_str().unwrap().starts_with(found.trim_end_matches('…')) || found == shard);
            assert!(error.to_string().ends_with("leaves the model folder"), "{error}");
        }
    }
}

#[cfg(unix)]
#[test]
fn links_that_leave_the_folder() {
    use std::os::unix::fs::symlink;
    let outside = Folder::new();
    let target =
        outside.write("secret.safetensors", f32_file(&[("a", &[1], &[1.0])])).canonicalize().unwrap();
    let index = r#"{"weight_map":{"a":"sub/1.safetensors"}}"#;

    // The file is a link, or the folder on the way to it is.
    let linked_file = Folder::new();
    linked_file.write("sub/readme.txt", "");
    symlink(&target, linked_file.path().join("sub/1.safetensors")).unwrap();
    let linked_folder = Folder::new();
    symlink(outside.path(), linked_folder.path().join("sub")).unwrap();
    symlink(&target, outside.path().join("1.safetensors")).unwrap();
    for folder in [linked_file, linked_folder] {
        expect(
            &folder,
            index,
            &format!(
                "DIR/{INDEX}: shard \"sub/1.safetensors\" leaves the model folder: it links to {}",
                target.display()
            ),
        );
    }

    // Links that stay inside are followed, and a model folder may itself be reached through a link.
    let inside = Folder::new();
    let blob = inside.write("blobs/7f", f32_file(&[("a", &[1], &[1.0])]));
    inside.write("model/readme.txt", "");
    inside.write(INDEX, r#"{"weight_map":{"a":"1.safetensors"}}"#);
    symlink(blob, inside.path().join("1.safetensors")).unwrap();
    let link = outside.path().join("model");
    symlink(inside.path(), &link).unwrap();
    assert_eq!(Checkpoint::mmap(&link).unwrap().len(), 1);
}

#[test]
fn indexes_and_shards_that_disagree() {
    let cases = [
        // A shard that is not there.
        (
            r#"{"weight_map":{"a":"1.safetensors","x":"3.safetensors"}}"#,
            format!(r#"DIR/{INDEX}: shard "3.safetensors" does not exist"#),
        ),
        // Tensors of the index that are not in their shard.
        (
            r#"{"weight_map":{"a":"1.safetensors","b":"1.safetensors","c":"2.safetensors","d":"2.safetensors"}}"#,
            format!(r#"DIR/{INDEX}: shard "2.safetensors" lacks "d""#),
        ),
        (
            r#"{"weight_map":{"a":"1.safetensors","b":"2.safetensors","c":"1.safetensors"}}"#,
            format!(r#"DIR/{INDEX}: shard "1.safetensors" lacks "c""#),
        ),
        // Tensors of a shard that are not in the index.
        (
            r#"{"weight_map":{"c":"2.safetensors","b":"1.safetensors"}}"#,
            format!(r#"DIR/{INDEX}: weight_map lacks what shard "1.safetensors" holds: "a""#),
        ),
    ];
    for (index, message) in cases {
        expect(&shards(), index, &message);
    }
}

#[test]
fn long_lists_of_absent_tensors_are_cut_in_the_message_only() {
    let folder = shards();
    let absent: Vec<_> = (0..12).map(|i| format!("x{i:02}")).collect();
    let mut weight_map: serde_json::Map<_, _> =
        absent.iter().map(|name| (name.clone(), "2.safetensors".into())).collect();
    weight_map.insert("c".into(), "2.safetensors".into());
    folder.write(INDEX, serde_json::json!({ "weight_map": weight_map }).to_string());
    let error = folder.refused(SOURCES[0]);
    assert!(error.to_string().ends_with(r#""x08", "x09" and 2 more"#), "{error}");
    let WeightsError::TensorNotInShard { tensors, .. } = error else { panic!("{error}") };
    assert_eq!(tensors, absent);
}

#[test]
fn a_name_in_two_shards() {
    let folder = shards();
    folder.write("2.safetensors", f32_file(&[("b", &[], &[3.0]), ("c", &[1], &[4.0])]));
    expect(
        &folder,
        r#"{"weight_map":{"a":"1.safetensors","b":"1.safetensors","c":"2.safetensors"}}"#,
        r#"tensor "b" is both in DIR/1.safetensors and in DIR/2.safetensors"#,
    );
}

#[test]
fn a_shard_that_lies_is_named() {
    let folder = shards();
    folder.write("2.safetensors", "short");
    expect(
        &folder,
        r#"{"weight_map":{"a":"1.safetensors","b":"1.safetensors","c":"2.safetensors"}}"#,
        "DIR/2.safetensors: 5 bytes long, its header needs 8",
    );
}
