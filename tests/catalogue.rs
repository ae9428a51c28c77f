//! The catalogue: what it refuses, what it answers, and that it survives the disk.
#![allow(clippy::unwrap_used, clippy::panic)] // test helpers

use mercer::catalogue::store::{self, Contents, FORMAT_VERSION, Items, MANIFEST, RowFeatures};
use mercer::catalogue::{CatalogueError, MAX_K};
use mercer::cpu::normalize::normalize;
use mercer::cpu::score::score_scalar;
use mercer::{Catalogue, ErrorKind, Hits, Metric};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Values in [-1, 1) from a 64-bit linear congruential generator.
fn uniform(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

fn generated(metric: Metric, dim: usize, rows: usize) -> Catalogue {
    let ids = (0..rows).map(|row| i64::try_from((row * 7919 + 5) % 100_003).unwrap()).collect();
    Catalogue::new(metric, dim, ids, uniform(3, rows * dim)).unwrap()
}

/// Every answer, ids and the bits of scores.
fn bits(answers: &[Hits]) -> Vec<Vec<(i64, usize, u32)>> {
    let of = |hits: &Hits| hits.iter().map(|hit| (hit.id, hit.row, hit.score.to_bits())).collect();
    answers.iter().map(of).collect()
}

#[track_caller]
fn assert_refused<T>(result: Result<T, CatalogueError>, message: &str, kind: ErrorKind) {
    let error = result.err().expect("accepted");
    assert_eq!((error.to_string().as_str(), error.kind()), (message, kind));
}

mod construction {
    use super::*;
    use ErrorKind::{Caller, Unsupported};
    use Metric::{Cosine, InnerProduct};

    #[test]
    fn shapes() {
        let new =
            |dim, ids: &[i64], values: usize| Catalogue::new(Cosine, dim, ids.to_vec(), vec![1.0; values]);
        assert_refused(new(0, &[], 0), "vectors of 0 elements; 1 to 4096 are supported", Caller);
        assert_refused(new(4097, &[], 0), "vectors of 4097 elements; 1 to 4096 are supported", Unsupported);
        assert_refused(new(3, &[1, 2], 5), "5 values for 2 ids of 3 elements each", Caller);
        assert_eq!(new(4096, &[1], 4096).unwrap().dim(), 4096);
        assert_eq!(new(1, &[1], 1).unwrap().len(), 1);
    }

    #[test]
    fn ids() {
        let new = |ids: &[i64]| Catalogue::new(Cosine, 1, ids.to_vec(), vec![1.0; ids.len()]);
        assert_refused(new(&[3, 0, -1]), "row 2 has id -1; ids are not negative", Caller);
        assert_refused(new(&[9, 3, 5, 3]), "rows 1 and 3 both have id 3", Caller);
        assert_refused(new(&[4, 4]), "rows 0 and 1 both have id 4", Caller);
        let catalogue = new(&[i64::MAX, 0, 77]).unwrap();
        assert_eq!(
            [0, 77, i64::MAX, 1, -1].map(|id| catalogue.row_of(id)),
            [Some(1), Some(2), Some(0), None, None]
        );
        let ascending = new(&[2, 5, 9]).unwrap();
        assert_eq!([2, 5, 9, 3].map(|id| ascending.row_of(id)), [Some(0), Some(1), Some(2), None]);
    }

    /// Values that have no direction, under both metrics, in rows and in queries.
    #[test]
    fn bad_values() {
        for metric in [Cosine, InnerProduct] {
            let good = Catalogue::new(metric, 2, vec![1], vec![1.0, 2.0]).unwrap();
            for (values, what) in [
                ([0.0, -0.0], "1 is all zeros"),
                ([1.0, f32::NAN], "1 has NaN at position 1"),
                ([f32::INFINITY, 1.0], "1 has inf at position 0"),
                ([1.0, f32::NEG_INFINITY], "1 has -inf at position 1"),
            ] {
                let vectors = [[1.0, 1.0], values].concat();
                let result = Catalogue::new(metric, 2, vec![7, 8], vectors.clone());
                assert_refused(result, &format!("row {what}"), Caller);
                assert_refused(good.search(&vectors, 1), &format!("query {what}"), Caller);
            }
        }
    }

    /// Up to a norm of 2^63 no score overflows; past it a row or a query is refused. Cosine has no such limit.
    #[test]
    fn long_vectors() {
        let limit = 2.0f32.powi(63);
        let element = limit / 64.0; // 4096 of them have the norm 2^63
        let rows = [vec![element; 4096], vec![-element; 4096]].concat();
        let catalogue = Catalogue::new(InnerProduct, 4096, vec![1, 2], rows.clone()).unwrap();
        let answer = &catalogue.search(&rows[..4096], 2).unwrap()[0];
        assert_eq!((answer[0].score, answer[1].score), (2.0f32.powi(126), -2.0f32.powi(126)));

        let mut long = rows;
        long[5000] = long[5000].next_down();
        let message = "row 1 has length 9.223372037123211e18 (L2); inner products are supported up to 2^63";
        assert_refused(Catalogue::new(InnerProduct, 4096, vec![1, 2], long), message, Unsupported);
        let message =
            "query 0 has length 3.4028234663852886e38 (L2); inner products are supported up to 2^63";
        let one = Catalogue::new(InnerProduct, 1, vec![1], vec![limit]).unwrap();
        assert_refused(one.search(&[f32::MAX], 1), message, Unsupported);
        assert!(Catalogue::new(Cosine, 1, vec![1], vec![f32::MAX]).unwrap().search(&[f32::MAX], 1).is_ok());
    }

    /// Rows are normalised once, as the definition says, for cosine; kept to the bit otherwise.
    #[test]
    fn vectors_as_searched() {
        let given = uniform(1, 50 * 7);
        let kept = Catalogue::new(InnerProduct, 7, (0..50).collect(), given.clone()).unwrap();
        assert_eq!(kept.vectors(), given);
        let mut unit = given.clone();
        unit.chunks_mut(7).for_each(|row| normalize(row).unwrap());
        let normalised = Catalogue::new(Cosine, 7, (0..50).collect(), given).unwrap();
        assert_eq!(normalised.vectors(), unit);
        assert_eq!(normalised.vector(3), Some(&unit[21..28]));
        assert_eq!(normalised.vector(50), None);
        assert_eq!(format!("{normalised:?}"), "Catalogue { metric: Cosine, rows: 50, dim: 7 }");
    }
}

mod search {
    use super::*;
    use ErrorKind::{Caller, Unsupported};

    #[test]
    fn arguments() {
        let catalogue = generated(Metric::Cosine, 4, 10);
        let query = [1.0; 4];
        assert_refused(catalogue.search(&query, 0), "top 0; 1 to 65536 are supported", Caller);
        assert_refused(catalogue.search(&query, 65_537), "top 65537; 1 to 65536 are supported", Unsupported);
        assert_refused(
            catalogue.search(&query[..3], 1),
            "3 query values; the catalogue's vectors have 4 elements",
            Caller,
        );
        let into = |ids: usize, scores: usize, counts: usize| {
            let (mut i, mut s, mut c) = (vec![0; ids], vec![0.0; scores], vec![0; counts]);
            catalogue.search_into(&[1.0; 8], 3, &mut i, &mut s, &mut c)
        };
        assert_refused(into(5, 6, 2), "the slice for ids has length 5, the answer needs 6", Caller);
        assert_refused(into(6, 7, 2), "the slice for scores has length 7, the answer needs 6", Caller);
        assert_refused(into(6, 6, 1), "the slice for counts has length 1, the answer needs 2", Caller);
        let (mut ids, mut scores, mut counts) = ([0; 0], [0.0; 0], [0; 1]);
        let none = catalogue.search_into(&query, 0, &mut ids, &mut scores, &mut counts);
        assert_refused(none, "top 0; 1 to 65536 are supported", Caller);
    }

    /// Against every row scored by definition and sorted, under both metrics, with the certificate.
    #[test]
    fn exact() {
        for metric in [Metric::Cosine, Metric::InnerProduct] {
            for (dim, rows) in [(1, 50), (9, 700), (128, 400)] {
                let catalogue = generated(metric, dim, rows);
                let queries = uniform(9, 3 * dim);
                let answers = catalogue.search(&queries, 20).unwrap();
                let mut scored = queries.clone();
                if metric == Metric::Cosine {
                    scored.chunks_mut(dim).for_each(|query| normalize(query).unwrap());
                }
                for (at, (hits, query)) in answers.iter().zip(scored.chunks(dim)).enumerate() {
                    let mut expected: Vec<(f32, i64)> = (0..rows)
                        .map(|row| {
                            let score = score_scalar(query, catalogue.vector(row).unwrap()).unwrap();
                            (score, catalogue.ids()[row])
                        })
                        .collect();
                    expected.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
                    for (rank, (hit, expected)) in hits.iter().zip(&expected).enumerate() {
                        assert_eq!(
                            (hit.score, hit.id),
                            *expected,
                            "{metric:?}, dim {dim}, query {at}, rank {rank}"
                        );
                        assert_eq!(catalogue.row_of(hit.id), Some(hit.row));
                    }
                    assert_eq!(hits.len(), 20.min(rows));
                    let proof = hits.certificate();
                    assert_eq!((proof.rows_scanned, proof.rows_rescored), (rows, rows));
                    assert_eq!((proof.slack, proof.fallback), (0.0, false));
                }
            }
        }
    }

    #[test]
    fn empty_catalogue_empty_batch_and_few_rows() {
        let empty = Catalogue::new(Metric::Cosine, 3, vec![], vec![]).unwrap();
        assert!(empty.is_empty());
        assert_eq!(bits(&empty.search(&[1.0; 6], 5).unwrap()), vec![vec![], vec![]]);
        let three = generated(Metric::Cosine, 3, 3);
        assert_eq!(bits(&three.search(&[], 5).unwrap()), Vec::<Vec<_>>::new());
        assert_eq!(three.search(&[1.0; 3], MAX_K).unwrap()[0].len(), 3);
    }

    /// The caller's slices hold what `search` returns; the tail behind a short answer is no hit.
    #[test]
    fn into_slices() {
        let catalogue = generated(Metric::InnerProduct, 5, 4);
        let queries = uniform(2, 3 * 5);
        let (mut ids, mut scores, mut counts) = (vec![99; 18], vec![99.0; 18], vec![99; 3]);
        catalogue.search_into(&queries, 6, &mut ids, &mut scores, &mut counts).unwrap();
        for (query, hits) in catalogue.search(&queries, 6).unwrap().iter().enumerate() {
            assert_eq!(counts[query], 4);
            for (rank, hit) in hits.iter().enumerate() {
                assert_eq!((ids[query * 6 + rank], scores[query * 6 + rank]), (hit.id, hit.score));
            }
            assert_eq!(ids[query * 6 + 4..][..2], [-1, -1]);
            assert!(scores[query * 6 + 4..][..2].iter().all(|score| score.is_nan()));
        }
    }

    /// A query's answer has the same bits alone and in any batch, on any number of threads.
    #[test]
    fn batch_and_threads_do_not_matter() {
        let catalogue = generated(Metric::Cosine, 20, 5000);
        let queries = uniform(4, 64 * 20);
        let expected = bits(&catalogue.search(&queries, 15).unwrap());
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for batch in [1, 17, 64] {
                let search = |q| catalogue.search(q, 15).unwrap();
                let answers: Vec<Hits> =
                    pool.install(|| queries.chunks(batch * 20).flat_map(search).collect());
                assert_eq!(bits(&answers), expected, "{threads} threads, batch {batch}");
            }
        }
    }

    /// Clones share their data and may be searched from several threads at once.
    #[test]
    fn clones_on_threads() {
        let catalogue = generated(Metric::Cosine, 8, 1000);
        let query = uniform(5, 8);
        let expected = bits(&catalogue.search(&query, 10).unwrap());
        let search = |catalogue: Catalogue| bits(&catalogue.search(&query, 10).unwrap());
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| search(catalogue.clone()))).collect();
            for thread in threads {
                assert_eq!(thread.join().unwrap(), expected);
            }
        });
    }
}

mod persistence {
    use super::*;

    fn contents(seed: u64, rows: usize, with_features: bool) -> Contents {
        let ids = (0..rows).map(|row| i64::try_from((row * 7 + 3) % 1009).unwrap()).collect();
        let catalogue = Catalogue::new(Metric::Cosine, 5, ids, uniform(seed, rows * 5)).unwrap();
        let items =
            Items::new((0..rows).map(|row| format!(r#"{{"id":{row},"title":"羽绒服 {seed}"}}"#))).unwrap();
        let features = with_features.then(|| RowFeatures { width: 3, data: uniform(seed, rows * 3) });
        Contents { catalogue, items, features, model: format!("model {seed}") }
    }

    #[track_caller]
    fn assert_same(found: &Contents, expected: &Contents) {
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(found.catalogue.metric(), expected.catalogue.metric());
        assert_eq!(found.catalogue.dim(), expected.catalogue.dim());
        assert_eq!(found.catalogue.ids(), expected.catalogue.ids());
        assert_eq!(bits(found.catalogue.vectors()), bits(expected.catalogue.vectors()));
        assert_eq!(found.items, expected.items);
        assert_eq!(found.features, expected.features);
        assert_eq!(found.model, expected.model);
    }

    fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
    }

    fn write(folder: &Path, files: &BTreeMap<String, Vec<u8>>) {
        fs::create_dir_all(folder).unwrap();
        files.iter().for_each(|(name, bytes)| fs::write(folder.join(name), bytes).unwrap());
    }

    /// The message without the path before it.
    fn text(error: &CatalogueError) -> String {
        error.to_string().split_once(": ").unwrap().1.to_string()
    }

    #[test]
    fn round_trip() {
        let folder = tempfile::tempdir().unwrap();
        for (at, (rows, features)) in
            [(100, true), (100, false), (1, true), (0, false), (0, true)].iter().enumerate()
        {
            let expected = contents(1, *rows, *features);
            let path = folder.path().join(at.to_string()).join("created");
            store::save(&path, &expected).unwrap();
            let found = store::open(&path).unwrap();
            assert_same(&found, &expected);
            let query = uniform(8, 5);
            let answer = |contents: &Contents| bits(&contents.catalogue.search(&query, 30).unwrap());
            assert_eq!(answer(&found), answer(&expected));
            assert_eq!(files(&path).len(), 3);
            store::save(&path, &found).unwrap();
            assert_same(&store::open(&path).unwrap(), &expected);
        }
    }

    /// Lines are kept as they are, empty ones and those with a carriage return too.
    #[test]
    fn items() {
        let lines = ["", "{}", "a\r", "", "黑色"];
        let items = Items::new(lines).unwrap();
        assert_eq!(items.iter().collect::<Vec<_>>(), lines);
        assert_eq!(
            (items.get(4), items.get(5), items.len(), items.is_empty()),
            (Some("黑色"), None, 5, false)
        );
        assert_eq!(Items::new(["a", "b\nc"]).unwrap_err().to_string(), "item 1 has a line break");
    }

    #[test]
    fn the_file_is_safetensors() {
        let folder = tempfile::tempdir().unwrap();
        let expected = contents(1, 10, true);
        store::save(folder.path(), &expected).unwrap();
        let files = files(folder.path());
        let (name, bytes) = files.iter().find(|(name, _)| name.ends_with(".safetensors")).unwrap();
        assert_eq!(*name, format!("vectors-{}.safetensors", blake3::hash(bytes).to_hex()));
        let tensors = safetensors::SafeTensors::deserialize(bytes).unwrap();
        let shape = |name| tensors.tensor(name).unwrap().shape().to_vec();
        assert_eq!([shape("ids"), shape("vectors"), shape("features")], [vec![10], vec![10, 5], vec![10, 3]]);
        let vectors = tensors.tensor("vectors").unwrap().data();
        assert_eq!(vectors, bytemuck::cast_slice::<f32, u8>(expected.catalogue.vectors()));
    }

    /// Side data that does not fit is refused before anything is written.
    #[test]
    fn side_data_that_does_not_fit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let good = contents(1, 4, true);
        let features = |width, values: &[f32]| Contents {
            features: Some(RowFeatures { width, data: values.to_vec() }),
            ..good.clone()
        };
        for (contents, message) in [
            (
                Contents { items: Items::new(["{}"; 3]).unwrap(), ..good.clone() },
                "items for 3 rows, the catalogue has 4",
            ),
            (features(2, &[0.0; 6]), "features for 3 rows, the catalogue has 4"),
            (features(2, &[0.0; 7]), "7 feature values in rows of width 2"),
            (features(0, &[]), "0 feature values in rows of width 0"),
            (features(1, &[0.0, 1.0, f32::NAN, 0.0]), "the features of row 2 have NaN at position 0"),
        ] {
            assert_refused(store::save(&path, &contents), message, ErrorKind::Caller);
        }
        assert!(!path.exists());
    }

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

    /// Folders that are not ours are neither opened nor written to; a file of ours does not make them so.
    #[test]
    fn foreign_folders() {
        let folder = tempfile::tempdir().unwrap();
        let good = contents(1, 4, false);
        let none = |error: CatalogueError| {
            assert_eq!(
                (text(&error).as_str(), error.kind()),
                ("no catalogue here: manifest.json is missing", ErrorKind::Caller)
            );
        };
        none(store::open(folder.path()).unwrap_err());
        none(store::open(folder.path().join("missing")).unwrap_err());
        for (name, bytes) in [
            ("photo.png", "x"),
            ("vectors-1.safetensors", "x"),
            ("items-of-mine.jsonl", "x"),
            (MANIFEST, "{\"name\": \"a web page\"}"),
            (MANIFEST, "not JSON"),
        ] {
            let path = folder.path().join("foreign");
            write(&path, &BTreeMap::from([(name.to_string(), bytes.into())]));
            let before = files(&path);
            let error = store::save(&path, &good).unwrap_err();
            let message = format!("the folder holds {name} and no catalogue; name an empty or a new folder");
            assert_eq!((text(&error), error.kind()), (message, ErrorKind::Caller));
            assert_eq!(files(&path), before);
            fs::remove_dir_all(&path).unwrap();
        }
        let file = folder.path().join("file");
        fs::write(&file, "x").unwrap();
        assert_eq!(store::save(&file, &good).unwrap_err().kind(), ErrorKind::Io);
    }

    /// Files that the caller put beside a catalogue stay; files of earlier and of unfinished saves go.
    #[test]
    fn only_our_own_files_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        store::save(folder.path(), &contents(1, 4, false)).unwrap();
        for name in ["notes.txt", "vectors-1.safetensors", ".mercer-left.tmp"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        store::save(folder.path(), &contents(2, 4, false)).unwrap();
        let names: Vec<String> = files(folder.path()).into_keys().collect();
        assert_eq!(names.len(), 5, "{names:?}");
        assert!(names.contains(&"notes.txt".into()) && names.contains(&"vectors-1.safetensors".into()));
        assert_same(&store::open(folder.path()).unwrap(), &contents(2, 4, false));
    }

    /// Stopped after any step, a save leaves the old or the new catalogue, and the next save succeeds.
    #[test]
    fn stopped_anywhere() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (contents(1, 5, true), contents(2, 7, false));
        let state = |name: &str, contents: &Contents| {
            let path = folder.path().join(name);
            store::save(&path, contents).unwrap();
            files(&path)
        };
        let (before, after) = (state("old", &old), state("new", &new));
        let named = |files: &BTreeMap<String, Vec<u8>>, start: &str| {
            let (name, bytes) = files.iter().find(|(name, _)| name.starts_with(start)).unwrap();
            (name.clone(), bytes.clone())
        };
        let (vectors, items, manifest) =
            (named(&after, "vectors-"), named(&after, "items-"), named(&after, MANIFEST));
        let half =
            |file: &(String, Vec<u8>)| (".mercer-0a.tmp".to_string(), file.1[..file.1.len() / 2].to_vec());
        let left = [
            vec![half(&vectors)],
            vec![vectors.clone()],
            vec![vectors.clone(), half(&items)],
            vec![vectors.clone(), items.clone()],
            vec![vectors.clone(), items.clone(), half(&manifest)],
            vec![vectors.clone(), items.clone(), manifest.clone()],
        ];
        for (step, left) in left.into_iter().enumerate() {
            let finished = step == 5;
            let left: BTreeMap<String, Vec<u8>> = left.into_iter().collect();
            // Over an older catalogue.
            let path = folder.path().join(format!("over {step}"));
            write(&path, &before);
            write(&path, &left);
            assert_same(&store::open(&path).unwrap(), if finished { &new } else { &old });
            store::save(&path, &new).unwrap();
            assert_eq!(files(&path), after, "step {step}");
            // Into a new folder.
            let path = folder.path().join(format!("fresh {step}"));
            write(&path, &left);
            assert_eq!(store::open(&path).is_ok(), finished, "step {step}");
            store::save(&path, &new).unwrap();
            assert_eq!(files(&path), after, "step {step}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// The order of the rows does not change which ids are found, nor their scores.
    #[test]
    fn row_order_does_not_matter(seed: u64, dim in 1usize..40, rows in 1usize..300, k in 1usize..50) {
        let vectors = uniform(seed, rows * dim);
        let ids: Vec<i64> = (0..i64::try_from(rows).unwrap()).collect();
        let catalogue = Catalogue::new(Metric::Cosine, dim, ids.clone(), vectors.clone()).unwrap();
        let reversed_ids = ids.into_iter().rev().collect();
        let reversed_rows: Vec<f32> = vectors.chunks(dim).rev().flatten().copied().collect();
        let reversed = Catalogue::new(Metric::Cosine, dim, reversed_ids, reversed_rows).unwrap();
        let query = &vectors[..dim];
        let found = |catalogue: &Catalogue| -> Vec<(i64, u32)> {
            catalogue.search(query, k).unwrap()[0].iter().map(|hit| (hit.id, hit.score.to_bits())).collect()
        };
        prop_assert_eq!(found(&catalogue), found(&reversed));
    }

    /// Any bytes as a manifest are refused without a panic.
    #[test]
    fn any_manifest(text in "\\PC{0,60}") {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(MANIFEST), text).unwrap();
        prop_assert!(store::open(folder.path()).is_err());
    }
}
