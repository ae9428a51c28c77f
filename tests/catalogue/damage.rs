//! Files of a catalogue that are damaged, or that lie.

use std::fs;

use mercer::ErrorKind;
use mercer::catalogue::CatalogueError;
use mercer::catalogue::store::{self, Contents, FORMAT_VERSION, MANIFEST, RowFeatures};
use proptest::prelude::*;

use super::persistence::{contents, files, text};

/// A bit changed anywhere in any file is found, and the file and the part are named.
#[test]
fn every_damaged_byte() {
    let folder = tempfile::tempdir().unwrap();
    store::save(folder.path(), &contents(1, 6, true)).unwrap();
    let whole = files(folder.path());
    for (name, bytes) in &whole {
        let path = folder.path().join(name);
        let header = 8 + bytes[0] as usize + 256 * bytes[1] as usize;
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).unwrap();
            let part = match name.split(['-', '.']).next().unwrap() {
                "vectors" if at < header => "header",
                "vectors" => "values",
                "items" => "lines",
                _ => "manifest",
            };
            match store::open(folder.path()) {
                Err(CatalogueError::Damaged { path: found, part: p, .. }) => {
                    assert_eq!((found.as_path(), p), (path.as_path(), part), "{name}, byte {at}");
                }
                // The one digit that says how to read the rest.
                Err(CatalogueError::FormatVersion { found: 0, .. }) if part == "manifest" => {}
                Err(error) => panic!("{name}, byte {at}: {error}"),
                Ok(_) => panic!("{name}, byte {at}: {:?} passes", char::from(damaged[at])),
            }
        }
        fs::write(&path, bytes).unwrap();
    }
    store::open(folder.path()).unwrap();
}

/// Shorter, longer and missing files.
#[test]
fn lengths() {
    let folder = tempfile::tempdir().unwrap();
    store::save(folder.path(), &contents(1, 6, true)).unwrap();
    for (name, bytes) in files(folder.path()).iter().filter(|(name, _)| *name != MANIFEST) {
        let path = folder.path().join(name);
        for changed in [&bytes[..bytes.len() - 1], &[], &[&bytes[..], b"\n"].concat()] {
            fs::write(&path, changed).unwrap();
            let error = store::open(folder.path()).unwrap_err();
            let message = format!("{} bytes, the manifest says {}", changed.len(), bytes.len());
            assert_eq!((text(&error), error.kind()), (message, ErrorKind::CorruptData));
        }
        fs::remove_file(&path).unwrap();
        let error = store::open(folder.path()).unwrap_err();
        assert!(error.to_string().contains(&format!("{name}: cannot open: ")), "{error}");
        assert_eq!(error.kind(), ErrorKind::Io);
        fs::write(&path, bytes).unwrap();
    }
}

/// What opening says of six rows with features that saving refuses, behind true checksums.
fn damaged_features(width: usize, values: &[f32]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let stand_in = RowFeatures { width: width.max(1), data: vec![0.0; 6 * width.max(1)] };
    let good = Contents { features: Some(stand_in), ..contents(1, 6, false) };
    store::save(folder.path(), &good).unwrap();
    let mut files = files(folder.path());
    let old = files.keys().find(|name| name.starts_with("vectors-")).unwrap().clone();
    let bytes = files.remove(&old).unwrap();
    // The header states the shape and the end of the features, the values end the file.
    let (header_len, rest) = bytes.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(usize::try_from(u64::from_le_bytes(*header_len)).unwrap());
    let values_at = data.len() - 24;
    let header = String::from_utf8(header.to_vec()).unwrap();
    let header = header.trim_end().replace("[6, 1]", &format!("[6, {width}]"));
    let header = header.replace(
        &format!("[{values_at},{}]", data.len()),
        &format!("[{values_at},{}]", values_at + 4 * values.len()),
    );
    let padded = format!("{header:<0$}", header.len().next_multiple_of(8));
    let mut bytes = [&u64::try_from(padded.len()).unwrap().to_le_bytes()[..], padded.as_bytes()].concat();
    bytes.extend_from_slice(&data[..values_at]);
    bytes.extend(values.iter().flat_map(|x| x.to_le_bytes()));

    let mut manifest: serde_json::Value = serde_json::from_slice(&files[MANIFEST]).unwrap();
    let hash = blake3::hash(&bytes).to_hex();
    manifest["catalogue"]["feature_width"] = width.into();
    let stored = &mut manifest["catalogue"]["files"]["vectors"];
    stored["name"] = format!("vectors-{hash}.safetensors").into();
    stored["bytes"] = bytes.len().into();
    stored["blake3"] = hash.as_str().into();
    let catalogue = serde_json::to_vec(&manifest["catalogue"]).unwrap();
    manifest["blake3"] = blake3::hash(&catalogue).to_hex().as_str().into();
    fs::write(folder.path().join(format!("vectors-{hash}.safetensors")), bytes).unwrap();
    fs::write(folder.path().join(MANIFEST), manifest.to_string()).unwrap();
    let error = store::open(folder.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CorruptData);
    assert!(error.to_string().contains("vectors-"), "{error}");
    text(&error)
}

/// A manifest with a true checksum may still lie.
#[test]
fn lying_manifests() {
    let folder = tempfile::tempdir().unwrap();
    store::save(folder.path(), &contents(1, 6, false)).unwrap();
    let path = folder.path().join(MANIFEST);
    let whole: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let hash = whole["catalogue"]["files"]["items"]["blake3"].as_str().unwrap().to_string();
    let lie = |pointer: &str, value: serde_json::Value| {
        let mut lie = whole.clone();
        *lie.pointer_mut(pointer).unwrap() = value;
        let catalogue = serde_json::to_vec(&lie["catalogue"]).unwrap();
        lie["blake3"] = blake3::hash(&catalogue).to_hex().as_str().into();
        fs::write(&path, lie.to_string()).unwrap();
        text(&store::open(folder.path()).unwrap_err())
    };
    let fit = |rows, dim, width| {
        format!("damaged header: the length does not fit {rows} rows of {dim} and {width} values")
    };
    assert_eq!(lie("/catalogue/rows", 7.into()), fit(7u64, 5, "None"));
    assert_eq!(lie("/catalogue/rows", (u64::MAX).into()), fit(u64::MAX, 5, "None"));
    assert_eq!(lie("/catalogue/dim", 0.into()), fit(6, 0, "None"));
    assert_eq!(lie("/catalogue/feature_width", 2.into()), fit(6, 5, "Some(2)"));
    assert_eq!(
        lie("/catalogue/files/items/name", "../items".into()),
        format!("damaged manifest: file name \"../items\" with BLAKE3 \"{hash}\"")
    );
    assert_eq!(
        lie("/catalogue/files/items/blake3", "../../x".into()),
        format!("damaged manifest: file name \"items-{hash}.jsonl\" with BLAKE3 \"../../x\"")
    );
    assert_eq!(
        lie("/format_version", 2.into()),
        format!("format version 2, this library reads {FORMAT_VERSION}")
    );
    assert_eq!(
        lie("/format", "other".into()),
        "damaged manifest: format \"other\", expected \"mercer catalogue\""
    );
    let error = damaged_features(0, &[]);
    assert_eq!(error, "damaged features: 0 feature values in rows of width 0");
    let error = damaged_features(1, &[0.0, 1.0, f32::NAN, 0.0, 0.0, 0.0]);
    assert_eq!(error, "damaged features: the features of row 2 have NaN at position 0");
    assert!(lie("/catalogue/metric", "l2".into()).starts_with("damaged manifest: unknown variant `l2`"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bytes as a manifest are refused without a panic.
    #[test]
    fn any_manifest(text in "\\PC{0,60}") {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(MANIFEST), text).unwrap();
        prop_assert!(store::open(folder.path()).is_err());
    }
}
