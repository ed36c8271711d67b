//! The limit of an answer's length: its names in requests, and the rule that a provider gets
//! exactly one. Pure.

use pool_core::pool::OutputLimitField;
use serde_json::{Map, Value};

use super::body::{FieldEdit, FieldEdits, RequestBody};
use super::fields::{BadRequest, positive};

pub(super) const MAX_TOKENS: &str = "max_tokens";
pub(super) const MAX_OUTPUT_TOKENS: &str = "max_output_tokens";
/// All names that servers of any dialect are known to accept. A request may contain several; a
/// provider gets one.
pub(crate) const LIMIT_NAMES: [&str; 7] = [
    MAX_TOKENS,
    "max_completion_tokens",
    MAX_OUTPUT_TOKENS,
    "max_new_tokens",
    "max_tokens_to_sample",
    "n_predict",
    "num_predict",
];

/// The field of a chat-completions request in which an LLM takes its output limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LimitField {
    /// The agent's own field if it set a limit, or else this one.
    Usually(OutputLimitField),
    /// Only this field, because a refusal or the pool file says so.
    Only(OutputLimitField),
}

impl LimitField {
    /// The field's name for a request that has no limit of its own.
    pub(crate) fn usual(self) -> &'static str {
        match self {
            Self::Usually(field) | Self::Only(field) => field.as_str(),
        }
    }
}

/// The lowest of the limits that the agent set. For llama.cpp and Ollama, -1 means "no limit".
pub(super) fn asked(fields: &Map<String, Value>) -> Result<Option<u64>, BadRequest> {
    let mut least = None;
    for name in LIMIT_NAMES {
        if !is_unlimited(fields.get(name))
            && let Some(limit) = positive(fields, name)?
        {
            least = Some(least.map_or(limit, |other: u64| other.min(limit)));
        }
    }
    Ok(least)
}

/// Whether the agent set a limit under this name.
pub(super) fn is_set(body: &RequestBody, name: &str) -> bool {
    let value = body
        .literal(name)
        .and_then(|literal| serde_json::from_str::<Value>(literal).ok());
    value.is_some_and(|value| !value.is_null() && !is_unlimited(Some(&value)))
}

fn is_unlimited(value: Option<&Value>) -> bool {
    value.and_then(Value::as_f64) == Some(-1.0)
}

/// Writes the limit under the name `own` and removes every other limit. Without a limit only `null`
/// values may stay.
pub(super) fn write(body: &RequestBody, limit: Option<u64>, own: &'static str) -> FieldEdits {
    let is_removed = |name: &&str| {
        body.literal(name)
            .is_some_and(|literal| limit.is_some() || literal != "null")
    };
    let removed = LIMIT_NAMES.into_iter().filter(is_removed);
    let mut edits: FieldEdits = removed.map(|name| (name, FieldEdit::Remove)).collect();
    if let Some(limit) = limit {
        edits.insert(own, FieldEdit::Set(limit.to_string()));
    }
    edits
}
