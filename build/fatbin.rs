//! Compiles kernel files with nvcc, one fat binary each, and keeps those whose sources have not changed.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, io, thread};

use super::explain::explain;
use super::kernels::KernelFile;
use super::toolkit::Toolkit;

/// The kernels say where they fuse a multiplication with an addition; if nvcc chose, the CPU's results would differ.
const FLAGS: [&str; 10] = [
    "-fatbin",
    "-std=c++17",
    "-O3",
    "-fmad=false",
    "-lineinfo",
    "-Xfatbin=-compress-all",
    "--resource-usage",
    "-Ikernels/device",
    "-Ikernels",
    "-MD",
];

/// How to run nvcc.
pub struct Compiler<'a> {
    /// Whose nvcc.
    pub toolkit: &'a Toolkit,
    /// The host compiler, if not nvcc's own choice.
    pub host_compiler: Option<OsString>,
    /// The project's folder. Paths in images are relative to it, so that they do not depend on where it is.
    pub root: &'a Path,
    /// Where the images go: for each file its `.fatbin`, `.d` (dependencies), `.log` (what nvcc said) and `.stamp`.
    pub folder: &'a Path,
    /// How many processes may run at a time.
    pub jobs: usize,
}

impl Compiler<'_> {
    /// Compiles the files, each with its `-gencode` arguments, and returns the name and image of each.
    pub fn build(&self, units: &[(&KernelFile, Vec<String>)]) -> Result<Vec<(String, PathBuf)>, String> {
        fs::create_dir_all(self.folder).map_err(|error| format!("{}: {error}", self.folder.display()))?;
        let arguments: Vec<Vec<OsString>> =
            units.iter().map(|(kernel, gencode)| self.arguments(&kernel.name, gencode)).collect();
        let stale: Vec<usize> = (0..units.len())
            .filter(|&at| self.is_stale(&units[at].0.name, &self.stamp(&arguments[at])))
            .collect();
        let threads = (self.jobs / stale.len().max(1)).max(1);
        let next = AtomicUsize::new(0);
        let work = || {
            let mut failures = Vec::new();
            while let Some(&at) = stale.get(next.fetch_add(1, Ordering::Relaxed)) {
                failures.extend(self.compile(&units[at].0.name, &arguments[at], threads).err());
            }
            failures
        };
        let failures: Vec<Failure> = thread::scope(|scope| {
            let workers: Vec<_> =
                (0..self.jobs.clamp(1, stale.len().max(1))).map(|_| scope.spawn(work)).collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap_or_default()).collect()
        });
        report(failures)?;
        self.list(units)?;
        Ok(units.iter().map(|(kernel, _)| (kernel.name.clone(), self.file(&kernel.name, "fatbin"))).collect())
    }

    fn file(&self, name: &str, ending: &str) -> PathBuf {
        self.folder.join(format!("{name}.{ending}"))
    }

    fn arguments(&self, name: &str, gencode: &[String]) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = FLAGS.iter().map(Into::into).collect();
        arguments.extend(gencode.iter().map(Into::into));
        if let Some(compiler) = &self.host_compiler {
            arguments.extend(["-ccbin".into(), compiler.clone()]);
        }
        arguments.extend([
            "-MF".into(),
            self.file(name, "d").into(),
            "-o".into(),
            self.file(name, "fatbin").into(),
        ]);
        arguments.push(format!("kernels/{name}.cu").into());
        arguments
    }

    /// What an image was made with.
    fn stamp(&self, arguments: &[OsString]) -> String {
        let arguments: Vec<_> = arguments.iter().map(|argument| argument.to_string_lossy()).collect();
        format!("{}\n{:?}\n{}\n", self.toolkit.nvcc.display(), self.toolkit.version, arguments.join("\n"))
    }

    fn is_stale(&self, name: &str, stamp: &str) -> bool {
        let path = self.file(name, "stamp");
        let made_alike =
            fs::read_to_string(&path).is_ok_and(|old| old == stamp) && self.file(name, "fatbin").is_file();
        let (Ok(made), Ok(dependencies)) = (modified(&path), fs::read_to_string(self.file(name, "d"))) else {
            return true;
        };
        let unchanged = |file: PathBuf| modified(&self.root.join(file)).is_ok_and(|time| time <= made);
        !made_alike || !dependencies_of(&dependencies).into_iter().all(unchanged)
    }

    fn compile(&self, name: &str, arguments: &[OsString], threads: usize) -> Result<(), Failure> {
        let failure = |error: io::Error| Failure::Setup(format!("{}: {error}", self.toolkit.nvcc.display()));
        // The stamp carries the time at which compilation started: a file edited meanwhile counts as changed.
        let (stamp, started) = (self.file(name, "stamp"), self.file(name, "started"));
        let _ = fs::remove_file(&stamp);
        fs::write(&started, self.stamp(arguments)).map_err(failure)?;
        let mut command = Command::new(&self.toolkit.nvcc);
        command.args(arguments).args(["--threads", &threads.to_string()]).current_dir(self.root);
        // nvcc takes flags from these; a fast-math flag would change results.
        command.env_remove("NVCC_PREPEND_FLAGS").env_remove("NVCC_APPEND_FLAGS").env("TMPDIR", self.folder);
        let output = command.output().map_err(failure)?;
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(match explain(&text, self.toolkit, self.host_compiler.as_deref()) {
                Some(message) => Failure::Setup(message),
                None => Failure::Kernel(format!(
                    "kernels/{name}.cu does not compile ({}):\n{text}",
                    output.status
                )),
            });
        }
        // Every architecture brings the same warnings.
        let mut said = HashSet::new();
        for line in text.lines().filter(|line| !is_information(line) && said.insert(*line)) {
            println!("cargo::warning={line}");
        }
        fs::write(self.file(name, "log"), text.as_bytes()).map_err(failure)?;
        fs::rename(started, stamp).map_err(failure)
    }

    /// Writes the list of entry points for `scripts/kernel-report`: file, name, launch bound.
    fn list(&self, units: &[(&KernelFile, Vec<String>)]) -> Result<(), String> {
        let mut text = String::new();
        for (kernel, _) in units {
            for entry in &kernel.entries {
                text += &format!("{}\t{}\t{}\n", kernel.name, entry.name, entry.max_threads);
            }
        }
        let path = self.folder.join("entries.tsv");
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// Why a file has no image.
enum Failure {
    /// nvcc does not work here; it will fail alike on every file.
    Setup(String),
    /// The kernel is wrong.
    Kernel(String),
}

fn report(failures: Vec<Failure>) -> Result<(), String> {
    let mut kernels = Vec::new();
    for failure in failures {
        match failure {
            Failure::Setup(message) => return Err(message),
            Failure::Kernel(message) => kernels.push(message),
        }
    }
    if kernels.is_empty() { Ok(()) } else { Err(kernels.join("\n")) }
}

/// Whether nvcc printed `line` because of `--resource-usage` and not as a warning.
pub fn is_information(line: &str) -> bool {
    line.starts_with("ptxas info")
        || line.trim().is_empty()
        || line.starts_with("    ") && line.contains("bytes stack frame")
}

/// The files that a makefile rule depends on.
pub fn dependencies_of(rule: &str) -> Vec<PathBuf> {
    let (_, files) = rule.split_once(": ").unwrap_or_default();
    let (mut names, mut name) = (Vec::new(), String::new());
    let mut chars = files.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().filter(|c| *c != '\n')),
            c if c.is_whitespace() => names.push(std::mem::take(&mut name)),
            c => name.push(c),
        }
    }
    names.push(name);
    names.into_iter().filter(|name| !name.is_empty()).map(PathBuf::from).collect()
}

fn modified(path: &Path) -> io::Result<std::time::SystemTime> {
    fs::metadata(path)?.modified()
}
