//! The manifest: what a folder holds, checked against itself.

use super::{FileNames, io_error, items, vectors};
use crate::catalogue::{CatalogueError, Metric};
use crate::files::{NewFile, sync_folder};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, Write};
use std::path::Path;

/// The manifest's file name.
pub const MANIFEST: &str = "manifest.json";
/// The version that this library writes and reads.
pub const FORMAT_VERSION: u32 = 1;

const FORMAT: &str = "mercer catalogue";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub(super) metric: Metric,
    pub(super) dim: usize,
    pub(super) rows: usize,
    pub(super) feature_width: Option<usize>,
    pub(super) model: String,
    pub(super) files: Files,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Files {
    pub(super) vectors: StoredFile,
    pub(super) items: StoredFile,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredFile {
    pub(super) name: String,
    pub(super) bytes: u64,
    /// 64 hexadecimal digits, which are also in the name.
    pub(super) blake3: String,
}

impl StoredFile {
    pub(super) fn new((start, end): FileNames, hasher: &blake3::Hasher) -> StoredFile {
        let blake3 = hasher.finalize().to_hex().to_string();
        StoredFile { name: format!("{start}{blake3}{end}"), bytes: hasher.count(), blake3 }
    }
}

/// The manifest as it lies in its file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    format: String,
    format_version: u64,
    /// Of `catalogue`, written without spaces.
    blake3: String,
    catalogue: Manifest,
}

/// The part of the manifest that is the same in every version.
#[derive(Deserialize)]
struct Format {
    format: String,
    format_version: u64,
}

impl Manifest {
    /// Whether the folder has a manifest of this library, of whichever version.
    pub(super) fn is_ours(folder: &Path) -> Result<bool, CatalogueError> {
        let path = folder.join(MANIFEST);
        match fs::read(&path) {
            Ok(bytes) => {
                Ok(serde_json::from_slice::<Format>(&bytes).is_ok_and(|found| found.format == FORMAT))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(io_error(&path, "read")(e)),
        }
    }

    pub(super) fn read(folder: &Path) -> Result<Manifest, CatalogueError> {
        let path = folder.join(MANIFEST);
        let bytes = fs::read(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => CatalogueError::NotACatalogue { path: folder.into() },
            _ => io_error(&path, "read")(e),
        })?;
        let damaged =
            |reason: String| CatalogueError::Damaged { path: path.clone(), part: "manifest", reason };
        let found: Format = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        if found.format != FORMAT {
            return Err(damaged(format!("format {:?}, expected {FORMAT:?}", found.format)));
        }
        if found.format_version != u64::from(FORMAT_VERSION) {
            let (found, supported) = (found.format_version, FORMAT_VERSION);
            return Err(CatalogueError::FormatVersion { path, found, supported });
        }
        let envelope: Envelope = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        let hash = hash(&envelope.catalogue).map_err(|e| damaged(e.to_string()))?;
        if hash != envelope.blake3 {
            return Err(damaged(format!("BLAKE3 {hash}, it says {}", envelope.blake3)));
        }
        // The hash may have been made for a lie; a name must not lead out of the folder.
        let Files { vectors, items } = &envelope.catalogue.files;
        for (file, (start, end)) in [(vectors, vectors::FILE), (items, items::FILE)] {
            let is_hash =
                file.blake3.len() == super::HASH_DIGITS && file.blake3.bytes().all(|c| c.is_ascii_hexdigit());
            if !is_hash || file.name != format!("{start}{}{end}", file.blake3) {
                return Err(damaged(format!("file name {:?} with BLAKE3 {:?}", file.name, file.blake3)));
            }
        }
        Ok(envelope.catalogue)
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), CatalogueError> {
        let path = folder.join(MANIFEST);
        let write = || {
            let catalogue = serde_json::to_value(self)?;
            let envelope = serde_json::json!({
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "blake3": hash(self)?,
                "catalogue": catalogue,
            });
            let mut file = NewFile::create_in(folder)?;
            serde_json::to_writer_pretty(&mut file, &envelope)?;
            file.write_all(b"\n")?;
            file.finish(&path)?;
            sync_folder(folder)
        };
        write().map_err(io_error(&path, "write"))
    }
}

fn hash(manifest: &Manifest) -> serde_json::Result<String> {
    Ok(blake3::hash(&serde_json::to_vec(manifest)?).to_hex().to_string())
}
