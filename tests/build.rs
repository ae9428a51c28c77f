//! What `build.rs` decides: which entry points a kernel file has, which nvcc is used for which architectures, what is
//! compiled again and what is said when something is missing.
#![allow(clippy::unwrap_used)] // a failed check ends the test

#[allow(dead_code)]
#[path = "../build/mod.rs"]
mod build;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use build::archs::{self, Arch};
use build::explain::explain;
use build::fatbin;
use build::kernels::{entries_of, scan};
use build::toolkit::{self, Toolkit};

/// Name and launch bound of each entry point.
fn entries(text: &str) -> Result<Vec<(String, String)>, String> {
    Ok(entries_of(text)?.into_iter().map(|entry| (entry.name, entry.max_threads)).collect())
}

fn one(name: &str, bound: &str) -> Result<Vec<(String, String)>, String> {
    Ok(vec![(name.into(), bound.into())])
}

#[test]
fn entry_points_are_read_however_they_are_spaced() {
    let plain = r#"extern "C" __global__ void __launch_bounds__(256) scale(const ScaleArgs args) {}"#;
    assert_eq!(entries(plain), one("scale", "256"));
    let spread = "extern \"C\"\n__global__ void\n__launch_bounds__ ( WARPS * 32 , 2 )\n  scale ( const ScaleArgs args )\n{}";
    assert_eq!(entries(spread), one("scale", "WARPS*32"));
    let commented = "extern /* no \"C++\" */ \"C\" __global__ void // a comment, \\\n goes on: __global__\n__launch_bounds__((64)) f(A a);";
    assert_eq!(entries(commented), one("f", "(64)"));
    assert_eq!(
        entries(r#"extern "C" __global__ void __launch_bounds__(1'024) f(A a) {}"#),
        one("f", "1'024")
    );
    assert_eq!(
        entries(r#"extern "C" __global__ void __launch_bounds__(tile::THREADS) f(A a) {}"#),
        one("f", "tile::THREADS")
    );
    let two = format!("{plain}\n#define N 3\n{}", plain.replace("scale", "shift"));
    assert_eq!(entries(&two).unwrap().len(), 2);
}

#[test]
fn what_only_looks_like_an_entry_point_is_none() {
    let kernel = r#"extern "C" __global__ void __launch_bounds__(32) real(A a) {}"#;
    for noise in [
        "// extern \"C\" __global__ void gone(A a)\n",
        "/* __global__ \n __global__ */",
        "static_assert(true, \"no __global__ \\\" here // either\");\n",
        "const char quote = '\"'; const char escaped = '\\'';\n",
        "int x = 1'000'000; // it's a number\n",
        "int not__global__ = 0;\n",
        "template <int N> __device__ void helper() {}\n",
        "#include \"device.cuh\"\n#define TWO(a, \\\n  b) a + b\n",
        "constexpr int half = 6 / 2;\n",
    ] {
        assert_eq!(entries(&format!("{noise}{kernel}")), one("real", "32"), "{noise}");
        assert_eq!(entries(&format!("{kernel}\n{noise}")), one("real", "32"), "{noise}");
    }
}

#[test]
fn an_entry_point_that_cannot_be_read_is_an_error() {
    for (text, says) in [
        (r#"__global__ void __launch_bounds__(32) f(A a) {}"#, "write it as"),
        (r#"extern "C" __global__ void f(A a) {}"#, "write it as"),
        (r#"extern "C" __global__ int __launch_bounds__(32) f(A a) {}"#, "write it as"),
        (r#"extern "C" __launch_bounds__(32) __global__ void f(A a) {}"#, "write it as"),
        (r#"extern "C" { __global__ void __launch_bounds__(32) f(A a) {} }"#, "write it as"),
        (r#"extern "C" __global__ void __launch_bounds__() f(A a) {}"#, "write it as"),
        (r#"extern "C" __global__ void __launch_bounds__(tile<8, 4>) f(A a) {}"#, "write it as"),
        (r#"extern "C" __global__ void __launch_bounds__(32"#, "write it as"),
        (r#"extern "C" __global__ void __launch_bounds__(32) NAME<8>(A a) {}"#, "write it as"),
        (
            "template <int N>\n__global__ void __launch_bounds__(32) f(A a) {}",
            "line 2: cannot read the entry point `__global__ void",
        ),
        (
            "\n#define KERNEL(n) \\\n extern \"C\" __global__ void n",
            "line 2: `__global__` in a preprocessor directive",
        ),
        ("auto s = R\"(text)\";", "raw strings"),
        ("auto s = \"text;\n", "a quote without its end"),
        ("__device__ void helper() {}", "no entry point"),
        ("", "no entry point"),
    ] {
        let message = entries(text).unwrap_err();
        assert!(message.contains(says), "{text}\n{message}");
    }
}

#[test]
fn a_folder_is_read_in_order_and_names_are_unique() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, kernel: &str| {
        let text = format!("extern \"C\" __global__ void __launch_bounds__(32) {kernel}(A a) {{}}");
        std::fs::write(folder.path().join(name), text).unwrap();
    };
    write("b.cu", "b1");
    write("a.cu", "a1");
    write("README.md", "a1");
    std::fs::create_dir(folder.path().join("device")).unwrap();
    let names: Vec<String> = scan(folder.path()).unwrap().into_iter().map(|file| file.name).collect();
    assert_eq!(names, ["a", "b"]);
    write("c.cu", "a1");
    assert_eq!(scan(folder.path()).unwrap_err(), "the entry point `a1` is in both a.cu and c.cu");
    write("c.cu", "c1");
    write("d-e.cu", "d1");
    assert!(scan(folder.path()).unwrap_err().ends_with("d-e.cu: the file's name must be an identifier"));
    assert!(scan(&folder.path().join("absent")).is_err());
}

#[test]
fn the_projects_own_kernels_are_read() {
    scan(&Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")).unwrap();
}

#[test]
fn nvcc_is_looked_for_where_it_may_be() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    let file = |path: &str| {
        std::fs::create_dir_all(at(path).parent().unwrap()).unwrap();
        std::fs::write(at(path), "").unwrap();
        at(path)
    };
    let set: Vec<(&str, PathBuf)> =
        vec![("CUDA_HOME", at("home")), ("CUDA_PATH", at("path")), ("PATH", at("bin"))];
    let find = |extra: &[(&str, PathBuf)]| {
        let all = [extra, &set[..]].concat();
        let env = |name: &str| {
            all.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone().into_os_string())
        };
        let mut places = toolkit::places(&env, &at("project"));
        // A machine may have a toolkit in the usual folder.
        places.retain(|(_, file)| file.as_ref().is_none_or(|file| !file.starts_with("/usr/local")));
        toolkit::find(&places)
    };
    let message = find(&[]).unwrap_err();
    let places = ["NVCC", "CUDA_HOME", "CUDA_PATH", "scripts/install-nvcc", "PATH"];
    for says in places.iter().chain(&["home/bin/nvcc", "path/bin/nvcc", "12.4", "without the feature `cuda`"])
    {
        assert!(message.contains(says), "{says}\n{message}");
    }
    // From the last place to the first: each is preferred to those before.
    for path in ["bin/nvcc", "project/.toolkit/cuda/bin/nvcc", "path/bin/nvcc", "home/bin/nvcc"] {
        let nvcc = file(path);
        assert_eq!(find(&[]), Ok(nvcc));
    }
    let named = file("elsewhere/nvcc-13");
    assert_eq!(find(&[("NVCC", named.clone())]), Ok(named));
    let in_path = file("bin/nvcc-14");
    assert_eq!(find(&[("NVCC", "nvcc-14".into())]), Ok(in_path));
    let message = find(&[("NVCC", at("absent/nvcc"))]).unwrap_err();
    assert!(message.contains("NVCC=") && !message.contains("home/bin/nvcc"), "{message}");
}

const VERSION: &str = "nvcc: NVIDIA (R) Cuda compiler driver
Copyright (c) 2005-2025 NVIDIA Corporation
Built on Wed_Aug_20_01:58:59_PM_PDT_2025
Cuda compilation tools, release 13.0, V13.0.88
Build cuda_13.0.r13.0/compiler.36424714_0
";

#[test]
fn what_nvcc_prints_is_read() {
    assert_eq!(toolkit::version(VERSION), Some((13, 0)));
    assert_eq!(toolkit::version("Cuda compilation tools, release 12.10, V12.10.1"), Some((12, 10)));
    assert_eq!(toolkit::version("gcc version 12.2.0"), None);
    assert_eq!(toolkit::version("release x.y"), None);
    let listed = toolkit::archs("compute_75\ncompute_80\ncompute_90\n\ncompute_100f\n");
    assert_eq!(shown(&listed), "75 80 90 100f");
    let message = toolkit::too_old(Path::new("/opt/nvcc"), (11, 8));
    assert!(message.contains("/opt/nvcc is of CUDA 11.8") && message.contains("install-nvcc"), "{message}");
}

fn shown(archs: &[Arch]) -> String {
    archs.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn listed(text: &str) -> Vec<Arch> {
    text.split(' ').map(|arch| Arch::parse(arch).unwrap()).collect()
}

#[test]
fn archs_are_what_nvcc_supports_or_what_is_asked_for() {
    let old = listed("50 60 70 75 80 86 87 89 90");
    let new = listed("75 80 86 87 88 89 90 100 110 103 120 121");
    let later = listed("90 100 110 103 120 121 130");
    let choose =
        |wanted: Option<&str>, listed: &[Arch]| archs::choose(wanted, listed).map(|archs| shown(&archs));
    assert_eq!(choose(None, &old).unwrap(), "80 86 89 90a");
    assert_eq!(choose(None, &new).unwrap(), "80 86 89 90a 100 120");
    assert_eq!(choose(None, &later).unwrap(), "90a 100 120");
    assert_eq!(choose(Some("80,90a"), &new).unwrap(), "80 90a");
    assert_eq!(choose(Some(" sm_121 , compute_87,87,"), &new).unwrap(), "121 87");
    for (wanted, says) in [
        ("80,native", "native: not an architecture"),
        ("8.0", "8.0: not an architecture"),
        ("90aa", "90aa: not an architecture"),
        ("a", "a: not an architecture"),
        ("75", "75: the kernels need 80 or later"),
        ("80,100", "100: this nvcc supports 50, 60, 70, 75, 80, 86, 87, 89, 90"),
        (",", "names no architecture"),
    ] {
        let message = choose(Some(wanted), &old).unwrap_err();
        assert!(message.starts_with("MERCER_CUDA_ARCHS=") && message.contains(says), "{message}");
    }
    assert_eq!(archs::ptx(&new).unwrap().to_string(), "80");
    assert_eq!(archs::ptx(&later).unwrap().to_string(), "90");
    assert!(archs::ptx(&listed("50 60")).is_err());
}

#[test]
fn files_for_sm90_are_compiled_for_it_alone() {
    let arch = |text| Arch::parse(text).unwrap();
    let archs = listed("80 90a");
    assert_eq!(
        archs::gencode("topk", &archs, arch("80")),
        [
            "-gencode=arch=compute_80,code=sm_80",
            "-gencode=arch=compute_90a,code=sm_90a",
            "-gencode=arch=compute_80,code=compute_80"
        ]
    );
    assert_eq!(archs::gencode("conv_sm90", &archs, arch("80")), ["-gencode=arch=compute_90a,code=sm_90a"]);
    assert!(archs::gencode("conv_sm90", &listed("80 90 100"), arch("80")).is_empty());
}

#[test]
fn failures_of_nvcc_are_explained() {
    let toolkit = Toolkit { nvcc: "/opt/cuda/bin/nvcc".into(), version: (13, 0), archs: listed("80 90") };
    let unsupported = "In file included from x.h:82,\n\
        host_config.h:137:2: error: #error -- unsupported GNU version! gcc versions later than 15 are not supported! \
        The nvcc flag '-allow-unsupported-compiler' can be used to override this version check\n  137 | #error -- more\n";
    for (output, says) in [
        (
            unsupported,
            "with the g++ on PATH: unsupported GNU version! gcc versions later than 15 are not supported!\nSet NVCC_CCBIN",
        ),
        (
            "gcc: No such file or directory\nnvcc fatal   : Failed to preprocess host compiler properties.\n",
            "Install g++.",
        ),
        (
            "nvcc fatal   : Unsupported gpu architecture 'compute_35'\n",
            "It supports 80, 90. Set MERCER_CUDA_ARCHS",
        ),
        ("<command-line>: fatal error: cuda_runtime.h: No such file or directory\n", "`nvidia-cuda-runtime`"),
        ("x.h:82: fatal error: crt/host_config.h: No such file or directory\n", "`nvidia-cuda-crt`"),
        ("x.h:5: fatal error: nv/target: No such file or directory\n", "`nvidia-cuda-cccl`"),
        ("sh: 1: cicc: not found\n", "`nvidia-nvvm`"),
        ("sh: 1: ptxas: not found\n", "`nvidia-cuda-nvcc`"),
    ] {
        let message = explain(output, &toolkit, None).unwrap_or_default();
        assert!(message.contains(says) && message.contains("/opt/cuda/bin/nvcc"), "{output}\n{message}");
    }
    let named = OsString::from("g++-99");
    assert!(explain(unsupported, &toolkit, Some(&named)).unwrap().contains("with g++-99: "));
    let error = "kernels/topk.cu(3): error: identifier \"x\" is undefined\n#include <nv/target>\n";
    assert_eq!(explain(error, &toolkit, None), None);
}

#[test]
fn makefile_rules_are_read() {
    let rule = "/out/a b.fatbin : kernels/a.cu \\\n    /with\\ space/b.h \\\n   c\\#.h\n";
    assert_eq!(fatbin::dependencies_of(rule), ["kernels/a.cu", "/with space/b.h", "c#.h"].map(PathBuf::from));
    assert!(fatbin::dependencies_of("").is_empty());
}

#[test]
fn resource_usage_is_no_warning() {
    for line in [
        "ptxas info    : 0 bytes gmem",
        "",
        "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads",
    ] {
        assert!(fatbin::is_information(line), "{line}");
    }
    for line in
        ["ptxas warning : Registers are spilled", "a.cu(3): warning #177-D: variable", "    int unused = 3;"]
    {
        assert!(!fatbin::is_information(line), "{line}");
    }
}

/// A project of two kernels, and a stand-in for nvcc that notes what it compiles.
#[cfg(unix)]
mod compile {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::{Mutex, MutexGuard, PoisonError};
    use std::time::{Duration, SystemTime};

    use super::*;

    const NVCC: &str = r#"#!/bin/sh
case "$1" in
--version) echo "release 13.0, V13"; exit ;;
--list-gpu-arch) printf 'compute_80\ncompute_90\n'; exit ;;
esac
while [ $# -gt 0 ]; do
    case "$1" in -MF) deps=$2 ;; -o) image=$2 ;; kernels/*) source=$1 ;; esac
    shift
done
echo "$source" >>compiled
grep -q broken "$source" && { echo "$source(1): error: broken"; exit 2; }
echo "$image : $source kernels/device/device.cuh" >"$deps"
cat "$source" >"$image"
"#;

    struct Project(tempfile::TempDir, #[allow(dead_code)] MutexGuard<'static, ()>);

    /// Linux refuses to run a file that is open for writing, in a process just forked too: one project at a time.
    static ALONE: Mutex<()> = Mutex::new(());

    impl Project {
        fn new() -> Project {
            let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
            let project = Project(tempfile::tempdir().unwrap(), alone);
            project.write("nvcc", NVCC);
            fs::set_permissions(project.path("nvcc"), fs::Permissions::from_mode(0o755)).unwrap();
            project.write("kernels/device/device.cuh", "");
            project.kernel("a");
            project.kernel("b");
            project
        }

        fn path(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn write(&self, path: &str, text: &str) {
            fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
            fs::write(self.path(path), text).unwrap();
        }

        fn kernel(&self, name: &str) {
            let text = format!("extern \"C\" __global__ void __launch_bounds__(32) {name}_kernel(A a) {{}}");
            self.write(&format!("kernels/{name}.cu"), &text);
        }

        fn images(&self, archs: Option<&str>) -> Result<Vec<(String, PathBuf)>, String> {
            let env = |name: &str| match name {
                "NVCC" => Some(self.path("nvcc").into_os_string()),
                "MERCER_CUDA_ARCHS" => archs.map(Into::into),
                "NUM_JOBS" => Some("2".into()),
                _ => None,
            };
            let root = self.0.path();
            build::images(&env, root, &scan(&root.join("kernels")).unwrap(), &self.path("out/images"))
        }

        /// Builds and says which files were compiled.
        fn compiled(&self, archs: Option<&str>) -> String {
            let _ = fs::remove_file(self.path("compiled"));
            self.images(archs).unwrap();
            let text = fs::read_to_string(self.path("compiled")).unwrap_or_default();
            let mut names: Vec<&str> = text.lines().collect();
            names.sort_unstable();
            names.join(" ").replace("kernels/", "")
        }

        /// Sets a file's time to after the last build.
        fn touch(&self, path: &str) {
            let file = fs::File::options().append(true).open(self.path(path)).unwrap();
            file.set_modified(SystemTime::now() + Duration::from_secs(1)).unwrap();
        }
    }

    #[test]
    fn only_what_changed_is_compiled_again() {
        let project = Project::new();
        assert_eq!(project.compiled(None), "a.cu b.cu");
        assert_eq!(project.compiled(None), "");
        project.touch("kernels/b.cu");
        assert_eq!(project.compiled(None), "b.cu");
        fs::remove_file(project.path("out/images/a.fatbin")).unwrap();
        assert_eq!(project.compiled(None), "a.cu b.cu", "b.cu is still newer than its image");
        project.kernel("b");
        assert_eq!(project.compiled(None), "b.cu");
        assert_eq!(project.compiled(None), "");
        project.kernel("c");
        assert_eq!(project.compiled(None), "c.cu");
        assert_eq!(project.compiled(Some("80")), "a.cu b.cu c.cu");
        project.touch("kernels/device/device.cuh");
        assert_eq!(project.compiled(Some("80")), "a.cu b.cu c.cu");
    }

    #[test]
    fn images_are_named_and_kernels_listed() {
        let project = Project::new();
        project.kernel("c_sm90");
        let images = project.images(None).unwrap();
        let names: Vec<&str> = images.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c_sm90"]);
        assert!(
            images.iter().all(|(_, image)| image.starts_with(project.path("out/images")) && image.is_file())
        );
        let list = fs::read_to_string(project.path("out/images/entries.tsv")).unwrap();
        assert_eq!(list, "a\ta_kernel\t32\nb\tb_kernel\t32\nc_sm90\tc_sm90_kernel\t32\n");
        assert_eq!(project.images(Some("80")).unwrap().len(), 2);
    }

    #[test]
    fn every_kernel_that_does_not_compile_is_named_and_compiled_again() {
        let project = Project::new();
        let text = fs::read_to_string(project.path("kernels/a.cu")).unwrap();
        project.write("kernels/a.cu", &format!("{text} broken"));
        project.write("kernels/b.cu", &format!("{} broken", text.replace("a_kernel", "b_kernel")));
        let message = project.images(None).unwrap_err();
        for file in ["a", "b"] {
            let says = format!(
                "kernels/{file}.cu does not compile (exit status: 2):\nkernels/{file}.cu(1): error: broken"
            );
            assert!(message.contains(&says), "{message}");
        }
        project.kernel("b");
        assert!(project.images(None).is_err());
        project.kernel("a");
        assert_eq!(project.compiled(None), "a.cu");
    }

    #[test]
    fn an_nvcc_that_cannot_be_used_is_refused() {
        let project = Project::new();
        for (script, says) in [
            ("#!/bin/sh\necho release 11.8, V11", "is of CUDA 11.8; the kernels need 12.4"),
            ("#!/bin/sh\necho hello", "names no release:\nhello"),
            ("#!/bin/sh\necho no >&2; exit 3", "--version failed (exit status: 3):\nno"),
            ("#!/nowhere", "does not run: "),
        ] {
            project.write("nvcc", script);
            let message = project.images(None).unwrap_err();
            assert!(message.contains(says), "{message}");
        }
    }
}
