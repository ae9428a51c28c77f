//! The layer over the driver, on the stand-in: what it says of devices and errors, that nothing leaks, that a lost device
//! stays lost and a full one does not. One process has one driver, so the tests take turns.
#![cfg(feature = "emulate")]
#![allow(clippy::panic, clippy::unwrap_used)] // a failed check ends the test

use std::time::Duration;

use device::emulator::Turn;
use mercer::ErrorKind;
use mercer::cuda::{
    CudaError, Device, DriverVersion, Precision, Rows, Slice, Staging, Stream, Tensor, devices, normalize,
};

#[path = "../device/mod.rs"]
mod device;
mod recording;
mod waits;

/// A code of the driver that says nothing of the device's state.
const NOT_SUPPORTED: i32 = 801;

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
