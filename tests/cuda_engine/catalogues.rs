//! Engines and catalogues side by side, coming and going.

use mercer::{Catalogue, Metric};

use super::{Turn, catalogue, check, common, cpu, open, options, requests};

#[test]
fn every_k_and_batch_gives_the_catalogues_answer() {
    let turn = Turn::new();
    let engine = open(options().rows_at_once(3)).unwrap();
    let some = catalogue(&engine, "some", 130);
    let ascending = Catalogue::new(Metric::InnerProduct, engine.dim(), vec![3, 5], common::values("two", 62));
    let ascending = ascending.unwrap();
    let requests = requests(7);
    for k in [1, 2, 129, 130, 131, 1000, 65_535, 65_536] {
        for products in [&some, &ascending] {
            for rows in [0, 1, 2, 3, 7] {
                let found = engine.search(products, &requests[..rows], k).unwrap();
                check(&engine, products, &requests[..rows], k, &found);
                assert!(found.iter().all(|hits| hits.len() == k.min(products.len())));
            }
        }
    }
    for k in [0, 65_537] {
        assert!(engine.search(&some, &requests, k).is_err());
    }
    let none = Catalogue::new(engine.metric(), engine.dim(), Vec::new(), Vec::new()).unwrap();
    assert!(engine.search(&none, &requests, 5).unwrap().iter().all(|hits| hits.is_empty()));
    drop(engine);
    turn.nothing_is_left();
}

/// More kinds and sizes of calls than a context keeps graphs of: those that went are recorded anew.
#[test]
fn graphs_are_bounded() {
    let turn = Turn::new();
    let engine = open(options()).unwrap();
    let products = [90, 91, 92, 93, 94].map(|rows| catalogue(&engine, "products", rows));
    let requests = requests(8);
    let vectors = engine.encode_queries(&requests).unwrap();
    let mut recorded = 0;
    for round in 0..2 {
        for products in &products {
            for k in [1, 2, 4, 8, 16, 32, 64, 90] {
                let expected = products.search(&vectors, k).unwrap();
                for rows in [1, 2, 4, 8] {
                    let found = engine.search(products, &requests[..rows], k).unwrap();
                    for (found, expected) in found.iter().zip(&expected) {
                        assert_eq!(found[..], expected[..], "round {round}, k {k}");
                    }
                    recorded += 1;
                    let most = if round == 0 { recorded + 1 } else { 128 };
                    assert_eq!(turn.emulator.live("graph executables"), most.min(128));
                }
            }
        }
    }
    // Those of a catalogue that is gone make room first.
    let mut products = Vec::from(products);
    drop(products.remove(1));
    engine.prepare(&products[1]).unwrap();
    engine.encode_queries(&requests[..4]).unwrap();
    assert_eq!(turn.emulator.live("graph executables"), 128 - 32 + 1);
    engine.search(&products[1], &requests[..1], 1).unwrap();
    assert_eq!(turn.emulator.live("graph executables"), 128 - 32 + 1);
    drop(engine);
    turn.nothing_is_left();
}

/// One graph serves every `k` up to the next power of two, and every `k` beyond the rows.
#[test]
fn near_ks_share_a_graph() {
    let turn = Turn::new();
    let engine = open(options()).unwrap();
    let products = catalogue(&engine, "products", 90);
    let requests = requests(2);
    let vectors = engine.encode_queries(&requests).unwrap(); // the first graph
    let cases: [(&[usize], u64); 4] =
        [(&[5, 6, 7, 8], 2), (&[9, 15, 16], 3), (&[65, 90, 128], 4), (&[129, 60_000], 4)];
    for (ks, graphs) in cases {
        for &k in ks {
            let found = engine.search(&products, &requests, k).unwrap();
            assert_eq!(turn.emulator.live("graph executables"), graphs, "k {k}");
            let expected = products.search(&vectors, k).unwrap();
            assert!(found.iter().zip(expected).all(|(found, expected)| found[..] == expected[..]), "k {k}");
        }
    }
    drop(engine);
    turn.nothing_is_left();
}

#[test]
fn engines_share_a_card_and_catalogues() {
    let turn = Turn::new();
    let engines = [open(options()).unwrap(), open(options().contexts(2)).unwrap()];
    let products = [catalogue(&engines[0], "a", 40), catalogue(&engines[0], "b", 70)];
    let requests = requests(5);
    for _ in 0..2 {
        for engine in &engines {
            for products in &products {
                let found = engine.search(products, &requests, 9).unwrap();
                check(engine, products, &requests, 9, &found);
            }
        }
    }
    let [first, second] = engines;
    drop(first);
    check(&second, &products[0], &requests, 9, &second.search(&products[0], &requests, 9).unwrap());
    drop(second);
    turn.nothing_is_left();
}

/// A catalogue that is gone frees its memory at the next search; one that is alive does not keep the engine's.
#[test]
fn what_is_dropped_is_freed() {
    let turn = Turn::new();
    let live = || turn.emulator.live("device allocations");
    let engine = open(options()).unwrap();
    let requests = requests(2);
    let kept = catalogue(&engine, "kept", 30);
    engine.search(&kept, &requests, 3).unwrap();
    let before = live();
    for n in 0..5 {
        let products = catalogue(&engine, "products", 30 + n);
        let clone = products.clone();
        engine.prepare(&products).unwrap();
        drop(products);
        let found = engine.search(&clone, &requests, 3).unwrap();
        check(&engine, &clone, &requests, 3, &found);
        assert_eq!(live(), before + 2, "catalogue {n}: one copy of rows and ranks");
    }
    let found = engine.search(&kept, &requests, 3).unwrap();
    assert_eq!(live(), before);

    let (clone, second) = (engine.clone(), catalogue(&engine, "second", 20));
    engine.prepare(&second).unwrap();
    drop(engine);
    check(&clone, &kept, &requests, 3, &found);
    drop(clone);
    turn.nothing_is_left();
    let vectors = cpu().encode_queries(&requests).unwrap();
    assert_eq!(second.search(&vectors, 3).unwrap().len(), found.len());
}
