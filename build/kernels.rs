//! The kernel files and their entry points, read from the sources.

use std::path::Path;

/// One `.cu` file.
pub struct KernelFile {
    /// Its name without the ending.
    pub name: String,
    /// Its entry points, in the order of the file.
    pub entries: Vec<Entry>,
}

/// An `extern "C" __global__` function.
pub struct Entry {
    /// Its name.
    pub name: String,
    /// What `__launch_bounds__` says, in the C++ of the file.
    pub max_threads: String,
}

/// Every `.cu` file of `folder`, sorted by name.
pub fn scan(folder: &Path) -> Result<Vec<KernelFile>, String> {
    let mut files = Vec::new();
    let entries = std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for entry in entries {
        let path = entry.map_err(|error| format!("{}: {error}", folder.display()))?.path();
        if path.extension().is_none_or(|ending| ending != "cu") {
            continue;
        }
        let Some(name) = path.file_stem().and_then(|name| name.to_str()) else { continue };
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let entries = entries_of(&text).map_err(|what| format!("{}: {what}", path.display()))?;
        files.push(KernelFile { name: name.into(), entries });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// The entry points of a kernel file; an error if some `__global__` is not written as
/// `extern "C" __global__ void __launch_bounds__(N) name(`.
pub fn entries_of(text: &str) -> Result<Vec<Entry>, String> {
    let text = without_comments(text);
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut entries = Vec::new();
    for after in words.split("__global__").skip(1) {
        let entry = entry(after);
        entries.push(entry.ok_or_else(|| {
            let start: String = after.chars().take(60).collect();
            format!("cannot read the entry point `__global__{start}`: write it as `extern \"C\" __global__ void __launch_bounds__(N) name(`")
        })?);
    }
    if words.matches("extern \"C\" __global__").count() != entries.len() {
        return Err("every `__global__` function must be `extern \"C\"`".into());
    }
    Ok(entries)
}

fn entry(after: &str) -> Option<Entry> {
    let rest = after.trim_start().strip_prefix("void")?.trim_start().strip_prefix("__launch_bounds__")?;
    let rest = rest.trim_start().strip_prefix('(')?;
    let (bounds, rest) = rest.split_once(')')?;
    let (name, _) = rest.trim_start().split_once('(')?;
    let name = name.trim();
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let max_threads = bounds.split(',').next()?.trim().to_string();
    is_name.then(|| Entry { name: name.into(), max_threads })
}

fn without_comments(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('/') {
        out += &rest[..at];
        rest = &rest[at..];
        if rest.starts_with("//") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
        } else if rest.starts_with("/*") {
            rest = rest.find("*/").map_or("", |end| &rest[end + 2..]);
        } else {
            out.push('/');
            rest = &rest[1..];
        }
    }
    out + rest
}
