//! The checks of `config.json`'s `inputs` that need no tensor.

use super::{InputError, MAX_IMAGE_SIDE};
use crate::files::is_plain;
use crate::model::{BehaviourInput, ImageInput, Inputs, Resize, TextInput};

/// A contradiction: where in `config.json` (such as `inputs.image.resize_size`), and what is wrong.
pub type Finding = (String, String);

/// Every contradiction in `inputs`; empty if there is none.
pub fn check_inputs(inputs: &Inputs) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(inputs.text.iter().flat_map(text));
    findings.extend(inputs.image.iter().flat_map(image));
    findings.extend(inputs.behaviour.iter().flat_map(behaviour));
    findings
}

/// The first finding as an error.
pub(super) fn first(findings: Vec<Finding>) -> Result<(), InputError> {
    match findings.into_iter().next() {
        Some((path, message)) => Err(InputError::Config { path, message }),
        None => Ok(()),
    }
}

pub(super) fn text(config: &TextInput) -> Vec<Finding> {
    let mut findings = Findings::new("inputs.text");
    let TextInput { tokenizer, max_tokens, .. } = config;
    findings.refuse(!is_plain(tokenizer), "tokenizer", || {
        format!("{tokenizer:?} is not a path inside the model's folder")
    });
    findings.refuse(*max_tokens == 0, "max_tokens", || "0, at least 1 is needed".to_owned());
    findings.list
}

pub(super) fn image(config: &ImageInput) -> Vec<Finding> {
    let mut findings = Findings::new("inputs.image");
    let &ImageInput { height, width, resize, resize_size, mean, std, .. } = config;
    // u32 fits usize on every target this library builds for.
    let longest = MAX_IMAGE_SIDE as usize;
    for (field, side) in [("height", height), ("width", width)] {
        findings.refuse(side == 0 || side > longest, field, || format!("{side} is not within 1..={longest}"));
    }
    match (resize, resize_size) {
        (Resize::ShortestSide, None) => {
            findings.add("resize_size", "missing; \"shortest_side\" needs it".to_owned())
        }
        (Resize::ShortestSide, Some(side)) => {
            findings.refuse(side < height || side < width || side > longest, "resize_size", || {
                format!(
                    "{side} is not within {}..={longest}: the crop is {height}x{width} (height x width)",
                    height.max(width)
                )
            });
        }
        (Resize::None | Resize::Exact, Some(side)) => {
            findings.add("resize_size", format!("{side} given, but only \"shortest_side\" reads it"));
        }
        (Resize::None | Resize::Exact, None) => {}
    }
    for (channel, (mean, std)) in mean.into_iter().zip(std).enumerate() {
        findings.refuse(!mean.is_finite(), &format!("mean[{channel}]"), || format!("{mean:?} is not finite"));
        // Also when the quotient overflows f32.
        let extremes = [(0.0 - mean) / std, (1.0 - mean) / std];
        let usable =
            std.is_finite() && std > 0.0 && (!mean.is_finite() || extremes.iter().all(|x| x.is_finite()));
        findings.refuse(!usable, &format!("std[{channel}]"), || {
            format!("{std:?} is not a positive divisor that keeps pixels finite")
        });
    }
    findings.list
}

pub(super) fn behaviour(config: &BehaviourInput) -> Vec<Finding> {
    let mut findings = Findings::new("inputs.behaviour");
    let &BehaviourInput { length, max_items } = config;
    if length.is_some() == max_items.is_some() {
        let found = if length.is_some() { "both" } else { "neither" };
        findings.list.push((
            findings.at.to_owned(),
            format!("exactly one of length and max_items is needed, not {found}"),
        ));
    }
    for (field, value) in [("length", length), ("max_items", max_items)] {
        findings.refuse(value == Some(0), field, || "0, at least 1 is needed".to_owned());
    }
    findings.list
}

struct Findings {
    at: &'static str,
    list: Vec<Finding>,
}

impl Findings {
    fn new(at: &'static str) -> Findings {
        Findings { at, list: Vec::new() }
    }

    fn add(&mut self, field: &str, message: String) {
        self.list.push((format!("{}.{field}", self.at), message));
    }

    fn refuse(&mut self, wrong: bool, field: &str, message: impl FnOnce() -> String) {
        if wrong {
            self.add(field, message());
        }
    }
}
