//! What a checkpoint hands out: values, alignment, both sources alike.

use std::borrow::Cow;

use half::{bf16, f16};
use mercer::ErrorKind;
use mercer::weights::{Checkpoint, Dtype, Element};

use super::{SOURCES, f32_file, file, model, one_tensor};

/// A float of `exponent_bits` and `mantissa_bits` by its definition (IEEE 754 section 3.4), as f64.
fn float_by_definition(bits: u16, exponent_bits: u32, mantissa_bits: u32) -> f64 {
    let bits = u32::from(bits);
    let mantissa = f64::from(bits & ((1 << mantissa_bits) - 1)) / f64::from(1 << mantissa_bits);
    let exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
    let bias = (1 << (exponent_bits - 1)) - 1;
    let magnitude = if exponent == (1 << exponent_bits) - 1 {
        if mantissa == 0.0 { f64::INFINITY } else { f64::NAN }
    } else if exponent == 0 {
        mantissa * 2f64.powi(1 - bias)
    } else {
        (1.0 + mantissa) * 2f64.powi(i32::try_from(exponent).unwrap() - bias)
    };
    if bits >> 15 == 1 { -magnitude } else { magnitude }
}

/// Same value and sign; any NaN equals any NaN.
#[track_caller]
fn assert_same(found: &[f32], expected: impl Iterator<Item = f64>) {
    let expected: Vec<_> = expected.collect();
    assert_eq!(found.len(), expected.len());
    for (i, (&found, &expected)) in found.iter().zip(&expected).enumerate() {
        let same = f64::from(found).to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
        assert!(same, "element {i}: {found} instead of {expected}");
    }
}

/// Opens `bytes` at every offset from 8-byte alignment and from both sources; `as_slice` must be there exactly when
/// the address allows it, and `to_f32` always.
fn at_every_alignment<T: Element>(bytes: &[u8], expected: impl Fn() -> Vec<f64>) {
    let size = size_of::<T>();
    for shift in 0..8 {
        let folder = model(one_tensor(T::DTYPE.name(), &[bytes.len() / size], bytes, shift));
        for source in SOURCES {
            let checkpoint = Checkpoint::open(folder.path(), source).unwrap();
            let view = checkpoint.tensor("t").unwrap();
            assert_eq!(view.bytes(), bytes);
            let aligned = view.bytes().as_ptr().addr().is_multiple_of(size);
            assert_eq!(view.as_slice::<T>().is_some(), aligned, "{source:?}, shift {shift}");
            assert_eq!(view.as_slice::<T>().map(bytemuck::cast_slice), aligned.then_some(bytes));
            assert_same(&view.to_f32().unwrap(), expected().into_iter());
            let borrowed = matches!(view.to_f32().unwrap(), Cow::Borrowed(_));
            assert_eq!(borrowed, aligned && T::DTYPE == Dtype::F32, "{source:?}, shift {shift}");
        }
        // A mapping starts at a page, so the shift alone decides there.
        let mapped = Checkpoint::mmap(folder.path()).unwrap();
        assert_eq!(mapped.tensor("t").unwrap().as_slice::<T>().is_some(), shift % size == 0);
    }
}

#[test]
fn f32_at_every_alignment() {
    let values = [0.0, -0.0, 1.0, -1.5, f32::MIN_POSITIVE, 1e-45, f32::MAX, f32::INFINITY, f32::NAN];
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    at_every_alignment::<f32>(&bytes, || values.map(f64::from).into());
}

#[test]
fn every_f16_at_every_alignment() {
    let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let expected = || (0..=u16::MAX).map(|bits| float_by_definition(bits, 5, 10)).collect();
    at_every_alignment::<f16>(&bytes, expected);
}

#[test]
fn every_bf16_at_every_alignment() {
    let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let expected = || (0..=u16::MAX).map(|bits| float_by_definition(bits, 8, 7)).collect();
    at_every_alignment::<bf16>(&bytes, expected);
}

#[test]
fn a_slice_of_another_type_is_refused() {
    let checkpoint = Checkpoint::mmap(model(one_tensor("F16", &[2], &[0; 4], 0)).path()).unwrap();
    let view = checkpoint.tensor("t").unwrap();
    assert!(view.as_slice::<f32>().is_none());
    assert!(view.as_slice::<bf16>().is_none());
    assert!(view.as_slice::<f16>().is_some());
}

#[test]
fn scalars_and_empty_tensors() {
    let header = r#"{
        "scalar":{"dtype":"F32","shape":[],"data_offsets":[0,4]},
        "before":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},
        "after":{"dtype":"F16","shape":[3,0,2],"data_offsets":[4,4]},
        "huge":{"dtype":"F32","shape":[0,18446744073709551615],"data_offsets":[4,4]}} "#;
    // Odd padding, so that the empty tensors have odd addresses.
    for padding in ["", " ", "  ", "   "] {
        let folder = model(file(format!("{header}{padding}"), &1.5f32.to_le_bytes()));
        for source in SOURCES {
            let checkpoint = Checkpoint::open(folder.path(), source).unwrap();
            let scalar = checkpoint.tensor("scalar").unwrap();
            assert_eq!((scalar.shape(), scalar.len(), scalar.is_empty()), (&[][..], 1, false));
            assert_eq!(scalar.to_f32().unwrap(), &[1.5][..]);
            for name in ["before", "after", "huge"] {
                let empty = checkpoint.tensor(name).unwrap();
                assert_eq!((empty.len(), empty.is_empty(), empty.bytes()), (0, true, &[][..]), "{name}");
                assert!(empty.to_f32().unwrap().is_empty(), "{name}");
            }
            assert_eq!(checkpoint.tensor("before").unwrap().as_slice::<f32>(), Some(&[][..]));
            assert_eq!(checkpoint.tensor("after").unwrap().as_slice::<f16>(), Some(&[][..]));
        }
    }
}

#[test]
fn a_file_without_tensors_is_a_checkpoint() {
    for header in ["{}", "{}   ", r#"{"__metadata__":{"format":"pt"}}"#] {
        let checkpoint = Checkpoint::mmap(model(file(header, b"")).path()).unwrap();
        assert!(checkpoint.is_empty());
        assert_eq!((checkpoint.len(), checkpoint.bytes(), checkpoint.names().count()), (0, 0, 0));
    }
}

#[test]
fn other_dtypes_are_described_but_not_converted() {
    // 24 elements are whole bytes for every dtype.
    for &dtype in Dtype::ALL {
        let data = vec![0; 3 * dtype.bits()];
        let folder = model(one_tensor(dtype.name(), &[2, 12], &data, 0));
        let checkpoint = Checkpoint::mmap(folder.path()).unwrap();
        let view = checkpoint.tensor("t").unwrap();
        assert_eq!((view.dtype(), view.shape(), view.bytes()), (dtype, &[2, 12][..], &data[..]));
        if dtype.is_weight() {
            assert_eq!(view.to_f32().unwrap(), &[0.0; 24][..]);
        } else {
            let error = view.to_f32().unwrap_err();
            let expected =
                format!("DIR/model.safetensors: tensor \"t\" is {dtype}, expected F32, F16 or BF16");
            assert_eq!(folder.message(&error), expected);
            assert_eq!(error.kind(), ErrorKind::Unsupported);
        }
    }
}

#[test]
fn names_lookups_and_a_single_file() {
    let folder = model(f32_file(&[("b", &[1], &[2.0]), ("a", &[2], &[1.0, 0.0])]));
    for path in [folder.path().into(), folder.path().join("model.safetensors")] {
        let checkpoint = Checkpoint::read(&path).unwrap();
        assert_eq!(checkpoint.path(), path);
        assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b"]);
        let described: Vec<_> = checkpoint.tensors().map(|view| format!("{view:?}")).collect();
        assert_eq!(described, [r#"TensorView("a", F32 [2])"#, r#"TensorView("b", F32 [1])"#]);
        let error = checkpoint.tensor("A").unwrap_err();
        assert!(error.to_string().ends_with(r#": no tensor "A" among its 2"#), "{error}");
        assert_eq!(error.kind(), ErrorKind::Caller);
    }
}

#[test]
fn a_checkpoint_is_shared_between_threads() {
    fn shareable<T: Send + Sync + 'static>(_: &T) {}
    let checkpoint = Checkpoint::mmap(model(f32_file(&[("t", &[1], &[7.0])])).path()).unwrap();
    shareable(&checkpoint);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                assert_eq!(checkpoint.tensor("t").unwrap().to_f32().unwrap(), &[7.0][..]);
                checkpoint.fingerprint()
            });
        }
    });
}
