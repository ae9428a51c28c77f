//! The stand-in driver's own controls, by name: what it fails, how it schedules, what it counted.
#![allow(dead_code, unsafe_code, clippy::unwrap_used)] // plain C functions of a library that is there

use std::ffi::{CString, c_char, c_int};
use std::sync::{Mutex, MutexGuard, PoisonError};

use libloading::{Library, Symbol};

/// The stand-in driver.
pub struct Emulator(Library);

impl Emulator {
    /// The library that the driver calls of this process go to.
    pub fn get() -> Emulator {
        // SAFETY: the library is the one that cudarc loads.
        Emulator(unsafe { Library::new("libcuda.so") }.unwrap())
    }

    /// The `n`-th allocation from now fails; 0 takes it back.
    pub fn fail_allocation(&self, n: u64) {
        // SAFETY: the function has this signature.
        unsafe { self.symbol::<unsafe extern "C" fn(u64)>("emu_fail_allocation")(n) }
    }

    /// The `n`-th kernel from now loses the device; 0 takes it back.
    pub fn lose_device(&self, n: u64) {
        // SAFETY: the function has this signature.
        unsafe { self.symbol::<unsafe extern "C" fn(u64)>("emu_lose_device")(n) }
    }

    /// The `n`-th call of a driver function from now returns `code`.
    pub fn fail_call(&self, function: &str, n: u64, code: i32) {
        let name = CString::new(function).unwrap();
        // SAFETY: the function has this signature, and copies the name.
        unsafe {
            self.symbol::<unsafe extern "C" fn(*const c_char, u64, c_int)>("emu_fail_call")(
                name.as_ptr(),
                n,
                code,
            );
        }
    }

    /// Bytes of a device's memory.
    pub fn memory(&self, bytes: u64) {
        // SAFETY: the function has this signature.
        unsafe { self.symbol::<unsafe extern "C" fn(u64)>("emu_memory_limit")(bytes) }
    }

    /// How threads and blocks are ordered: 0 in order, 1 in reverse, 2 at random.
    pub fn schedule(&self, order: i32, seed: u64) {
        // SAFETY: the function has this signature.
        unsafe { self.symbol::<unsafe extern "C" fn(c_int, u64)>("emu_schedule")(order, seed) }
    }

    /// Whether streams run only when something waits for them.
    pub fn lazy_streams(&self, lazy: bool) {
        self.set("emu_streams", lazy.into());
    }

    /// How many devices there are.
    pub fn devices(&self, count: i32) {
        self.set("emu_devices", count);
    }

    /// The compute capability, as 10 * major + minor.
    pub fn capability(&self, capability: i32) {
        self.set("emu_arch", capability);
    }

    /// The version that the driver says it has, as 1000 * major + 10 * minor.
    pub fn driver_version(&self, version: i32) {
        self.set("emu_driver_version", version);
    }

    /// How many multiprocessors a device has.
    pub fn multiprocessors(&self, count: i32) {
        self.set("emu_multiprocessors", count);
    }

    /// Calls of a driver function since the counters were reset; of all if the name is empty.
    pub fn calls(&self, function: &str) -> u64 {
        self.read("emu_calls", function)
    }

    /// What happened since the counters were reset.
    pub fn count(&self, what: &str) -> u64 {
        let count = self.read("emu_count", what);
        assert_ne!(count, u64::MAX, "{what} is not counted");
        count
    }

    /// What is alive now.
    pub fn live(&self, what: &str) -> u64 {
        let live = self.read("emu_live", what);
        assert_ne!(live, u64::MAX, "{what} is not counted");
        live
    }

    /// Everything that is alive now, by kind.
    pub fn all_live(&self) -> Vec<(&'static str, u64)> {
        let kinds = ["contexts", "device allocations", "pinned allocations", "streams", "events", "graphs"];
        kinds
            .into_iter()
            .chain(["graph executables", "modules"])
            .map(|kind| (kind, self.live(kind)))
            .collect()
    }

    /// Sets the counters to 0.
    pub fn reset_counters(&self) {
        // SAFETY: the function has this signature.
        unsafe { self.symbol::<unsafe extern "C" fn()>("emu_reset_counters")() }
    }

    fn set(&self, function: &str, value: i32) {
        // SAFETY: the functions that set one number have this signature.
        unsafe { self.symbol::<unsafe extern "C" fn(c_int)>(function)(value) }
    }

    fn read(&self, function: &str, name: &str) -> u64 {
        let name = CString::new(name).unwrap();
        // SAFETY: the functions that count have this signature.
        unsafe { self.symbol::<unsafe extern "C" fn(*const c_char) -> u64>(function)(name.as_ptr()) }
    }

    /// # Safety
    /// `T` is the signature of the function.
    unsafe fn symbol<T>(&self, name: &str) -> Symbol<'_, T> {
        // SAFETY: the caller's promise.
        unsafe { self.0.get(name.as_bytes()) }.unwrap()
    }
}

/// The one driver of the process: tests take turns, and each finds and leaves it with nothing ordered.
pub struct Turn {
    pub emulator: Emulator,
    _turn: MutexGuard<'static, ()>,
}

impl Turn {
    pub fn new() -> Turn {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        Turn { emulator: Emulator::get(), _turn: turn }
    }

    /// Fails if anything is alive.
    #[track_caller]
    pub fn nothing_is_left(&self) {
        for (kind, count) in self.emulator.all_live() {
            assert_eq!(count, 0, "{kind} left");
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.emulator.fail_allocation(0);
        self.emulator.lose_device(0);
        self.emulator.schedule(0, 1);
        self.emulator.devices(1);
        self.emulator.capability(90);
        self.emulator.driver_version(13_000);
        self.emulator.lazy_streams(false);
        self.emulator.memory(8 << 30);
    }
}
