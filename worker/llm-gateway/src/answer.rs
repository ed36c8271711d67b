//! A complete answer of a provider, and the part of it that the agent gets. Pure. The rules of each
//! dialect are in `protocol`.

use bytes::Bytes;
use serde_json::Value;

use super::protocol::{AnswerContent, AnswerForm, AnswerResult, chat_events};
use super::request::AgentRequest;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct ProviderAnswer {
    pub(super) content: AnswerContent,
    /// The body is a stream of events.
    stream: bool,
    body: Bytes,
}

impl ProviderAnswer {
    pub(super) fn read(form: AnswerForm, body: &Bytes) -> AnswerResult<Self> {
        Ok(Self {
            content: form.read(body)?,
            stream: form.stream,
            body: body.clone(),
        })
    }

    /// Content type and body for the agent, in the form that it asked for. An answer that is
    /// written anew names the LLM `llm`.
    pub(super) fn for_agent(self, llm: &str, request: &AgentRequest) -> (&'static str, Bytes) {
        let (stream, body) = match self.content.chat {
            None => (self.stream, self.body),
            Some(mut fields) => {
                fields.insert("model".to_owned(), llm.into());
                let body = if request.stream {
                    chat_events(&fields, request.include_usage)
                } else {
                    Value::Object(fields).to_string()
                };
                (request.stream, body.into())
            }
        };
        let content_type = match stream {
            true => "text/event-stream",
            false => "application/json",
        };
        (content_type, body)
    }
}
