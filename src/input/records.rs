//! JSON-lines files: catalogues, queries and what is to be encoded, one JSON object per line.
//!
//! Known fields: `id` (integer from 0), `text` (string), `image` (path, relative to the file's folder), `user` (integer),
//! `behaviour` (an array of numbers in the form that the model reads, or `{"values": [...]}`, or `{"items": [...],
//! "weights": [...]}`). `null` is the same as absent; every other field is kept. Blank lines are skipped; a UTF-8 byte
//! order mark before the first line and carriage returns are tolerated.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::json::Unique;
use serde_json::{Map, Value};

use super::{Behaviour, Image, InputError, Request};
use crate::model::Inputs;

/// Most bytes of one line, its end not counted.
pub const MAX_LINE_BYTES: u64 = 1 << 20;

/// One line of a JSON-lines file.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its number, from 1.
    pub line: usize,
    /// Its `id`.
    pub id: Option<i64>,
    /// Its modalities.
    pub request: Request,
    /// The whole object, fields in the line's order.
    pub json: Map<String, Value>,
}

/// Why a line is refused. Positions count from 1.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LineProblem {
    /// More than [`MAX_LINE_BYTES`].
    #[error("longer than {MAX_LINE_BYTES} bytes")]
    TooLong,
    /// Not UTF-8.
    #[error("not UTF-8 at byte {at}")]
    NotUtf8 {
        /// The first wrong byte.
        at: usize,
    },
    /// Not JSON, or JSON with a field given twice.
    #[error("not JSON at column {column}: {reason}")]
    NotJson {
        /// Where, in bytes.
        column: usize,
        /// The parser's words.
        reason: String,
    },
    /// JSON, but not an object.
    #[error("expected a JSON object, found {found}")]
    NotObject {
        /// What it is.
        found: String,
    },
    /// A known field has a wrong type or value.
    #[error("field {field}: expected {expected}, found {found}")]
    Field {
        /// Which, such as `behaviour.items[3]`.
        field: String,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
}

/// Reads a whole file. A file without records gives an empty list.
///
/// # Errors
/// [`InputError::Read`] if the file cannot be read, [`InputError::Line`] for the first line that is refused.
pub fn read_records(path: &Path, inputs: &Inputs) -> Result<Vec<Record>, InputError> {
    Records::open(path, inputs)?.collect()
}

/// Reads behaviour alone, written as in a line's `behaviour`; `inputs` decides what a bare array holds.
///
/// # Errors
/// [`LineProblem::Field`].
pub fn read_behaviour(value: &Value, inputs: &Inputs) -> Result<Behaviour, LineProblem> {
    behaviour(value, bare_array_is_items(inputs))
}

/// Refuses ids that two records have.
///
/// # Errors
/// [`InputError::DuplicateId`] for the first record whose id an earlier one has.
pub fn check_unique_ids(records: &[Record]) -> Result<(), InputError> {
    let mut lines = HashMap::with_capacity(records.len());
    for record in records {
        let Some(id) = record.id else { continue };
        match lines.entry(id) {
            Entry::Occupied(first) => {
                return Err(InputError::DuplicateId { id, first_line: *first.get(), line: record.line });
            }
            Entry::Vacant(entry) => entry.insert(record.line),
        };
    }
    Ok(())
}

/// Reads a file record by record; after an error it ends.
#[derive(Debug)]
pub struct Records {
    path: PathBuf,
    reader: BufReader<File>,
    line: usize,
    bare_array_is_items: bool,
    ended: bool,
}

impl Records {
    /// Opens a file; `inputs` decides whether a bare array of behaviour holds values or item ids.
    ///
    /// # Errors
    /// [`InputError::Read`].
    pub fn open(path: &Path, inputs: &Inputs) -> Result<Records, InputError> {
        let file = File::open(path).map_err(|source| InputError::Read { path: path.to_owned(), source })?;
        Ok(Records {
            path: path.to_owned(),
            reader: BufReader::new(file),
            line: 0,
            bare_array_is_items: bare_array_is_items(inputs),
            ended: false,
        })
    }

    /// Reads the next line into `line`, without its end; false at the end of the file.
    fn next_line(&mut self, line: &mut Vec<u8>) -> io::Result<bool> {
        line.clear();
        // Enough for the longest line, a byte order mark and the line's end; what is longer is seen to be too long.
        let most = MAX_LINE_BYTES + 6;
        if self.reader.by_ref().take(most).read_until(b'\n', line)? == 0 {
            return Ok(false);
        }
        self.line += 1;
        for end in [b'\n', b'\r'] {
            line.pop_if(|last| *last == end);
        }
        if self.line == 1 && line.starts_with(b"\xef\xbb\xbf") {
            line.drain(..3);
        }
        Ok(true)
    }

    fn parse(&self, line: &[u8]) -> Result<Option<Record>, LineProblem> {
        if u64::try_from(line.len()).is_ok_and(|bytes| bytes > MAX_LINE_BYTES) {
            return Err(LineProblem::TooLong);
        }
        let line = std::str::from_utf8(line)
            .map_err(|error| LineProblem::NotUtf8 { at: error.valid_up_to() + 1 })?;
        if line.trim_ascii().is_empty() {
            return Ok(None);
        }
        let Unique(value) = serde_json::from_str(line).map_err(|error| not_json(&error))?;
        let Value::Object(json) = value else {
            return Err(LineProblem::NotObject { found: describe(&value) });
        };
        let folder = self.path.parent().unwrap_or(Path::new(""));
        let request = Request {
            text: field(&json, "text", "a string", |v| v.as_str().map(str::to_owned))?,
            image: field(&json, "image", "a path", |v| match v.as_str() {
                Some(path) if !path.is_empty() => Some(Image::Path(folder.join(path))),
                _ => None,
            })?,
            user: field(&json, "user", "an integer", Value::as_i64)?,
            behaviour: match json.get("behaviour") {
                None | Some(Value::Null) => None,
                Some(value) => Some(behaviour(value, self.bare_array_is_items)?),
            },
        };
        let id = field(&json, "id", "an integer from 0 to 9223372036854775807", |v| {
            v.as_i64().filter(|&id| id >= 0)
        })?;
        Ok(Some(Record { line: self.line, id, request, json }))
    }
}

impl Iterator for Records {
    type Item = Result<Record, InputError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = Vec::new();
        while !self.ended {
            let parsed = match self.next_line(&mut line) {
                Ok(true) => self.parse(&line).map_err(|source| InputError::Line {
                    path: self.path.clone(),
                    line: self.line,
                    source,
                }),
                Ok(false) => {
                    self.ended = true;
                    return None;
                }
                Err(source) => Err(InputError::Read { path: self.path.clone(), source }),
            };
            self.ended = parsed.is_err();
            if let Some(record) = parsed.transpose() {
                return Some(record);
            }
        }
        None
    }
}

fn bare_array_is_items(inputs: &Inputs) -> bool {
    inputs.behaviour.as_ref().is_some_and(|b| b.max_items.is_some())
}

fn field<T>(
    json: &Map<String, Value>,
    name: &str,
    expected: &'static str,
    read: impl FnOnce(&Value) -> Option<T>,
) -> Result<Option<T>, LineProblem> {
    match json.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => read(value).map(Some).ok_or_else(|| wrong(name, expected, value)),
    }
}

fn behaviour(value: &Value, bare_array_is_items: bool) -> Result<Behaviour, LineProblem> {
    const EXPECTED: &str = r#"an array, {"values": [...]} or {"items": [...], "weights": [...]}"#;
    match value {
        Value::Array(_) if bare_array_is_items => {
            Ok(Behaviour::Items { ids: list("behaviour", value, INTEGER, Value::as_i64)?, weights: None })
        }
        Value::Array(_) => Ok(Behaviour::Dense(list("behaviour", value, NUMBER, number)?)),
        Value::Object(fields) => {
            let names: Vec<&str> = fields.keys().map(String::as_str).collect();
            match (fields.get("values"), fields.get("items"), fields.get("weights"), names.len()) {
                (Some(values), None, None, 1) => {
                    Ok(Behaviour::Dense(list("behaviour.values", values, NUMBER, number)?))
                }
                (None, Some(items), None, 1) => Ok(Behaviour::Items {
                    ids: list("behaviour.items", items, INTEGER, Value::as_i64)?,
                    weights: None,
                }),
                (None, Some(items), Some(weights), 2) => Ok(Behaviour::Items {
                    ids: list("behaviour.items", items, INTEGER, Value::as_i64)?,
                    weights: Some(list("behaviour.weights", weights, NUMBER, number)?),
                }),
                _ => Err(LineProblem::Field {
                    field: "behaviour".to_owned(),
                    expected: EXPECTED,
                    found: format!("an object with fields {names:?}"),
                }),
            }
        }
        other => Err(wrong("behaviour", EXPECTED, other)),
    }
}

const INTEGER: &str = "an integer";
const NUMBER: &str = "a number that f32 holds";

// Rounding to f32 is what is wanted; a magnitude beyond it becomes infinite and is refused.
#[allow(clippy::cast_possible_truncation)]
fn number(value: &Value) -> Option<f32> {
    value.as_f64().map(|x| x as f32).filter(|x| x.is_finite())
}

fn list<T>(
    name: &str,
    value: &Value,
    expected: &'static str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Vec<T>, LineProblem> {
    let Value::Array(elements) = value else { return Err(wrong(name, "an array", value)) };
    elements
        .iter()
        .enumerate()
        .map(|(at, element)| read(element).ok_or_else(|| wrong(&format!("{name}[{at}]"), expected, element)))
        .collect()
}

fn wrong(field: &str, expected: &'static str, found: &Value) -> LineProblem {
    LineProblem::Field { field: field.to_owned(), expected, found: describe(found) }
}

fn not_json(error: &serde_json::Error) -> LineProblem {
    // The parser sees one line, so its "at line 1 column 7" would contradict the file's line number.
    let message = error.to_string();
    let reason = message.rsplit_once(" at line ").map_or(&message[..], |(reason, _)| reason);
    LineProblem::NotJson { column: error.column(), reason: reason.to_owned() }
}

/// A value in a few words, on one line.
fn describe(value: &Value) -> String {
    const MOST: usize = 40;
    match value {
        Value::String(text) if text.chars().count() > MOST => {
            format!("the string {:?}…", text.chars().take(MOST).collect::<String>())
        }
        Value::String(text) => format!("the string {text:?}"),
        Value::Array(elements) => format!("an array of {}", elements.len()),
        Value::Object(_) => "an object".to_owned(),
        other => other.to_string(),
    }
}
