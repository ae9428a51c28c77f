//! One variant per way an input can be wrong.

use std::io;
use std::path::PathBuf;

use super::records::LineProblem;
use super::{MAX_IMAGE_ALLOC, MAX_IMAGE_SIDE, MAX_TEXT_BYTES, Modality};
use crate::ErrorKind;

/// Why an input is refused. Messages are one line and include their cause, which `source()` also gives.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// A ready-made tensor contradicts its own shape.
    #[error("{modality} features: {reason}")]
    BadTensor {
        /// Which column.
        modality: Modality,
        /// What is wrong, with the numbers.
        reason: String,
    },

    /// One request of a batch is refused; of several, the one with the lowest row.
    #[error("row {row}: {source}")]
    Row {
        /// Its position in the batch.
        row: usize,
        /// Why.
        source: Box<InputError>,
    },
    /// A request has a modality that the model does not read.
    #[error("the model has no input for {modality}")]
    NotAccepted {
        /// What the request has.
        modality: Modality,
    },
    /// `inputs` of `config.json` contradicts itself; the first of [`super::check_inputs`]' findings.
    #[error("config.json: {path}: {message}")]
    Config {
        /// Where in the file, such as `inputs.image.resize_size`.
        path: String,
        /// What is wrong.
        message: String,
    },

    /// A file cannot be read.
    #[error("{}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is larger than the library reads.
    #[error("{}: larger than {limit} bytes, the most that is read", .path.display())]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// The most bytes that are read.
        limit: u64,
    },
    /// What a file holds is refused.
    #[error("{}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<InputError>,
    },
    /// A buffer cannot be allocated.
    #[error("{what}: cannot allocate {values} values")]
    OutOfMemory {
        /// What the buffer is for.
        what: &'static str,
        /// How many values it would hold.
        values: usize,
    },

    /// The tokenizer's file is not one that the `tokenizers` library reads.
    #[error("not a tokenizer: {source}")]
    Tokenizer {
        /// The tokenizer library's words.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A text is longer than [`MAX_TEXT_BYTES`].
    #[error("text of {bytes} bytes, at most {MAX_TEXT_BYTES} are tokenised")]
    TextTooLong {
        /// Its length in UTF-8 bytes.
        bytes: usize,
    },
    /// A text holds the character U+0000, which tokenizers treat in different ways.
    #[error("text has a NUL character at byte {at}")]
    TextNul {
        /// Bytes before it.
        at: usize,
    },
    /// The tokenizer fails on a text.
    #[error("text cannot be tokenised: {source}")]
    Tokenise {
        /// The tokenizer library's words.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A text yields no token of its own (special tokens do not count).
    #[error("text of {bytes} bytes yields no token")]
    NoTokens {
        /// Its length in UTF-8 bytes.
        bytes: usize,
    },
    /// A text has more tokens than the model takes, and the model's policy is to refuse it.
    #[error("text of {tokens} tokens, the model takes at most {max_tokens}")]
    TooManyTokens {
        /// Its tokens, special ones included.
        tokens: usize,
        /// `inputs.text.max_tokens`.
        max_tokens: usize,
    },

    /// The bytes have no known image signature.
    #[error("not a JPEG, PNG or WebP image: {found}")]
    NotAnImage {
        /// How the bytes begin.
        found: String,
    },
    /// An image in a format that is not read.
    #[error("a {format} image; JPEG, PNG and WebP are read")]
    ImageFormat {
        /// The format.
        format: String,
    },
    /// A side of the image, as its header states it, is over [`MAX_IMAGE_SIDE`].
    #[error("image of {width}x{height} pixels, at most {MAX_IMAGE_SIDE} per side are decoded")]
    ImageSide {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// The decoded image would be over [`MAX_IMAGE_ALLOC`].
    #[error(
        "image of {width}x{height} pixels decodes to {bytes} bytes, at most {MAX_IMAGE_ALLOC} are decoded"
    )]
    ImageBytes {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Its decoded size.
        bytes: u64,
    },
    /// The image's data is broken.
    #[error("broken {format} image: {source}")]
    ImageDecode {
        /// The format.
        format: &'static str,
        /// The decoder's words.
        source: image::ImageError,
    },
    /// The image's data ends before its end marker.
    #[error("truncated {format} image: no end marker in {bytes} bytes")]
    ImageTruncated {
        /// The format.
        format: &'static str,
        /// Bytes of the file.
        bytes: usize,
    },
    /// Decoded pixels do not fill their size, or the size is empty.
    #[error("{bytes} bytes of pixels for {width}x{height} RGB")]
    ImagePixels {
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// Bytes given; `width * height * 3` are wanted, at least one pixel.
        bytes: usize,
    },
    /// The model takes images of one size only.
    #[error(
        "image of {width}x{height} pixels, the model takes {expected_width}x{expected_height} and does not resize"
    )]
    ImageSize {
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// `inputs.image.width`.
        expected_width: usize,
        /// `inputs.image.height`.
        expected_height: usize,
    },
    /// The caller's output slice has another length than the values to write.
    #[error("output slice of {found} values, {expected} are written")]
    OutputLength {
        /// The slice's length.
        found: usize,
        /// The length to give.
        expected: usize,
    },

    /// Behaviour in the form that the model does not read.
    #[error("behaviour as {found}, the model reads {expected}")]
    BehaviourForm {
        /// What the request has.
        found: &'static str,
        /// What the model reads.
        expected: &'static str,
    },
    /// A behaviour vector of another length than the model's.
    #[error("behaviour of {found} values, the model reads {expected}")]
    BehaviourLength {
        /// Values in the request.
        found: usize,
        /// `inputs.behaviour.length`.
        expected: usize,
    },
    /// More behaviour items than the model takes.
    #[error("behaviour of {found} items, the model takes at most {max_items}")]
    TooManyItems {
        /// Items in the request.
        found: usize,
        /// `inputs.behaviour.max_items`.
        max_items: usize,
    },
    /// Not one weight per behaviour item.
    #[error("behaviour of {items} items with {weights} weights")]
    ItemWeights {
        /// Items in the request.
        items: usize,
        /// Weights in the request.
        weights: usize,
    },
    /// A behaviour value or weight is NaN or infinite.
    #[error("behaviour {what} {at} is {value}")]
    NotFinite {
        /// `value` or `weight`.
        what: &'static str,
        /// Its position.
        at: usize,
        /// What it is.
        value: f32,
    },

    /// A line of a JSON-lines file is refused.
    #[error("{}:{line}: {source}", .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Why.
        source: LineProblem,
    },
    /// Two lines have one id.
    #[error("id {id} on line {line} is already on line {first_line}")]
    DuplicateId {
        /// The id.
        id: i64,
        /// Where it is first, from 1.
        first_line: usize,
        /// Where it is again.
        line: usize,
    },
}

impl InputError {
    /// The class of the error. A broken image, tokenizer or configuration is corrupt data; a line of a JSON-lines file
    /// is the caller's own words, and so is the path of a file that does not exist.
    pub fn kind(&self) -> ErrorKind {
        use InputError as E;
        match self {
            E::Row { source, .. } | E::File { source, .. } => source.kind(),
            E::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => ErrorKind::Caller,
            E::Read { .. } => ErrorKind::Io,
            E::OutOfMemory { .. } => ErrorKind::OutOfMemory,
            E::ImageFormat { .. } => ErrorKind::Unsupported,
            E::Config { .. }
            | E::Tokenizer { .. }
            | E::NotAnImage { .. }
            | E::ImageDecode { .. }
            | E::ImageTruncated { .. } => ErrorKind::CorruptData,
            E::BadTensor { .. }
            | E::NotAccepted { .. }
            | E::FileTooLarge { .. }
            | E::TextTooLong { .. }
            | E::TextNul { .. }
            | E::Tokenise { .. }
            | E::NoTokens { .. }
            | E::TooManyTokens { .. }
            | E::ImageSide { .. }
            | E::ImageBytes { .. }
            | E::ImagePixels { .. }
            | E::ImageSize { .. }
            | E::OutputLength { .. }
            | E::BehaviourForm { .. }
            | E::BehaviourLength { .. }
            | E::TooManyItems { .. }
            | E::ItemWeights { .. }
            | E::NotFinite { .. }
            | E::Line { .. }
            | E::DuplicateId { .. } => ErrorKind::Caller,
        }
    }
}
