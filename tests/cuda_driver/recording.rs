//! Recorded work: what it may do, what it keeps, what goes meanwhile.

use mercer::ErrorKind;
use mercer::cuda::{CudaError, Device, Rows, Slice, Staging, Stream, normalize};

use super::device::emulator::Turn;
use super::{NOT_SUPPORTED, work};

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
