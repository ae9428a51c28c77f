//! The header of a `.npy` file: a Python dictionary of three known keys, parsed strictly.

use super::{NpyError, io_error};
use std::fs::File;
use std::io::Read;
use std::path::Path;

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// No header of one or two axes comes near this.
const MAX_BYTES: usize = 64 << 10;
/// NumPy aligns the first value to this.
const ALIGN: usize = 64;

/// What a header says.
pub(super) struct Header {
    /// Type of the values, such as `<f4`.
    pub(super) descr: String,
    pub(super) fortran_order: bool,
    pub(super) shape: Vec<usize>,
    /// Bytes before the first value.
    pub(super) bytes: u64,
}

/// A header of version 1.0.
pub(super) fn bytes(descr: &str, rows: usize, cols: usize) -> Vec<u8> {
    let mut dict = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({rows}, {cols}), }}");
    let fixed = MAGIC.len() + 4 + 1; // version, length, line break
    let padding = (fixed + dict.len()).next_multiple_of(ALIGN) - fixed - dict.len();
    dict.extend(std::iter::repeat_n(' ', padding));
    dict.push('\n');
    // Two numbers of at most 20 digits keep the dictionary far below the 65,535 bytes of version 1.0.
    let length = u16::try_from(dict.len()).unwrap_or(u16::MAX);
    [&MAGIC[..], &[1, 0], &length.to_le_bytes(), dict.as_bytes()].concat()
}

impl Header {
    /// Reads and parses; the file is then at the first value.
    pub(super) fn read(path: &Path, file: &mut File) -> Result<Header, NpyError> {
        let cut_short = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                NpyError::Header { path: path.into(), reason: "the file ends inside it".into() }
            }
            _ => io_error(path, "read")(e),
        };
        let mut start = Vec::new();
        file.by_ref().take(8).read_to_end(&mut start).map_err(io_error(path, "read"))?;
        let Some((major, minor)) = start.strip_prefix(MAGIC).and_then(|v| Some((*v.first()?, *v.get(1)?)))
        else {
            return Err(NpyError::NotNpy { path: path.into() });
        };
        let (length, prefix) = match (major, minor) {
            (1, 0) => {
                let mut length = [0; 2];
                file.read_exact(&mut length).map_err(cut_short)?;
                (usize::from(u16::from_le_bytes(length)), 10)
            }
            (2 | 3, 0) => {
                let mut length = [0; 4];
                file.read_exact(&mut length).map_err(cut_short)?;
                (usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX), 12)
            }
            _ => return Err(NpyError::Version { path: path.into(), major, minor }),
        };
        let wrong = |reason: String| NpyError::Header { path: path.into(), reason };
        if length > MAX_BYTES {
            return Err(wrong(format!("{length} bytes long; up to {MAX_BYTES} are read")));
        }
        let mut dict = vec![0; length];
        file.read_exact(&mut dict).map_err(cut_short)?;
        let mut parser = Parser { text: &dict, at: 0 };
        let (descr, fortran_order, shape) = parser.dict().map_err(|expected| {
            wrong(format!("expected {expected} at byte {} of the dictionary", parser.at))
        })?;
        let bytes = u64::try_from(prefix + length).unwrap_or(u64::MAX);
        Ok(Header { descr, fortran_order, shape, bytes })
    }
}

/// Reads the dictionary from left to right; an error is what was expected at `at`.
struct Parser<'t> {
    text: &'t [u8],
    at: usize,
}

impl Parser<'_> {
    fn dict(&mut self) -> Result<(String, bool, Vec<usize>), &'static str> {
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        self.expect(b'{', "'{'")?;
        while !self.take(b'}') {
            let start = self.at;
            let fresh = match self.string()?.as_str() {
                "descr" => {
                    self.expect(b':', "':'")?;
                    descr.replace(self.string()?).is_none()
                }
                "fortran_order" => {
                    self.expect(b':', "':'")?;
                    fortran_order.replace(self.bool()?).is_none()
                }
                "shape" => {
                    self.expect(b':', "':'")?;
                    shape.replace(self.tuple()?).is_none()
                }
                _ => false,
            };
            if !fresh {
                self.at = start;
                return Err("each of 'descr', 'fortran_order' and 'shape' once");
            }
            if !self.take(b',') {
                self.expect(b'}', "',' or '}'")?;
                break;
            }
        }
        self.spaces();
        if self.at != self.text.len() {
            return Err("nothing after the '}'");
        }
        match (descr, fortran_order, shape) {
            (Some(descr), Some(fortran_order), Some(shape)) => Ok((descr, fortran_order, shape)),
            _ => Err("'descr', 'fortran_order' and 'shape' before the end"),
        }
    }

    fn spaces(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }

    /// Steps over `byte` if it comes next.
    fn take(&mut self, byte: u8) -> bool {
        self.spaces();
        let found = self.text.get(self.at) == Some(&byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8, name: &'static str) -> Result<(), &'static str> {
        if self.take(byte) { Ok(()) } else { Err(name) }
    }

    /// A quoted string of printable ASCII without escapes.
    fn string(&mut self) -> Result<String, &'static str> {
        let quotes = [b'\'', b'"'];
        let quote = quotes.into_iter().find(|&quote| self.take(quote)).ok_or("a string")?;
        let rest = &self.text[self.at..];
        let length = rest.iter().position(|&c| c == quote).ok_or("the end of the string")?;
        let text = &rest[..length];
        if !text.iter().all(|&c| (b' '..=b'~').contains(&c) && c != b'\\') {
            return Err("a string of printable ASCII");
        }
        self.at += length + 1;
        Ok(text.iter().copied().map(char::from).collect())
    }

    fn bool(&mut self) -> Result<bool, &'static str> {
        self.spaces();
        for (name, value) in [("True", true), ("False", false)] {
            if self.text[self.at..].starts_with(name.as_bytes()) {
                self.at += name.len();
                return Ok(value);
            }
        }
        Err("True or False")
    }

    /// `()`, `(n,)`, `(n, m)`, `(n, m,)`, …
    fn tuple(&mut self) -> Result<Vec<usize>, &'static str> {
        let mut numbers = Vec::new();
        self.expect(b'(', "'('")?;
        while !self.take(b')') {
            numbers.push(self.number()?);
            if !self.take(b',') {
                if numbers.len() == 1 {
                    return Err("',': one number in brackets is not a tuple");
                }
                self.expect(b')', "',' or ')'")?;
                break;
            }
        }
        Ok(numbers)
    }

    fn number(&mut self) -> Result<usize, &'static str> {
        self.spaces();
        let digits = self.text[self.at..].iter().take_while(|c| c.is_ascii_digit()).count();
        let text = std::str::from_utf8(&self.text[self.at..self.at + digits]).unwrap_or_default();
        let number = text.parse().map_err(|_| "a number that fits 64 bits")?;
        self.at += digits;
        Ok(number)
    }
}
