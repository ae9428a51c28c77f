//! A card without room: typed errors with numbers, nothing left, and room again afterwards.

use mercer::cuda::CudaError;
use mercer::engine::MAX_ROWS_AT_ONCE;
use mercer::{Engine, Error, ErrorKind};

use super::{Turn, catalogue, check, open, options, requests};

/// Fails unless the error says what had no room.
#[track_caller]
fn says_what_had_no_room(error: &Error) {
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    match error {
        Error::Cuda(CudaError::OutOfMemory { what, asked, free, total }) => {
            assert!(*asked > 0 && free <= total && !what.starts_with("cu"), "{error}");
        }
        Error::Cuda(CudaError::HostMemory { asked, .. }) => assert!(*asked > 0, "{error}"),
        _ => panic!("{error}"),
    }
}

#[test]
fn an_open_without_room_leaves_nothing() {
    let turn = Turn::new();
    let mut allocations = 0;
    for n in 1.. {
        turn.emulator.fail_allocation(n);
        match open(options().contexts(2)) {
            Ok(_) => break,
            Err(error) => says_what_had_no_room(&error),
        }
        turn.nothing_is_left();
        allocations = n;
    }
    turn.emulator.fail_allocation(0);
    assert!(allocations > 10, "{allocations}");
    turn.nothing_is_left();

    turn.emulator.memory(1 << 20);
    let error = open(options()).unwrap_err();
    says_what_had_no_room(&error);
    assert!(error.to_string().starts_with("out of memory for an execution context, "), "{error}");
    turn.nothing_is_left();
}

/// The most rows at once are a matter of memory alone.
#[test]
fn the_largest_contexts_open_where_there_is_room() {
    let turn = Turn::new();
    let most = options().rows_at_once(MAX_ROWS_AT_ONCE);
    let engine = open(most.clone()).unwrap();
    let vectors = engine.encode_queries(&requests(3)).unwrap();
    drop(engine);
    assert_eq!(open(options()).unwrap().encode_queries(&requests(3)).unwrap(), vectors);
    turn.emulator.memory(1 << 30);
    says_what_had_no_room(&Engine::open("tests/golden/model/bags", most).unwrap_err());
    turn.nothing_is_left();
}

#[test]
fn a_catalogue_without_room_leaves_nothing() {
    let turn = Turn::new();
    let engine = open(options()).unwrap();
    let products = catalogue(&engine, "products", 100);
    let before = turn.emulator.all_live();
    for n in 1..=2 {
        turn.emulator.fail_allocation(n);
        says_what_had_no_room(&engine.prepare(&products).unwrap_err());
        assert_eq!(turn.emulator.all_live(), before);
        turn.emulator.fail_allocation(n);
        says_what_had_no_room(&engine.search(&products, &requests(3), 5).unwrap_err());
        assert_eq!(turn.emulator.all_live(), before);
    }
    engine.prepare(&products).unwrap(); // rows and ranks
    turn.emulator.fail_allocation(0);
    check(&engine, &products, &requests(3), 5, &engine.search(&products, &requests(3), 5).unwrap());
    drop(engine);
    turn.nothing_is_left();
}
