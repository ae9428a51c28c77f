//! Requests from a JSON-lines file, worked through in chunks.

use std::ops::Range;
use std::path::{Path, PathBuf};

use mercer::engine::EngineError;
use mercer::input::{InputError, Record, read_records};
use mercer::{Engine, Error, Request};

use crate::failure::Failure;
use crate::output::{progress, stopped};

/// Requests that are handled between two looks at the progress and at Ctrl-C.
const CHUNK: usize = 64;

/// The requests of a file, with the lines that they come from.
pub struct Requests {
    path: PathBuf,
    lines: Vec<usize>,
    requests: Vec<Request>,
}

impl Requests {
    /// Reads a file whole; `flag` is the argument that named it.
    pub fn read(engine: &Engine, path: &Path, flag: &str) -> Result<Vec<Record>, Failure> {
        read_records(path, &engine.config().inputs).map_err(|error| match error {
            InputError::Read { .. } => {
                Failure::from(error).hint(format!("{flag} names a file of JSON lines"))
            }
            error => error.into(),
        })
    }

    /// The requests of the records of `path`.
    pub fn new(path: &Path, records: &mut [Record]) -> Requests {
        let lines = records.iter().map(|record| record.line).collect();
        let requests = records.iter_mut().map(|record| std::mem::take(&mut record.request)).collect();
        Requests { path: path.into(), lines, requests }
    }

    /// Number of requests.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// The request of row `row`.
    pub fn get(&self, row: usize) -> &Request {
        &self.requests[row]
    }

    /// Calls `work` with all requests, one chunk of rows after the other, and shows the progress. Ends early on
    /// Ctrl-C, if it is caught; an error is told with its file and line.
    pub fn in_chunks(
        &self,
        what: &str,
        mut work: impl FnMut(Range<usize>, &[Request]) -> mercer::Result<()>,
    ) -> Result<(), Failure> {
        let bar = progress(what, self.len());
        for first in (0..self.len()).step_by(CHUNK) {
            if stopped() {
                bar.abandon();
                return Err(Failure::interrupted("interrupted; nothing was written"));
            }
            let rows = first..self.len().min(first + CHUNK);
            let requests = &self.requests[rows.clone()];
            work(rows, requests).map_err(|error| self.located(error, first))?;
            bar.inc(requests.len().try_into().unwrap_or(u64::MAX));
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// The failure of a chunk that starts at row `first`, with the file and line of the row to blame.
    fn located(&self, error: Error, first: usize) -> Failure {
        let Error::Engine(EngineError::Row { row, .. }) = &error else { return error.into() };
        let row = first + row;
        of_one(error).at(&place(&self.path, self.lines[row]))
    }
}

/// `file:line`.
pub fn place(path: &Path, line: usize) -> String {
    format!("{}:{line}", path.display())
}

/// The failure of a single request, told without its number in a batch, which would say nothing.
pub fn of_one(error: Error) -> Failure {
    let message = match &error {
        Error::Engine(EngineError::Row { source, .. }) => source.to_string(),
        _ => return error.into(),
    };
    Failure::from(error).told(message)
}
