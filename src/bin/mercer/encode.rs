//! `mercer encode`: vectors of requests or products, as a NumPy file.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use mercer::npy;

use crate::failure::Failure;
use crate::model::ModelArgs;
use crate::output::{self, catch_ctrl_c, stopped};
use crate::requests::Requests;
use crate::table::grouped;

/// Encode a file of requests or products into a NumPy array
///
/// Reads one JSON object per line and writes one row of float32 per line, in the order of the file. The file appears
/// whole or not at all.
#[derive(Args)]
pub struct Encode {
    #[command(flatten)]
    model: ModelArgs,
    /// Which of the model's encoders
    #[arg(long)]
    encoder: Encoder,
    /// What to encode, one JSON object per line
    #[arg(long, value_name = "FILE.jsonl")]
    input: PathBuf,
    /// The file to write
    #[arg(long, value_name = "FILE.npy")]
    output: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Encoder {
    /// Encodes requests
    Query,
    /// Encodes products
    Item,
}

impl Encode {
    pub fn run(&self) -> Result<(), Failure> {
        catch_ctrl_c()?;
        let engine = self.model.open()?;
        let mut records = Requests::read(&engine, &self.input, "--input")?;
        let requests = Requests::new(&self.input, &mut records);
        let dim = engine.dim();
        let mut vectors = vec![0.0; requests.len() * dim]; // [requests, dim]
        requests.in_chunks("encoding", |rows, requests| {
            let vectors = &mut vectors[rows.start * dim..rows.end * dim];
            match self.encoder {
                Encoder::Query => engine.encode_queries_into(requests, vectors),
                Encoder::Item => engine.encode_items_into(requests, vectors),
            }
        })?;
        if stopped() {
            return Err(Failure::interrupted("interrupted; nothing was written"));
        }
        npy::write_f32(&self.output, requests.len(), dim, &vectors)?;
        let rows = grouped(requests.len());
        output::print(&format!("{}: {rows} rows of {dim} float32\n", self.output.display()))
    }
}
