//! Finds nvcc and asks it what it is.

use std::env::consts::EXE_SUFFIX;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Env;
use super::archs::Arch;

/// The oldest toolkit that is accepted: the one whose driver interface the crate is written against.
const MINIMUM: (u32, u32) = (12, 4);

/// Where `scripts/install-nvcc` puts a toolkit, seen from the project's folder.
const OWN: &str = ".toolkit/cuda";

/// A usable nvcc.
#[derive(Debug)]
pub struct Toolkit {
    /// Where it is.
    pub nvcc: PathBuf,
    /// Its major and minor version.
    pub version: (u32, u32),
    /// The architectures that it lists.
    pub archs: Vec<Arch>,
}

/// Where nvcc is looked for, first to last: what says so, and the file, if there is one to try.
pub fn places(env: &Env, root: &Path) -> Vec<(String, Option<PathBuf>)> {
    let nvcc = PathBuf::from(format!("nvcc{EXE_SUFFIX}"));
    let path = env("PATH").unwrap_or_default();
    let on_path = |name: &Path| {
        std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
    };
    let mut places = Vec::new();
    if let Some(named) = env("NVCC").map(PathBuf::from) {
        // A variable that names the compiler itself is meant: no other compiler stands in for it.
        let file = if named.components().count() > 1 { Some(named.clone()) } else { on_path(&named) };
        return vec![(format!("NVCC={}", named.display()), file)];
    }
    places.push(("NVCC (not set)".into(), None));
    for variable in ["CUDA_HOME", "CUDA_PATH"] {
        let file = env(variable).map(|home| PathBuf::from(home).join("bin").join(&nvcc));
        let unset = if file.is_none() { " (not set)" } else { "" };
        places.push((format!("{variable}{unset}"), file));
    }
    places.push(("scripts/install-nvcc".into(), Some(root.join(OWN).join("bin").join(&nvcc))));
    places.push(("PATH".into(), on_path(&nvcc)));
    places.push(("the usual folder".into(), Some(Path::new("/usr/local/cuda/bin").join(&nvcc))));
    places
}

/// The first of the places that holds a file.
pub fn find(places: &[(String, Option<PathBuf>)]) -> Result<PathBuf, String> {
    if let Some(nvcc) = places.iter().filter_map(|(_, file)| file.as_ref()).find(|file| file.is_file()) {
        return Ok(nvcc.clone());
    }
    let mut message = format!(
        "The feature `cuda` needs nvcc, the compiler of the CUDA toolkit, {}.{} or later. Looked for it here:\n",
        MINIMUM.0, MINIMUM.1
    );
    for (place, file) in places {
        let file = file.as_ref().map_or("-".into(), |file| file.display().to_string());
        let _ = writeln!(message, "    {place:<24}{file}");
    }
    Err(message + FIXES)
}

const FIXES: &str = "Any one of these helps:
    run mercer's scripts/install-nvcc: it installs nvcc from PyPI into mercer's folder, where it is found unless NVCC,
        CUDA_HOME or CUDA_PATH say otherwise
    install the CUDA toolkit and set CUDA_HOME to its folder, or NVCC to its compiler
    build without the feature `cuda`; to test the kernels without nvcc and GPU, use the feature `emulate`";

impl Toolkit {
    /// Asks `nvcc` for its version and architectures.
    pub fn open(nvcc: PathBuf) -> Result<Toolkit, String> {
        let version_text = ask(&nvcc, "--version")?;
        let version = version(&version_text)
            .ok_or_else(|| format!("{} --version names no release:\n{version_text}", nvcc.display()))?;
        if version < MINIMUM {
            return Err(too_old(&nvcc, version));
        }
        let archs = archs(&ask(&nvcc, "--list-gpu-arch")?);
        Ok(Toolkit { nvcc, version, archs })
    }
}

fn ask(nvcc: &Path, question: &str) -> Result<String, String> {
    let output = Command::new(nvcc).arg(question).output();
    let output = output.map_err(|error| format!("{} does not run: {error}", nvcc.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(format!("{} {question} failed ({}):\n{text}{errors}", nvcc.display(), output.status))
}

/// What to say of a toolkit below the minimum.
pub fn too_old(nvcc: &Path, (major, minor): (u32, u32)) -> String {
    let nvcc = nvcc.display();
    format!(
        "{nvcc} is of CUDA {major}.{minor}; the kernels need {}.{} or later.\n{FIXES}",
        MINIMUM.0, MINIMUM.1
    )
}

/// The release in what `nvcc --version` prints.
pub fn version(text: &str) -> Option<(u32, u32)> {
    let (_, rest) = text.split_once("release ")?;
    let (major, rest) = rest.split_once('.')?;
    let minor = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The architectures in what `nvcc --list-gpu-arch` prints.
pub fn archs(text: &str) -> Vec<Arch> {
    text.split_whitespace().filter_map(Arch::parse).collect()
}
