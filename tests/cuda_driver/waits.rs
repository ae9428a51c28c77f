//! Waits: what has run after one, after one that failed, and when a stream goes.

use mercer::ErrorKind;
use mercer::cuda::{CudaError, Device, Slice, Staging};

use super::NOT_SUPPORTED;
use super::device::emulator::Turn;

/// Staged work has run when the call is over, also if only part of it was enqueued or the closure panicked.
#[test]
fn staged_work_is_waited_for() {
    let turn = Turn::new();
    turn.emulator.lazy_streams(true);
    let device = Device::open(0).unwrap();
    let mut staging = Staging::new(&device, 8, 8).unwrap();
    let memory = Slice::<u8>::new(&device, "memory", 4).unwrap();
    let copied = |staging: &Staging| staging.downloaded()[..4].to_vec();
    staging.to_upload().copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
    let refused = staging.run(|staged| {
        staged.upload(&memory)?;
        staged.download(&memory)?;
        Err(CudaError::Busy { contexts: 0 })
    });
    assert_eq!((refused, copied(&staging)), (Err(CudaError::Busy { contexts: 0 }), vec![1, 2, 3, 4]));

    staging.to_upload().fill(5);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = staging.run(|staged| {
            staged.upload(&memory).and_then(|()| staged.download(&memory)).unwrap();
            std::panic::resume_unwind(Box::new(()));
        });
    }));
    assert!(panicked.is_err());
    assert_eq!(copied(&staging), [5; 4]);

    let graph = staging.record(|staged| {
        staged.upload(&memory)?;
        staged.download(&memory)
    });
    let graph = graph.unwrap();
    for byte in [6, 7] {
        staging.to_upload().fill(byte);
        staging.replay(&graph).unwrap();
        assert_eq!(staging.downloaded(), [byte, byte, byte, byte, 0, 0, 0, 0]);
    }
    let mut other = Staging::new(&device, 8, 8).unwrap();
    let elsewhere = CudaError::Graph { reason: "runs only where it was recorded" };
    assert_eq!(other.replay(&graph), Err(elsewhere));
    let large = Slice::<u8>::new(&device, "large", 9).unwrap();
    assert!(matches!(
        other.run(|staged| staged.upload(&large)),
        Err(CudaError::Limit { value: 9, limit: 8, .. })
    ));
    assert!(matches!(
        other.run(|staged| staged.download(&large)),
        Err(CudaError::Limit { value: 9, limit: 8, .. })
    ));
    drop((staging, other, memory, large, graph, device));
    turn.nothing_is_left();
}

/// Nobody knows what runs on after a wait that fails, so the device counts as lost whatever the code.
#[test]
fn a_wait_that_fails_loses_the_device() {
    let turn = Turn::new();
    const OUT_OF_MEMORY: i32 = 2;
    for code in [OUT_OF_MEMORY, NOT_SUPPORTED] {
        for call in ["cuStreamSynchronize", "cuEventSynchronize"] {
            let device = Device::open(0).unwrap();
            let stream = device.stream().unwrap();
            turn.emulator.fail_call(call, 1, code);
            let error = match call {
                "cuStreamSynchronize" => stream.synchronize(),
                _ => stream.time(|| Ok(())).map(drop),
            };
            let error = error.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::DeviceLost, "{error}");
            assert!(
                error.to_string().starts_with("device lost: ") && error.to_string().contains(call),
                "{error}"
            );
            assert_eq!(stream.synchronize().unwrap_err(), error);
            drop((stream, device));
            turn.nothing_is_left();
        }
    }
}

/// A device that another wait lost still runs what is on its streams: lent memory of the host stays as it is, and a stream
/// that goes has run.
#[test]
fn a_wait_waits_although_another_lost_the_device() {
    let turn = Turn::new();
    turn.emulator.lazy_streams(true);
    let device = Device::open(0).unwrap();
    let (stream, other) = (device.stream().unwrap(), device.stream().unwrap());
    let mut staging = Staging::new(&device, 4, 4).unwrap();
    let memory = Slice::<u8>::new(&device, "memory", 4).unwrap();
    staging.to_upload().fill(5);
    turn.emulator.reset_counters();
    let mut error = None;
    let ran = staging.run(|staged| {
        staged.upload(&memory)?;
        staged.download(&memory)?;
        stream.fill(&memory, 6)?;
        turn.emulator.fail_call("cuStreamSynchronize", 1, NOT_SUPPORTED);
        error = other.synchronize().err();
        Ok(())
    });
    assert_eq!(ran.err(), error);
    assert_eq!(error.unwrap().kind(), ErrorKind::DeviceLost);
    let lent = staging.downloaded();
    assert_eq!((turn.emulator.count("copies"), turn.emulator.count("fills")), (2, 0));
    drop(stream);
    assert_eq!(turn.emulator.count("fills"), 1);
    let before = lent.to_vec();
    drop(memory); // waits for everything
    assert_eq!(lent, before);
    drop((staging, other, device));
    turn.nothing_is_left();
}

/// What a wait that fails did not wait for may still reach the staging memory, so that is no longer lent.
#[test]
fn memory_is_not_lent_after_its_wait_failed() {
    let turn = Turn::new();
    for panics in [false, true] {
        turn.emulator.lazy_streams(true);
        let device = Device::open(0).unwrap();
        let mut staging = Staging::new(&device, 4, 2).unwrap();
        let (memory, part) = (Slice::<u8>::new(&device, "memory", 4).unwrap(), 0..2);
        staging.to_upload().fill(5);
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            staging.run(|staged| {
                staged.upload(&memory)?;
                staged.download(&memory.part(part)?)?;
                turn.emulator.fail_call("cuStreamSynchronize", 1, NOT_SUPPORTED);
                if panics {
                    std::panic::resume_unwind(Box::new(()));
                }
                Ok(())
            })
        }));
        match ran {
            Ok(ran) => assert_eq!(ran.unwrap_err().kind(), ErrorKind::DeviceLost),
            Err(_) => assert!(panics),
        }
        staging.to_upload().fill(6);
        let lent = staging.downloaded();
        drop(memory); // waits for everything
        assert_eq!(lent, [0; 2], "the device wrote to memory that is lent");
        assert_eq!(staging.to_upload(), [6; 4]);
        assert_eq!(staging.run(|_| Ok(())).unwrap_err().kind(), ErrorKind::DeviceLost);
        drop((staging, device));
        turn.nothing_is_left();
    }
}

/// A device counts as lost after the codes that the driver says a context does not survive, and after no other.
#[test]
fn only_what_a_context_does_not_survive_loses_the_device() {
    let turn = Turn::new();
    let fatal = [4, 214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 810, 911, 999];
    let passing = [1, 2, 46, 201, 304, 400, 600, 701, 720, 801, 802, 805, 807, 808, 809, 900, 901, 916];
    for (codes, lost) in [(fatal, true), (passing, false)] {
        for code in codes {
            let device = Device::open(0).unwrap();
            turn.emulator.fail_call("cuMemGetInfo_v2", 1, code);
            let error = device.memory().unwrap_err();
            assert_eq!(error.kind() == ErrorKind::DeviceLost, lost, "{code}: {error}");
            assert_eq!(device.memory().is_err(), lost, "{code}");
        }
    }
    turn.nothing_is_left();
}

/// The last handle of a stream waits for what is on it, before its kernels are unloaded.
#[test]
fn a_stream_that_goes_has_run() {
    let turn = Turn::new();
    turn.emulator.lazy_streams(true);
    let device = Device::open(0).unwrap();
    let stream = device.stream().unwrap();
    let memory = Slice::<u8>::new(&device, "memory", 4).unwrap();
    turn.emulator.reset_counters();
    stream.fill(&memory, 1).unwrap();
    drop(stream.clone());
    assert_eq!(turn.emulator.count("fills"), 0);
    drop(stream);
    assert_eq!(turn.emulator.count("fills"), 1);
    drop((memory, device));
    turn.nothing_is_left();
}
