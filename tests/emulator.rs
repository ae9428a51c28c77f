//! The emulator: its instructions against golden words, its checks against planted faults, its driver against what the
//! real one does. On a card only the first runs.
#![cfg(feature = "cuda")]
#![allow(clippy::panic, clippy::unwrap_used)] // a failed check ends the test

#[path = "emulator/driver.rs"]
mod driver;
#[path = "emulator/probes.rs"]
mod probes;

#[cfg(feature = "emulate")]
#[allow(unused_imports, reason = "the emulator's controls are of use here")]
mod device;
#[cfg(feature = "emulate")]
#[path = "emulator/faults.rs"]
mod faults;
#[cfg(feature = "emulate")]
#[path = "emulator/replay.rs"]
mod replay;
#[cfg(feature = "emulate")]
#[path = "emulator/rules.rs"]
mod rules;
#[cfg(feature = "emulate")]
#[path = "emulator/variant.rs"]
mod variant;

/// The one driver of the process: tests take turns, and each finds and leaves it as it starts.
#[cfg(feature = "emulate")]
struct Turn {
    emulator: device::emulator::Emulator,
    _turn: std::sync::MutexGuard<'static, ()>,
}

#[cfg(feature = "emulate")]
impl Turn {
    fn new() -> Turn {
        static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Turn { emulator: device::emulator::Emulator::get(), _turn: turn }
    }
}

#[cfg(feature = "emulate")]
impl Drop for Turn {
    fn drop(&mut self) {
        self.emulator.schedule(0, 1);
        self.emulator.lazy_streams(false);
        self.emulator.fail_allocation(0);
        self.emulator.lose_device(0);
        self.emulator.memory(8 << 30);
    }
}
