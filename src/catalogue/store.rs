//! A catalogue on disk.
/// The manifest's file name.
pub const MANIFEST: &str = "manifest.json";
