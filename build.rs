//! Compiles `kernels/*.cu` and embeds them: for the feature `cuda` with nvcc, for the feature `emulate` with g++ into a
//! stand-in driver.

use std::path::PathBuf;
use std::process::ExitCode;

#[path = "build/mod.rs"]
mod build;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return Ok(());
    }
    println!("cargo::rerun-if-changed=kernels");
    println!("cargo::rerun-if-changed=emulator");
    println!("cargo::rerun-if-env-changed=CXX");
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).ok_or(format!("{name} is not set"));
    let (root, out) = (folder("CARGO_MANIFEST_DIR")?, folder("OUT_DIR")?);
    let kernels = build::kernels::scan(&root.join("kernels"))?;
    let mut images = String::from("&[\n");
    if std::env::var_os("CARGO_FEATURE_EMULATE").is_some() {
        let emulator = out.join("emulator");
        build::emulator::build(&root, &kernels, &emulator)?;
        // Cargo puts this folder on the search path of the tests and of what they start.
        println!("cargo::rustc-link-search=native={}", emulator.display());
        for kernel in &kernels {
            images += &format!("    (\"{0}\", b\"EMU-MODULE {0}\\0\"),\n", kernel.name);
        }
    }
    images += "]\n";
    std::fs::write(out.join("images.rs"), images).map_err(|error| format!("{}: {error}", out.display()))
}
