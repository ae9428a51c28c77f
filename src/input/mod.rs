//! From what a user sends to what the towers read: text to token ids, an image file to 8-bit pixels of the towers' size,
//! a JSON line to a [`Request`].

mod behaviour;
mod check;
mod decode;
mod error;
mod features;
mod image;
mod preprocessor;
mod records;
mod request;
mod resize;
mod scaling;
mod text;

pub use check::{Finding, check_inputs};
pub use decode::{MAX_IMAGE_ALLOC, MAX_IMAGE_FILE_BYTES, MAX_IMAGE_SIDE};
pub use error::InputError;
pub use features::{Bags, Column, Features, Values};
pub use image::ImagePreprocessor;
pub use preprocessor::Preprocessor;
pub use records::{
    LineProblem, MAX_LINE_BYTES, Record, Records, check_unique_ids, read_behaviour, read_records,
};
pub use request::{Behaviour, Image, Request};
pub use resize::resize_rgb;
pub use scaling::PixelScaling;
pub use text::{MAX_TEXT_BYTES, MAX_TOKENIZER_BYTES, TextPreprocessor};

use serde::{Deserialize, Serialize};

/// One kind of evidence that a request can carry. The order here is the order in which parts are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Modality {
    /// Query text or product title.
    Text,
    /// A photo.
    Image,
    /// A user id: a row of an embedding table.
    User,
    /// What the user did: a dense vector, or the ids of items.
    Behaviour,
}

impl Modality {
    /// Every modality, in order.
    pub const ALL: [Modality; 4] = [Modality::Text, Modality::Image, Modality::User, Modality::Behaviour];

    /// The name in `config.json`, JSON lines and reports.
    pub fn name(self) -> &'static str {
        match self {
            Modality::Text => "text",
            Modality::Image => "image",
            Modality::User => "user",
            Modality::Behaviour => "behaviour",
        }
    }
}

impl std::fmt::Display for Modality {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
