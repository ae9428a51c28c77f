//! `.npy` files: what NumPy writes is read, what is written is what NumPy writes, and every way a file can lie is refused.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // test helpers

use half::f16;
use mercer::ErrorKind;
use mercer::npy::{Array2, NpyError, read_f32, read_i64, write_f32, write_i64};
use proptest::prelude::*;
use std::path::PathBuf;

/// `numpy.save` of `[[1.5, -2], [3, 4], [5, 6]]` as float32, by NumPy 2.
fn numpy_file() -> Vec<u8> {
    let mut bytes =
        b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }".to_vec();
    bytes.resize(127, b' ');
    bytes.push(b'\n');
    bytes.extend([1.5f32, -2.0, 3.0, 4.0, 5.0, 6.0].iter().flat_map(|x| x.to_le_bytes()));
    bytes
}

/// A file with this dictionary and these bytes of values.
fn file(version: u8, dict: &str, values: &[u8]) -> Vec<u8> {
    let length = u32::try_from(dict.len()).unwrap().to_le_bytes();
    let length = if version == 1 { &length[..2] } else { &length[..] };
    [b"\x93NUMPY", &[version, 0][..], length, dict.as_bytes(), values].concat()
}

/// A folder, and a file in it with these bytes.
fn saved(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npy");
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

fn f32_error(bytes: &[u8]) -> NpyError {
    let (_folder, path) = saved(bytes);
    read_f32(path).expect_err("the file is read")
}

/// The message without the path before it.
fn text(error: &NpyError) -> String {
    error.to_string().split_once(": ").unwrap().1.to_string()
}

const DICT: &str = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2)}";

#[test]
fn reads_what_numpy_writes() {
    let (_folder, path) = saved(&numpy_file());
    let expected = Array2 { rows: 3, cols: 2, data: vec![1.5, -2.0, 3.0, 4.0, 5.0, 6.0] };
    assert_eq!(read_f32(path).unwrap(), expected);
}

#[test]
fn writes_what_numpy_writes() {
    let (folder, path) = saved(b"the old contents");
    write_f32(&path, 3, 2, &[1.5, -2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), numpy_file());
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["x.npy"], "temporary files stay behind");
}

/// All versions of the format, any order of keys, both quotes, spaces where Python allows them.
#[test]
fn headers_in_every_form() {
    let values: Vec<u8> = [7.0f32, 8.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    for version in [1, 2, 3] {
        for dict in [
            DICT,
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }        \n",
            "{\"shape\":(1,2,),\"fortran_order\":False,\"descr\":\"<f4\"}",
            " { 'shape' : ( 1 , 2 ) , 'descr' : '<f4' , 'fortran_order' : False } ",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}",
        ] {
            let (_folder, path) = saved(&file(version, dict, &values));
            let expected = Array2 { rows: 1, cols: 2, data: vec![7.0, 8.0] };
            assert_eq!(read_f32(path).unwrap(), expected, "version {version}, {dict}");
        }
    }
}

/// Every f16 that is a number, more of them than one chunk of the conversion.
#[test]
fn f16_becomes_f32() {
    let all: Vec<f16> = (0..=u16::MAX).cycle().take(200_000).map(f16::from_bits).collect();
    let bytes: Vec<u8> = all.iter().flat_map(|x| x.to_le_bytes()).collect();
    let dict = "{'descr': '<f2', 'fortran_order': False, 'shape': (2000, 100)}";
    let (_folder, path) = saved(&file(1, dict, &bytes));
    let found = read_f32(path).unwrap();
    assert_eq!((found.rows, found.cols), (2000, 100));
    for (at, (f, e)) in found.data.iter().zip(&all).enumerate() {
        assert!(*f == e.to_f32() || (f.is_nan() && e.is_nan()), "position {at}: {f} for {e}");
    }
}

#[test]
fn empty_arrays() {
    for (rows, cols) in [(0, 256), (5, 0), (0, 0)] {
        let (_folder, path) = saved(b"");
        write_f32(&path, rows, cols, &[]).unwrap();
        assert_eq!(read_f32(path).unwrap(), Array2 { rows, cols, data: vec![] });
    }
}

/// Files that are something else, or of a kind that is not read.
#[test]
fn refused_by_kind() {
    let values = [0; 8];
    for (bytes, message, kind) in [
        (vec![], "not a .npy file", ErrorKind::Caller),
        (b"\x93NUMP".to_vec(), "not a .npy file", ErrorKind::Caller),
        (b"PK\x03\x04 a zip file of arrays".to_vec(), "not a .npy file", ErrorKind::Caller),
        (
            file(4, DICT, &values),
            ".npy format version 4.0; 1.0, 2.0 and 3.0 are supported",
            ErrorKind::Unsupported,
        ),
        (
            file(1, &DICT.replace("<f4", ">f4"), &values),
            "values of type \">f4\", expected <f4 or <f2",
            ErrorKind::Unsupported,
        ),
        (
            file(1, &DICT.replace("<f4", "<f8"), &values),
            "values of type \"<f8\", expected <f4 or <f2",
            ErrorKind::Unsupported,
        ),
        (
            file(1, &DICT.replace("False", "True"), &values),
            "Fortran order; save numpy.ascontiguousarray(array) instead",
            ErrorKind::Unsupported,
        ),
        (
            file(1, &DICT.replace("(1, 2)", "()"), &values),
            "shape []; arrays of one or two axes are supported",
            ErrorKind::Unsupported,
        ),
        (
            file(1, &DICT.replace("(1, 2)", "(1, 1, 2)"), &values),
            "shape [1, 1, 2]; arrays of one or two axes are supported",
            ErrorKind::Unsupported,
        ),
        (
            file(1, &DICT.replace("(1, 2)", "(9223372036854775808, 2)"), &values),
            "shape [9223372036854775808, 2]; arrays of one or two axes are supported",
            ErrorKind::Unsupported,
        ),
    ] {
        let error = f32_error(&bytes);
        assert_eq!((text(&error).as_str(), error.kind()), (message, kind));
    }
    let (_folder, path) = saved(&numpy_file());
    assert_eq!(text(&read_i64(path).unwrap_err()), "values of type \"<f4\", expected <i8");
}

/// Dictionaries that are nearly right.
#[test]
fn refused_headers() {
    for (dict, reason) in [
        ("", "expected '{' at byte 0 of the dictionary"),
        (
            "{'descr': '<f4'}",
            "expected 'descr', 'fortran_order' and 'shape' before the end at byte 16 of the dictionary",
        ),
        (
            "{'descr': '<f4', 'descr': '<f4'}",
            "expected each of 'descr', 'fortran_order' and 'shape' once at byte 17 of the dictionary",
        ),
        (
            "{'order': 1}",
            "expected each of 'descr', 'fortran_order' and 'shape' once at byte 1 of the dictionary",
        ),
        ("{'descr': [('a', '<f4')]}", "expected a string at byte 10 of the dictionary"),
        ("{'descr': '<f4", "expected the end of the string at byte 11 of the dictionary"),
        ("{'fortran_order': false}", "expected True or False at byte 18 of the dictionary"),
        ("{'shape': 3}", "expected '(' at byte 10 of the dictionary"),
        (
            "{'shape': (3)}",
            "expected ',': one number in brackets is not a tuple at byte 12 of the dictionary",
        ),
        ("{'shape': (-3, 1)}", "expected a number that fits 64 bits at byte 11 of the dictionary"),
        (
            "{'shape': (99999999999999999999, 1)}",
            "expected a number that fits 64 bits at byte 11 of the dictionary",
        ),
        ("{'shape': (3, 1}", "expected ',' or ')' at byte 15 of the dictionary"),
        ("{'shape' (3, 1)}", "expected ':' at byte 9 of the dictionary"),
        ("{'descr': '<f4' 'x'}", "expected ',' or '}' at byte 16 of the dictionary"),
        ("{'descr': '\u{1}'}", "expected a string of printable ASCII at byte 11 of the dictionary"),
    ] {
        let error = f32_error(&file(1, dict, &[]));
        assert_eq!(text(&error), format!("header: {reason}"), "{dict}");
        assert_eq!(error.kind(), ErrorKind::CorruptData);
    }
    let error = f32_error(&file(1, &format!("{DICT}x"), &[0; 8]));
    assert_eq!(text(&error), "header: expected nothing after the '}' at byte 57 of the dictionary");
    let error = f32_error(b"\x93NUMPY\x02\x00\xff\xff\xff\xff");
    assert_eq!(text(&error), "header: 4294967295 bytes long; up to 65536 are read");
}

/// Every shorter file is refused, and every longer one; lengths are in the message.
#[test]
fn refused_lengths() {
    let whole = numpy_file();
    for length in 0..whole.len() {
        let error = f32_error(&whole[..length]);
        match length {
            0..8 => assert!(matches!(error, NpyError::NotNpy { .. }), "{length} bytes: {error}"),
            8..128 => assert_eq!(text(&error), "header: the file ends inside it", "{length} bytes"),
            _ => {
                let message = format!("{} bytes of values, shape [3, 2] needs 24", length - 128);
                assert_eq!((text(&error), error.kind()), (message, ErrorKind::CorruptData));
            }
        }
    }
    let error = f32_error(&[&whole[..], b"x"].concat());
    assert_eq!(text(&error), "25 bytes of values, shape [3, 2] needs 24");
    // A shape that would need more memory than there is, refused before any is asked for.
    let error = f32_error(&file(1, &DICT.replace("(1, 2)", "(1000000000000, 1000)"), &[0; 8]));
    assert_eq!(text(&error), "8 bytes of values, shape [1000000000000, 1000] needs 4000000000000000");
}

#[test]
fn refused_calls() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npy");
    let error = write_f32(&path, 2, 3, &[0.0; 5]).unwrap_err();
    assert_eq!((text(&error).as_str(), error.kind()), ("5 values for 2 rows of 3", ErrorKind::Caller));
    assert!(!path.exists());
    let error = read_f32(&path).unwrap_err();
    assert!(error.to_string().contains("x.npy: cannot open: "), "{error}");
    assert_eq!(error.kind(), ErrorKind::Caller);
    assert_eq!(read_f32(folder.path()).unwrap_err().kind(), ErrorKind::Io);
    assert!(std::error::Error::source(&error).is_some());
    let error = write_i64(folder.path().join("no/such/x.npy"), 0, 0, &[]).unwrap_err();
    assert!(error.to_string().contains("x.npy: cannot write: "), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// What is written is read back to the bit, NaNs included.
    #[test]
    fn round_trip(rows in 0usize..20, cols in 0usize..20, bits: u32, ids: i64) {
        let data: Vec<f32> = (0..rows * cols).map(|i| f32::from_bits(bits.wrapping_mul(i as u32 + 1))).collect();
        let (_folder, path) = saved(b"");
        write_f32(&path, rows, cols, &data).unwrap();
        let found = read_f32(&path).unwrap();
        prop_assert_eq!((found.rows, found.cols), (rows, cols));
        prop_assert!(found.data.iter().zip(&data).all(|(f, e)| f.to_bits() == e.to_bits()));
        let data: Vec<i64> = (0..rows * cols).map(|i| ids.wrapping_mul(i as i64 + 1)).collect();
        write_i64(&path, rows, cols, &data).unwrap();
        prop_assert_eq!(read_i64(&path).unwrap(), Array2 { rows, cols, data });
    }

    /// Any bytes, with or without a true beginning, are refused or read, without a panic.
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..152, value: u8) {
        let mut changed = numpy_file();
        changed[at] = value;
        for bytes in [bytes.clone(), [b"\x93NUMPY\x01\x00".to_vec(), bytes].concat(), changed] {
            let (_folder, path) = saved(&bytes);
            let _ = (read_f32(&path), read_i64(&path));
        }
    }
}
