//! Texts: token ids against the Python `tokenizers` library, and texts and tokenizer files that lie.
//! `tools/golden/preprocess.py` makes the golden files.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use mercer::ErrorKind;
use mercer::input::{InputError, MAX_TEXT_BYTES, TextPreprocessor};
use mercer::model::{TextInput, Truncation};

const BYTE_LEVEL: &str = "byte_level.json";
const WORD_PIECE: &str = "word_piece.json";

fn golden() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/preprocess"))
}

fn config(tokenizer: &str) -> TextInput {
    TextInput {
        tokenizer: tokenizer.to_owned(),
        max_tokens: 256,
        truncation: Truncation::Refuse,
        special_tokens: false,
    }
}

fn open(config: &TextInput) -> TextPreprocessor {
    TextPreprocessor::open(&golden().join("tokenizers"), config).unwrap()
}

#[derive(serde::Deserialize)]
struct Case {
    text: String,
    ids: Vec<i64>,
    ids_with_special: Vec<i64>,
}

/// The files ask for truncation to 4 tokens and padding to 16; neither may act.
#[test]
fn ids_are_those_of_the_tokenizer_alone() {
    let cases: BTreeMap<String, Vec<Case>> =
        serde_json::from_slice(&std::fs::read(golden().join("tokens.json")).unwrap()).unwrap();
    assert_eq!(cases.keys().collect::<Vec<_>>(), [BYTE_LEVEL, WORD_PIECE]);
    for (file, cases) in cases {
        assert!(cases.len() >= 30);
        assert!(cases.iter().any(|case| case.ids.len() > 4));
        let plain = open(&config(&file));
        let special = open(&TextInput { special_tokens: true, ..config(&file) });
        for Case { text, ids, ids_with_special } in cases {
            assert_eq!(plain.ids(&text).unwrap(), ids, "{file}: {text:?}");
            assert_eq!(special.ids(&text).unwrap(), ids_with_special, "{file}: {text:?}");
        }
    }
}

#[test]
fn a_text_without_tokens_is_refused() {
    for special_tokens in [false, true] {
        let text = open(&TextInput { special_tokens, ..config(WORD_PIECE) });
        for empty in ["", " ", "\u{3000}\t\n", "\u{200b}"] {
            let error = text.ids(empty).unwrap_err();
            assert_eq!(error.to_string(), format!("text of {} bytes yields no token", empty.len()));
            assert_eq!(error.kind(), ErrorKind::Caller);
        }
    }
    assert!(matches!(open(&config(BYTE_LEVEL)).ids(""), Err(InputError::NoTokens { bytes: 0 })));
}

#[test]
fn long_texts_are_refused_or_cut_as_the_model_says() {
    let refuse = open(&TextInput { max_tokens: 3, ..config(WORD_PIECE) });
    assert_eq!(refuse.ids("黑色服").unwrap().len(), 3);
    let error = refuse.ids("黑色羽绒服").unwrap_err();
    assert_eq!(error.to_string(), "text of 5 tokens, the model takes at most 3");
    assert_eq!(error.kind(), ErrorKind::Caller);

    let keep = TextInput { max_tokens: 3, truncation: Truncation::KeepFirst, ..config(WORD_PIECE) };
    let all = open(&config(WORD_PIECE)).ids("黑色羽绒服").unwrap();
    assert_eq!(open(&keep).ids("黑色羽绒服").unwrap(), all[..3]);
    assert_eq!(open(&keep).ids("黑").unwrap(), all[..1]);
    // Special tokens count: the opening one, then two of the text.
    let special = open(&TextInput { special_tokens: true, ..keep });
    assert_eq!(special.ids("黑色羽绒服").unwrap(), [2, all[0], all[1]]);
}

#[test]
fn the_byte_cap_holds_before_tokenising() {
    let keep = open(&TextInput { max_tokens: 2, truncation: Truncation::KeepFirst, ..config(BYTE_LEVEL) });
    assert_eq!(keep.ids(&"a".repeat(MAX_TEXT_BYTES)).unwrap().len(), 2);
    let error = keep.ids(&"a".repeat(MAX_TEXT_BYTES + 1)).unwrap_err();
    assert_eq!(error.to_string(), "text of 65537 bytes, at most 65536 are tokenised");
    assert_eq!(error.kind(), ErrorKind::Caller);
}

#[test]
fn nul_characters_are_refused() {
    let error = open(&config(BYTE_LEVEL)).ids("黑\0色").unwrap_err();
    assert_eq!(error.to_string(), "text has a NUL character at byte 3");
}

#[test]
fn tokenizer_files_that_lie_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str| TextPreprocessor::open(folder.path(), &config(name)).unwrap_err();

    let error = open("missing.json");
    assert!(error.to_string().contains("missing.json: No such file"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Caller);

    for (name, content) in
        [("empty.json", ""), ("text.json", "hello"), ("other.json", r#"{"version": "1.0"}"#)]
    {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let error = open(name);
        assert!(error.to_string().starts_with(&format!("{}: not a tokenizer: ", path.display())), "{error}");
        assert!(!error.to_string().contains('\n'), "{error}");
        assert_eq!(error.kind(), ErrorKind::CorruptData);
    }

    let whole = std::fs::read(golden().join("tokenizers").join(BYTE_LEVEL)).unwrap();
    std::fs::write(folder.path().join("cut.json"), &whole[..whole.len() / 2]).unwrap();
    assert_eq!(open("cut.json").kind(), ErrorKind::CorruptData);
}

#[test]
fn the_tokenizer_stays_in_the_models_folder() {
    for path in
        ["../tokenizer.json", "/etc/passwd", "a/../../b.json", "", ".", "..", "./tokenizers/word_piece.json"]
    {
        let error = TextPreprocessor::open(&golden(), &config(path)).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("config.json: inputs.text.tokenizer: {path:?} is not a path inside the model's folder")
        );
        assert_eq!(error.kind(), ErrorKind::CorruptData);
    }
    TextPreprocessor::open(&golden(), &config("tokenizers/word_piece.json")).unwrap();
}

/// A link may lead elsewhere in the folder, not out of it, whether it is the file or a folder on the way.
#[cfg(unix)]
#[test]
fn links_do_not_lead_the_tokenizer_out_of_the_folder() {
    use std::os::unix::fs::symlink;
    let (model, outside) =
        (tempfile::tempdir().unwrap(), golden().join("tokenizers").canonicalize().unwrap());
    let open = |name: &str| TextPreprocessor::open(model.path(), &config(name));
    std::fs::copy(outside.join(WORD_PIECE), model.path().join("real.json")).unwrap();
    symlink("real.json", model.path().join("within.json")).unwrap();
    open("within.json").unwrap();

    symlink(outside.join(WORD_PIECE), model.path().join("file.json")).unwrap();
    symlink(&outside, model.path().join("sub")).unwrap();
    for name in ["file.json".to_owned(), format!("sub/{WORD_PIECE}")] {
        let error = open(&name).unwrap_err();
        let target = outside.join(WORD_PIECE);
        let message = format!(
            "config.json: inputs.text.tokenizer: {name:?} is not a path inside the model's folder: it links to {}",
            target.display()
        );
        assert_eq!((error.to_string(), error.kind()), (message, ErrorKind::CorruptData));
    }
}
