//! The agent's request: read, checked for parts that cannot be priced, and edited for a provider.
//! Pure. The rules of each dialect are in `protocol`; `body` keeps the bytes as they came.

use serde_json::{Map, Value};

use super::estimate::{self, Estimate};
use super::lesson::RefusedLimit;
use super::pricing::Demand;
use super::protocol::{
    self, AnswerForm, BadRequest, FieldEdit, LimitField, PriceFactors, RequestBody, RequestHead,
    list,
};

/// A request that can be priced.
#[derive(Debug, Clone)]
pub(super) struct AgentRequest {
    pub(super) head: RequestHead,
    body: RequestBody,
    pub(super) demand: Demand,
    /// The agent wants server-sent events.
    pub(super) stream: bool,
    pub(super) include_usage: bool,
}

/// How a provider takes a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    /// The field for the output limit in chat completions.
    pub(super) limit_field: LimitField,
    /// It knows `service_tier: default`, which stands for its standard price.
    pub(super) asks_for_standard_tier: bool,
}

impl AgentRequest {
    pub(super) fn read(head: RequestHead, bytes: &[u8]) -> Result<Self, BadRequest> {
        let (body, fields) = RequestBody::read(bytes)?;
        if let Some(name) = body.look_alike(|name| protocol::acts_on(head.dialect, name)) {
            return Err(BadRequest::Spelling(name.to_owned()));
        }
        let PriceFactors {
            choices,
            max_output,
            writes,
        } = protocol::check(head.dialect, &fields)?;
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
        // The provider itself takes parts of such a prompt out, or counts a tool only when it is used.
        let shrinks = protocol::given(&fields, "context_management")
            || body.text().contains("\"defer_loading\"");
        let least_input = if shrinks { 0 } else { least(likely_input) };
        let demand = Demand {
            bytes,
            input,
            likely_input,
            choices,
            max_output,
            most_output: None,
            writes,
            least_input,
        };
        Ok(Self {
            head,
            body,
            demand,
            stream,
            include_usage,
        })
    }

    /// The form in which the provider answers.
    pub(super) fn form(&self) -> AnswerForm {
        let dialect = self.head.dialect;
        AnswerForm {
            dialect,
            stream: self.stream && protocol::streams(dialect),
        }
    }

    /// The body for a provider: the agent's bytes with the provider's own name for the model, and
    /// one output limit. That is the gateway's (`told`) or else the agent's. Streaming is switched
    /// off if its events are not passed on.
    pub(super) fn for_provider(&self, model: &str, told: Option<u64>, terms: Terms) -> Vec<u8> {
        let dialect = self.head.dialect;
        let own = self.demand.max_output;
        let mut edits = protocol::limit(dialect, &self.body, told, own, terms.limit_field);
        edits.insert("model", FieldEdit::Set(Value::from(model).to_string()));
        // Without the field, OpenAI serves a call as the settings of the account say.
        if terms.asks_for_standard_tier && protocol::has_service_tiers(dialect) {
            let tier = FieldEdit::Set("\"default\"".to_owned());
            edits.insert("service_tier", tier);
        }
        if !protocol::streams(dialect) {
            edits.insert("stream", FieldEdit::Set("false".to_owned()));
            if self.stream {
                edits.insert("stream_options", FieldEdit::Remove);
            }
        }
        self.body.with(&edits).into_bytes()
    }

    /// The limit that [`Self::for_provider`] sends. It is needed to read a refusal.
    pub(super) fn limit(&self, told: Option<u64>, chat_field: LimitField) -> Option<RefusedLimit> {
        let limit = told.or(self.demand.max_output)?;
        Some(RefusedLimit {
            limit,
            field: protocol::limit_field(self.head.dialect, &self.body, chat_field),
        })
    }
}

/// The tokens below which the prompt must have been cut. Text with many tokens of one word or many spaces has fewer tokens
/// than usual, but not a quarter. A short prompt proves nothing.
fn least(likely_input: u64) -> u64 {
    const LONG: u64 = 4_096;
    if likely_input < LONG {
        0
    } else {
        likely_input / 4
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
