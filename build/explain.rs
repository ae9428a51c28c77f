//! Says in one message why nvcc failed, where it was not the kernel.

use std::ffi::OsStr;

use super::toolkit::Toolkit;

/// What nvcc says when a part of a toolkit from PyPI is absent, and the package that has it.
const PARTS: [(&str, &str); 5] = [
    ("cuda_runtime.h: No such file", "nvidia-cuda-runtime"),
    ("crt/host_config.h: No such file", "nvidia-cuda-crt"),
    ("nv/target: No such file", "nvidia-cuda-cccl"),
    ("cicc: not found", "nvidia-nvvm"),
    ("ptxas: not found", "nvidia-cuda-nvcc"),
];

/// Why nvcc failed, from what it printed; `None` if that is about the kernel itself.
pub fn explain(output: &str, toolkit: &Toolkit, host_compiler: Option<&OsStr>) -> Option<String> {
    let nvcc = toolkit.nvcc.display();
    let line = |text: &str| output.lines().find(|line| line.contains(text)).map(str::trim);
    let host = host_compiler.map_or("the g++ on PATH".into(), |path| path.to_string_lossy());
    let choose =
        "Set NVCC_CCBIN (or CUDAHOSTCXX) to a host compiler that it supports, such as NVCC_CCBIN=g++-13.";
    if let Some(line) =
        line("unsupported GNU version").or(line("unsupported clang version")).or(line("UNSUPPORTED COMPILER"))
    {
        let reason = line.split_once("-- ").map_or(line, |(_, reason)| reason);
        let reason = reason.split_once("The nvcc flag").map_or(reason, |(reason, _)| reason).trim();
        return Some(format!("{nvcc} does not work with {host}: {reason}\n{choose}"));
    }
    for (text, package) in PARTS {
        if let Some(line) = line(text) {
            return Some(format!(
                "The CUDA toolkit of {nvcc} is not complete: {line}\nFrom PyPI, that is in `{package}`, of the same \
                 version as `nvidia-cuda-nvcc`. scripts/install-nvcc installs all that is needed."
            ));
        }
    }
    if let Some(line) = line("Unsupported gpu architecture") {
        let known: Vec<String> = toolkit.archs.iter().map(ToString::to_string).collect();
        return Some(format!(
            "{nvcc}: {line}\nIt supports {}. Set MERCER_CUDA_ARCHS accordingly.",
            known.join(", ")
        ));
    }
    if output.contains("Failed to preprocess host compiler properties")
        || output.contains("Cannot find compiler")
    {
        return Some(format!("{nvcc} cannot run {host}, its host compiler:\n{output}Install g++. {choose}"));
    }
    None
}
