//! A file's bytes, mapped or copied. The only unsafe code of the weights.
#![allow(unsafe_code)] // mapping a file is unsafe; see `Mapping`

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::time::SystemTime;

use memmap2::Mmap;

use super::WeightsError;

/// How the bytes of a checkpoint are held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Source {
    /// Mapped: opening reads only headers, pages are shared between processes and read on first use. The files must
    /// not be changed in place while open; see the [module documentation](crate::weights).
    #[default]
    Mmap,
    /// Copied into memory: opening reads everything, and no later change of the files can reach it.
    Read,
}

/// A read-only mapping of a whole file.
///
/// A mapping is a window onto the file, not a copy. Rust takes `&[u8]` for bytes that nobody changes, and the
/// operating system does not promise that: another process may write to the file or truncate it. The library does
/// what it can: it maps regular files only and read-only, never writes to a file it opened, compares the file's
/// length after mapping with the mapped length, and keeps length and modification time so that
/// [`Mapping::unchanged`] can tell later. The rest is a rule for whoever owns the files: replace them by rename, never
/// in place. The language promises nothing to whoever breaks it; in practice the damage is wrong values or `SIGBUS`,
/// not an access outside the mapping, because every bound comes from the mapped length and from a parsed copy of the
/// header, and every type the bytes are viewed as takes any bit pattern. [`Source::Read`] has none of this.
struct Mapping {
    map: Mmap,
    file: File,
    modified: Option<SystemTime>,
}

impl Mapping {
    fn new(path: &Path, file: File, modified: Option<SystemTime>) -> Result<Mapping, WeightsError> {
        // SAFETY: the mapping is read-only and outlives every slice taken from it, which borrows it. That nobody changes
        // the file meanwhile is the documented duty of its owner; see `Mapping` for what holds if they do.
        let map = unsafe { Mmap::map(&file) }.map_err(|source| io_error(path, source))?;
        let mapping = Mapping { map, file, modified };
        mapping.unchanged(path)?;
        Ok(mapping)
    }

    fn unchanged(&self, path: &Path) -> Result<(), WeightsError> {
        let (len, modified) = stat(path, &self.file)?;
        same_len(path, self.map.len(), len)?;
        if modified == self.modified { Ok(()) } else { Err(WeightsError::Rewritten { file: path.into() }) }
    }
}

/// The bytes of one file.
pub(super) struct Bytes(Held);

enum Held {
    Mapped(Mapping),
    Copied(Vec<u8>),
}

impl Bytes {
    /// Maps or copies the regular file at `path`.
    pub(super) fn open(path: &Path, source: Source) -> Result<Bytes, WeightsError> {
        let file = open_regular(path)?;
        let (len, modified) = stat(path, &file)?;
        match source {
            // An empty file cannot be mapped on every system, and holds no checkpoint either.
            Source::Mmap if len > 0 => {
                Mapping::new(path, file, modified).map(|mapping| Bytes(Held::Mapped(mapping)))
            }
            _ => copy(path, &file, len).map(|bytes| Bytes(Held::Copied(bytes))),
        }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Held::Mapped(mapping) => &mapping.map,
            Held::Copied(bytes) => bytes,
        }
    }

    /// An error if the mapped file has another length or modification time than when it was opened.
    pub(super) fn unchanged(&self, path: &Path) -> Result<(), WeightsError> {
        match &self.0 {
            Held::Mapped(mapping) => mapping.unchanged(path),
            Held::Copied(_) => Ok(()),
        }
    }
}

/// Opens a regular file; a pipe or a device could block or never end.
pub(super) fn open_regular(path: &Path) -> Result<File, WeightsError> {
    let metadata = fs::metadata(path).map_err(|source| io_error(path, source))?;
    if !metadata.is_file() {
        return Err(WeightsError::NotAFile { path: path.into() });
    }
    File::open(path).map_err(|source| io_error(path, source))
}

/// Reads exactly `len` bytes, which is the file's length.
pub(super) fn copy(path: &Path, file: &File, len: u64) -> Result<Vec<u8>, WeightsError> {
    let mut bytes = Vec::new();
    usize::try_from(len)
        .ok()
        .and_then(|len| bytes.try_reserve_exact(len).ok())
        .ok_or_else(|| WeightsError::OutOfMemory { file: path.into(), bytes: len })?;
    let mut reader: &File = file;
    Read::by_ref(&mut reader).take(len).read_to_end(&mut bytes).map_err(|source| io_error(path, source))?;
    same_len(path, bytes.len(), stat(path, file)?.0)?;
    Ok(bytes)
}

/// Length and, where the file system keeps it, modification time.
pub(super) fn stat(path: &Path, file: &File) -> Result<(u64, Option<SystemTime>), WeightsError> {
    let metadata = file.metadata().map_err(|source| io_error(path, source))?;
    Ok((metadata.len(), metadata.modified().ok()))
}

pub(super) fn io_error(path: &Path, source: io::Error) -> WeightsError {
    WeightsError::Io { path: path.into(), source }
}

fn same_len(path: &Path, opened: usize, len: u64) -> Result<(), WeightsError> {
    if u64::try_from(opened) == Ok(len) {
        Ok(())
    } else {
        Err(WeightsError::Resized { file: path.into(), opened, len })
    }
}
