//! What `build.rs` does, in parts that `tests/build.rs` tests.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use kernels::KernelFile;
use toolkit::Toolkit;

pub mod archs;
pub mod emulator;
pub mod explain;
pub mod fatbin;
pub mod kernels;
pub mod toolkit;

/// Reads an environment variable; an empty one counts as not set.
pub type Env<'a> = dyn Fn(&str) -> Option<OsString> + 'a;

/// Compiles every kernel file in `folder` with nvcc and says which image is whose. Tells Cargo what they depend on and the
/// crate what they run on: `MERCER_CUDA_TOOLKIT` is the toolkit's version, `MERCER_CUDA_TARGETS` the list of `sm_XX` that
/// have machine code and, last, the `compute_XX` that has PTX.
pub fn images(
    env: &Env,
    root: &Path,
    kernels: &[KernelFile],
    folder: &Path,
) -> Result<Vec<(String, PathBuf)>, String> {
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH", "NVCC_CCBIN", "CUDAHOSTCXX", "MERCER_CUDA_ARCHS"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let toolkit = Toolkit::open(toolkit::find(&toolkit::places(env, root))?)?;
    println!("cargo::rerun-if-changed={}", toolkit.nvcc.display());
    let wanted = env("MERCER_CUDA_ARCHS").map(|archs| archs.to_string_lossy().into_owned());
    let archs = archs::choose(wanted.as_deref(), &toolkit.archs)?;
    let ptx = archs::ptx(&toolkit.archs)?;
    let targets: Vec<String> = archs.iter().map(|arch| format!("sm_{arch}")).collect();
    println!("cargo::rustc-env=MERCER_CUDA_TOOLKIT={}.{}", toolkit.version.0, toolkit.version.1);
    println!("cargo::rustc-env=MERCER_CUDA_TARGETS={} compute_{ptx}", targets.join(" "));

    let host_compiler = env("NVCC_CCBIN").or_else(|| env("CUDAHOSTCXX"));
    let jobs = env("NUM_JOBS").and_then(|jobs| jobs.to_str()?.parse().ok()).unwrap_or(1);
    let compiler = fatbin::Compiler { toolkit: &toolkit, host_compiler, root, folder, jobs };
    let units: Vec<(&KernelFile, Vec<String>)> = kernels
        .iter()
        .map(|kernel| (kernel, archs::gencode(&kernel.name, &archs, ptx)))
        .filter(|(_, gencode)| !gencode.is_empty())
        .collect();
    compiler.build(&units)
}
