//! Files that appear under their name whole or not at all, and paths that stay in their folder.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};
use tempfile::{Builder, NamedTempFile};

/// How the names of unfinished files begin and end.
pub(crate) const TEMPORARY: (&str, &str) = (".mercer-", ".tmp");

/// A file under a temporary name; removed when dropped unfinished.
pub(crate) struct NewFile(NamedTempFile);

impl NewFile {
    /// A new file in the folder where it will stay.
    pub(crate) fn create_in(folder: &Path) -> io::Result<NewFile> {
        // An empty path is how `Path::parent` calls the current folder.
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let mut builder = Builder::new();
        builder.prefix(TEMPORARY.0).suffix(TEMPORARY.1);
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // less the umask, as for any file
        builder.tempfile_in(folder).map(NewFile)
    }

    /// Writes the contents to the disk, then gives the file its name, replacing what had it.
    pub(crate) fn finish(self, path: &Path) -> io::Result<()> {
        self.0.as_file().sync_all()?;
        self.0.persist(path)?;
        Ok(())
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.as_file_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.as_file_mut().flush()
    }
}

/// Writes the names in a folder to the disk, on systems where folders can be synced.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Why a path does not lead to something inside a folder.
pub(crate) enum NotInside {
    /// By its own words.
    Path,
    /// Through symbolic links, to here.
    Link(PathBuf),
    /// The file system cannot tell.
    Io(io::Error),
}

/// Whether a path has only plain components: neither `.` nor `..`, nor a root, nor a drive.
pub(crate) fn is_plain(path: &str) -> bool {
    !path.is_empty() && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

/// `path` in `folder`, if it is plain and what it leads to once every symbolic link is resolved is below the resolved
/// folder. Whoever can write to the folder can change that afterwards.
pub(crate) fn inside(folder: &Path, path: &str) -> Result<PathBuf, NotInside> {
    if !is_plain(path) {
        return Err(NotInside::Path);
    }
    let root = folder.canonicalize().map_err(NotInside::Io)?;
    let path = folder.join(path);
    let target = path.canonicalize().map_err(NotInside::Io)?;
    if target.starts_with(root) { Ok(path) } else { Err(NotInside::Link(target)) }
}
