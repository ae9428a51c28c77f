//! A catalogue searched by vectors on every device: the same hits, to the bit.
#![allow(clippy::panic, clippy::unwrap_used)] // a failed check ends the test

use mercer::catalogue::CatalogueError;
use mercer::engine::{EngineError, Searcher, SearcherOptions};
use mercer::{Catalogue, Device, Error, ErrorKind, Metric};
use oracle::Random;

#[cfg(feature = "cuda")]
mod device;
mod oracle;

/// The devices of this build and machine.
fn devices() -> Vec<Device> {
    #[cfg(feature = "cuda")]
    let card = device::device().map(|_| Device::Cuda(0));
    #[cfg(not(feature = "cuda"))]
    let card = None;
    [Device::Cpu].into_iter().chain(card).collect()
}

fn catalogue(metric: Metric, rows: usize, dim: usize) -> Catalogue {
    let mut random = Random::new(3);
    let ids = (0..rows).map(|row| i64::try_from((row * 7919) % 100_003).unwrap()).collect();
    Catalogue::new(metric, dim, ids, random.values(rows * dim)).unwrap()
}

fn options(device: Device) -> SearcherOptions {
    SearcherOptions::default().device(device).queries_at_once(8).contexts(1)
}

#[test]
fn devices_give_the_same_hits() {
    for (metric, rows, dim) in
        [(Metric::Cosine, 500, 17), (Metric::InnerProduct, 70, 64), (Metric::Cosine, 1, 1)]
    {
        let catalogue = catalogue(metric, rows, dim);
        for device in devices() {
            let searcher = Searcher::new(&catalogue, &options(device)).unwrap();
            // Fewer queries than go together, as many, more; k below and beyond the rows.
            for (batch, k) in [(0, 3), (1, 1), (8, 10), (19, 600), (2, 65_536)] {
                let queries = Random::new(9).values(batch * dim);
                let (found, expected) =
                    (searcher.search(&queries, k).unwrap(), catalogue.search(&queries, k).unwrap());
                assert_eq!(found, expected, "{device}, {metric:?}, {rows} rows, {batch} queries, k {k}");
            }
        }
    }
}

/// Buffers behind one another whose lengths are no multiple of anything.
#[test]
fn odd_lengths_fit() {
    for dim in 1..=9 {
        let catalogue = catalogue(Metric::Cosine, 11, dim);
        let queries = Random::new(4).values(5 * dim);
        let expected = catalogue.search(&queries, 3).unwrap();
        for device in devices() {
            for rows in [1, 3, 7] {
                let options = options(device).queries_at_once(rows);
                let searcher = Searcher::new(&catalogue, &options).unwrap();
                assert_eq!(
                    searcher.search(&queries, 3).unwrap(),
                    expected,
                    "{device}, {dim}, {rows} at once"
                );
            }
        }
    }
}

#[test]
fn wrong_queries_are_refused_alike() {
    let catalogue = catalogue(Metric::Cosine, 20, 4);
    for device in devices() {
        let searcher = Searcher::new(&catalogue, &options(device)).unwrap();
        let error = |queries: &[f32], k| match searcher.search(queries, k).unwrap_err() {
            Error::Catalogue(error) => error,
            other => panic!("{device}: {other}"),
        };
        assert!(matches!(error(&[1.0; 8], 0), CatalogueError::K { k: 0 }));
        assert!(matches!(error(&[1.0; 7], 1), CatalogueError::QueriesLength { values: 7, dim: 4 }));
        assert!(matches!(
            error(&[1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0], 1),
            CatalogueError::Zero { at: 1, .. }
        ));
        assert!(matches!(
            error(&[1.0, f32::NAN, 1.0, 1.0], 1),
            CatalogueError::NotFinite { position: 1, .. }
        ));
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let catalogue = catalogue(Metric::Cosine, 20, 4);
    let none = Searcher::new(&catalogue, &SearcherOptions::default().device(Device::Cuda(77))).unwrap_err();
    assert_eq!(none.kind(), ErrorKind::Unsupported, "{none}");
    if cfg!(feature = "cuda") {
        let options = |rows, contexts| {
            SearcherOptions::default().device(Device::Cuda(0)).queries_at_once(rows).contexts(contexts)
        };
        let none = Searcher::new(&catalogue, &options(0, 1)).unwrap_err();
        assert!(matches!(none, Error::Engine(EngineError::QueriesAtOnce { queries: 0, .. })), "{none}");
        let none = Searcher::new(&catalogue, &options(1, 0)).unwrap_err();
        assert!(matches!(none, Error::Engine(EngineError::NoContexts)), "{none}");
        assert!(Searcher::new(&catalogue, &options(0, 0).device(Device::Cpu)).is_ok(), "they are of a card");
    }
}
