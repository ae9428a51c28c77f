//! Every way a path or a single file can lie, with the message.

use mercer::ErrorKind;
use mercer::weights::{Checkpoint, MAX_NAME_BYTES, MAX_RANK, MAX_TENSORS, WeightsError};
use safetensors::SafeTensors;

use super::{Folder, SOURCES, f32_file, file, model};

/// What the safetensors crate says of the same bytes.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Crate {
    Refuses,
    Accepts,
}
use Crate::{Accepts, Refuses};

/// Opens the bytes from both sources and compares the whole message, without the path in front.
#[track_caller]
fn expect(oracle: Crate, bytes: &[u8], message: &str) {
    let verdict = if SafeTensors::deserialize(bytes).is_ok() { Accepts } else { Refuses };
    assert_eq!(verdict, oracle, "the safetensors crate on {message:?}");
    let folder = model(bytes);
    for source in SOURCES {
        let error = folder.refused(source);
        assert_eq!(folder.message(&error), format!("DIR/model.safetensors: {message}"), "{source:?}");
        assert_eq!(error.kind(), ErrorKind::CorruptData, "{message}");
        assert!(!error.to_string().contains('\n'), "one line: {message}");
    }
}

fn table(cases: &[(Crate, &str, &[u8], &str)]) {
    for (oracle, header, data, message) in cases {
        expect(*oracle, &file(header, data), message);
    }
}

#[test]
fn files_too_short_for_a_header() {
    for len in 0..8 {
        expect(Refuses, &vec![0; len], &format!("{len} bytes long, its header needs 8"));
    }
    // Eight and nine bytes: an empty header, without and with data.
    for len in [8, 9] {
        expect(Refuses, &vec![0; len], "header: EOF while parsing a value at line 1 column 0");
    }
    expect(Refuses, &[1, 0, 0, 0, 0, 0, 0, 0], "8 bytes long, its header needs 9");
    expect(
        Refuses,
        &[1, 0, 0, 0, 0, 0, 0, 0, b'{'],
        "header: EOF while parsing an object at line 1 column 1",
    );
}

#[test]
fn header_lengths_that_lie() {
    let with_length = |length: u64| [&length.to_le_bytes()[..], b"{}"].concat();
    let cases = [
        (3, "10 bytes long, its header needs 11"),
        (100_000_000, "10 bytes long, its header needs 100000008"),
        (100_000_001, "declares a header of 100000001 bytes, the limit is 100000000"),
        (u64::MAX - 7, "declares a header of 18446744073709551608 bytes, the limit is 100000000"),
        (u64::MAX, "declares a header of 18446744073709551615 bytes, the limit is 100000000"),
        (1, "header: EOF while parsing an object at line 1 column 1"),
    ];
    for (length, message) in cases {
        expect(Refuses, &with_length(length), message);
    }
}

#[test]
fn headers_that_are_not_the_json_of_the_format() {
    table(&[
        // Not an object from the first byte on.
        (Accepts, " {}", b"", "the header starts with byte 0x20, not with '{'"),
        (Refuses, "[]", b"", "the header starts with byte 0x5b, not with '{'"),
        (Refuses, "\u{feff}{}", b"", "the header starts with byte 0xef, not with '{'"),
        // Not JSON.
        (Refuses, "{]", b"", "header: key must be a string at line 1 column 2"),
        (Refuses, "{}{}", b"", "header: trailing characters at line 1 column 3"),
        (Refuses, "{}\0", b"", "header: trailing characters at line 1 column 3"),
        (Refuses, r#"{"\ud800":{}}"#, b"", "header: unexpected end of hex escape at line 1 column 9"),
        // Not a tensor.
        (
            Refuses,
            r#"{"t":1}"#,
            b"",
            r#"header of tensor "t": invalid type: integer `1`, expected an object at line 1 column 6"#,
        ),
        (
            Accepts,
            r#"{"t":["F32",[1],[0,4]]}"#,
            &[0; 4],
            r#"header of tensor "t": invalid type: sequence, expected an object at line 1 column 5"#,
        ),
        (
            Refuses,
            r#"{"t":{"shape":[],"data_offsets":[0,4]}}"#,
            &[0; 4],
            r#"header of tensor "t": missing field `dtype` at line 1 column 38"#,
        ),
        (
            Refuses,
            r#"{"t":{"dtype":"F32","data_offsets":[0,4]}}"#,
            &[0; 4],
            r#"header of tensor "t": missing field `shape` at line 1 column 41"#,
        ),
        (
            Refuses,
            r#"{"t":{"dtype":"F32","shape":[]}}"#,
            &[0; 4],
            r#"header of tensor "t": missing field `data_offsets` at line 1 column 31"#,
        ),
        (
            Accepts,
            r#"{"t":{"dtype":"F32","shape":[],"data_offsets":[0,4],"strides":[]}}"#,
            &[0; 4],
            "header of tensor \"t\": unknown field `strides`, expected one of `dtype`, `shape`, `data_offsets` at \
             line 1 column 61",
        ),
        (
            Refuses,
            r#"{"t":{"dtype":"F32","dtype":"F32","shape":[],"data_offsets":[0,4]}}"#,
            &[0; 4],
            r#"header of tensor "t": duplicate field `dtype` at line 1 column 27"#,
        ),
        (
            Accepts,
            r#"{"t":{"dtype":{"F32":null},"shape":[],"data_offsets":[0,4]}}"#,
            &[0; 4],
            r#"header of tensor "t": invalid type: map, expected a string at line 1 column 14"#,
        ),
        // Numbers that are no sizes.
        (
            Refuses,
            r#"{"t":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
            &[0; 4],
            r#"header of tensor "t": invalid value: integer `-1`, expected usize at line 1 column 31"#,
        ),
        (
            Refuses,
            r#"{"t":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}"#,
            &[0; 4],
            r#"header of tensor "t": invalid type: floating point `1.0`, expected usize at line 1 column 32"#,
        ),
        (
            Refuses,
            r#"{"t":{"dtype":"F32","shape":["1"],"data_offsets":[0,4]}}"#,
            &[0; 4],
            r#"header of tensor "t": invalid type: string "1", expected usize at line 1 column 32"#,
        ),
        (
            Refuses,
            r#"{"t":{"dtype":"F32","shape":4,"data_offsets":[0,4]}}"#,
            &[0; 4],
            r#"header of tensor "t": invalid type: integer `4`, expected a list of dimensions at line 1 column 29"#,
        ),
        (
            Refuses,
            r#"{"t":{"dtype":"F32","shape":[],"data_offsets":[0,18446744073709551616]}}"#,
            &[0; 4],
            "header of tensor \"t\": invalid type: floating point `1.8446744073709552e+19`, expected usize at line 1 \
             column 69",
        ),
        (
            Refuses,
            r#"{"t":{"dtype":"F32","shape":[],"data_offsets":[4]}}"#,
            &[0; 4],
            r#"header of tensor "t": invalid length 1, expected an array of length 2 at line 1 column 49"#,
        ),
        (
            Refuses,
            r#"{"t":{"dtype":"F32","shape":[],"data_offsets":[0,2,4]}}"#,
            &[0; 4],
            r#"header of tensor "t": trailing characters at line 1 column 52"#,
        ),
        // Metadata.
        (
            Refuses,
            r#"{"__metadata__":{"step":3}}"#,
            b"",
            "header: invalid type: integer `3`, expected a string at line 1 column 25",
        ),
        (
            Refuses,
            r#"{"__metadata__":["pt"]}"#,
            b"",
            "header: invalid type: sequence, expected an object of strings at line 1 column 16",
        ),
        (
            Accepts,
            r#"{"__metadata__":null}"#,
            b"",
            "header: invalid type: null, expected an object of strings at line 1 column 20",
        ),
        (Accepts, r#"{"__metadata__":{"a":"1","a":"2"}}"#, b"", r#"__metadata__ has the key "a" twice"#),
        (
            Refuses,
            r#"{"__metadata__":{},"__metadata__":{}}"#,
            b"",
            "header: duplicate field `__metadata__` at line 1 column 33",
        ),
    ]);
}

#[test]
fn headers_that_are_not_utf8() {
    let header = b"{\"\xff\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}";
    expect(Refuses, &file(header, b"x"), "header: invalid unicode code point at line 1 column 3");
}

#[test]
fn tensors_that_contradict_themselves() {
    table(&[
        (
            Accepts,
            r#"{"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#,
            b"x",
            r#"tensor "t" is described twice"#,
        ),
        // Names are quoted and escaped: a message stays on its line.
        (
            Refuses,
            r#"{"a\nb":{"dtype":"f32","shape":[1],"data_offsets":[0,4]}}"#,
            &[0; 4],
            r#"tensor "a\nb" has the unknown dtype "f32""#,
        ),
        (
            Refuses,
            r#"{"t":{"dtype":"F32 ","shape":[1],"data_offsets":[0,4]}}"#,
            &[0; 4],
            r#"tensor "t" has the unknown dtype "F32 ""#,
        ),
        // Sizes that overflow: in the product, in bits, and before a zero could hide it.
        (
            Refuses,
            r#"{"t":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#,
            b"",
            r#"tensor "t": the size of U8 [4294967296, 4294967296] overflows"#,
        ),
        (
            Refuses,
            r#"{"t":{"dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,0]}}"#,
            b"",
            r#"tensor "t": the size of F32 [1152921504606846976] overflows"#,
        ),
        (
            Refuses,
            r#"{"t":{"dtype":"U8","shape":[9223372036854775808,2,0],"data_offsets":[0,0]}}"#,
            b"",
            r#"tensor "t": the size of U8 [9223372036854775808, 2, 0] overflows"#,
        ),
        (
            Refuses,
            r#"{"t":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}"#,
            &[0; 2],
            r#"tensor "t": F4 [3] takes 12 bits, not whole bytes"#,
        ),
        // Offsets against the shape.
        (
            Refuses,
            r#"{"t":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#,
            &[0; 4],
            r#"tensor "t" begins at 4 and ends at 0"#,
        ),
        (
            Refuses,
            r#"{"t":{"dtype":"F16","shape":[2,3],"data_offsets":[0,11]}}"#,
            &[0; 11],
            r#"tensor "t": F16 [2, 3] takes 12 bytes, its offsets hold 11"#,
        ),
        (
            Refuses,
            r#"{"t":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,16]}}"#,
            &[0; 16],
            r#"tensor "t": BF16 [2, 3] takes 12 bytes, its offsets hold 16"#,
        ),
        (
            Refuses,
            r#"{"t":{"dtype":"F32","shape":[],"data_offsets":[0,0]}}"#,
            b"",
            r#"tensor "t": F32 [] takes 4 bytes, its offsets hold 0"#,
        ),
        (
            Refuses,
            r#"{"t":{"dtype":"F32","shape":[5,0],"data_offsets":[0,4]}}"#,
            &[0; 4],
            r#"tensor "t": F32 [5, 0] takes 0 bytes, its offsets hold 4"#,
        ),
    ]);
}

#[test]
fn layouts_with_overlaps_holes_and_wrong_ends() {
    table(&[
        (
            Refuses,
            r#"{"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#,
            &[0; 6],
            r#"tensors "a" (data bytes 0..4) and "b" (2..6) overlap"#,
        ),
        (
            Refuses,
            r#"{"b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#,
            &[0; 4],
            r#"tensors "a" (data bytes 0..4) and "b" (0..4) overlap"#,
        ),
        (
            Refuses,
            r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"empty":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}}"#,
            &[0; 4],
            r#"tensors "a" (data bytes 0..4) and "empty" (2..2) overlap"#,
        ),
        (
            Refuses,
            r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[1,5]}}"#,
            &[0; 5],
            r#"data bytes 0..1 before tensor "a" belong to no tensor"#,
        ),
        (
            Refuses,
            r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[4,5]}}"#,
            &[0; 5],
            r#"data bytes 1..4 before tensor "b" belong to no tensor"#,
        ),
        (
            Refuses,
            r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#,
            &[0; 3],
            r#"tensor "a" ends at data byte 4, the data at 3"#,
        ),
        (
            Refuses,
            r#"{"a":{"dtype":"U8","shape":[0],"data_offsets":[18446744073709551615,18446744073709551615]}}"#,
            b"",
            r#"data bytes 0..18446744073709551615 before tensor "a" belong to no tensor"#,
        ),
        (
            Refuses,
            r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#,
            &[0; 5],
            "the tensors end at data byte 4, the data at 5",
        ),
        (Refuses, "{}", b"x", "the tensors end at data byte 0, the data at 1"),
    ]);
}

#[test]
fn limits_hold_on_both_sides() {
    let scalars = |count: usize| {
        let entry = |i| format!(r#""{i}":{{"dtype":"U8","shape":[],"data_offsets":[{i},{}]}}"#, i + 1);
        file(format!("{{{}}}", (0..count).map(entry).collect::<Vec<_>>().join(",")), &vec![0; count])
    };
    let rank = |rank| {
        file(format!(r#"{{"t":{{"dtype":"U8","shape":{:?},"data_offsets":[0,1]}}}}"#, vec![1; rank]), b"x")
    };
    let named = |len| {
        let name = "é".repeat(len / 2);
        file(format!(r#"{{"{name}":{{"dtype":"U8","shape":[],"data_offsets":[0,1]}}}}"#), b"x")
    };
    for bytes in [scalars(MAX_TENSORS), rank(MAX_RANK), named(MAX_NAME_BYTES)] {
        Checkpoint::mmap(model(bytes).path()).unwrap();
    }
    expect(Accepts, &scalars(MAX_TENSORS + 1), "262145 tensors, the limit is 262144");
    expect(Accepts, &rank(MAX_RANK + 1), r#"tensor "t" has 33 dimensions, the limit is 32"#);
    let start = "é".repeat(80);
    let message = format!("tensor \"{start}…\" has a name of 1026 bytes, the limit is 1024");
    expect(Accepts, &named(MAX_NAME_BYTES + 2), &message);
}

#[test]
fn paths_that_lead_to_no_checkpoint() {
    let good = f32_file(&[("t", &[1], &[1.0])]);
    let folder = Folder::new();
    folder.write("empty/readme.txt", "");
    folder.write("both/model.safetensors", &good);
    folder.write("both/model.safetensors.index.json", "{}");
    folder.write("folder/model.safetensors/inside", "");
    folder.write("weights.bin", &good);
    folder.write("model.safetensors.index.json", "{}");
    let cases = [
        ("nowhere", "DIR/nowhere: no such file or folder"),
        ("nowhere.safetensors", "DIR/nowhere.safetensors: no such file or folder"),
        ("empty", "DIR/empty: holds neither model.safetensors nor model.safetensors.index.json"),
        (
            "both",
            "DIR/both: holds both model.safetensors and model.safetensors.index.json; remove one of them",
        ),
        ("folder", "DIR/folder/model.safetensors: not a regular file"),
        ("weights.bin", "DIR/weights.bin: neither a model folder nor a .safetensors file"),
        (
            "model.safetensors.index.json",
            "DIR/model.safetensors.index.json: neither a model folder nor a .safetensors file",
        ),
    ];
    for (path, message) in cases {
        for source in SOURCES {
            let error = Checkpoint::open(&folder.path().join(path), source).unwrap_err();
            assert_eq!(folder.message(&error), message, "{source:?}");
            assert_eq!(error.kind(), ErrorKind::Caller, "{message}");
        }
    }
}

#[test]
fn errors_of_the_file_system_keep_their_source() {
    let folder = Folder::new();
    let file = folder.write("file", "");
    let error = Checkpoint::mmap(&file.join("model.safetensors")).unwrap_err();
    assert!(matches!(error, WeightsError::Io { .. }), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(std::error::Error::source(&error).is_some());

    let error = model(file_with_bad_json()).refused(SOURCES[0]);
    assert!(std::error::Error::source(&error).unwrap().is::<serde_json::Error>());
}

fn file_with_bad_json() -> Vec<u8> {
    file("{", b"")
}
