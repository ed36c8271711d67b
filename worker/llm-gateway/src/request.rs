//! The agent's request: read, checked for parts that cannot be priced, and edited for a provider.
//! Pure. The rules of each dialect are in `protocol`; `body` keeps the bytes as they came.

use serde_json::{Map, Value};

use super::body::{Body, Change};
use super::estimate::{self, Estimate};
use super::lesson::Refused;
use super::pricing::Demand;
use super::protocol::{Envelope, Form, LimitField};

/// A request that is not passed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadRequest {
    #[error("the request is not a JSON object: {0}")]
    Json(String),
    #[error("`{0}` cannot be priced; send the request without it")]
    Unpriceable(String),
    #[error("`{0}` must be a positive whole number")]
    Number(&'static str),
    #[error("`{0}` must be true or false")]
    Flag(&'static str),
    #[error("`{0}` is not spelled as providers document it; write it in lower case")]
    Spelling(String),
    #[error("`{0}` must be a list that is not empty")]
    Nothing(&'static str),
}

/// The contents of a request, apart from its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) choices: u64,
    pub(super) max_output: Option<u64>,
    /// By how many percent input may cost more than its price.
    pub(super) input_surcharge: u64,
}

/// A request that can be priced.
#[derive(Debug, Clone)]
pub(super) struct AgentRequest {
    pub(super) envelope: Envelope,
    body: Body,
    pub(super) demand: Demand,
    /// The agent wants server-sent events.
    pub(super) stream: bool,
    pub(super) include_usage: bool,
}

impl AgentRequest {
    pub(super) fn read(envelope: Envelope, bytes: &[u8]) -> Result<Self, BadRequest> {
        let (body, fields) = Body::read(bytes)?;
        if let Some(name) = body.look_alike(|name| envelope.dialect.acts_on(name)) {
            return Err(BadRequest::Spelling(name.to_owned()));
        }
        let Asked {
            choices,
            max_output,
            input_surcharge,
        } = envelope.dialect.check(&fields)?;
        let stream = match fields.get("stream") {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::Bool(true)) => true,
            Some(Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_)) => {
                return Err(BadRequest::Flag("stream"));
            }
        };
        let include_usage = fields
            .get("stream_options")
            .is_some_and(|options| options["include_usage"] == true);
        let (input, likely_input) = prompt(body.text(), &fields);
        let bytes = bytes.len() as u64;
        let demand = Demand {
            bytes,
            input,
            likely_input,
            choices,
            max_output,
            most_output: None,
            input_surcharge,
        };
        Ok(Self {
            envelope,
            body,
            demand,
            stream,
            include_usage,
        })
    }

    /// The form in which the provider answers.
    pub(super) fn form(&self) -> Form {
        let dialect = self.envelope.dialect;
        Form {
            dialect,
            stream: self.stream && dialect.streams(),
        }
    }

    /// The body for a provider: the agent's bytes with the provider's own name for the model, and
    /// one output limit. That is the gateway's (`told`) or else the agent's. Streaming is switched
    /// off if its events are not passed on.
    pub(super) fn for_provider(
        &self,
        model: &str,
        told: Option<u64>,
        chat_field: LimitField,
    ) -> Vec<u8> {
        let dialect = self.envelope.dialect;
        let mut changes = dialect.limit(&self.body, told, self.demand.max_output, chat_field);
        changes.insert("model", Change::Set(Value::from(model).to_string()));
        if !dialect.streams() {
            changes.insert("stream", Change::Set("false".to_owned()));
            if self.stream {
                changes.insert("stream_options", Change::Remove);
            }
        }
        self.body.with(&changes).into_bytes()
    }

    /// The limit that [`Self::for_provider`] sends. It is needed to read a refusal.
    pub(super) fn limit(&self, told: Option<u64>, chat_field: LimitField) -> Option<Refused> {
        let limit = told.or(self.demand.max_output)?;
        Some(Refused {
            limit,
            field: self.envelope.dialect.limit_field(&self.body, chat_field),
        })
    }
}

/// A provider adds instructions for calling tools (Anthropic documents up to 530 tokens). It adds
/// less around each message than the message's JSON counts for.
const TOOLS_FRAME: u64 = 600;
/// A provider adds its own description of a tool that it knows (Anthropic documents up to 700
/// tokens).
const KNOWN_TOOL: u64 = 1_000;
/// The usual density of prompts.
const BYTES_PER_TOKEN: u64 = 4;

/// The tokens of a prompt: an upper estimate, and the usual number.
pub(super) fn prompt(text: &str, fields: &Map<String, Value>) -> (u64, u64) {
    let Estimate { tokens, bytes } = estimate::of_json(text);
    let tools = list(fields, "tools");
    let is_known = |tool: &&Value| {
        !matches!(
            tool["type"].as_str(),
            None | Some("function" | "custom" | "namespace")
        )
    };
    let added = match tools.iter().filter(is_known).count() as u64 {
        _none if tools.is_empty() => 0,
        known => TOOLS_FRAME + known * KNOWN_TOOL,
    };
    (tokens + added, tokens.min(bytes / BYTES_PER_TOKEN))
}

pub(super) fn positive(
    fields: &Map<String, Value>,
    name: &'static str,
) -> Result<Option<u64>, BadRequest> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => whole(value)
            .filter(|number| *number > 0)
            .map(Some)
            .ok_or(BadRequest::Number(name)),
    }
}

/// A whole number, also if it is written as a float (`100.0`). Numbers beyond 64 bits count as the
/// largest one.
fn whole(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        value
            .as_f64()
            .filter(|float| *float >= 0.0 && float.fract() == 0.0)
            .map(|float| float as u64)
    })
}

/// Whether a field is set and asks for something.
pub(super) fn given(fields: &Map<String, Value>, name: &str) -> bool {
    fields
        .get(name)
        .is_some_and(|value| !value.is_null() && value != false)
}

/// The elements of a field's list; empty if the field is not a list.
pub(super) fn list<'a>(fields: &'a Map<String, Value>, name: &str) -> &'a [Value] {
    fields
        .get(name)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}
