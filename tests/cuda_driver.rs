//! The layer over the driver, on the stand-in: what it says of devices and errors, that nothing leaks, that a lost device
//! stays lost and a full one does not. One process has one driver, so the tests take turns.
#![cfg(feature = "emulate")]
#![allow(clippy::panic, clippy::unwrap_used)] // a failed check ends the test

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use device::emulator::Emulator;
use mercer::ErrorKind;
use mercer::cuda::{
    CudaError, Device, DriverVersion, Precision, Rows, Slice, Staging, Stream, Tensor, devices, normalize,
};

mod device;

/// A code of the driver that says nothing of the device's state.
const NOT_SUPPORTED: i32 = 801;

/// The driver, with nothing alive and nothing ordered; again when it goes.
struct Turn {
    emulator: Emulator,
    _turn: MutexGuard<'static, ()>,
}

impl Turn {
    fn new() -> Turn {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        Turn { emulator: Emulator::get(), _turn: turn }
    }

    /// Fails if anything is alive.
    #[track_caller]
    fn nothing_is_left(&self) {
        for (kind, count) in self.emulator.all_live() {
            assert_eq!(count, 0, "{kind} left");
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.emulator.fail_allocation(0);
        self.emulator.lose_device(0);
        self.emulator.devices(1);
        self.emulator.capability(90);
        self.emulator.driver_version(13_000);
        self.emulator.lazy_streams(false);
        self.emulator.memory(8 << 30);
    }
}

/// Puts a small normalisation on the stream.
fn work(stream: &Stream) -> Result<(Slice<f32>, Slice<u64>), CudaError> {
    let (x, fault) = (stream.upload("x", &[3.0f32, 4.0])?, stream.upload("fault", &[u64::MAX])?);
    normalize::enqueue(stream, &Rows::exactly(stream, 1)?, 2, &x, 0, &fault)?;
    Ok((x, fault))
}

#[test]
fn devices_are_listed_with_what_keeps_them_from_use() {
    let turn = Turn::new();
    turn.emulator.devices(2);
    let (version, found) = devices().unwrap();
    assert_eq!(version, DriverVersion { major: 13, minor: 0 });
    assert_eq!(found.len(), 2);
    let info = found[1].as_ref().unwrap();
    assert_eq!((info.ordinal, info.capability), (1, (9, 0)));
    assert_eq!(Device::open(2).unwrap_err(), CudaError::NoDevice { ordinal: 2, count: 2 });
    assert!(Device::open(usize::MAX).is_err());

    turn.emulator.capability(75);
    let error = Device::open(0).unwrap_err();
    assert!(matches!(&error, CudaError::OldDevice { capability, .. } if capability == "7.5"), "{error}");
    assert!(devices().unwrap().1[0].is_err());
    turn.emulator.capability(90);

    turn.emulator.driver_version(12_020);
    let error = Device::open(0).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the CUDA driver supports CUDA 12.2, this build needs 13.0: update the driver, or run on the CPU"
    );
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    turn.emulator.driver_version(13_000);

    turn.emulator.devices(0);
    assert_eq!(Device::open(0).unwrap_err(), CudaError::NoDevice { ordinal: 0, count: 0 });
    turn.nothing_is_left();
}

/// Each call that opening a device makes fails in turn: a typed error, and nothing is left.
#[test]
fn an_open_that_fails_leaves_nothing() {
    let turn = Turn::new();
    let calls = [
        "cuDevicePrimaryCtxRetain",
        "cuModuleLoadData",
        "cuModuleGetFunction",
        "cuFuncSetAttribute",
        "cuFuncLoad",
    ];
    for call in calls {
        turn.emulator.fail_call(call, 1, NOT_SUPPORTED);
        let error = Device::open(0).unwrap_err();
        assert!(error.to_string().contains("NOT_SUPPORTED"), "{call}: {error}");
        turn.nothing_is_left();
    }
    assert!(Device::open(0).is_ok());
    turn.nothing_is_left();
}

/// Timed work has run when its time is known; its failure is the failure of the timing; the events go.
#[test]
fn work_is_timed() {
    let turn = Turn::new();
    turn.emulator.lazy_streams(true);
    let device = Device::open(0).unwrap();
    let stream = device.stream().unwrap();
    let mut kept = None;
    let time = stream.time(|| {
        kept = Some(work(&stream)?);
        Ok(())
    });
    assert!(time.unwrap() < Duration::from_secs(60));
    assert_eq!(stream.download(&kept.take().unwrap().0).unwrap(), [0.6, 0.8]);
    let refused = CudaError::Limit { what: "anything", value: 1, limit: 0 };
    assert_eq!(stream.time(|| Err(refused.clone())), Err(refused));
    drop(stream);
    drop(device);
    turn.nothing_is_left();
}

#[test]
fn what_is_uploaded_comes_back() {
    let turn = Turn::new();
    let device = Device::open(0).unwrap();
    let stream = device.stream().unwrap();
    let values: Vec<u32> = (0..1000).collect();
    let slice = stream.upload("values", &values).unwrap();
    assert_eq!(stream.download(&slice).unwrap(), values);
    let part = slice.part(10..20).unwrap();
    assert_eq!(stream.download(&part).unwrap(), values[10..20]);
    stream.upload_to(&[7; 10], &part).unwrap();
    let copy = Slice::<u32>::new(&device, "copy", 1000).unwrap();
    stream.copy(&slice, &copy).unwrap();
    let found = stream.download(&copy).unwrap();
    assert_eq!((found[9], found[10], found[19], found[20]), (9, 7, 7, 20));
    stream.fill(&part, 0xFF).unwrap();
    assert_eq!(stream.download(&part).unwrap(), [u32::MAX; 10]);
    assert!(stream.download(&stream.upload::<f32>("nothing", &[]).unwrap()).unwrap().is_empty());

    assert!(matches!(slice.part(990..1001), Err(CudaError::Limit { value: 1001, limit: 1000, .. })));
    assert!(matches!(
        stream.upload_to(&[1; 3], &part),
        Err(CudaError::Length { found: 3, expected: 10, .. })
    ));
    assert!(slice.part(1..2).unwrap().cast::<u64>().is_err()); // 4 bytes at offset 4
    assert_eq!(slice.part(2..4).unwrap().cast::<u64>().unwrap().len(), 1);
    drop((slice, part, copy, stream, device));
    turn.nothing_is_left();
}

/// Memory outlives its device handle and stream, and goes with its last part.
#[test]
fn memory_lives_as_long_as_a_part_of_it() {
    let turn = Turn::new();
    let device = Device::open(0).unwrap();
    let stream = device.stream().unwrap();
    let part = stream.upload("values", &[1u32, 2, 3]).unwrap().part(1..2).unwrap();
    drop(device);
    assert_eq!(stream.download(&part).unwrap(), [2]);
    drop(stream);
    assert_eq!(turn.emulator.live("device allocations"), 1);
    drop(part);
    turn.nothing_is_left();
}

/// Full memory is told with numbers and is not sticky.
#[test]
fn out_of_memory_says_what_was_asked_and_passes() {
    let turn = Turn::new();
    turn.emulator.memory(1 << 20);
    let device = Device::open(0).unwrap();
    let error = Slice::<f32>::new(&device, "the table `user.weight`", 1 << 20).unwrap_err();
    let CudaError::OutOfMemory { what, asked, free, total } = &error else { panic!("{error}") };
    assert_eq!((what.as_str(), *asked, *total), ("the table `user.weight`", 4 << 20, 1 << 20));
    assert!(*free <= 1 << 20);
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    assert!(Slice::<f32>::new(&device, "a length beyond memory", usize::MAX).is_err());
    assert!(Slice::<f32>::new(&device, "a little", 1 << 10).is_ok());
    turn.emulator.fail_allocation(1);
    let error = Staging::new(&device, 10, 20).err().unwrap();
    let expected = CudaError::HostMemory { what: "the staging buffer of uploads", asked: 10 };
    assert_eq!((&error, error.kind()), (&expected, ErrorKind::OutOfMemory));
    assert_eq!(Staging::new(&device, 10, 20).unwrap().downloaded(), [0; 20]);
    drop(device);
    turn.nothing_is_left();
}

/// A device that is lost in a kernel stays lost for every handle, with the first reason, and is freed all the same.
#[test]
fn a_lost_device_stays_lost() {
    let turn = Turn::new();
    for lazy in [false, true] {
        let device = Device::open(0).unwrap();
        let stream = device.stream().unwrap();
        let memory = stream.upload("before", &[1u8]).unwrap();
        turn.emulator.lazy_streams(lazy);
        turn.emulator.lose_device(1);
        let error = work(&stream).and_then(|_| stream.synchronize()).unwrap_err();
        turn.emulator.lazy_streams(false);
        assert_eq!(error.kind(), ErrorKind::DeviceLost, "{error}");
        assert_eq!(stream.download(&memory).unwrap_err(), error);
        assert_eq!(device.stream().unwrap_err(), error);
        assert_eq!(Slice::<u8>::new(&device.clone(), "more", 1).unwrap_err(), error);
        drop((memory, stream, device));
        turn.nothing_is_left();
        // The process lives, and a device that is opened anew works.
        let device = Device::open(0).unwrap();
        let stream = device.stream().unwrap();
        let (x, fault) = work(&stream).unwrap();
        assert_eq!(stream.download(&x).unwrap(), [0.6, 0.8]);
        assert_eq!(stream.download(&fault).unwrap(), [u64::MAX]);
    }
}

/// A recorded graph runs on what memory holds when it is launched, with one call.
#[test]
fn a_graph_replays_on_new_data() {
    let turn = Turn::new();
    let device = Device::open(0).unwrap();
    let stream = device.stream().unwrap();
    let (x, fault) = (stream.upload("x", &[0.0f32; 4]).unwrap(), stream.upload("fault", &[0u64]).unwrap());
    let count = stream.upload("count", &[0u32]).unwrap();
    let rows = Rows::new(2, count.clone()).unwrap();
    let graph = stream
        .record(|stream| {
            stream.fill(&fault, 0xFF)?;
            normalize::enqueue(stream, &rows, 2, &x, 0, &fault)
        })
        .unwrap();
    assert_eq!(stream.download(&fault).unwrap(), [0], "nothing ran while it was recorded");
    for (rows, expected) in [(1u32, [0.6, 0.8, 6.0, 8.0]), (2, [0.6, 0.8, 0.6, 0.8])] {
        stream.upload_to(&[3.0, 4.0, 6.0, 8.0], &x).unwrap();
        stream.upload_to(&[rows], &count).unwrap();
        turn.emulator.reset_counters();
        graph.launch().unwrap();
        stream.synchronize().unwrap();
        assert_eq!((turn.emulator.calls("cuGraphLaunch"), turn.emulator.calls("cuLaunchKernel")), (1, 0));
        assert_eq!(stream.download(&x).unwrap(), expected);
        assert_eq!(stream.download(&fault).unwrap(), [u64::MAX]);
    }
    drop((graph, x, fault, count, rows, stream, device));
    turn.nothing_is_left();
}

/// What must not happen while a graph is recorded is an error, and the stream works afterwards.
#[test]
fn a_recording_that_fails_leaves_a_working_stream() {
    let turn = Turn::new();
    let device = Device::open(0).unwrap();
    let stream = device.stream().unwrap();
    let refused = Some(CudaError::Graph { reason: "cannot wait" });
    assert_eq!(stream.record(Stream::synchronize).err(), refused);
    assert_eq!(stream.record(|stream| stream.time(|| Ok(())).map(drop)).err(), refused);
    assert!(stream.record(|_| Slice::<u8>::new(&device, "memory", 1).map(drop)).is_err());
    let given_up = stream.record(|_| Err(CudaError::Busy { contexts: 0 }));
    assert_eq!(given_up.err(), Some(CudaError::Busy { contexts: 0 }));
    assert_eq!(turn.emulator.live("graphs"), 0);
    for call in ["cuStreamCreate", "cuStreamBeginCapture_v2", "cuMemsetD8Async", "cuStreamEndCapture"] {
        let memory = stream.upload("memory", &[0u8; 4]).unwrap();
        turn.emulator.fail_call(call, 1, NOT_SUPPORTED);
        let error = stream.record(|stream| stream.fill(&memory, 1)).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{call}: {error}");
        assert_eq!((turn.emulator.live("graphs"), turn.emulator.live("streams")), (0, 1), "{call}");
        assert_eq!(stream.download(&memory).unwrap(), [0; 4]);
    }
    let (x, _) = work(&stream).unwrap();
    assert_eq!(stream.download(&x).unwrap(), [0.6, 0.8]);
    drop((x, stream, device));
    turn.nothing_is_left();
}

/// What the driver refuses a thread that records is the caller's mistake on whichever stream: it reaches neither the driver
/// nor what is recorded.
#[test]
fn what_a_recording_thread_may_not_do_is_refused() {
    let turn = Turn::new();
    turn.emulator.lazy_streams(true);
    let device = Device::open(0).unwrap();
    let (stream, other) = (device.stream().unwrap(), device.stream().unwrap());
    let memory = stream.upload("memory", &[1u8; 4]).unwrap();
    let mut staging = Staging::new(&device, 4, 4).unwrap();
    let refused = |what: &str, mistake: &mut dyn FnMut() -> Result<(), CudaError>| {
        let mut found = None;
        let graph = stream.record(|stream| {
            found = mistake().err();
            stream.fill(&memory, 2)
        });
        let error = found.unwrap();
        assert!(matches!(error, CudaError::Graph { .. }), "{what}: {error}");
        assert_eq!(error.kind(), ErrorKind::Caller);
        assert_eq!(stream.record(|_| mistake()).err(), Some(error));
        assert_eq!(stream.download(&memory).unwrap(), [1; 4], "{what}");
        graph.unwrap().launch().unwrap();
        assert_eq!(stream.download(&memory).unwrap(), [2; 4], "{what}");
        stream.upload_to(&[1; 4], &memory).unwrap();
    };
    refused("synchronize", &mut || other.synchronize());
    refused("upload_to", &mut || other.upload_to(&[3; 4], &memory));
    refused("upload", &mut || other.upload("more", &[3; 4]).map(drop));
    refused("download", &mut || other.download(&memory).map(drop));
    refused("time", &mut || other.time(|| other.fill(&memory, 3)).map(drop));
    refused("memory", &mut || Slice::<u8>::new(&device, "more", 1).map(drop));
    refused("staging", &mut || Staging::new(&device, 1, 1).map(drop));
    refused("run", &mut || staging.run(|staged| staged.upload(&memory)));
    refused("record", &mut || other.record(|stream| stream.fill(&memory, 3)).map(drop));
    refused("open", &mut || Device::open(0).map(drop));
    // Another thread may.
    let graph = stream.record(|stream| {
        let elsewhere = std::thread::scope(|scope| scope.spawn(|| other.download(&memory)).join().unwrap());
        assert_eq!(elsewhere.unwrap(), [1; 4]);
        stream.fill(&memory, 2)
    });
    drop((graph.unwrap(), stream, other, memory, staging, device));
    turn.nothing_is_left();
}

/// What goes while its thread records goes when that is over, however it ends.
#[test]
fn what_goes_in_a_recording_goes_after_it() {
    let turn = Turn::new();
    turn.emulator.lazy_streams(true);
    for ending in 0..3 {
        let device = Device::open(0).unwrap();
        let stream = device.stream().unwrap();
        let kept = stream.upload("kept", &[1u8; 4]).unwrap();
        let (other, memory) = (device.stream().unwrap(), stream.upload("memory", &[1u8; 4]).unwrap());
        let staging = Staging::new(&device, 4, 4).unwrap();
        let old = stream.record(|stream| stream.fill(&kept, 9)).unwrap();
        let elsewhere = Device::open(0).unwrap();
        turn.emulator.reset_counters();
        let recorded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            stream.record(|stream| {
                other.fill(&kept, 2)?;
                stream.copy(&memory, &kept)?;
                drop((other, memory, staging, old, elsewhere));
                assert_eq!((turn.emulator.count("fills"), turn.emulator.count("frees")), (0, 0));
                match ending {
                    0 => Ok(()),
                    1 => Err(CudaError::Busy { contexts: 0 }),
                    _ => std::panic::resume_unwind(Box::new(())),
                }
            })
        }));
        match (ending, recorded) {
            (0, Ok(refused)) => {
                let freed = CudaError::Graph { reason: "uses memory that was freed" };
                assert_eq!(refused.err(), Some(freed));
            }
            (1, Ok(refused)) => assert_eq!(refused.err(), Some(CudaError::Busy { contexts: 0 })),
            (_, recorded) => assert!(recorded.is_err()),
        }
        assert_eq!((turn.emulator.count("fills"), turn.emulator.count("frees")), (1, 3));
        assert_eq!((turn.emulator.live("streams"), turn.emulator.live("device allocations")), (1, 1));
        assert_eq!(turn.emulator.live("graph executables"), 0);
        assert_eq!(stream.download(&kept).unwrap(), [2; 4]);
        drop((kept, stream, device));
        turn.nothing_is_left();
    }
}

/// Only what launches it is kept of a graph.
#[test]
fn a_graph_keeps_its_executable_alone() {
    let turn = Turn::new();
    let device = Device::open(0).unwrap();
    let stream = device.stream().unwrap();
    let memory = stream.upload("memory", &[0u8; 4]).unwrap();
    let live = || (turn.emulator.live("graphs"), turn.emulator.live("graph executables"));
    let graph = stream.record(|stream| stream.fill(&memory, 1)).unwrap();
    assert_eq!(live(), (0, 1));
    turn.emulator.fail_call("cuGraphInstantiateWithFlags", 1, NOT_SUPPORTED);
    assert!(stream.record(|stream| stream.fill(&memory, 2)).is_err());
    assert_eq!(live(), (0, 1));
    graph.launch().unwrap();
    assert_eq!(stream.download(&memory).unwrap(), [1; 4]);
    drop((graph, memory, stream, device));
    turn.nothing_is_left();
}

/// A graph does not keep the memory that it uses, and does not run without it.
#[test]
fn a_graph_refuses_to_run_without_its_memory() {
    let turn = Turn::new();
    let device = Device::open(0).unwrap();
    let stream = device.stream().unwrap();
    let rows = Rows::exactly(&stream, 1).unwrap();
    for freed in 0..3 {
        let (x, fault) =
            (stream.upload("x", &[3.0f32, 4.0]).unwrap(), stream.upload("fault", &[0u64]).unwrap());
        let copy = Slice::<f32>::new(&device, "copy", 2).unwrap();
        let graph = stream.record(|stream| {
            normalize::enqueue(stream, &rows, 2, &x, 0, &fault)?;
            stream.copy(&x, &copy)
        });
        let graph = graph.unwrap();
        let part = x.part(1..2).unwrap();
        graph.launch().unwrap();
        assert_eq!(stream.download(&copy).unwrap(), [0.6, 0.8]);
        let mut memory =
            [Some(x.cast::<u8>().unwrap()), Some(fault.cast().unwrap()), Some(copy.cast().unwrap())];
        drop((x, fault, copy));
        graph.launch().unwrap();
        memory[freed] = None;
        if freed == 0 {
            graph.launch().unwrap(); // a part is left
        }
        drop(part);
        turn.emulator.reset_counters();
        let error = graph.launch().unwrap_err();
        assert_eq!(error, CudaError::Graph { reason: "uses memory that was freed" });
        assert_eq!((error.kind(), turn.emulator.calls("cuGraphLaunch")), (ErrorKind::Caller, 0));
    }
    drop((rows, stream, device));
    turn.nothing_is_left();
}

/// What is lent to one call cannot be recorded.
#[test]
fn a_recording_copies_no_memory_of_the_host() {
    let turn = Turn::new();
    let device = Device::open(0).unwrap();
    let stream = device.stream().unwrap();
    let memory = stream.upload("memory", &[1u8; 8]).unwrap();
    let refused = Some(CudaError::Graph { reason: "cannot copy what the host lends for one call" });
    assert_eq!(stream.record(|stream| stream.upload_to(&[2; 8], &memory)).err(), refused);
    assert_eq!(stream.record(|stream| stream.download(&memory).map(drop)).err(), refused);
    assert_eq!(stream.download(&memory).unwrap(), [1; 8]);
    drop((memory, stream, device));
    turn.nothing_is_left();
}

/// Memory of one card never reaches work on another, in whichever place.
#[test]
fn memory_of_another_card_is_refused() {
    let turn = Turn::new();
    turn.emulator.devices(2);
    let streams = [0, 1].map(|ordinal| Device::open(ordinal).unwrap().stream().unwrap());
    let x = streams.each_ref().map(|stream| stream.upload("x", &[3.0f32, 4.0]).unwrap());
    let faults = streams.each_ref().map(|stream| stream.upload("fault", &[u64::MAX]).unwrap());
    let rows = streams.each_ref().map(|stream| Rows::exactly(stream, 1).unwrap());
    let [here, _] = &streams;
    let other = CudaError::OtherDevice { memory: 1, stream: 0 };
    assert_eq!(other.kind(), ErrorKind::Caller);
    turn.emulator.reset_counters();
    for (at_x, at_fault, at_rows) in [(1, 0, 0), (0, 1, 0), (0, 0, 1)] {
        let enqueued = normalize::enqueue(here, &rows[at_rows], 2, &x[at_x], 0, &faults[at_fault]);
        assert_eq!(enqueued, Err(other.clone()));
    }
    assert_eq!(here.copy(&x[0], &x[1]), Err(other.clone()));
    assert_eq!(here.copy(&x[1], &x[0]), Err(other.clone()));
    assert_eq!(here.fill(&x[1], 0), Err(other.clone()));
    assert_eq!(here.upload_to(&[0.0; 2], &x[1]), Err(other.clone()));
    assert_eq!(here.download(&x[1]), Err(other.clone()));
    let tensor = Tensor::over(x[1].cast().unwrap(), Precision::F32).unwrap();
    assert_eq!(tensor.download(here), Err(other.clone()));
    assert_eq!(here.record(|stream| stream.fill(&x[1], 0)).err(), Some(other.clone()));
    let mut staging = Staging::new(here.device(), 8, 8).unwrap();
    let bytes = x[1].cast().unwrap();
    assert_eq!(staging.run(|staged| staged.upload(&bytes)), Err(other.clone()));
    assert_eq!(staging.run(|staged| staged.download(&bytes)), Err(other));
    for what in ["launches", "copies", "fills"] {
        assert_eq!(turn.emulator.count(what), 0, "{what}");
    }
    for at in 0..2 {
        normalize::enqueue(&streams[at], &rows[at], 2, &x[at], 0, &faults[at]).unwrap();
        assert_eq!(streams[at].download(&x[at]).unwrap(), [0.6, 0.8]);
    }
    // Devices that are one card share its memory.
    let again = Device::open(1).unwrap().stream().unwrap();
    assert_eq!(again.download(&x[1]).unwrap(), [0.6, 0.8]);
    drop((streams, x, faults, rows, tensor, bytes, staging, again));
    turn.nothing_is_left();
}

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

/// Wrong arguments of an op are refused before any launch.
#[test]
fn wrong_arguments_are_named() {
    let turn = Turn::new();
    let device = Device::open(0).unwrap();
    let stream = device.stream().unwrap();
    let (x, fault) = (stream.upload("x", &[1.0f32; 6]).unwrap(), stream.upload("fault", &[0u64]).unwrap());
    let rows = Rows::exactly(&stream, 2).unwrap();
    turn.emulator.reset_counters();
    let error = normalize::enqueue(&stream, &rows, 4, &x, 0, &fault).unwrap_err();
    assert_eq!(error.to_string(), "rows to normalise has 6 elements, the shape [2, 4] needs 8");
    assert!(
        normalize::enqueue(
            &stream,
            &Rows::exactly(&stream, 0).unwrap(),
            0,
            &x.part(0..0).unwrap(),
            0,
            &fault
        )
        .is_err()
    );
    assert_eq!(turn.emulator.count("launches"), 0);
    drop((x, fault, rows, stream, device));
    turn.nothing_is_left();
}
