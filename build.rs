//! Compiles `kernels/*.cu` and embeds them: for the feature `cuda` with nvcc, for the feature `emulate` with g++ into a
//! stand-in driver.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

#[path = "build/mod.rs"]
#[allow(dead_code)] // what a build does not use, the tests and the emulator's tools do
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
    println!("cargo::rerun-if-env-changed=DOCS_RS");
    let env = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if env("CARGO_FEATURE_CUDA").is_none() {
        return Ok(());
    }
    let folder = |name: &str| env(name).map(PathBuf::from).ok_or(format!("{name} is not set"));
    let (root, out) = (folder("CARGO_MANIFEST_DIR")?, folder("OUT_DIR")?);
    let mut images = String::new();
    if env("DOCS_RS").is_none() {
        println!("cargo::rerun-if-changed=kernels");
        let kernels = build::kernels::scan(&root.join("kernels"))?;
        if env("CARGO_FEATURE_EMULATE").is_some() {
            println!("cargo::rerun-if-changed=emulator");
            println!("cargo::rerun-if-env-changed=CXX");
            let emulator = out.join("emulator");
            build::emulator::build(&root, &kernels, &emulator)?;
            // Cargo puts this folder on the search path of the tests and of what they start.
            println!("cargo::rustc-link-search=native={}", emulator.display());
            for kernel in &kernels {
                let _ = writeln!(images, "    (\"{0}\", b\"EMU-MODULE {0}\\0\"),", kernel.name);
            }
        } else {
            for (name, image) in build::images(&env, &root, &kernels, &out.join("images"))? {
                let _ = writeln!(images, "    (\"{name}\", &Image(*include_bytes!({image:?})).0),");
            }
        }
    }
    // The driver reads an image in 8-byte words; `include_bytes!` alone promises no alignment. A build
    // without images has no use for the struct.
    let text =
        format!("{{\n#[repr(C, align(64))]\n#[allow(dead_code)]\nstruct Image<T>(T);\n&[\n{images}]\n}}\n");
    std::fs::write(out.join("images.rs"), text).map_err(|error| format!("{}: {error}", out.display()))
}
