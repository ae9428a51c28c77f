//! Files that change while they are open. No test reads a page that a file has lost: that ends the process.

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use mercer::ErrorKind;
use mercer::weights::{Checkpoint, WeightsError};

use super::{SOURCES, f32_file, model};

fn good() -> Vec<u8> {
    f32_file(&[("t", &[2], &[1.0, 2.0])])
}

fn other() -> Vec<u8> {
    f32_file(&[("t", &[2], &[3.0, 4.0])])
}

#[test]
fn a_file_replaced_by_rename_keeps_its_old_content() {
    for source in SOURCES {
        let folder = model(good());
        let checkpoint = Checkpoint::open(folder.path(), source).unwrap();
        let new = folder.write("new", other());
        fs::rename(new, folder.path().join("model.safetensors")).unwrap();
        checkpoint.unchanged().unwrap();
        assert_eq!(checkpoint.tensor("t").unwrap().to_f32().unwrap(), &[1.0, 2.0][..]);
        assert_eq!(checkpoint.fingerprint(), *blake3::hash(&good()).as_bytes());
    }
}

#[test]
fn a_copy_is_immune() {
    let folder = model(good());
    let checkpoint = Checkpoint::read(folder.path()).unwrap();
    folder.write("model.safetensors", "");
    checkpoint.unchanged().unwrap();
    assert_eq!(checkpoint.tensor("t").unwrap().to_f32().unwrap(), &[1.0, 2.0][..]);
}

#[test]
fn a_mapped_file_that_changes_in_place_is_noticed() {
    let len = u64::try_from(good().len()).unwrap();
    for new_len in [0, len - 1, len + 1] {
        let folder = model(good());
        let checkpoint = Checkpoint::mmap(folder.path()).unwrap();
        checkpoint.unchanged().unwrap();
        let file = File::options().write(true).open(folder.path().join("model.safetensors")).unwrap();
        file.set_len(new_len).unwrap();
        let error = checkpoint.unchanged().unwrap_err();
        assert_eq!(
            folder.message(&error),
            format!(
                "DIR/model.safetensors: had {len} bytes when opened, has {new_len} now; replace files by rename"
            )
        );
        assert_eq!(error.kind(), ErrorKind::Io);
    }

    let folder = model(good());
    let checkpoint = Checkpoint::mmap(folder.path()).unwrap();
    let path = folder.write("model.safetensors", other());
    // Set by hand: two writes may fall into one tick of the file system's clock.
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(10)).unwrap();
    let error = checkpoint.unchanged().unwrap_err();
    assert!(matches!(error, WeightsError::Rewritten { .. }), "{error}");
    assert_eq!(
        folder.message(&error),
        "DIR/model.safetensors: was modified in place while open; replace files by rename"
    );
}
