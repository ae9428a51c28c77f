//! Builds the stand-in driver: every kernel file as host C++, the emulator's runtime and its driver interface, linked into
//! one `libcuda.so`. The owner of its flags and of its list of files, for cargo and for `scripts/emulator-build` alike.

#![allow(dead_code, reason = "cargo builds one variant, scripts/emulator-build the others")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use super::kernels::{self, KernelFile};

const FLAGS: &[&str] = &[
    "-std=c++17",
    "-O2",
    "-g1",
    "-Wall",
    "-Wextra",
    "-fPIC",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
    "-fsigned-char",
    "-ftls-model=initial-exec",
    "-fvisibility=hidden",
    "-Wno-unknown-pragmas",
    "-Wno-psabi",
];

/// Kernel files must be free of warnings under nvcc, which knows fewer.
const KERNEL_FLAGS: &[&str] = &["-Wno-unused", "-Wno-sign-compare"];

const BOUNDS_FLAGS: &[&str] =
    &["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"];

/// Which faults the built driver looks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Variant {
    /// Errors that the emulator names itself, wrong results under every schedule.
    Plain,
    /// Besides, out-of-bounds accesses and undefined behaviour of kernels (AddressSanitizer, UndefinedBehaviorSanitizer).
    Bounds,
    /// Besides, data races of kernels, whatever the schedule.
    Race,
}

impl Variant {
    /// The variant of a name on the command line.
    pub fn from_name(name: &str) -> Option<Self> {
        [("plain", Self::Plain), ("bounds", Self::Bounds), ("race", Self::Race)]
            .into_iter()
            .find_map(|(known, variant)| (known == name).then_some(variant))
    }

    /// Flags for kernel files, besides those for their warnings. Under `Race` the emulator's own accesses must stay invisible: only kernels are instrumented.
    fn kernel_flags(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &[],
            Self::Bounds => BOUNDS_FLAGS,
            Self::Race => &["-DEMU_RACES", "-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0"],
        }
    }

    fn emulator_flags(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &[],
            Self::Bounds => BOUNDS_FLAGS,
            Self::Race => &["-DEMU_RACES"],
        }
    }

    /// `Bounds` leaves the sanitizers' runtime to the process, which preloads it; that of `Race` is the emulator's own.
    fn link_flags(self) -> &'static [&'static str] {
        match self {
            Self::Plain | Self::Race => &["-Wl,-z,defs"],
            Self::Bounds => &["-fsanitize=address,undefined"],
        }
    }
}

/// One translation unit.
struct Unit {
    source: PathBuf,
    object: PathBuf,
    flags: Vec<String>,
}

/// Builds the plain `libcuda.so` in `out` from `kernels` and `root/emulator`.
pub fn build(root: &Path, kernels: &[KernelFile], out: &Path) -> Result<(), String> {
    build_variant(root, &root.join("kernels"), kernels, Variant::Plain, out)
}

/// Builds `libcuda.so` in `out` from the kernel files of `folder`, the emulator's own test kernels and `root/emulator`.
/// Objects that are newer than what they were made from are kept.
pub fn build_variant(
    root: &Path,
    folder: &Path,
    kernels: &[KernelFile],
    variant: Variant,
    out: &Path,
) -> Result<(), String> {
    std::fs::create_dir_all(out).map_err(|error| format!("{}: {error}", out.display()))?;
    let emulator = root.join("emulator");
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
    let mut common: Vec<String> = FLAGS.iter().map(ToString::to_string).collect();
    for include in [&emulator, &folder.join("device"), folder] {
        common.extend(["-I".into(), include.display().to_string()]);
    }
    let with = |more: &[&str]| {
        common.iter().cloned().chain(more.iter().map(ToString::to_string)).collect::<Vec<_>>()
    };
    let mut units = Vec::new();
    for kernel in kernels.iter().chain(&kernels::scan(&emulator.join("tests"))?) {
        let source = out.join(format!("{}.cpp", kernel.name));
        let text = registration(kernel);
        if std::fs::read_to_string(&source).ok().as_deref() != Some(&text) {
            std::fs::write(&source, text).map_err(|error| format!("{}: {error}", source.display()))?;
        }
        let mut flags = with(KERNEL_FLAGS);
        flags.extend(variant.kernel_flags().iter().map(ToString::to_string));
        flags.extend(["-I".into(), emulator.join("tests").display().to_string()]);
        units.push(Unit { source, object: out.join(format!("{}.o", kernel.name)), flags });
    }
    for source in sources(&emulator)? {
        let inside = source.strip_prefix(&emulator).unwrap_or(&source).with_extension("o");
        let object = out.join(format!("emulator_{}", inside.display().to_string().replace('/', "_")));
        units.push(Unit { source, object, flags: with(variant.emulator_flags()) });
    }
    let compiled = compile(&compiler, &units)?;
    let library = out.join("libcuda.so");
    if compiled == 0 && library.exists() {
        return Ok(());
    }
    let mut link = Command::new(&compiler);
    link.args(["-shared", "-Wl,-soname,libcuda.so"]).args(variant.link_flags());
    link.args(units.iter().map(|unit| &unit.object)).arg("-o").arg(&library).arg("-lpthread");
    let status = link.status().map_err(|error| format!("{compiler}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{compiler} failed to link the stand-in driver")) }
}

/// Compiles the units that are stale, a few at a time, and says how many they were.
fn compile(compiler: &str, units: &[Unit]) -> Result<usize, String> {
    let parallel = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let mut compiled = 0;
    let mut running: Vec<(&Unit, Child)> = Vec::new();
    for unit in units.iter().filter(|unit| is_stale(compiler, unit)) {
        if running.len() == parallel {
            finish(compiler, running.remove(0))?;
        }
        let mut command = Command::new(compiler);
        command.args(&unit.flags).args(["-MMD", "-c"]).arg(&unit.source).arg("-o").arg(&unit.object);
        let child =
            command.spawn().map_err(|error| format!("{compiler}: {error}; install g++ or set CXX"))?;
        running.push((unit, child));
        compiled += 1;
    }
    for job in running {
        finish(compiler, job)?;
    }
    Ok(compiled)
}

fn finish(compiler: &str, (unit, mut child): (&Unit, Child)) -> Result<(), String> {
    let status = child.wait().map_err(|error| format!("{compiler}: {error}"))?;
    if !status.success() {
        return Err(format!("{compiler} failed on {}", unit.source.display()));
    }
    let record = unit.object.with_extension("flags");
    std::fs::write(&record, command_line(compiler, unit))
        .map_err(|error| format!("{}: {error}", record.display()))
}

fn command_line(compiler: &str, unit: &Unit) -> String {
    format!("{compiler} {}", unit.flags.join(" "))
}

/// Whether an object must be made again: it is missing, its flags changed, or a file it was made from is newer.
fn is_stale(compiler: &str, unit: &Unit) -> bool {
    let modified = |path: &Path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let flags = std::fs::read_to_string(unit.object.with_extension("flags"));
    if flags.ok() != Some(command_line(compiler, unit)) {
        return true;
    }
    let Ok(rule) = std::fs::read_to_string(unit.object.with_extension("d")) else { return true };
    let Some(built) = modified(&unit.object) else { return true };
    dependencies(&rule).any(|path| modified(Path::new(path)).is_none_or(|time| time > built))
}

/// The files in a rule `object: file file \` as the compiler writes it.
fn dependencies(rule: &str) -> impl Iterator<Item = &str> {
    let files = rule.split_once(": ").map_or("", |(_, files)| files);
    files.split_whitespace().filter(|word| *word != "\\")
}

/// The emulator's own C++ files: those of its folder and of the folders in it, sorted.
fn sources(emulator: &Path) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    let mut pending = vec![emulator.to_path_buf()];
    while let Some(folder) = pending.pop() {
        let entries = std::fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        for entry in entries {
            let path = entry.map_err(|error| format!("{}: {error}", folder.display()))?.path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|ending| ending == "cpp") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// A translation unit that includes the kernel file as it is and registers its entry points.
fn registration(kernel: &KernelFile) -> String {
    let mut text = format!("#define EMU_MODULE_NAME \"{0}\"\n#include \"{0}.cu\"\n", kernel.name);
    for entry in &kernel.entries {
        text += &format!("EMU_KERNEL({}, {})\n", entry.name, entry.max_threads);
    }
    text
}
