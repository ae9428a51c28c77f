//! `mercer inspect`: what a model is made of, and all that is wrong with it.

mod parts;

use std::path::Path;

use clap::Args;
use mercer::Error;
use mercer::engine::Source;
use mercer::input::Preprocessor;
use mercer::model::{Config, ModelError, Plan};
use mercer::weights::{Checkpoint, WeightsError};
use serde_json::json;

use crate::failure::Failure;
use crate::output;
use crate::table::grouped;
use parts::Parts;

/// Show what a model is made of, or all that is wrong with it
///
/// For each tower and layer: what it reads, its tensors with shapes and dtypes, its parameters, the bytes that its
/// tensors have in the file, the bytes that are packed into memory beside them (embedding tables are read in the mapped
/// file; weights of layers are packed as f32, batch norms folded), and the multiply-adds of one image.
///
/// A model that does not open gets a list of everything that is wrong: every tensor that is missing, unexpected, of
/// another shape or of an unsupported dtype, every contradiction of config.json.
#[derive(Args)]
pub struct Inspect {
    /// The model's folder
    #[arg(long, value_name = "DIR", default_value = "weights/demo")]
    model: std::path::PathBuf,
    /// Read every weight and look for NaN and infinities
    #[arg(long)]
    validate_values: bool,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub fn run(&self) -> Result<(), Failure> {
        let mut problems = Vec::new();
        let opened = self.open(&mut problems)?;
        let Some((plan, checkpoint)) = opened.filter(|_| problems.is_empty()) else {
            return self.refuse(&problems);
        };
        let parts = Parts::of(&plan, &checkpoint);
        if self.json {
            return output::print_json(&parts.as_json(&self.model, &checkpoint));
        }
        let (tensors, bytes) = (grouped(checkpoint.len()), grouped(checkpoint.bytes()));
        let head = format!("{}: {tensors} tensors, {bytes} bytes\n", self.model.display());
        output::print(&(head + &parts.as_text()))
    }

    /// Opens the model's parts one by one, and goes on after an error wherever the next part does not depend on it.
    fn open(&self, problems: &mut Vec<String>) -> Result<Option<(Plan, Checkpoint)>, Failure> {
        let folder = self.model.as_path();
        let config = match Config::load(folder) {
            Ok(config) => Some(config),
            Err(error @ ModelError::NotFound { .. }) => return Err(error.into()),
            Err(error) => none(problems, error.into()),
        };
        let checkpoint = match Checkpoint::open(folder, Source::Mmap) {
            Ok(checkpoint) => Some(checkpoint),
            Err(error) => none(problems, error.into()),
        };
        if let Some(config) = &config
            && let Err(error) = Preprocessor::open(folder, &config.inputs)
        {
            problems.extend(list(error.into()));
        }
        if self.validate_values
            && let Some(checkpoint) = &checkpoint
            && let Err(error) = checkpoint.validate_values()
        {
            problems.extend(list(error.into()));
        }
        let (Some(config), Some(checkpoint)) = (config, checkpoint) else { return Ok(None) };
        match Plan::new(&config, &checkpoint, &folder.join("config.json")) {
            Ok(plan) => Ok(Some((plan, checkpoint))),
            Err(error) => Ok(none(problems, error)),
        }
    }

    fn refuse(&self, problems: &[String]) -> Result<(), Failure> {
        if self.json {
            output::print_json(&json!({ "model": path(&self.model), "opens": false, "problems": problems }))?;
        } else {
            output::print(&problems.iter().map(|problem| format!("{problem}\n")).collect::<String>())?;
        }
        let count = match problems.len() {
            1 => "1 problem".to_owned(),
            count => format!("{} problems", grouped(count)),
        };
        Err(Failure::new(format!("{}: the model does not open: {count}", self.model.display())))
    }
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

fn none<T>(problems: &mut Vec<String>, error: Error) -> Option<T> {
    problems.extend(list(error));
    None
}

/// All that an error says, one line each.
fn list(error: Error) -> Vec<String> {
    match error {
        Error::Model(ModelError::Invalid { path, problems }) => {
            problems.iter().map(|problem| format!("{}: {problem}", path.display())).collect()
        }
        Error::Weights(WeightsError::Mismatch(mismatch)) => {
            let missing = mismatch.missing.iter().map(|t| format!("missing tensor {} {}", t.name, t.shape));
            let unexpected = mismatch.unexpected.iter();
            let unexpected =
                unexpected.map(|t| format!("unexpected tensor {} {} {:?}", t.name, t.dtype, t.shape));
            let misshaped = mismatch.misshaped.iter();
            let misshaped = misshaped
                .map(|t| format!("tensor {} has shape {:?}, expected {}", t.name, t.found, t.expected));
            let unsupported = mismatch.unsupported.iter();
            let unsupported = unsupported
                .map(|(name, dtype)| format!("tensor {name} is {dtype}, expected F32, F16 or BF16"));
            missing.chain(unexpected).chain(misshaped).chain(unsupported).collect()
        }
        Error::Weights(WeightsError::NonFinite(found)) => found
            .tensors
            .iter()
            .map(|t| {
                format!("tensor {} has {} at element {}, {} such in all", t.name, t.value, t.first, t.count)
            })
            .collect(),
        error => vec![error.to_string().lines().collect::<Vec<_>>().join(" ")],
    }
}
