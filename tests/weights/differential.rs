//! The safetensors crate as the oracle: whatever we accept it accepts, with the same tensors; whatever we refuse it
//! refuses too, but for the cases that the module documentation lists.

use std::collections::BTreeMap;

use mercer::weights::{Checkpoint, Source, WeightsError};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use safetensors::{Dtype, SafeTensors, serialize, tensor::TensorView};

use super::{file, model};

fn seeded(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, rng_seed: RngSeed::Fixed(17), failure_persistence: None, ..Default::default() }
}

/// Whether we may refuse what the crate accepts.
fn documented(error: &WeightsError) -> bool {
    match error {
        WeightsError::HeaderStart { .. }
        | WeightsError::DuplicateTensor { .. }
        | WeightsError::DuplicateKey { .. }
        | WeightsError::RankTooLarge { .. }
        | WeightsError::NameTooLong { .. }
        | WeightsError::TooManyTensors { .. } => true,
        WeightsError::BadHeader { source, .. } => {
            let message = source.to_string();
            [
                "unknown field",
                "invalid type: sequence, expected an object",
                "invalid type: map, expected a string",
            ]
            .iter()
            .any(|start| message.starts_with(start))
                || message.starts_with("invalid type: null, expected an object of strings")
        }
        _ => false,
    }
}

/// Name → (dtype, shape, bytes).
type Tensors = BTreeMap<String, (String, Vec<usize>, Vec<u8>)>;

fn ours(checkpoint: &Checkpoint) -> Tensors {
    checkpoint
        .tensors()
        .map(|view| {
            (view.name().into(), (view.dtype().to_string(), view.shape().into(), view.bytes().into()))
        })
        .collect()
}

fn theirs(tensors: &SafeTensors<'_>) -> Tensors {
    tensors
        .iter()
        .map(|(name, view)| {
            (name.into(), (view.dtype().to_string(), view.shape().into(), view.data().into()))
        })
        .collect()
}

/// Compares both on the same bytes; whether both accept.
fn compare(bytes: &[u8]) -> Result<bool, TestCaseError> {
    let folder = model(bytes);
    let oracle = SafeTensors::deserialize(bytes);
    let mapped = Checkpoint::open(folder.path(), Source::Mmap);
    let copied = Checkpoint::open(folder.path(), Source::Read);
    let messages = [&mapped, &copied].map(|opened| opened.as_ref().err().map(ToString::to_string));
    prop_assert_eq!(&messages[0], &messages[1], "mapped and copied differ");
    match (mapped, oracle) {
        (Ok(mapped), Ok(oracle)) => {
            let expected = theirs(&oracle);
            prop_assert_eq!(&ours(&mapped), &expected);
            prop_assert_eq!(ours(&copied.unwrap()), expected);
            for view in mapped.tensors() {
                let _ = view.to_f32(); // an error or values, no panic
            }
            let _ = mapped.validate_values();
            Ok(true)
        }
        (Ok(_), Err(error)) => Err(TestCaseError::fail(format!("only we accept; the crate says: {error}"))),
        (Err(error), Ok(_)) => {
            prop_assert!(documented(&error), "only we refuse: {}", error);
            Ok(false)
        }
        (Err(_), Err(_)) => Ok(false),
    }
}

const DTYPES: [Dtype; 22] = [
    Dtype::BOOL,
    Dtype::F4,
    Dtype::F6_E2M3,
    Dtype::F6_E3M2,
    Dtype::U8,
    Dtype::I8,
    Dtype::F8_E5M2,
    Dtype::F8_E4M3,
    Dtype::F8_E8M0,
    Dtype::F8_E4M3FNUZ,
    Dtype::F8_E5M2FNUZ,
    Dtype::I16,
    Dtype::U16,
    Dtype::F16,
    Dtype::BF16,
    Dtype::I32,
    Dtype::U32,
    Dtype::F32,
    Dtype::C64,
    Dtype::F64,
    Dtype::I64,
    Dtype::U64,
];

fn shape() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0..4usize, 0..4)
}

/// A file that the crate wrote.
fn valid_file() -> impl Strategy<Value = Vec<u8>> {
    let tensor = ("[a-z\u{e9}\"\\\\.]{0,6}", prop::sample::select(&DTYPES[..]), shape(), any::<u8>());
    (prop::collection::vec(tensor, 0..6), any::<bool>()).prop_map(|(tensors, metadata)| {
        let tensors: BTreeMap<_, _> = tensors
            .into_iter()
            .filter_map(|(name, dtype, shape, fill)| {
                let bits = shape.iter().product::<usize>() * dtype.bitsize();
                (bits % 8 == 0).then(|| (name, (dtype, shape, vec![fill; bits / 8])))
            })
            .collect();
        let views = tensors.iter().map(|(name, (dtype, shape, data))| {
            (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
        });
        let metadata = metadata.then(|| [("format".to_owned(), "pt".to_owned())].into());
        serialize(views, metadata).unwrap()
    })
}

/// A file of nearly right claims, written by hand: each part is wrong now and then.
fn nearly_valid_file() -> impl Strategy<Value = Vec<u8>> {
    let nudge = || prop_oneof![20 => Just(0isize), 1 => -5..5isize];
    let name = prop::sample::select(vec!["a", "b", "c", "d", "e", "f", "__metadata__", "\\u0061"]);
    let dtype = prop::sample::select(vec!["F32", "F32", "F16", "BF16", "U8", "F64", "F4", "f32", "F128", ""]);
    let extra = prop_oneof![
        40 => Just(""),
        1 => Just(r#","strides":[1]"#),
        1 => Just(r#","dtype":"F32""#),
        1 => Just(r#","shape":null"#),
    ];
    let tensor = (name, dtype, shape(), (nudge(), nudge(), nudge()), extra);
    let metadata = prop_oneof![
        10 => Just(""),
        2 => Just(r#""__metadata__":{"k":"v"},"#),
        1 => Just(r#""__metadata__":{"k":"v","k":"w"},"#),
        1 => Just(r#""__metadata__":{"k":1},"#),
        1 => Just(r#""__metadata__":null,"#),
    ];
    let ends = (nudge(), prop::sample::select(vec!["", "", "", " ", "  ", "\n", "x"]));
    (prop::collection::vec(tensor, 0..4), metadata, ends, any::<bool>()).prop_map(
        |(tensors, metadata, (data_nudge, tail), reversed)| {
            let mut at = 0usize;
            let mut entries = Vec::new();
            for (name, dtype, shape, (begin_nudge, end_nudge, step_nudge), extra) in tensors {
                let bits = match dtype {
                    "F64" => 64,
                    "F16" | "BF16" => 16,
                    "U8" => 8,
                    "F4" => 4,
                    _ => 32,
                };
                let end = at + shape.iter().product::<usize>() * bits / 8;
                let (begin, shown_end) = (at.wrapping_add_signed(begin_nudge), end.wrapping_add_signed(end_nudge));
                entries.push(format!(
                    r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{begin},{shown_end}]{extra}}}"#
                ));
                at = end.saturating_add_signed(step_nudge);
            }
            if reversed {
                entries.reverse(); // the order of the header need not be that of the data
            }
            let mut header = format!("{{{metadata}{}}}", entries.join(","));
            if entries.is_empty() {
                header = header.replace(",}", "}");
            }
            file(header + tail, &vec![0x40; at.saturating_add_signed(data_nudge)])
        },
    )
}

#[derive(Debug, Clone)]
enum Mutation {
    Flip(prop::sample::Index, u8),
    Put(prop::sample::Index, &'static str),
    Remove(prop::sample::Index),
    Cut(prop::sample::Index),
    Append(u8),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let index = any::<prop::sample::Index>;
    const TEXT: [&str; 16] = [
        "0",
        "9",
        "-1",
        "1e3",
        "null",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\0",
        " ",
        "18446744073709551615",
    ];
    prop_oneof![
        3 => (index(), any::<u8>()).prop_map(|(at, bits)| Mutation::Flip(at, bits)),
        6 => (index(), prop::sample::select(&TEXT[..])).prop_map(|(at, text)| Mutation::Put(at, text)),
        3 => index().prop_map(Mutation::Remove),
        1 => index().prop_map(Mutation::Cut),
        1 => any::<u8>().prop_map(Mutation::Append),
    ]
}

/// Applies a mutation to the header's text, keeping the declared length true, or to the raw bytes of the file.
fn mutate(bytes: &mut Vec<u8>, mutation: &Mutation, keep_length_true: bool) {
    if bytes.is_empty() {
        return;
    }
    let before = bytes.len();
    match mutation {
        Mutation::Flip(at, bits) => {
            let at = at.index(bytes.len());
            bytes[at] ^= bits;
        }
        Mutation::Put(at, text) => {
            let at = at.index(bytes.len());
            bytes.splice(at..at, text.bytes());
        }
        Mutation::Remove(at) => {
            bytes.remove(at.index(before));
        }
        Mutation::Cut(at) => bytes.truncate(at.index(before)),
        Mutation::Append(byte) => bytes.push(*byte),
    }
    if keep_length_true && bytes.len() > 8 {
        let declared = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        let change = i64::try_from(bytes.len()).unwrap() - i64::try_from(before).unwrap();
        bytes[..8].copy_from_slice(&declared.wrapping_add_signed(change).to_le_bytes());
    }
}

proptest! {
    #![proptest_config(seeded(300))]

    #[test]
    fn what_the_crate_writes_we_read(bytes in valid_file()) {
        prop_assert!(compare(&bytes)?, "refused");
    }

    #[test]
    fn nearly_valid_headers_get_the_same_verdict(bytes in nearly_valid_file()) {
        compare(&bytes)?;
    }

    #[test]
    fn mutated_files_get_the_same_verdict(
        mut bytes in valid_file(),
        mutations in prop::collection::vec((mutation(), any::<bool>()), 1..4),
    ) {
        for (mutation, keep_length_true) in &mutations {
            mutate(&mut bytes, mutation, *keep_length_true);
        }
        compare(&bytes)?;
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), length in 0..64u64) {
        compare(&bytes)?;
        compare(&[&length.to_le_bytes()[..], &bytes].concat())?;
    }

    #[test]
    fn arbitrary_indexes_never_panic(text in r#"(\{|\}|\[|"weight_map"|"a\.safetensors"|:|,|null|1| ){0,12}"#) {
        let folder = super::Folder::new();
        folder.write("model.safetensors.index.json", &text);
        for source in super::SOURCES {
            prop_assert!(Checkpoint::open(folder.path(), source).is_err());
        }
    }
}

/// The generator of nearly valid files must produce both verdicts, or the comparison says nothing.
#[test]
fn nearly_valid_files_are_of_both_kinds() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::new(seeded(1));
    let accepted = (0..200)
        .filter(|_| {
            let bytes = nearly_valid_file().new_tree(&mut runner).unwrap().current();
            SafeTensors::deserialize(&bytes).is_ok()
        })
        .count();
    assert!((20..=180).contains(&accepted), "{accepted} of 200 accepted");
}
