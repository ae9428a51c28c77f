//! A catalogue on disk: a folder with a manifest and two files that it names.
//!
//! - `manifest.json`: format version, metric, shape, the model that made the vectors, and for each file its name, its
//!   length and its BLAKE3 hash.
//! - `vectors-<hash>.safetensors`: `ids` I64 `[rows]`, `vectors` F32 `[rows, dim]` as they are searched, and
//!   `features` F32 `[rows, width]` where there are any.
//! - `items-<hash>.jsonl`: one line per row.
//!
//! A save writes and syncs the files under their new names, then replaces the manifest, then removes what the old one
//! named. If it is stopped anywhere, the folder holds the old catalogue or the new one. One process saves at a time; a
//! process that opens while another saves may find a file gone and opens again.

mod items;
mod manifest;
mod vectors;

pub use items::Items;
pub use manifest::{FORMAT_VERSION, MANIFEST};

use super::{Catalogue, CatalogueError};
use crate::files::{NewFile, TEMPORARY, sync_folder};
use manifest::{Files, Manifest, StoredFile};
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

/// All that is stored.
#[derive(Debug, Clone)]
pub struct Contents {
    /// Ids and vectors.
    pub catalogue: Catalogue,
    /// The catalogue line of each row.
    pub items: Items,
    /// What a ranker reads beside the vectors.
    pub features: Option<RowFeatures>,
    /// Names the model that made the vectors, so that queries are encoded by the same.
    pub model: String,
}

/// Side data of the rows: finite values, not searched.
#[derive(Debug, Clone, PartialEq)]
pub struct RowFeatures {
    /// Values of a row, at least 1.
    pub width: usize,
    /// `[rows, width]`
    pub data: Vec<f32>,
}

/// Saves to `folder`, which is created, or replaces the catalogue that it holds.
///
/// # Errors
/// - [`CatalogueError::SideRows`], [`CatalogueError::FeaturesLength`], [`CatalogueError::FeatureNotFinite`]: items or
///   features do not fit the catalogue.
/// - [`CatalogueError::ForeignFolder`]: the folder holds files and no catalogue. Nothing is written.
/// - [`CatalogueError::Io`]: the folder still opens as the catalogue it held, unless what failed is the removal of
///   old files: then it opens as the new one.
pub fn save(folder: impl AsRef<Path>, contents: &Contents) -> Result<(), CatalogueError> {
    let folder = folder.as_ref();
    contents.check()?;
    claim(folder)?;

    let features = contents.features.as_ref();
    let vectors = write(folder, vectors::FILE, |file| vectors::write(file, &contents.catalogue, features))?;
    let items = write(folder, items::FILE, |file| file.write_all(contents.items.text().as_bytes()))?;
    sync_folder(folder).map_err(io_error(folder, "sync"))?;

    let manifest = Manifest {
        metric: contents.catalogue.metric(),
        dim: contents.catalogue.dim(),
        rows: contents.catalogue.len(),
        feature_width: features.map(|f| f.width),
        model: contents.model.clone(),
        files: Files { vectors, items },
    };
    manifest.write(folder)?;
    remove_unnamed(folder, &manifest)
}

/// Opens what [`save`] wrote, to the bit, after every length and checksum was found right.
///
/// # Errors
/// - [`CatalogueError::NotACatalogue`], [`CatalogueError::FormatVersion`]: nothing this library can open.
/// - [`CatalogueError::FileLength`], [`CatalogueError::Damaged`]: a file was changed; the error names it and the part.
/// - [`CatalogueError::Io`]: a file cannot be read, or is gone.
pub fn open(folder: impl AsRef<Path>) -> Result<Contents, CatalogueError> {
    let folder = folder.as_ref();
    let manifest = Manifest::read(folder)?;
    let (catalogue, features) = vectors::read(folder, &manifest)?;
    let items = items::read(folder, &manifest)?;
    Ok(Contents { catalogue, items, features, model: manifest.model })
}

impl Contents {
    fn check(&self) -> Result<(), CatalogueError> {
        let rows = self.catalogue.len();
        if self.items.len() != rows {
            return Err(CatalogueError::SideRows { what: "items", found: self.items.len(), rows });
        }
        self.features.as_ref().map_or(Ok(()), |features| features.check(rows))
    }
}

impl RowFeatures {
    fn check(&self, rows: usize) -> Result<(), CatalogueError> {
        let RowFeatures { width, data } = self;
        if *width == 0 || !data.len().is_multiple_of(*width) {
            return Err(CatalogueError::FeaturesLength { values: data.len(), width: *width });
        }
        if data.len() / width != rows {
            return Err(CatalogueError::SideRows { what: "features", found: data.len() / width, rows });
        }
        match data.iter().position(|x| !x.is_finite()) {
            Some(at) => Err(CatalogueError::FeatureNotFinite {
                row: at / width,
                position: at % width,
                value: data[at],
            }),
            None => Ok(()),
        }
    }
}

/// How the names of one kind of file begin and end; the hash is between.
type FileNames = (&'static str, &'static str);

const HASH_DIGITS: usize = 64;

fn io_error<'p>(path: &'p Path, action: &'static str) -> impl Fn(io::Error) -> CatalogueError + 'p {
    move |source| CatalogueError::Io { path: path.into(), action, source }
}

/// Whether [`save`] may write to `folder`: it is not there yet, is empty, or holds a catalogue. To be asked before long
/// work whose result is to be saved.
///
/// # Errors
/// [`CatalogueError::ForeignFolder`]; [`CatalogueError::Io`] if the folder cannot be read.
pub fn check_folder(folder: impl AsRef<Path>) -> Result<(), CatalogueError> {
    let folder = folder.as_ref();
    match folder.try_exists() {
        Ok(false) => Ok(()),
        Ok(true) => check_claim(folder),
        Err(source) => Err(io_error(folder, "look at")(source)),
    }
}

/// Creates the folder, or makes sure that what is in it may be replaced.
fn claim(folder: &Path) -> Result<(), CatalogueError> {
    fs::create_dir_all(folder).map_err(io_error(folder, "create"))?;
    check_claim(folder)
}

fn check_claim(folder: &Path) -> Result<(), CatalogueError> {
    if Manifest::is_ours(folder)? {
        return Ok(());
    }
    match names(folder)?.into_iter().find(|name| !is_ours(name)) {
        Some(found) => Err(CatalogueError::ForeignFolder { path: folder.into(), found }),
        None => Ok(()),
    }
}

/// The names in the folder; what is not Unicode is shown as near as it can be, and is not ours.
fn names(folder: &Path) -> Result<Vec<String>, CatalogueError> {
    let entries = fs::read_dir(folder).map_err(io_error(folder, "list"))?;
    entries
        .map(|entry| Ok(entry.map_err(io_error(folder, "list"))?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// Whether a name is one that saving gives to files other than the manifest.
fn is_ours(name: &str) -> bool {
    let between = |(start, end): FileNames| name.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
    let is_hash = |text: &str| text.len() == HASH_DIGITS && text.bytes().all(|c| c.is_ascii_hexdigit());
    [vectors::FILE, items::FILE].into_iter().filter_map(between).any(is_hash) || between(TEMPORARY).is_some()
}

/// Writes a file whose name carries its hash.
fn write(
    folder: &Path,
    names: FileNames,
    fill: impl FnOnce(&mut HashingWriter) -> io::Result<()>,
) -> Result<StoredFile, CatalogueError> {
    let write = || {
        let mut file = HashingWriter { file: NewFile::create_in(folder)?, hasher: blake3::Hasher::new() };
        fill(&mut file)?;
        let stored = StoredFile::new(names, &file.hasher);
        file.file.finish(&folder.join(&stored.name))?;
        Ok(stored)
    };
    write().map_err(io_error(folder, "write to"))
}

/// Removes the files of earlier and of unfinished saves.
fn remove_unnamed(folder: &Path, manifest: &Manifest) -> Result<(), CatalogueError> {
    let named = [&manifest.files.vectors.name, &manifest.files.items.name];
    for name in names(folder)?.iter().filter(|name| is_ours(name) && !named.contains(name)) {
        let path = folder.join(name);
        fs::remove_file(&path).map_err(io_error(&path, "remove"))?;
    }
    Ok(())
}

/// Bytes that are hashed and written, or read and hashed, while they are in the cache.
const CHUNK_BYTES: usize = 256 << 10;

struct HashingWriter {
    file: NewFile,
    hasher: blake3::Hasher,
}

impl Write for HashingWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(&bytes[..bytes.len().min(CHUNK_BYTES)])?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A stored file of the right length, read from the start.
struct HashingReader<'s> {
    path: std::path::PathBuf,
    stored: &'s StoredFile,
    file: fs::File,
    hasher: blake3::Hasher,
}

impl<'s> HashingReader<'s> {
    fn open(folder: &Path, stored: &'s StoredFile) -> Result<HashingReader<'s>, CatalogueError> {
        let path = folder.join(&stored.name);
        let file = fs::File::open(&path).map_err(io_error(&path, "open"))?;
        let found = file.metadata().map_err(io_error(&path, "read the length of"))?.len();
        if found != stored.bytes {
            return Err(CatalogueError::FileLength { path, found, expected: stored.bytes });
        }
        Ok(HashingReader { path, stored, file, hasher: blake3::Hasher::new() })
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), CatalogueError> {
        for chunk in bytes.chunks_mut(CHUNK_BYTES) {
            self.file.read_exact(chunk).map_err(io_error(&self.path, "read"))?;
            self.hasher.update(chunk);
        }
        Ok(())
    }

    /// Compares the hash of all that was read with the manifest's.
    fn finish(&self, part: &'static str) -> Result<(), CatalogueError> {
        let found = self.hasher.finalize().to_hex();
        if *found != *self.stored.blake3 {
            return Err(
                self.damaged(part, format!("BLAKE3 {found}, the manifest says {}", self.stored.blake3))
            );
        }
        Ok(())
    }

    fn damaged(&self, part: &'static str, reason: String) -> CatalogueError {
        CatalogueError::Damaged { path: self.path.clone(), part, reason }
    }
}
