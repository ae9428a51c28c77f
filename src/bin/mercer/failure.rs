//! An error as the user sees it: one line, a hint where one helps, and the exit code.

use mercer::Error;
use mercer::catalogue::CatalogueError;
use mercer::engine::{EngineError, RowError};
use mercer::input::InputError;
use mercer::model::ModelError;
use mercer::weights::WeightsError;

/// The exit code of a command line that cannot be understood.
const USAGE: u8 = 2;
/// The exit code of every other error.
const FAILED: u8 = 1;
/// The exit code after Ctrl-C: 128 and the number of the signal.
const INTERRUPTED: u8 = 130;

/// Why a command ends without having done its work.
#[derive(Debug)]
pub struct Failure {
    message: String,
    hint: Option<String>,
    code: u8,
}

impl Failure {
    /// A failure of the work itself.
    pub fn new(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), hint: None, code: FAILED }
    }

    /// A command line that cannot be understood.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure { code: USAGE, ..Failure::new(message) }
    }

    /// Ctrl-C.
    pub fn interrupted(message: impl Into<String>) -> Failure {
        Failure { code: INTERRUPTED, ..Failure::new(message) }
    }

    /// The failure with what the user can do about it.
    pub fn hint(self, hint: impl Into<String>) -> Failure {
        Failure { hint: Some(hint.into()), ..self }
    }

    /// The failure in other words.
    pub fn told(self, message: String) -> Failure {
        Failure { message, ..self }
    }

    /// The failure, told of a place such as `queries.jsonl:3`.
    pub fn at(self, place: &str) -> Failure {
        Failure { message: format!("{place}: {}", self.message), ..self }
    }

    /// Prints the failure to standard error and returns the exit code.
    pub fn report(&self) -> u8 {
        eprintln!("error: {}", one_line(&self.message));
        if let Some(hint) = &self.hint {
            eprintln!("hint: {}", one_line(hint));
        }
        self.code
    }
}

/// The text without line breaks and other control characters, which a file's name may hold.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Failure {
        let error = error.into();
        let text = error.to_string();
        // What lists tensors prints a line for each after its summary.
        let failure = Failure::new(text.lines().next().unwrap_or_default());
        match hint(&error) {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

fn hint(error: &Error) -> Option<String> {
    const AGAIN: &str = "make the index again with `mercer index`";
    Some(match error {
        Error::Model(ModelError::NotFound { .. }) => {
            "`--model DIR` names a folder with config.json, model.safetensors and, for text, tokenizer.json"
                .into()
        }
        Error::Model(ModelError::Invalid { .. })
        | Error::Weights(WeightsError::Mismatch { .. } | WeightsError::NonFinite { .. }) => {
            "`mercer inspect --model DIR` lists all that is wrong".into()
        }
        Error::Engine(EngineError::Row { source, .. }) => return row_hint(source),
        Error::Engine(EngineError::OtherModel { .. }) => AGAIN.into(),
        Error::Engine(EngineError::NoRanker) => "leave --rerank out".into(),
        Error::Catalogue(CatalogueError::NotACatalogue { .. }) => {
            "`mercer index --catalogue FILE.jsonl --output DIR` makes an index".into()
        }
        Error::Catalogue(
            CatalogueError::Damaged { .. }
            | CatalogueError::FileLength { .. }
            | CatalogueError::FormatVersion { .. },
        ) => AGAIN.into(),
        Error::Input(error) => return input_hint(error),
        _ => return None,
    })
}

fn row_hint(error: &RowError) -> Option<String> {
    match error {
        RowError::UnknownId { rows, .. } => Some(format!("ids run from 0 to {}", rows.saturating_sub(1))),
        RowError::Unread { modality, .. } => {
            Some(format!("leave `{modality}` out, or call it otherwise in a file if it is only to be shown"))
        }
        RowError::NothingToRank { .. } => Some("leave --rerank out".into()),
        RowError::Input(InputError::Read { .. }) => {
            Some("a photo's path counts from the folder of the file that names it, --image from here".into())
        }
        RowError::Input(error) => input_hint(error),
        _ => None,
    }
}

fn input_hint(error: &InputError) -> Option<String> {
    match error {
        InputError::Row { source, .. } | InputError::File { source, .. } => input_hint(source),
        InputError::NotAnImage { .. } | InputError::ImageFormat { .. } => {
            Some("images are JPEG, PNG or WebP files".into())
        }
        _ => None,
    }
}
