//! The contents of an answer. A response with status 200 counts as an answer only if they are
//! complete. Pure.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::ending::Ending;
use super::usage::Reported;

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
    pub(crate) usage: Option<Reported>,
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
    pub(super) fn new(usage: Option<Reported>, finish_reason: Option<&str>, empty: bool) -> Self {
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
pub(crate) type AnswerResult<T = AnswerContent> = Result<T, (NoAnswer, Option<Reported>)>;

pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> AnswerResult<T> {
    serde_json::from_slice(body).map_err(|error| (NoAnswer::Json(error.to_string()), None))
}
