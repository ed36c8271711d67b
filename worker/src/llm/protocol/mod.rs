//! The dialects in which agents ask and providers answer. Pure.
//!
//! A dialect has a file: what in its requests decides about the price, how it says a limit of the output, when an
//! answer of it is complete, what the answer used. Chat completions are read and written again; Responses and Messages
//! are passed on as they came, because agents that speak them depend on every field.

mod chat;
mod chat_answer;
mod chat_stream;
mod ending;
mod messages;
mod responses;
mod scan;
mod sse;

use std::fmt;

use axum::http::{HeaderMap, HeaderValue};
use serde_json::{Map, Value};

pub(super) use chat_answer::ChatAnswer;
pub(super) use chat_stream::events;
pub(super) use ending::Ending;
pub(super) use scan::Scanner;

use super::answer::{NoAnswer, Reading};
use super::pricing::Tokens;
use super::request::{Asked, BadRequest};

/// How an agent speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// OpenAI's `POST /v1/chat/completions`.
    Chat,
    /// OpenAI's `POST /v1/responses`.
    Responses,
    /// Anthropic's `POST /v1/messages`.
    Messages,
}

/// The dialect of an answer, and whether it comes as an event stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) dialect: Dialect,
    pub(super) stream: bool,
}

/// What goes to the provider beside the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Envelope {
    pub(super) dialect: Dialect,
    pub(super) headers: Vec<(&'static str, HeaderValue)>,
    pub(super) query: Option<&'static str>,
}

impl Envelope {
    /// From the headers and the query of the agent's request: what the dialect needs of them, and nothing else.
    pub(super) fn read(dialect: Dialect, headers: &HeaderMap, query: Option<&str>) -> Self {
        let (headers, query) = match dialect {
            Dialect::Chat | Dialect::Responses => (Vec::new(), None),
            Dialect::Messages => (messages::headers(headers), messages::query(query)),
        };
        Self { dialect, headers, query }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chat => "chat completions",
            Self::Responses => "Responses",
            Self::Messages => "Messages",
        })
    }
}

impl Dialect {
    /// Whether providers are asked for a stream when the agent asked for one. Chat completions are turned into events
    /// here; of the others the provider's own events are kept.
    pub(super) fn streams(self) -> bool {
        match self {
            Self::Chat => false,
            Self::Responses | Self::Messages => true,
        }
    }

    /// What the request asks for, when it can be priced.
    pub(super) fn check(self, fields: &Map<String, Value>) -> Result<Asked, BadRequest> {
        match self {
            Self::Chat => chat::check(fields),
            Self::Responses => responses::check(fields),
            Self::Messages => messages::check(fields),
        }
    }

    /// Writes a limit of the output into the request; `chat_field` is the provider's name for it in chat completions.
    pub(super) fn limit(self, fields: &mut Map<String, Value>, limit: u64, chat_field: &str) {
        match self {
            Self::Chat => chat::limit(fields, limit, chat_field),
            Self::Responses => responses::limit(fields, limit),
            Self::Messages => messages::limit(fields, limit),
        }
    }
}

impl Form {
    /// What an answer says, when it is a complete one.
    ///
    /// # Errors
    /// Why it is none, and what the provider says it used all the same.
    pub(super) fn read(self, body: &[u8]) -> Result<Reading, (NoAnswer, Option<Tokens>)> {
        match (self.dialect, self.stream) {
            (Dialect::Chat, _) => chat_answer::read(body),
            (Dialect::Responses, false) => responses::read(body),
            (Dialect::Responses, true) => responses::read_stream(body),
            (Dialect::Messages, false) => messages::read(body),
            (Dialect::Messages, true) => messages::read_stream(body),
        }
    }
}
