//! Builds the stand-in driver: every kernel file as host C++, the emulator's runtime and its driver interface, linked into
//! one `libcuda.so`.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::kernels::KernelFile;

const FLAGS: [&str; 11] = [
    "-std=c++17",
    "-O2",
    "-g1",
    "-fPIC",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
    "-fsigned-char",
    "-ftls-model=initial-exec",
    "-fvisibility=hidden",
    "-Wno-unknown-pragmas",
    "-Wno-psabi",
];

/// Builds `libcuda.so` in `out` from the kernels and `emulator/`; objects that are newer than all sources are kept.
pub fn build(root: &Path, kernels: &[KernelFile], out: &Path) -> Result<(), String> {
    std::fs::create_dir_all(out).map_err(|error| format!("{}: {error}", out.display()))?;
    let mut units: Vec<(PathBuf, PathBuf)> = Vec::new();
    for kernel in kernels {
        let unit = out.join(format!("{}.cpp", kernel.name));
        let text = registration(kernel);
        if std::fs::read_to_string(&unit).ok().as_deref() != Some(&text) {
            std::fs::write(&unit, text).map_err(|error| format!("{}: {error}", unit.display()))?;
        }
        units.push((unit, out.join(format!("{}.o", kernel.name))));
    }
    for name in ["runtime", "driver"] {
        units.push((root.join(format!("emulator/{name}.cpp")), out.join(format!("emulator_{name}.o"))));
    }
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
    let newest = newest(&[&root.join("emulator"), &root.join("kernels")]);
    let mut running = Vec::new();
    for (unit, object) in &units {
        let stale = match std::fs::metadata(object).and_then(|meta| meta.modified()) {
            Ok(built) => newest.is_none_or(|newest| built < newest),
            Err(_) => true,
        };
        if !stale {
            continue;
        }
        let mut command = Command::new(&compiler);
        command.args(FLAGS).arg("-I").arg(root.join("emulator")).arg("-I").arg(root.join("kernels/device"));
        command.arg("-I").arg(root.join("kernels")).arg("-c").arg(unit).arg("-o").arg(object);
        let child =
            command.spawn().map_err(|error| format!("{compiler}: {error}; install g++ or set CXX"))?;
        running.push((unit, child));
    }
    for (unit, mut child) in running {
        let status = child.wait().map_err(|error| format!("{compiler}: {error}"))?;
        if !status.success() {
            return Err(format!("{compiler} failed on {}", unit.display()));
        }
    }
    let mut link = Command::new(&compiler);
    link.args(["-shared", "-Wl,-soname,libcuda.so", "-Wl,-z,defs"]);
    link.args(units.iter().map(|(_, object)| object));
    link.arg("-o").arg(out.join("libcuda.so")).arg("-lpthread");
    let status = link.status().map_err(|error| format!("{compiler}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{compiler} failed to link the stand-in driver")) }
}

/// A translation unit that includes the kernel file as it is and registers its entry points.
fn registration(kernel: &KernelFile) -> String {
    let mut text = format!("#include \"{}.cu\"\n", kernel.name);
    for entry in &kernel.entries {
        text += &format!("EMU_KERNEL({}, {})\n", entry.name, entry.max_threads);
    }
    text
}

/// When the newest file below any of `folders` was written.
fn newest(folders: &[&Path]) -> Option<std::time::SystemTime> {
    let mut newest = None;
    let mut pending: Vec<PathBuf> = folders.iter().map(|folder| folder.to_path_buf()).collect();
    while let Some(folder) = pending.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => pending.push(entry.path()),
                Ok(meta) => newest = newest.max(meta.modified().ok()),
                Err(_) => {}
            }
        }
    }
    newest
}
