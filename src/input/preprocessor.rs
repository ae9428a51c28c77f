//! Requests to features, for a batch.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::behaviour::Form;
use super::{
    Bags, Behaviour, Features, ImagePreprocessor, InputError, Modality, Request, TextPreprocessor, Values,
};
use crate::model::Inputs;

/// Turns requests into what a model's towers read. Every call takes `&self` and may run on many threads at once.
#[derive(Debug)]
pub struct Preprocessor {
    text: Option<TextPreprocessor>,
    image: Option<ImagePreprocessor>,
    behaviour: Option<Form>,
}

impl Preprocessor {
    /// Prepares the `inputs` of the model in `model_dir`, and reads its tokenizer if it has one.
    ///
    /// # Errors
    /// - [`InputError::Config`] if `inputs` contradicts itself.
    /// - [`InputError::Read`], [`InputError::FileTooLarge`] and, in [`InputError::File`], [`InputError::Tokenizer`] for
    ///   the tokenizer.
    pub fn open(model_dir: &Path, inputs: &Inputs) -> Result<Preprocessor, InputError> {
        Ok(Preprocessor {
            text: inputs.text.as_ref().map(|text| TextPreprocessor::open(model_dir, text)).transpose()?,
            image: inputs.image.as_ref().map(ImagePreprocessor::new).transpose()?,
            behaviour: inputs.behaviour.as_ref().map(Form::new).transpose()?,
        })
    }

    /// The text step, to be used alone.
    pub fn text(&self) -> Option<&TextPreprocessor> {
        self.text.as_ref()
    }

    /// The image step, to be used alone.
    pub fn image(&self) -> Option<&ImagePreprocessor> {
        self.image.as_ref()
    }

    /// Whether requests may have `modality`. A user needs no preprocessing and is always accepted here.
    pub fn accepts(&self, modality: Modality) -> bool {
        match modality {
            Modality::Text => self.text.is_some(),
            Modality::Image => self.image.is_some(),
            Modality::User => true,
            Modality::Behaviour => self.behaviour.is_some(),
        }
    }

    /// The features of a batch, one row per request: text and items as [`Values::Bags`], images as
    /// [`Values::Photos`], users as [`Values::Ids`], dense behaviour as [`Values::Dense`]. If any request of the batch
    /// weighs its items, the items of the others get weight 1. Rows are prepared in parallel on rayon's current pool;
    /// each thread decodes one image at a time, of at most [`MAX_IMAGE_ALLOC`](super::MAX_IMAGE_ALLOC). Ids are not
    /// compared with their tables here.
    ///
    /// # Errors
    /// - [`InputError::Row`] with the lowest row that is refused, because of [`InputError::NotAccepted`] or as
    ///   [`TextPreprocessor::ids`] and [`ImagePreprocessor::write`] say, or for behaviour that is not as configured:
    ///   [`InputError::BehaviourForm`], [`InputError::BehaviourLength`], [`InputError::TooManyItems`],
    ///   [`InputError::ItemWeights`], [`InputError::NotFinite`].
    /// - [`InputError::OutOfMemory`] if the photos of the batch do not fit.
    pub fn features(&self, requests: &[Request]) -> Result<Features, InputError> {
        let mut photos = self.photo_buffer(requests)?;
        let texts = self.texts_and_photos(requests, &mut photos)?;

        let mut features = Features::new(requests.len());
        let (rows, bags): (Vec<usize>, Vec<Vec<i64>>) =
            texts.into_iter().enumerate().filter_map(|(row, ids)| Some((row, ids?))).unzip();
        features.set_rows(
            Modality::Text,
            rows,
            Values::Bags(bags_of(bags.iter().map(|ids| (&ids[..], None)))),
        )?;
        if let Some(image) = &self.image {
            let (height, width) = (image.size().height, image.size().width);
            let (rows, _) = present(requests, |request| request.image.as_ref());
            features.set_rows(Modality::Image, rows, Values::Photos { height, width, data: photos })?;
        }
        let (rows, users) = present(requests, |request| request.user);
        features.set_rows(Modality::User, rows, Values::Ids(users))?;
        if let Some(form) = self.behaviour {
            let (rows, behaviours) = present(requests, |request| request.behaviour.as_ref());
            features.set_rows(Modality::Behaviour, rows, behaviour_values(form, &behaviours))?;
        }
        Ok(features)
    }

    /// Zeros for the photos of every request that has one.
    fn photo_buffer(&self, requests: &[Request]) -> Result<Vec<u8>, InputError> {
        let count = requests.iter().filter(|request| request.image.is_some()).count();
        let values = self.image.as_ref().map_or(0, |image| count.saturating_mul(image.bytes()));
        let mut photos = Vec::new();
        photos
            .try_reserve_exact(values)
            .map_err(|_| InputError::OutOfMemory { what: "the photos of a batch", values })?;
        photos.resize(values, 0);
        Ok(photos)
    }

    /// Checks every row, writes its photo and returns its token ids.
    fn texts_and_photos(
        &self,
        requests: &[Request],
        photos: &mut [u8],
    ) -> Result<Vec<Option<Vec<i64>>>, InputError> {
        let mut slots = photos.chunks_exact_mut(self.image.as_ref().map_or(1, ImagePreprocessor::bytes));
        let work: Vec<(&Request, Option<&mut [u8]>)> = requests
            .iter()
            .map(|request| (request, request.image.as_ref().and_then(|_| slots.next())))
            .collect();
        // Rows above a refused one are skipped; rows below are not, so the lowest is found whatever the schedule.
        let lowest_refused = AtomicUsize::new(usize::MAX);
        let rows: Vec<Result<Option<Vec<i64>>, InputError>> = work
            .into_par_iter()
            .enumerate()
            .map(|(row, (request, slot))| {
                if row > lowest_refused.load(Ordering::Relaxed) {
                    return Ok(None);
                }
                self.row(request, slot).map_err(|source| {
                    lowest_refused.fetch_min(row, Ordering::Relaxed);
                    InputError::Row { row, source: Box::new(source) }
                })
            })
            .collect();
        rows.into_iter().collect()
    }

    fn row(&self, request: &Request, slot: Option<&mut [u8]>) -> Result<Option<Vec<i64>>, InputError> {
        let refused = |modality| InputError::NotAccepted { modality };
        if let Some(behaviour) = &request.behaviour {
            self.behaviour.ok_or_else(|| refused(Modality::Behaviour))?.check(behaviour)?;
        }
        let ids = match &request.text {
            Some(text) => Some(self.text.as_ref().ok_or_else(|| refused(Modality::Text))?.ids(text)?),
            None => None,
        };
        if let Some(photo) = &request.image {
            let image = self.image.as_ref().ok_or_else(|| refused(Modality::Image))?;
            image.write(photo, slot.unwrap_or_default())?;
        }
        Ok(ids)
    }
}

/// The rows that have something, and what they have.
fn present<'a, T>(requests: &'a [Request], what: impl Fn(&'a Request) -> Option<T>) -> (Vec<usize>, Vec<T>) {
    requests.iter().enumerate().filter_map(|(row, request)| Some((row, what(request)?))).unzip()
}

/// `behaviours` were checked against `form`.
fn behaviour_values(form: Form, behaviours: &[&Behaviour]) -> Values {
    match form {
        Form::Dense(width) => {
            let vectors = behaviours.iter().filter_map(|behaviour| match behaviour {
                Behaviour::Dense(values) => Some(&values[..]),
                Behaviour::Items { .. } => None,
            });
            Values::Dense { width, data: vectors.flatten().copied().collect() }
        }
        Form::Items(_) => Values::Bags(bags_of(behaviours.iter().filter_map(|behaviour| match behaviour {
            Behaviour::Items { ids, weights } => Some((&ids[..], weights.as_deref())),
            Behaviour::Dense(_) => None,
        }))),
    }
}

/// Bags with weights if any bag has them; the ids of a bag without weigh 1.
fn bags_of<'a>(bags: impl Iterator<Item = (&'a [i64], Option<&'a [f32]>)> + Clone) -> Bags {
    let weighted = bags.clone().any(|(_, weights)| weights.is_some());
    let mut all = Bags { offsets: vec![0], ids: Vec::new(), weights: weighted.then(Vec::new) };
    for (ids, weights) in bags {
        all.ids.extend_from_slice(ids);
        all.offsets.push(all.ids.len());
        if let Some(all) = &mut all.weights {
            match weights {
                Some(weights) => all.extend_from_slice(weights),
                None => all.resize(all.len() + ids.len(), 1.0),
            }
        }
    }
    all
}
