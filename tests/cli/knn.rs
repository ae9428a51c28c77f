//! `mercer knn` against a search written from the definition.

use half::f16;
use mercer::npy::{read_f32, read_i64, write_f32};
use serde_json::Value;
use tempfile::TempDir;

use super::mercer;

const DIM: usize = 17;
const ROWS: usize = 230;
const BATCH: usize = 9;

/// Multiples of 1/8 in [-2, 2), which f16 holds exactly and whose products f32 sums exactly.
fn values(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from(u8::try_from(state >> 27).unwrap()) / 8.0 - 2.0
    };
    (0..count).map(|_| next()).collect()
}

/// Scores in f64, best first, equal ones by row.
fn naive(vectors: &[f32], query: &[f32], cosine: bool) -> Vec<(i64, f64)> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let scale = |row: &[f32]| if cosine { (dot(row, row) * dot(query, query)).sqrt() } else { 1.0 };
    let mut scored: Vec<(i64, f64)> =
        (0..).zip(vectors.chunks(DIM)).map(|(id, row)| (id, dot(row, query) / scale(row))).collect();
    scored.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    scored
}

/// `numpy.save` of a float16 array.
fn write_f16(path: &str, rows: usize, cols: usize, data: &[f32]) {
    let dict = format!("{{'descr': '<f2', 'fortran_order': False, 'shape': ({rows}, {cols}), }}");
    let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    bytes.extend(format!("{dict:<117}\n").bytes());
    bytes.extend(data.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()));
    std::fs::write(path, bytes).unwrap();
}

struct Files {
    folder: TempDir,
}

impl Files {
    fn new() -> Files {
        let files = Files { folder: tempfile::tempdir().unwrap() };
        write_f32(files.path("x.npy"), ROWS, DIM, &values(1, ROWS * DIM)).unwrap();
        write_f32(files.path("q.npy"), BATCH, DIM, &values(2, BATCH * DIM)).unwrap();
        files
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn run(&self, vectors: &str, queries: &str, prefix: &str, arguments: &[&str]) -> super::Run {
        let (x, q, prefix) = (self.path(vectors), self.path(queries), self.path(prefix));
        mercer([&["knn", "--vectors", &x, "--queries", &q, "--output", &prefix], arguments].concat())
    }

    /// Ids and scores, `[batch, k]`, and k.
    fn answer(&self, prefix: &str) -> (Vec<i64>, Vec<f32>, usize) {
        let ids = read_i64(self.path(&format!("{prefix}.ids.npy"))).unwrap();
        let scores = read_f32(self.path(&format!("{prefix}.scores.npy"))).unwrap();
        assert_eq!((ids.rows, scores.rows, scores.cols), (BATCH, BATCH, ids.cols));
        (ids.data, scores.data, ids.cols)
    }
}

#[test]
fn inner_products_are_exact() {
    let files = Files::new();
    let devices: &[&str] = if cfg!(feature = "emulate") { &["cpu", "cuda"] } else { &["cpu"] };
    for device in devices {
        files.run("x.npy", "q.npy", "out", &["--top", "12", "--metric", "ip", "--device", device]).ok();
        let (ids, scores, k) = files.answer("out");
        assert_eq!(k, 12);
        let vectors = values(1, ROWS * DIM);
        for (at, query) in values(2, BATCH * DIM).chunks(DIM).enumerate() {
            let found =
                ids[at * k..][..k].iter().copied().zip(scores[at * k..][..k].iter().map(|x| f64::from(*x)));
            let expected = naive(&vectors, query, false);
            assert_eq!(found.collect::<Vec<_>>(), expected[..k], "query {at} on {device}");
        }
    }
}

#[test]
fn cosines_are_those_of_f64_up_to_rounding() {
    /// Both sides are normalised in f32, and 17 products are summed: a dozen roundings of values up to 1.
    const TOLERANCE: f64 = 1e-6;
    let files = Files::new();
    files.run("x.npy", "q.npy", "out", &["--top", "10"]).ok();
    let (ids, scores, k) = files.answer("out");
    let vectors = values(1, ROWS * DIM);
    for (at, query) in values(2, BATCH * DIM).chunks(DIM).enumerate() {
        let expected = naive(&vectors, query, true);
        for rank in 0..k {
            let (id, score) = (ids[at * k + rank], f64::from(scores[at * k + rank]));
            assert!((score - expected[rank].1).abs() <= TOLERANCE, "query {at} rank {rank}: {score}");
            let own = expected.iter().find(|(other, _)| *other == id).unwrap().1;
            assert!((score - own).abs() <= TOLERANCE, "query {at} rank {rank}: id {id}");
        }
    }
}

#[test]
fn half_precision_files_give_the_same_answer() {
    let files = Files::new();
    write_f16(&files.path("x16.npy"), ROWS, DIM, &values(1, ROWS * DIM));
    write_f16(&files.path("q16.npy"), BATCH, DIM, &values(2, BATCH * DIM));
    files.run("x.npy", "q.npy", "single", &["--top", "7"]).ok();
    files.run("x16.npy", "q16.npy", "half", &["--top", "7", "--threads", "1"]).ok();
    assert_eq!(files.answer("half"), files.answer("single"));
}

#[test]
fn more_neighbours_than_rows() {
    let files = Files::new();
    write_f32(files.path("few.npy"), 3, DIM, &values(3, 3 * DIM)).unwrap();
    let run = files.run("few.npy", "q.npy", "out", &["--top", "5"]);
    assert_eq!(run.stderr, "hint: only 3 rows: the answer has 3 columns, not 5\n");
    run.ok();
    assert_eq!(files.answer("out").2, 3);
}

#[test]
fn the_report_is_one_line_of_json() {
    let files = Files::new();
    let report =
        files.run("x.npy", "q.npy", "out", &["--top", "5", "--repeat", "3", "--report", "--threads", "2"]);
    let report = report.json();
    assert!(report["search_ms"].as_f64().unwrap() > 0.0);
    let expected = [
        ("rows", Value::from(ROWS)),
        ("dim", DIM.into()),
        ("batch", BATCH.into()),
        ("k", 5.into()),
        ("threads", 2.into()),
        ("device", "cpu".into()),
        ("metric", "cosine".into()),
        ("repeat", 3.into()),
    ];
    for (name, value) in expected {
        assert_eq!(report[name], value, "{name}");
    }
}

#[test]
fn files_that_do_not_fit_are_refused_by_name() {
    let files = Files::new();
    let (x, q) = (files.path("x.npy"), files.path("bad.npy"));
    write_f32(&q, 2, 3, &[1.0; 6]).unwrap();
    files.run("x.npy", "bad.npy", "out", &["--top", "5"]).fails(
        1,
        &format!("{q}: vectors of 3 values, {x} has {DIM}"),
        None,
    );
    write_f32(&q, 2, DIM, &[0.0; 2 * DIM]).unwrap();
    files.run("x.npy", "bad.npy", "out", &["--top", "5"]).fails(
        1,
        &format!("{q}: query 0 is all zeros"),
        None,
    );
    let mut rows = values(1, ROWS * DIM);
    rows[DIM * 4 + 2] = f32::NAN;
    write_f32(&q, ROWS, DIM, &rows).unwrap();
    files.run("bad.npy", "q.npy", "out", &["--top", "5"]).fails(
        1,
        &format!("{q}: row 4 has NaN at position 2"),
        None,
    );
    files.run("none.npy", "q.npy", "out", &["--top", "5"]).fails(
        1,
        &format!("{}: cannot open: No such file or directory (os error 2)", files.path("none.npy")),
        None,
    );
}
