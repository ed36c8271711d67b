//! The contents of an answer. A response with status 200 counts as an answer only if they are
//! complete. Pure.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::ending::Ending;
use crate::pricing::Tokens;

/// Why a body is not an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoAnswer {
    #[error("the answer is not a JSON object: {0}")]
    Json(String),
    /// Some providers report errors with status 200.
    #[error("{message}")]
    ErrorInside {
        status: Option<u16>,
        message: String,
    },
    #[error("the answer has no choices")]
    NoChoices,
    #[error("a choice of the answer has no message")]
    NoMessage,
    /// The provider gave up in the middle of its answer. This is its error, in an object `error`.
    #[error("{}", message_of(.0))]
    Failed(Value),
    /// A stream without its last event.
    #[error("the stream ended before the answer was complete")]
    Cut,
    #[error("the answer has no `{0}`")]
    Lacks(&'static str),
}

/// The message in an object `error`, or else the whole error.
pub(super) fn message_of(error: &Value) -> String {
    let error = &error["error"];
    error["message"]
        .as_str()
        .map_or_else(|| error.to_string(), str::to_owned)
}

/// The contents of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AnswerContent {
    pub(crate) usage: Option<Tokens>,
    /// As the provider sent it.
    pub(crate) finish_reason: Option<String>,
    pub(crate) ending: Ending,
    /// Neither text nor tool calls.
    pub(crate) empty: bool,
    /// The fields of a chat completion, which is written anew. All other answers are passed on byte
    /// for byte.
    pub(crate) chat: Option<Map<String, Value>>,
}

impl AnswerContent {
    pub(super) fn new(usage: Option<Tokens>, finish_reason: Option<&str>, empty: bool) -> Self {
        Self {
            usage,
            finish_reason: finish_reason.map(str::to_owned),
            ending: Ending::of(finish_reason),
            empty,
            chat: None,
        }
    }
}

/// The contents of a complete answer. Otherwise the reason why the body is not a complete answer, and
/// the usage if the provider reports it.
pub(crate) type AnswerResult<T = AnswerContent> = Result<T, (NoAnswer, Option<Tokens>)>;

pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> AnswerResult<T> {
    serde_json::from_slice(body).map_err(|error| (NoAnswer::Json(error.to_string()), None))
}

/// Reads OpenAI's `usage`, whose counts are named after `input` and `output`; None if it is absent
/// or makes no sense.
///
/// Some providers leave the tokens of hidden reasoning out of the output but not out of
/// `total_tokens`. They bill the larger number.
pub(super) fn reported_usage(usage: &Value, input: &str, output: &str) -> Option<Tokens> {
    let details = &usage[format!("{input}_tokens_details")];
    let input = usage[format!("{input}_tokens")].as_u64()?;
    let output = usage[format!("{output}_tokens")].as_u64()?;
    let beyond_input = usage["total_tokens"]
        .as_u64()
        .map_or(0, |total| total.saturating_sub(input));
    let cached = details["cached_tokens"]
        .as_u64()
        .or(usage["prompt_cache_hit_tokens"].as_u64());
    Some(Tokens {
        input,
        cached_input: cached.unwrap_or(0).min(input),
        output: output.max(beyond_input),
        surcharge: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn usage_is_read_as_providers_write_it() {
        let tokens = |input, cached_input, output| {
            Some(Tokens {
                input,
                cached_input,
                output,
                surcharge: 0,
            })
        };
        for (usage, expected, case) in [
            (
                json!({"prompt_tokens": 10, "completion_tokens": 4}),
                tokens(10, 0, 4),
                "the least",
            ),
            (
                json!({"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 6}}),
                tokens(10, 6, 4),
                "cached, as OpenAI reports it",
            ),
            (
                json!({"prompt_tokens": 10, "completion_tokens": 4, "prompt_cache_hit_tokens": 7}),
                tokens(10, 7, 4),
                "cached, as DeepSeek reports it",
            ),
            (
                json!({"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 30}),
                tokens(10, 0, 20),
                "reasoning",
            ),
            (
                json!({"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 99}}),
                tokens(10, 10, 4),
                "more cached than there is",
            ),
            (
                json!({"prompt_tokens": -1, "completion_tokens": 4}),
                None,
                "nonsense",
            ),
            (json!({"prompt_tokens": 10}), None, "only half of the usage"),
            (Value::Null, None, "nothing"),
        ] {
            assert_eq!(
                reported_usage(&usage, "prompt", "completion"),
                expected,
                "{case}: {usage}"
            );
        }
    }
}
