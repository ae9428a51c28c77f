//! Searching: arguments, exactness, and what an answer does not depend on.

use mercer::ErrorKind::{Caller, Unsupported};
use mercer::catalogue::MAX_K;
use mercer::cpu::normalize::normalize;
use mercer::cpu::score::score_scalar;
use mercer::{Catalogue, Hits, Metric};
use proptest::prelude::*;

use super::{assert_refused, bits, generated, uniform};

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
            let answers: Vec<Hits> = pool.install(|| queries.chunks(batch * 20).flat_map(search).collect());
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
}
