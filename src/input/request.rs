//! A request as it reaches the library, before any preprocessing.

use std::path::PathBuf;

/// A query or a product: any subset of the modalities. What is absent is skipped by the model, not zero-filled.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Request {
    /// UTF-8 text, Chinese or English.
    pub text: Option<String>,
    /// A photo.
    pub image: Option<Image>,
    /// The user's row in the model's user table.
    pub user: Option<i64>,
    /// What the user did.
    pub behaviour: Option<Behaviour>,
}

impl Request {
    /// The request with this text.
    pub fn with_text(mut self, text: impl Into<String>) -> Request {
        self.text = Some(text.into());
        self
    }

    /// The request with this photo.
    pub fn with_image(mut self, image: impl Into<Image>) -> Request {
        self.image = Some(image.into());
        self
    }

    /// The request with this user.
    pub fn with_user(mut self, user: i64) -> Request {
        self.user = Some(user);
        self
    }

    /// The request with this behaviour.
    pub fn with_behaviour(mut self, behaviour: Behaviour) -> Request {
        self.behaviour = Some(behaviour);
        self
    }
}

/// A photo, in whichever form the caller holds it.
#[derive(Debug, Clone, PartialEq)]
pub enum Image {
    /// A JPEG, PNG or WebP file.
    Path(PathBuf),
    /// The bytes of such a file.
    Encoded(Vec<u8>),
    /// Decoded pixels.
    Rgb {
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// `[height, width, 3]`, red first.
        data: Vec<u8>,
    },
}

impl From<PathBuf> for Image {
    fn from(path: PathBuf) -> Image {
        Image::Path(path)
    }
}

impl From<&std::path::Path> for Image {
    fn from(path: &std::path::Path) -> Image {
        Image::Path(path.into())
    }
}

/// Behaviour features, in the form that the model's `inputs.behaviour` asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Behaviour {
    /// A dense vector of `inputs.behaviour.length` finite values.
    Dense(Vec<f32>),
    /// Rows of the model's item table, with optional weights of the same length.
    Items {
        /// Row ids.
        ids: Vec<i64>,
        /// One weight per id; `None` weighs all alike.
        weights: Option<Vec<f32>>,
    },
}
