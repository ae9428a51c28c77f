//! Reading `config.json`, and the checks on it that need no tensor.

use std::collections::HashSet;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use super::json::tags_first;
use super::{BehaviourInput, Config, Encoder, FORMAT_VERSION, ModelError, Problem, Tower};
use crate::input::{Modality, check_inputs};
use crate::json::Unique;

/// The largest `config.json` that is read.
pub const MAX_CONFIG_BYTES: u64 = 4 << 20;

impl Config {
    /// Reads and checks `folder/config.json`.
    ///
    /// # Errors
    /// [`ModelError::NotFound`] without the file, [`ModelError::Io`] if it cannot be read, [`ModelError::TooLarge`],
    /// [`ModelError::Json`] for what is not the format's JSON, [`ModelError::Version`] for another version, and
    /// [`ModelError::Invalid`] with every contradiction that shows without the tensors.
    pub fn load(folder: &Path) -> Result<Config, ModelError> {
        let path = folder.join("config.json");
        let io = |source: std::io::Error| match source.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => ModelError::NotFound { folder: folder.into() },
            _ => ModelError::Io { path: path.clone(), source },
        };
        let file = File::open(&path).map_err(io)?;
        let bytes = file.metadata().map_err(io)?.len();
        if bytes > MAX_CONFIG_BYTES {
            return Err(ModelError::TooLarge { path, bytes, limit: MAX_CONFIG_BYTES });
        }
        let mut text = Vec::new();
        file.take(MAX_CONFIG_BYTES).read_to_end(&mut text).map_err(io)?;
        let config = Config::parse(&text, &path)?;
        config.check(&path)?;
        Ok(config)
    }

    /// The checks that need no tensor; errors name the file `path`.
    ///
    /// # Errors
    /// [`ModelError::Version`] for another version, and [`ModelError::Invalid`] with every contradiction.
    pub fn check(&self, path: &Path) -> Result<(), ModelError> {
        version(self.format_version, path)?;
        let problems = self.problems();
        if problems.is_empty() { Ok(()) } else { Err(ModelError::Invalid { path: path.into(), problems }) }
    }

    fn parse(text: &[u8], path: &Path) -> Result<Config, ModelError> {
        let json = |at: String, source| ModelError::Json { path: path.into(), at, source };
        // A later version may have fields that this one does not know: its number is looked at first.
        #[derive(serde::Deserialize)]
        struct Version {
            format_version: Option<u32>,
        }
        if let Ok(Version { format_version: Some(found) }) = serde_json::from_slice(text) {
            version(found, path)?;
        }
        let mut parser = serde_json::Deserializer::from_slice(text);
        let at = |error: serde_path_to_error::Error<_>| json(error.path().to_string(), error.into_inner());
        let Unique(mut value) = serde_path_to_error::deserialize(&mut parser).map_err(at)?;
        parser.end().map_err(|error| json(".".into(), error))?;
        tags_first(&mut value);
        serde_path_to_error::deserialize(value).map_err(at)
    }

    /// Every contradiction of the file that shows without the tensors.
    fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> =
            check_inputs(&self.inputs).into_iter().map(|(at, what)| Problem { at, what }).collect();
        let mut problem = |at: String, what: String| problems.push(Problem { at, what });
        // A side of 0 is found above.
        if let Some(image) = &self.inputs.image
            && image.height > 0
            && image.width > 0
            && let Err(what) = image.shape().check()
        {
            problem("inputs.image".into(), what);
        }
        for (side, encoder) in [("query", &self.encoders.query), ("item", &self.encoders.item)] {
            let at = format!("encoders.{side}");
            self.check_towers(&format!("{at}.towers"), &encoder.towers, None, &mut problem);
        }
        if let Some(ranker) = &self.ranker {
            let sides = [
                ("ranker.query_towers", &ranker.query_towers, &self.encoders.query),
                ("ranker.item_towers", &ranker.item_towers, &self.encoders.item),
            ];
            for (at, towers, encoder) in sides {
                self.check_towers(at, towers, Some(encoder), &mut problem);
            }
            if ranker.item_towers.is_empty() {
                problem("ranker.item_towers".into(), "is empty; every product would score the same".into());
            }
            if ranker.head.is_empty() {
                problem("ranker.head".into(), "is empty; its last layer must have one output".into());
            }
        }
        for (index, prefix) in self.ignore.iter().enumerate() {
            if prefix.is_empty() {
                problem(format!("ignore[{index}]"), "an empty prefix would ignore every tensor".into());
            }
        }
        problems
    }

    /// Checks a list of towers; `ranker_of` is the encoder whose towers a ranker's `over` may name.
    fn check_towers(
        &self,
        at: &str,
        towers: &[Tower],
        ranker_of: Option<&Encoder>,
        problem: &mut impl FnMut(String, String),
    ) {
        if towers.is_empty() && ranker_of.is_none() {
            problem(at.into(), "is empty".into());
        }
        let mut names = HashSet::new();
        for (index, tower) in towers.iter().enumerate() {
            let at = format!("{at}[{index}]");
            if !names.insert(tower.name()) {
                problem(format!("{at}.name"), format!("two towers are named `{}`", tower.name()));
            }
            if let Err(what) = self.reads(tower, ranker_of) {
                problem(format!("{at}.input"), what);
            }
            let Tower::ConvStack { architecture, layers, features, .. } = tower else { continue };
            match (architecture, layers.is_empty()) {
                (Some(_), true) if features.is_none() => {
                    problem(at, "an architecture needs `features`: \"pooled\"".into());
                }
                (Some(_), false) | (None, true) => {
                    problem(at, "needs either `architecture` or `layers`".into());
                }
                (None, false) if features.is_some() => {
                    problem(format!("{at}.features"), "goes with `architecture`, not with `layers`".into());
                }
                _ => {}
            }
        }
    }

    /// Whether the tower's kind can read its input in the form that `inputs` gives it.
    fn reads(&self, tower: &Tower, ranker_of: Option<&Encoder>) -> Result<(), String> {
        let input = tower.input();
        let form = match (input, &self.inputs) {
            (Modality::User, _) => "an id",
            (Modality::Text, inputs) if inputs.text.is_some() => "a bag of ids",
            (Modality::Image, inputs) if inputs.image.is_some() => "pixels",
            (Modality::Behaviour, inputs) => match inputs.behaviour {
                Some(BehaviourInput { length: Some(_), .. }) => "a dense vector",
                Some(_) => "a bag of ids",
                None => return Err("inputs.behaviour is missing".into()),
            },
            _ => return Err(format!("inputs.{input} is missing")),
        };
        let (kind, wanted) = match tower {
            Tower::Embedding { .. } => ("an embedding", "an id"),
            Tower::EmbeddingBag { .. } => ("an embedding_bag", "a bag of ids"),
            Tower::ConvStack { .. } => ("a conv_stack", "pixels"),
            Tower::Linear { over: Some(over), .. } => {
                let Some(encoder) = ranker_of else {
                    return Err("`over` is for a ranker's towers".into());
                };
                return match encoder.towers.iter().find(|tower| tower.name() == over) {
                    Some(tower) if tower.input() == input => Ok(()),
                    Some(tower) => Err(format!("tower `{over}` reads {}, not {input}", tower.input())),
                    None => Err(format!("the encoder has no tower `{over}`")),
                };
            }
            Tower::Linear { .. } => ("a linear tower", "a dense vector"),
        };
        if form == wanted { Ok(()) } else { Err(format!("{kind} reads {wanted}, but {input} is {form}")) }
    }
}

fn version(found: u32, path: &Path) -> Result<(), ModelError> {
    if found == FORMAT_VERSION {
        return Ok(());
    }
    Err(ModelError::Version { path: path.into(), found, expected: FORMAT_VERSION })
}
