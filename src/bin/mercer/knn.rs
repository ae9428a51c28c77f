//! `mercer knn`: the exact nearest neighbours of vectors in NumPy files.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, ValueEnum};
use mercer::catalogue::Hits;
use mercer::cpu::Isa;
use mercer::engine::{Searcher, SearcherOptions};
use mercer::{Catalogue, Error, Metric, npy};
use serde::Serialize;

use crate::failure::Failure;
use crate::model::MachineArgs;
use crate::output;
use crate::search::top;

/// Find the exact nearest neighbours of query vectors, without a model
///
/// Reads float32 or float16 arrays of shape [rows, dim] and [batch, dim], and writes PREFIX.ids.npy (int64, [batch, k])
/// and PREFIX.scores.npy (float32, [batch, k]): row numbers, best first, equal scores by row number. With fewer than K
/// rows there are as many columns as rows.
#[derive(Args)]
pub struct Knn {
    /// The vectors to search
    #[arg(long, value_name = "FILE.npy")]
    vectors: PathBuf,
    /// The vectors to search for
    #[arg(long, value_name = "FILE.npy")]
    queries: PathBuf,
    /// How many neighbours each query gets
    #[arg(long, value_name = "K", value_parser = top())]
    top: usize,
    /// What a score is
    #[arg(long, default_value = "cosine")]
    metric: Score,
    /// What the files to write begin with
    #[arg(long, value_name = "PREFIX")]
    output: PathBuf,
    /// Search this often; the answer is the same
    #[arg(long, value_name = "N", default_value = "1")]
    repeat: NonZeroUsize,
    /// Print one line of JSON: the median time of a search of the whole batch, and what was searched
    #[arg(long)]
    report: bool,
    #[command(flatten)]
    machine: MachineArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum Score {
    /// Inner product of normalised vectors
    Cosine,
    /// Inner product of the vectors as they are
    Ip,
}

/// The line that `--report` prints.
#[derive(Serialize)]
struct Report {
    /// The median over the repeats; reading files and preparing the rows is not part of it.
    search_ms: f64,
    rows: usize,
    dim: usize,
    batch: usize,
    k: usize,
    metric: &'static str,
    threads: usize,
    device: String,
    isa: String,
    repeat: usize,
}

impl Knn {
    pub fn run(&self) -> Result<(), Failure> {
        let device = self.machine.prepare()?;
        let vectors = npy::read_f32(&self.vectors)?;
        let queries = npy::read_f32(&self.queries)?;
        let (rows, dim, batch) = (vectors.rows, vectors.cols, queries.rows);
        if queries.cols != dim {
            let (path, other) = (self.queries.display(), self.vectors.display());
            let cols = queries.cols;
            return Err(Failure::new(format!("{path}: vectors of {cols} values, {other} has {dim}")));
        }
        let (metric, name) = match self.metric {
            Score::Cosine => (Metric::Cosine, "cosine"),
            Score::Ip => (Metric::InnerProduct, "ip"),
        };
        let ids = (0..).take(rows).collect();
        let catalogue = Catalogue::new(metric, dim, ids, vectors.data)
            .map_err(|error| Failure::from(error).at(&self.vectors.display().to_string()))?;
        let k = self.top.min(rows);
        if k < self.top {
            eprintln!("hint: only {rows} rows: the answer has {k} columns, not {}", self.top);
        }
        let searcher = Searcher::new(&catalogue, &SearcherOptions::default().device(device).contexts(1))?;
        let mut times = Vec::with_capacity(self.repeat.get());
        let mut answers: Vec<Hits> = Vec::new();
        for _ in 0..self.repeat.get() {
            let start = Instant::now();
            answers = searcher.search(&queries.data, self.top).map_err(|error| match error {
                Error::Catalogue(error) => Failure::from(error).at(&self.queries.display().to_string()),
                error => error.into(), // of the device, not of the file
            })?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        let ids: Vec<i64> = answers.iter().flatten().map(|hit| hit.id).collect();
        let scores: Vec<f32> = answers.iter().flatten().map(|hit| hit.score).collect();
        npy::write_i64(suffixed(&self.output, ".ids.npy"), batch, k, &ids)?;
        npy::write_f32(suffixed(&self.output, ".scores.npy"), batch, k, &scores)?;
        if !self.report {
            return Ok(());
        }
        output::print_json(&Report {
            search_ms: median(&mut times),
            rows,
            dim,
            batch,
            k,
            metric: name,
            threads: rayon::current_num_threads(),
            device: device.to_string(),
            isa: Isa::best().to_string(),
            repeat: self.repeat.get(),
        })
    }
}

fn suffixed(prefix: &Path, suffix: &str) -> PathBuf {
    let mut name = prefix.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The middle value, or the mean of the two in the middle; 0 of none.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values {
        [] => 0.0,
        _ if values.len() % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn median() {
        assert_eq!(super::median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(super::median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(super::median(&mut []), 0.0);
    }
}
