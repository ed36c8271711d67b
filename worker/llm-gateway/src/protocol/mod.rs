//! The dialects in which agents ask and providers answer. Pure.
//!
//! Each dialect has a file for the parts of its requests that decide the price, and for its
//! answers. The limit of the output is in `output_limit`. Requests are passed on as they came.
//! Answers of chat completions are written anew. Answers of Responses and Messages are passed on,
//! because agents that speak them depend on every field.

mod body;
mod chat;
mod chat_answer;
mod chat_stream;
mod content;
mod ending;
mod fields;
mod messages;
mod output_limit;
mod responses;
mod scan;
mod sse;
mod usage;

use axum::http::{HeaderMap, HeaderValue};
use pool_core::llm::Dialect;
use pool_core::pool::OutputLimitField;
use pool_core::price::CacheWrites;
use serde_json::{Map, Value};

pub(super) use body::{FieldEdit, FieldEdits, RequestBody};
pub(super) use chat_stream::chat_events;
pub(super) use content::{AnswerContent, AnswerResult, NoAnswer};
pub(super) use ending::Ending;
pub(super) use fields::{BadRequest, PriceFactors, given, list};
pub(super) use output_limit::{LIMIT_NAMES, LimitField};
pub(super) use scan::Scanner;
pub(super) use usage::Reported;

use fields::ROUTING;
use output_limit::{MAX_OUTPUT_TOKENS, MAX_TOKENS};

/// The dialect of an answer, and whether it comes as an event stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AnswerForm {
    pub(super) dialect: Dialect,
    pub(super) stream: bool,
}

impl AnswerForm {
    /// Reads an answer, if it is complete.
    pub(super) fn read(self, body: &[u8]) -> AnswerResult {
        match (self.dialect, self.stream) {
            (Dialect::Chat, _) => chat_answer::read(body),
            (Dialect::Responses, false) => responses::read(body),
            (Dialect::Responses, true) => responses::read_stream(body),
            (Dialect::Messages, false) => messages::read(body),
            (Dialect::Messages, true) => messages::read_stream(body),
        }
    }
}

/// The parts of a request that go to the provider beside the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RequestHead {
    pub(super) dialect: Dialect,
    pub(super) headers: Vec<(&'static str, HeaderValue)>,
    pub(super) query: Option<&'static str>,
}

impl RequestHead {
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

/// The dialect's name, for people.
pub(super) fn name(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Chat => "chat completions",
        Dialect::Responses => "Responses",
        Dialect::Messages => "Messages",
    }
}

/// Whether providers are asked for a stream if the agent asked for one. The gateway makes the
/// events of chat completions itself. For the others it keeps the provider's own events.
pub(super) fn streams(dialect: Dialect) -> bool {
    match dialect {
        Dialect::Chat => false,
        Dialect::Responses | Dialect::Messages => true,
    }
}

/// Whether `service_tier: default` asks for the standard price in this dialect.
pub(super) fn has_service_tiers(dialect: Dialect) -> bool {
    match dialect {
        Dialect::Chat | Dialect::Responses => true,
        Dialect::Messages => false,
    }
}

/// The parts of a request that decide its price, if it can be priced.
pub(super) fn check(
    dialect: Dialect,
    fields: &Map<String, Value>,
) -> Result<PriceFactors, BadRequest> {
    let is_text = |name| {
        fields
            .get(name)
            .and_then(Value::as_str)
            .is_some_and(|text| !text.is_empty())
    };
    let (conversation, is_text, unpriceable) = match dialect {
        Dialect::Chat => ("messages", false, chat::unpriceable(fields)),
        Dialect::Responses => ("input", is_text("input"), responses::unpriceable(fields)),
        Dialect::Messages => ("messages", false, messages::unpriceable(fields)),
    };
    if !is_text && list(fields, conversation).is_empty() {
        return Err(BadRequest::Nothing(conversation));
    }
    if let Some(name) = fields::routing_field(fields) {
        return Err(BadRequest::Routing(name));
    }
    if let Some(part) = unpriceable {
        return Err(BadRequest::Unpriceable(part));
    }
    let asked = fields::cache_writes(fields);
    // Providers of OpenAI's dialects write into their caches without being asked.
    let (choices, writes) = match dialect {
        Dialect::Chat => (chat::choices(fields)?, asked.max(CacheWrites::Short)),
        Dialect::Responses => (1, asked.max(CacheWrites::Short)),
        Dialect::Messages => (1, asked),
    };
    Ok(PriceFactors {
        choices,
        max_output: output_limit::asked(fields)?,
        writes,
    })
}

/// The edits after which the request has one output limit: `told`, the gateway's, or else the
/// agent's own.
pub(super) fn limit(
    dialect: Dialect,
    body: &RequestBody,
    told: Option<u64>,
    own: Option<u64>,
    chat_field: LimitField,
) -> FieldEdits {
    let name = match dialect {
        Dialect::Chat => chat::limit_field(body, chat_field).as_str(),
        Dialect::Responses => MAX_OUTPUT_TOKENS,
        Dialect::Messages => MAX_TOKENS,
    };
    let mut edits = output_limit::write(body, told.or(own), name);
    if let (Dialect::Messages, Some(told)) = (dialect, told) {
        messages::limit_thinking(body, told, &mut edits);
    }
    edits
}

/// Which of the two fields of chat completions carries the limit to a provider.
pub(super) fn limit_field(
    dialect: Dialect,
    body: &RequestBody,
    chat_field: LimitField,
) -> Option<OutputLimitField> {
    match dialect {
        Dialect::Chat => Some(chat::limit_field(body, chat_field)),
        Dialect::Responses | Dialect::Messages => None,
    }
}

/// Whether the gateway reads or changes the member with this name.
pub(super) fn acts_on(dialect: Dialect, name: &str) -> bool {
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
    let unpriceable: &[&str] = match dialect {
        Dialect::Chat => &chat::UNPRICEABLE,
        Dialect::Responses => &responses::UNPRICEABLE,
        Dialect::Messages => &messages::UNPRICEABLE,
    };
    [&EVERYWHERE, &LIMIT_NAMES[..], &ROUTING, unpriceable]
        .iter()
        .any(|names| names.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_that_routers_act_on_are_refused_by_name_in_every_dialect() {
        for dialect in [Dialect::Chat, Dialect::Responses, Dialect::Messages] {
            let usual =
                json!({"model": "m", "input": "x", "messages": [{"role": "user", "content": "x"}]});
            let fields = usual.as_object().cloned().unwrap_or_default();
            assert!(check(dialect, &fields).is_ok(), "{}", name(dialect));
            for field in ROUTING {
                let mut fields = fields.clone();
                fields.insert(field.to_owned(), json!({"to": "dear/model"}));
                let message = check(dialect, &fields).expect_err(field).to_string();
                assert!(message.contains(&format!("`{field}`")), "{message}");
                fields.insert(field.to_owned(), Value::Null);
                assert!(check(dialect, &fields).is_ok(), "null asks for nothing");
                assert!(
                    acts_on(dialect, field),
                    "{field}: another spelling is refused"
                );
            }
        }
    }
}
