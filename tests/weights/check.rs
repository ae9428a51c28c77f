//! What a model reads against what is there, non-finite values, fingerprints.

use mercer::ErrorKind;
use mercer::weights::{Checkpoint, Expected, ShapePattern, WeightsError};

use super::{Folder, SOURCES, f32_file, file, model, one_tensor};

fn expected(tensors: &[(&str, &[usize])]) -> Vec<Expected> {
    tensors.iter().map(|(name, shape)| Expected { name: (*name).into(), shape: (*shape).into() }).collect()
}

fn checkpoint(folder: &Folder) -> Checkpoint {
    Checkpoint::mmap(folder.path()).unwrap()
}

#[test]
fn every_difference_is_reported_at_once() {
    let header = r#"{
        "bias":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
        "ids":{"dtype":"I64","shape":[1],"data_offsets":[8,16]},
        "extra.a":{"dtype":"U8","shape":[3,1],"data_offsets":[16,19]},
        "optimizer.step":{"dtype":"U8","shape":[],"data_offsets":[19,20]},
        "weight":{"dtype":"F16","shape":[2,3],"data_offsets":[20,32]}}"#;
    let folder = model(file(header, &[0; 32]));
    let checkpoint = checkpoint(&folder);
    let model =
        expected(&[("weight", &[3, 2]), ("ids", &[1]), ("gone\n", &[4, 4]), ("bias", &[2]), ("scale", &[])]);
    let error = checkpoint.check(&model, &["optimizer.".into()]).unwrap_err();
    assert_eq!(
        folder.message(&error),
        "DIR: not what the model reads: 2 missing, 1 unexpected, 1 of another shape, 1 of an unsupported dtype\n  \
         missing: \"gone\\n\" [4, 4]\n  \
         missing: \"scale\" []\n  \
         unexpected: \"extra.a\" U8 [3, 1]\n  \
         another shape: \"weight\" is [2, 3], expected [3, 2]\n  \
         unsupported dtype: \"ids\" is I64, expected F32, F16 or BF16"
    );
    assert_eq!(error.kind(), ErrorKind::CorruptData);
}

#[test]
fn a_fitting_model_passes() {
    let folder = model(f32_file(&[("a", &[2], &[0.0; 2]), ("b", &[], &[0.0]), ("aux.c", &[1], &[0.0])]));
    let checkpoint = checkpoint(&folder);
    // Two towers may read one tensor.
    let model = expected(&[("a", &[2]), ("b", &[]), ("a", &[2])]);
    checkpoint.check(&model, &["aux.".into()]).unwrap();
    // An ignored prefix does not excuse what is expected, and an unread tensor is an error without it.
    assert!(checkpoint.check(&model, &[]).is_err());
    assert!(checkpoint.check(&expected(&[("a", &[2]), ("b", &[1])]), &["".into()]).is_err());
    checkpoint.check(&[], &["".into()]).unwrap();
}

#[test]
fn a_tensor_expected_with_two_shapes_is_wrong_at_least_once() {
    let checkpoint = checkpoint(&model(one_tensor("I8", &[2], &[0; 2], 0)));
    let model = expected(&[("t", &[2]), ("t", &[1, 2]), ("t", &[1, 2]), ("x", &[1]), ("x", &[1])]);
    let WeightsError::Mismatch(mismatch) = checkpoint.check(&model, &[]).unwrap_err() else { panic!() };
    assert_eq!((mismatch.misshaped.len(), mismatch.unsupported.len(), mismatch.missing.len()), (1, 1, 1));
    assert_eq!(
        (&mismatch.misshaped[0].expected, &mismatch.misshaped[0].found),
        (&[1, 2][..].into(), &vec![2])
    );
}

#[test]
fn a_length_may_be_left_to_the_checkpoint() {
    let folder = model(f32_file(&[("t", &[2, 3], &[0.0; 6])]));
    let pattern =
        |lengths: &[Option<usize>]| [Expected { name: "t".into(), shape: ShapePattern(lengths.to_vec()) }];
    let checkpoint = checkpoint(&folder);
    checkpoint.check(&pattern(&[None, Some(3)]), &[]).unwrap();
    checkpoint.check(&pattern(&[None, None]), &[]).unwrap();
    for (lengths, text) in [
        (&[None, Some(4)][..], "another shape: \"t\" is [2, 3], expected [*, 4]"),
        (&[None], "another shape: \"t\" is [2, 3], expected [*]"),
    ] {
        let error = checkpoint.check(&pattern(lengths), &[]).unwrap_err().to_string();
        assert!(error.ends_with(text), "{error}");
    }
}

#[test]
fn long_lists_are_cut_in_the_message_only() {
    let checkpoint = checkpoint(&model(f32_file(&[])));
    for (count, last) in [(10, "  missing: \"t09\" [0]"), (11, "  missing: and 1 more")] {
        let names: Vec<_> = (0..count).map(|i| format!("t{i:02}")).collect();
        let model: Vec<_> =
            names.iter().map(|name| Expected { name: name.clone(), shape: [0][..].into() }).collect();
        let error = checkpoint.check(&model, &[]).unwrap_err();
        let message = error.to_string();
        assert_eq!(message.lines().last().unwrap(), last);
        let WeightsError::Mismatch(mismatch) = error else { panic!("{message}") };
        assert_eq!(mismatch.missing, model);
    }
}

#[test]
fn non_finite_values_are_all_named() {
    let f32s: Vec<u8> = [1.0, f32::INFINITY, f32::NAN].iter().flat_map(|x| x.to_le_bytes()).collect();
    let f64s = f64::NEG_INFINITY.to_le_bytes();
    let f16s = [0x7bff_u16, 0xfc00, 0x7c00, 0x7c01].map(u16::to_le_bytes).concat(); // largest, -inf, inf, NaN
    let bf16s = [0x7f7f_u16, 0x7fc0].map(u16::to_le_bytes).concat(); // largest, NaN
    let header = r#"{
        "f32":{"dtype":"F32","shape":[3,1],"data_offsets":[0,12]},
        "f64":{"dtype":"F64","shape":[],"data_offsets":[12,20]},
        "f16":{"dtype":"F16","shape":[4],"data_offsets":[20,28]},
        "bf16":{"dtype":"BF16","shape":[2],"data_offsets":[28,32]},
        "good":{"dtype":"F32","shape":[1],"data_offsets":[32,36]},
        "int":{"dtype":"I32","shape":[1],"data_offsets":[36,40]}}"#;
    let data = [&f32s[..], &f64s, &f16s, &bf16s, &f32::MAX.to_le_bytes(), &[0xff; 4]].concat();
    // Aligned or not, the answer is the same.
    for padding in ["", " ", "  ", "   "] {
        let folder = model(file(format!("{header}{padding}"), &data));
        let error = checkpoint(&folder).validate_values().unwrap_err();
        assert_eq!(
            folder.message(&error),
            "DIR: NaN or infinity in tensors: 4\n  \
             not finite: \"bf16\" BF16 [2]: element 1 is NaN, 1 in all\n  \
             not finite: \"f16\" F16 [4]: element 1 is -inf, 3 in all\n  \
             not finite: \"f32\" F32 [3, 1]: element 1 is inf, 2 in all\n  \
             not finite: \"f64\" F64 []: element 0 is -inf, 1 in all"
        );
        assert_eq!(error.kind(), ErrorKind::CorruptData);
        let WeightsError::NonFinite(found) = error else { panic!("{error}") };
        assert_eq!((found.tensors[1].first, found.tensors[1].count), (1, 3));
        assert_eq!(found.tensors[1].value, f64::NEG_INFINITY);
    }
    checkpoint(&model(f32_file(&[("t", &[2], &[f32::MIN, f32::MAX])]))).validate_values().unwrap();
}

#[test]
fn fingerprints_are_of_the_content() {
    let bytes = f32_file(&[("t", &[2], &[1.0, 2.0])]);
    let folder = model(&bytes);
    let other_name = folder.write("other.safetensors", &bytes);
    for source in SOURCES {
        for path in [folder.path(), &other_name] {
            let checkpoint = Checkpoint::open(path, source).unwrap();
            let hash = blake3::hash(&bytes);
            assert_eq!(checkpoint.fingerprint(), *hash.as_bytes());
            assert_eq!(checkpoint.fingerprint(), *hash.as_bytes(), "the second call");
        }
    }
    let changed = f32_file(&[("t", &[2], &[1.0, 2.000_000_2])]);
    let renamed = f32_file(&[("u", &[2], &[1.0, 2.0])]);
    for bytes in [changed, renamed] {
        let other = checkpoint(&model(bytes)).fingerprint();
        assert_ne!(other, checkpoint(&folder).fingerprint());
    }
}
