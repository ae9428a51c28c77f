//! `mercer index`: encode a catalogue once, search it many times.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use mercer::catalogue::store;

use crate::failure::Failure;
use crate::model::ModelArgs;
use crate::output::{self, catch_ctrl_c, stopped};
use crate::products::Products;
use crate::table::grouped;

/// Encode a catalogue once, to be searched many times with `search --index`
///
/// The index holds the vectors, the ranker's side of each product if the model has a ranker, the catalogue's lines, and
/// the fingerprint of the model, which a search compares with its own. It does not need the images again.
///
/// The folder appears whole or not at all: after Ctrl-C or an error nothing was written, and an index that was there
/// before is as it was.
#[derive(Args)]
pub struct Index {
    #[command(flatten)]
    model: ModelArgs,
    /// The products, one JSON object per line
    #[arg(long, value_name = "FILE.jsonl")]
    catalogue: PathBuf,
    /// The folder to write: a new or empty one, or an index, which is replaced
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
}

impl Index {
    pub fn run(&self) -> Result<(), Failure> {
        catch_ctrl_c()?;
        let start = Instant::now();
        let engine = self.model.open()?;
        store::check_folder(&self.output)?;
        let products = Products::encode(&engine, &self.catalogue)?;
        if stopped() {
            return Err(Failure::interrupted("interrupted; nothing was written"));
        }
        products.save(&self.output)?;
        let (count, seconds) = (grouped(products.len()), start.elapsed().as_secs_f64());
        output::print(&format!(
            "{}: {count} products, {} values each, in {seconds:.1} s\n",
            self.output.display(),
            engine.dim()
        ))
    }
}
