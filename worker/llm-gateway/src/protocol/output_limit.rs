//! The limit of an answer's length: its names in requests, and the rule that a provider gets
//! exactly one. Pure.

use serde_json::{Map, Value};

use super::super::body::{Body, Change, Changes};
use super::super::request::{BadRequest, positive};

pub(super) const MAX_TOKENS: &str = "max_tokens";
pub(super) const MAX_OUTPUT_TOKENS: &str = "max_output_tokens";
/// All names that servers of any dialect are known to accept. A request may contain several; a
/// provider gets one.
pub(in super::super) const NAMES: [&str; 7] = [
    MAX_TOKENS,
    "max_completion_tokens",
    MAX_OUTPUT_TOKENS,
    "max_new_tokens",
    "max_tokens_to_sample",
    "n_predict",
    "num_predict",
];

/// The lowest of the limits that the agent set. For llama.cpp and Ollama, -1 means "no limit".
pub(super) fn asked(fields: &Map<String, Value>) -> Result<Option<u64>, BadRequest> {
    let mut least = None;
    for name in NAMES {
        if !is_unlimited(fields.get(name))
            && let Some(limit) = positive(fields, name)?
        {
            least = Some(least.map_or(limit, |other: u64| other.min(limit)));
        }
    }
    Ok(least)
}

/// Whether the agent set a limit under this name.
pub(super) fn is_set(body: &Body, name: &str) -> bool {
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
pub(super) fn write(body: &Body, limit: Option<u64>, own: &'static str, changes: &mut Changes) {
    for name in NAMES {
        let Some(literal) = body.literal(name) else {
            continue;
        };
        if limit.is_some() || literal != "null" {
            changes.insert(name, Change::Remove);
        }
    }
    if let Some(limit) = limit {
        changes.insert(own, Change::Set(limit.to_string()));
    }
}
