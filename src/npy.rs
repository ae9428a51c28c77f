//! NumPy `.npy` files: f32, f16 and i64 arrays of one or two axes, as NumPy's format description (NEP 1) lays them
//! out. An array of one axis is read as one row.

mod header;

use crate::ErrorKind;
use crate::files::{NewFile, sync_folder};
use bytemuck::Pod;
use half::f16;
use half::slice::HalfFloatSliceExt;
use header::Header;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Values that are converted at a time.
const CHUNK: usize = 64 << 10;

/// A matrix in C order.
#[derive(Debug, Clone, PartialEq)]
pub struct Array2<T> {
    /// Number of rows.
    pub rows: usize,
    /// Values in a row.
    pub cols: usize,
    /// `[rows, cols]`
    pub data: Vec<T>,
}

/// Why a `.npy` file is refused, or cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NpyError {
    /// A file operation failed.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The file does not begin as a `.npy` file does.
    #[error("{}: not a .npy file", path.display())]
    NotNpy {
        /// The file.
        path: PathBuf,
    },
    /// The format version is not 1, 2 or 3.
    #[error("{}: .npy format version {major}.{minor}; 1.0, 2.0 and 3.0 are supported", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Major version.
        major: u8,
        /// Minor version.
        minor: u8,
    },
    /// The header is not the dictionary that the format asks for.
    #[error("{}: header: {reason}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// The values have a type that is not read here.
    #[error("{}: values of type {found:?}, expected {expected}", path.display())]
    Type {
        /// The file.
        path: PathBuf,
        /// NumPy's name of the type.
        found: String,
        /// The types that are read.
        expected: &'static str,
    },
    /// The values are in column order.
    #[error("{}: Fortran order; save numpy.ascontiguousarray(array) instead", path.display())]
    FortranOrder {
        /// The file.
        path: PathBuf,
    },
    /// The array has no axis, or more than two, or more values than memory has addresses.
    #[error("{}: shape {shape:?}; arrays of one or two axes are supported", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// The file is shorter or longer than its header says.
    #[error("{}: {found} bytes of values, shape {shape:?} needs {expected}", path.display())]
    DataLength {
        /// The file.
        path: PathBuf,
        /// Bytes behind the header.
        found: u64,
        /// Bytes that the shape needs.
        expected: u64,
        /// The shape.
        shape: Vec<usize>,
    },
    /// The values to write are not whole rows.
    #[error("{}: {values} values for {rows} rows of {cols}", path.display())]
    Values {
        /// The file.
        path: PathBuf,
        /// Values given.
        values: usize,
        /// Stated rows.
        rows: usize,
        /// Stated columns.
        cols: usize,
    },
}

impl NpyError {
    /// The class of the error; a path that does not exist is the caller's.
    pub fn kind(&self) -> ErrorKind {
        match self {
            NpyError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => ErrorKind::Caller,
            NpyError::Io { .. } => ErrorKind::Io,
            NpyError::NotNpy { .. } | NpyError::Values { .. } => ErrorKind::Caller,
            NpyError::Version { .. }
            | NpyError::Type { .. }
            | NpyError::FortranOrder { .. }
            | NpyError::Shape { .. } => ErrorKind::Unsupported,
            NpyError::Header { .. } | NpyError::DataLength { .. } => ErrorKind::CorruptData,
        }
    }
}

/// Reads f32 (`<f4`) or f16 (`<f2`) values, f16 converted to f32, which is exact.
///
/// # Errors
/// Any [`NpyError`] but [`NpyError::Values`].
pub fn read_f32(path: impl AsRef<Path>) -> Result<Array2<f32>, NpyError> {
    let path = path.as_ref();
    let (header, mut file) = open(path)?;
    match header.descr.as_str() {
        "<f4" => read_values(path, &header, &mut file),
        "<f2" => {
            let (rows, cols) = matrix(path, &header, size_of::<f16>(), &file)?;
            let mut data = vec![0.0; rows * cols];
            let mut halves = vec![f16::ZERO; CHUNK.min(data.len())];
            for chunk in data.chunks_mut(CHUNK) {
                let halves = &mut halves[..chunk.len()];
                file.read_exact(bytemuck::cast_slice_mut(halves)).map_err(io_error(path, "read"))?;
                halves.convert_to_f32_slice(chunk);
            }
            Ok(Array2 { rows, cols, data })
        }
        _ => Err(NpyError::Type { path: path.into(), found: header.descr, expected: "<f4 or <f2" }),
    }
}

/// Reads i64 (`<i8`) values.
///
/// # Errors
/// Any [`NpyError`] but [`NpyError::Values`].
pub fn read_i64(path: impl AsRef<Path>) -> Result<Array2<i64>, NpyError> {
    let path = path.as_ref();
    let (header, mut file) = open(path)?;
    match header.descr.as_str() {
        "<i8" => read_values(path, &header, &mut file),
        _ => Err(NpyError::Type { path: path.into(), found: header.descr, expected: "<i8" }),
    }
}

/// Writes f32 values `[rows, cols]`. The file appears whole or not at all.
///
/// # Errors
/// [`NpyError::Values`], [`NpyError::Io`].
pub fn write_f32(path: impl AsRef<Path>, rows: usize, cols: usize, data: &[f32]) -> Result<(), NpyError> {
    write_values(path.as_ref(), "<f4", rows, cols, data)
}

/// Writes i64 values `[rows, cols]`. The file appears whole or not at all.
///
/// # Errors
/// [`NpyError::Values`], [`NpyError::Io`].
pub fn write_i64(path: impl AsRef<Path>, rows: usize, cols: usize, data: &[i64]) -> Result<(), NpyError> {
    write_values(path.as_ref(), "<i8", rows, cols, data)
}

fn io_error<'p>(path: &'p Path, action: &'static str) -> impl Fn(io::Error) -> NpyError + 'p {
    move |source| NpyError::Io { path: path.into(), action, source }
}

/// The header, and the file at the first value.
fn open(path: &Path) -> Result<(Header, File), NpyError> {
    let mut file = File::open(path).map_err(io_error(path, "open"))?;
    let header = Header::read(path, &mut file)?;
    if header.fortran_order {
        return Err(NpyError::FortranOrder { path: path.into() });
    }
    Ok((header, file))
}

/// Rows and columns, after the length of the file was found to fit them.
fn matrix(path: &Path, header: &Header, size: usize, file: &File) -> Result<(usize, usize), NpyError> {
    let shape = || header.shape.clone();
    let (rows, cols) = match header.shape[..] {
        [cols] => (1, cols),
        [rows, cols] => (rows, cols),
        _ => return Err(NpyError::Shape { path: path.into(), shape: shape() }),
    };
    let needed = rows.checked_mul(cols).and_then(|n| n.checked_mul(size)).and_then(|n| u64::try_from(n).ok());
    let Some(expected) = needed else {
        return Err(NpyError::Shape { path: path.into(), shape: shape() });
    };
    let length = file.metadata().map_err(io_error(path, "read the length"))?.len();
    let found = length.saturating_sub(header.bytes);
    if found != expected {
        return Err(NpyError::DataLength { path: path.into(), found, expected, shape: shape() });
    }
    Ok((rows, cols))
}

fn read_values<T: Pod>(path: &Path, header: &Header, file: &mut File) -> Result<Array2<T>, NpyError> {
    let (rows, cols) = matrix(path, header, size_of::<T>(), file)?;
    let mut data = vec![T::zeroed(); rows * cols];
    file.read_exact(bytemuck::cast_slice_mut(&mut data)).map_err(io_error(path, "read"))?;
    Ok(Array2 { rows, cols, data })
}

fn write_values<T: Pod>(
    path: &Path,
    descr: &str,
    rows: usize,
    cols: usize,
    data: &[T],
) -> Result<(), NpyError> {
    if rows.checked_mul(cols) != Some(data.len()) {
        return Err(NpyError::Values { path: path.into(), values: data.len(), rows, cols });
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let write = || -> io::Result<()> {
        let mut file = NewFile::create_in(folder)?;
        file.write_all(&header::bytes(descr, rows, cols))?;
        file.write_all(bytemuck::cast_slice(data))?;
        file.finish(path)?;
        sync_folder(folder)
    };
    write().map_err(io_error(path, "write"))
}
