//! Sanitizer builds of the emulator with nothing but its own test kernels, and tests of this executable run on them.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Tells a test in a process that `Variant::run` started what it is to do.
pub const SUBJECT: &str = "MERCER_EMULATOR_SUBJECT";

pub struct Variant {
    name: &'static str,
    library: PathBuf,
}

impl Variant {
    pub fn build(name: &'static str) -> Variant {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("emulator-{name}"));
        let kernels = folder.join("kernels");
        std::fs::create_dir_all(&kernels).unwrap();
        let _ = std::fs::remove_file(kernels.join("device"));
        std::os::unix::fs::symlink(root.join("kernels/device"), kernels.join("device")).unwrap();
        let script = root.join("scripts/emulator-build");
        let output = Command::new(script).arg(name).args([&kernels, &folder]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Variant { name, library: folder.join("libcuda.so") }
    }

    /// Runs one test of this executable; whether it passed and what it wrote to stderr.
    pub fn run(&self, test: &str, subject: &str) -> (bool, String) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let output = Command::new(root.join("scripts/emulator-run"))
            .arg(self.name)
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env("EMULATOR_LIBRARY", &self.library)
            .env(SUBJECT, subject)
            // The words of a report are enough; looking up its lines takes longer than everything else.
            .env("ASAN_OPTIONS", "symbolize=0")
            .env("TSAN_OPTIONS", "symbolize=0")
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
