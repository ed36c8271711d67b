//! The dialects in which agents ask and providers answer. Pure.
//!
//! Each dialect has a file for the parts of its requests that decide the price, and for its
//! answers. The limit of the output is in `output_limit`. Requests are passed on as they came.
//! Answers of chat completions are written anew. Answers of Responses and Messages are passed on,
//! because agents that speak them depend on every field.

mod chat;
mod chat_answer;
mod chat_stream;
mod ending;
mod messages;
mod output_limit;
mod responses;
mod scan;
mod sse;

use std::fmt;

use axum::http::{HeaderMap, HeaderValue};
use pool_core::pool::OutputLimitField;
use serde_json::{Map, Value};

pub(super) use chat_answer::ChatAnswer;
pub(super) use chat_stream::events;
pub(super) use ending::Ending;
pub(super) use output_limit::NAMES as LIMIT_NAMES;
pub(super) use scan::Scanner;

use self::output_limit::{MAX_OUTPUT_TOKENS, MAX_TOKENS};
use super::answer::{NoAnswer, Reading};
use super::body::{Body, Changes};
use super::pricing::Tokens;
use super::request::{Asked, BadRequest};

/// The dialect that an agent speaks.
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

/// The field of a chat-completions request in which an LLM takes its output limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LimitField {
    /// The agent's own field if it set a limit, or else this one.
    Usually(OutputLimitField),
    /// Only this field, because a refusal or the pool file says so.
    Only(OutputLimitField),
}

impl LimitField {
    /// The field's name for a request that has no limit of its own.
    pub(super) fn usual(self) -> &'static str {
        match self {
            Self::Usually(field) | Self::Only(field) => field.as_str(),
        }
    }
}

/// The parts of a request that go to the provider beside the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Envelope {
    pub(super) dialect: Dialect,
    pub(super) headers: Vec<(&'static str, HeaderValue)>,
    pub(super) query: Option<&'static str>,
}

impl Envelope {
    /// Reads the headers and the query of the agent's request. It keeps only the parts that the
    /// dialect needs.
    pub(super) fn read(dialect: Dialect, headers: &HeaderMap, query: Option<&str>) -> Self {
        let (headers, query) = match dialect {
            Dialect::Chat | Dialect::Responses => (Vec::new(), None),
            Dialect::Messages => (messages::headers(headers), messages::query(query)),
        };
        Self {
            dialect,
            headers,
            query,
        }
    }
}

impl From<Dialect> for pool_core::llm::Dialect {
    fn from(dialect: Dialect) -> Self {
        match dialect {
            Dialect::Chat => Self::Chat,
            Dialect::Responses => Self::Responses,
            Dialect::Messages => Self::Messages,
        }
    }
}

impl From<pool_core::llm::Dialect> for Dialect {
    fn from(dialect: pool_core::llm::Dialect) -> Self {
        match dialect {
            pool_core::llm::Dialect::Chat => Self::Chat,
            pool_core::llm::Dialect::Responses => Self::Responses,
            pool_core::llm::Dialect::Messages => Self::Messages,
        }
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
    /// Whether providers are asked for a stream if the agent asked for one. The gateway makes the
    /// events of chat completions itself. For the others it keeps the provider's own events.
    pub(super) fn streams(self) -> bool {
        match self {
            Self::Chat => false,
            Self::Responses | Self::Messages => true,
        }
    }

    /// The contents of a request, if it can be priced.
    pub(super) fn check(self, fields: &Map<String, Value>) -> Result<Asked, BadRequest> {
        match self {
            Self::Chat => chat::check(fields),
            Self::Responses => responses::check(fields),
            Self::Messages => messages::check(fields),
        }
    }

    /// The changes after which the request has one output limit: `told`, the gateway's, or else the
    /// agent's own.
    pub(super) fn limit(
        self,
        body: &Body,
        told: Option<u64>,
        own: Option<u64>,
        chat_field: LimitField,
    ) -> Changes {
        let mut changes = Changes::new();
        let limit = told.or(own);
        match self {
            Self::Chat => output_limit::write(
                body,
                limit,
                chat::limit_field(body, chat_field).as_str(),
                &mut changes,
            ),
            Self::Responses => output_limit::write(body, limit, MAX_OUTPUT_TOKENS, &mut changes),
            Self::Messages => {
                output_limit::write(body, limit, MAX_TOKENS, &mut changes);
                if let Some(told) = told {
                    messages::limit_thinking(body, told, &mut changes);
                }
            }
        }
        changes
    }

    /// Which of the two fields of chat completions carries the limit to a provider.
    pub(super) fn limit_field(
        self,
        body: &Body,
        chat_field: LimitField,
    ) -> Option<OutputLimitField> {
        match self {
            Self::Chat => Some(chat::limit_field(body, chat_field)),
            Self::Responses | Self::Messages => None,
        }
    }

    /// Whether the gateway reads or changes the member with this name.
    pub(super) fn acts_on(self, name: &str) -> bool {
        const EVERYWHERE: [&str; 9] = [
            "input",
            "messages",
            "modalities",
            "model",
            "n",
            "service_tier",
            "stream",
            "stream_options",
            "tools",
        ];
        let unpriceable: &[&str] = match self {
            Self::Chat => &chat::UNPRICEABLE,
            Self::Responses => &responses::UNPRICEABLE,
            Self::Messages => &messages::UNPRICEABLE,
        };
        EVERYWHERE.contains(&name)
            || output_limit::NAMES.contains(&name)
            || unpriceable.contains(&name)
    }
}

impl Form {
    /// Reads an answer, if it is complete.
    ///
    /// # Errors
    /// Why the answer does not count, and the usage that the provider reports nevertheless.
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
