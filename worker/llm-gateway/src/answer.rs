//! A complete answer of a provider: what a response with status 200 must contain to count as one,
//! and the part that the agent gets. Pure. The rules of each dialect are in `protocol`.

use bytes::Bytes;
use serde_json::Value;

use super::pricing::Tokens;
use super::protocol::{ChatAnswer, Ending, Form, events};
use super::request::AgentRequest;

/// Why a body is not an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoAnswer {
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
    #[error("{}", said(.0))]
    Failed(Value),
    /// A stream without its last event.
    #[error("the stream ended before the answer was complete")]
    Cut,
    #[error("the answer has no `{0}`")]
    Lacks(&'static str),
}

fn said(error: &Value) -> String {
    error["error"]["message"]
        .as_str()
        .map_or_else(|| error.to_string(), str::to_owned)
}

/// The contents of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reading {
    pub(super) usage: Option<Tokens>,
    /// As the provider sent it.
    pub(super) finish_reason: Option<String>,
    pub(super) ending: Ending,
    /// Neither text nor tool calls.
    pub(super) empty: bool,
    /// Chat completions are written anew; all other answers are passed on byte for byte.
    pub(super) chat: Option<ChatAnswer>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    form: Form,
    reading: Reading,
    body: Bytes,
}

impl Answer {
    /// # Errors
    /// [`NoAnswer`], and the usage that the provider reports nevertheless.
    pub(super) fn read(form: Form, body: &Bytes) -> Result<Self, (NoAnswer, Option<Tokens>)> {
        Ok(Self {
            form,
            reading: form.read(body)?,
            body: body.clone(),
        })
    }

    pub(super) fn usage(&self) -> Option<Tokens> {
        self.reading.usage
    }

    pub(super) fn finish_reason(&self) -> Option<String> {
        self.reading.finish_reason.clone()
    }

    pub(super) fn ending(&self) -> Ending {
        self.reading.ending
    }

    pub(super) fn is_empty(&self) -> bool {
        self.reading.empty
    }

    /// Replaces the LLM's name by our own, in an answer that is written anew.
    pub(super) fn named(mut self, llm: &str) -> Self {
        self.reading.chat = self.reading.chat.map(|chat| chat.named(llm));
        self
    }

    /// Content type and body for the agent, in the form that it asked for.
    pub(super) fn for_agent(self, request: &AgentRequest) -> (&'static str, Bytes) {
        const JSON: &str = "application/json";
        const EVENTS: &str = "text/event-stream";
        match self.reading.chat {
            Some(chat) if request.stream => (EVENTS, events(&chat, request.include_usage).into()),
            Some(chat) => (JSON, chat.into_body().into()),
            None if self.form.stream => (EVENTS, self.body),
            None => (JSON, self.body),
        }
    }
}
