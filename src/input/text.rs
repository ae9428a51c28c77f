//! Text to token ids through the model's `tokenizer.json`.

use std::path::Path;

use tokenizers::Tokenizer;

use super::InputError;
use super::decode::read_capped;
use crate::files::{NotInside, inside};
use crate::model::{TextInput, Truncation};

/// Most UTF-8 bytes of a text that is tokenised.
pub const MAX_TEXT_BYTES: usize = 64 << 10;
/// Most bytes of a tokenizer file that are read.
pub const MAX_TOKENIZER_BYTES: u64 = 128 << 20;

/// Turns texts into token ids.
#[derive(Debug, Clone)]
pub struct TextPreprocessor {
    tokenizer: Tokenizer,
    max_tokens: usize,
    truncation: Truncation,
    special_tokens: bool,
}

impl TextPreprocessor {
    /// Reads the tokenizer from the model's folder. Truncation and padding that the file itself asks for are turned
    /// off: only `config` decides.
    ///
    /// # Errors
    /// - [`InputError::Config`] if `config` contradicts itself or names a file outside the folder, symbolic links
    ///   resolved.
    /// - [`InputError::Read`] and [`InputError::FileTooLarge`] if the file cannot be read.
    /// - [`InputError::Tokenizer`] in [`InputError::File`] if it is not a tokenizer.
    pub fn open(model_dir: &Path, config: &TextInput) -> Result<TextPreprocessor, InputError> {
        super::check::first(super::check::text(config))?;
        let path =
            inside(model_dir, &config.tokenizer).map_err(|error| not_inside(model_dir, config, error))?;
        let bytes = read_capped(&path, MAX_TOKENIZER_BYTES)?;
        let broken =
            |source| InputError::File { path: path.clone(), source: InputError::Tokenizer { source }.into() };
        let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(broken)?;
        tokenizer.with_truncation(None).map_err(broken)?;
        tokenizer.with_padding(None);
        Ok(TextPreprocessor {
            tokenizer,
            max_tokens: config.max_tokens,
            truncation: config.truncation,
            special_tokens: config.special_tokens,
        })
    }

    /// The largest id that [`TextPreprocessor::ids`] gives.
    pub fn largest_id(&self) -> u32 {
        self.tokenizer.get_vocab(true).values().copied().max().unwrap_or(0)
    }

    /// The token ids of `text`, at least one and at most `max_tokens`. [`Truncation::KeepFirst`] counts special tokens
    /// like any other, so a closing one may be cut off.
    ///
    /// # Errors
    /// [`InputError::TextTooLong`], [`InputError::TextNul`], [`InputError::Tokenise`], [`InputError::NoTokens`] and,
    /// under [`Truncation::Refuse`], [`InputError::TooManyTokens`].
    pub fn ids(&self, text: &str) -> Result<Vec<i64>, InputError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(InputError::TextTooLong { bytes: text.len() });
        }
        if let Some(at) = text.find('\0') {
            return Err(InputError::TextNul { at });
        }
        let encoding = self
            .tokenizer
            .encode_fast(text, self.special_tokens)
            .map_err(|source| InputError::Tokenise { source })?;
        if encoding.get_special_tokens_mask().iter().all(|&special| special == 1) {
            return Err(InputError::NoTokens { bytes: text.len() });
        }
        let ids = encoding.get_ids();
        if ids.len() > self.max_tokens && self.truncation == Truncation::Refuse {
            return Err(InputError::TooManyTokens { tokens: ids.len(), max_tokens: self.max_tokens });
        }
        Ok(ids.iter().take(self.max_tokens).map(|&id| i64::from(id)).collect())
    }
}

fn not_inside(folder: &Path, config: &TextInput, error: NotInside) -> InputError {
    let name = &config.tokenizer;
    let outside = |how: String| InputError::Config {
        path: "inputs.text.tokenizer".to_owned(),
        message: format!("{name:?} is not a path inside the model's folder{how}"),
    };
    match error {
        NotInside::Path => outside(String::new()),
        NotInside::Link(target) => outside(format!(": it links to {}", target.display())),
        NotInside::Io(source) => InputError::Read { path: folder.join(name), source },
    }
}
