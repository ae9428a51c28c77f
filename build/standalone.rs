//! Builds a variant of the stand-in driver outside cargo: `standalone ROOT KERNELS VARIANT OUT`. Compiled by
//! `scripts/emulator-build`.

use std::path::Path;
use std::process::ExitCode;

mod emulator;
mod kernels;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), String> {
    let [root, folder, variant, out] = arguments else { return Err("usage: standalone ROOT KERNELS VARIANT OUT".into()) };
    let variant = emulator::Variant::from_name(variant).ok_or(format!("no variant '{variant}': plain, bounds, race"))?;
    let kernels = kernels::scan(Path::new(folder))?;
    emulator::build_variant(Path::new(root), Path::new(folder), &kernels, variant, Path::new(out))
}
