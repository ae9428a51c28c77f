//! The checks of behaviour features.

use super::{Behaviour, InputError};
use crate::model::BehaviourInput;

/// Which of the two forms behaviour has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A vector of this length.
    Dense(usize),
    /// At most this many item ids.
    Items(usize),
}

impl Form {
    /// # Errors
    /// [`InputError::Config`] if `config` contradicts itself.
    pub fn new(config: &BehaviourInput) -> Result<Form, InputError> {
        super::check::first(super::check::behaviour(config))?;
        Ok(match config.max_items {
            Some(max_items) => Form::Items(max_items),
            None => Form::Dense(config.length.unwrap_or(0)),
        })
    }

    /// # Errors
    /// [`InputError::BehaviourForm`], [`InputError::BehaviourLength`], [`InputError::TooManyItems`],
    /// [`InputError::ItemWeights`] and [`InputError::NotFinite`].
    pub fn check(self, behaviour: &Behaviour) -> Result<(), InputError> {
        match (self, behaviour) {
            (Form::Dense(expected), Behaviour::Dense(values)) => {
                if values.len() != expected {
                    return Err(InputError::BehaviourLength { found: values.len(), expected });
                }
                finite("value", values)
            }
            (Form::Items(max_items), Behaviour::Items { ids, weights }) => {
                if ids.len() > max_items {
                    return Err(InputError::TooManyItems { found: ids.len(), max_items });
                }
                match weights {
                    Some(weights) if weights.len() != ids.len() => {
                        Err(InputError::ItemWeights { items: ids.len(), weights: weights.len() })
                    }
                    Some(weights) => finite("weight", weights),
                    None => Ok(()),
                }
            }
            (Form::Dense(_), Behaviour::Items { .. }) => {
                Err(InputError::BehaviourForm { found: "item ids", expected: "a dense vector" })
            }
            (Form::Items(_), Behaviour::Dense(_)) => {
                Err(InputError::BehaviourForm { found: "a dense vector", expected: "item ids" })
            }
        }
    }
}

fn finite(what: &'static str, values: &[f32]) -> Result<(), InputError> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(InputError::NotFinite { what, at, value: values[at] }),
        None => Ok(()),
    }
}
