//! Files that appear under their name whole or not at all.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use tempfile::{Builder, NamedTempFile};

// Files hold little-endian values, which are read and written as they lie in memory.
const _: () = assert!(cfg!(target_endian = "little"));

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
