//! Anthropic's Messages, as claude speaks it. Pure. Requests and answers are passed on as they are.

use axum::http::{HeaderMap, HeaderValue};
use serde_json::{Map, Value, json};

use super::body::{FieldEdit, FieldEdits, RequestBody};
use super::content::{AnswerContent, AnswerResult, NoAnswer, parse};
use super::fields::{kind, list, unpriceable_field, whole};
use super::sse;
use super::usage::Reported;
use crate::error_inside::{error_alone, error_in};

const VERSION: &str = "anthropic-version";
/// The version for agents that name none (<https://docs.anthropic.com/en/api/versioning>).
const DEFAULT_VERSION: HeaderValue = HeaderValue::from_static("2023-06-01");
/// The header that switches on the features that the agent's request uses.
const BETA: &str = "anthropic-beta";
/// The smallest value that providers accept for `thinking.budget_tokens`.
const LEAST_THINKING: u64 = 1024;
/// Fields that make a provider charge for more than tokens, or use data that is not in the request.
pub(super) const UNPRICEABLE: [&str; 3] = ["container", "inference_geo", "mcp_servers"];
/// Anthropic's tools that the agent itself runs, by the beginnings of their types. The provider
/// runs all other tools.
const OWN_TOOLS: [&str; 4] = ["custom", "bash_", "text_editor_", "memory_"];
/// Content whose tokens follow from its size.
const TEXTS: [&str; 7] = [
    "text",
    "thinking",
    "redacted_thinking",
    "tool_use",
    "tool_result",
    "search_result",
    "tool_reference",
];
/// The agent's version and beta features. Without them its request would mean something else.
pub(super) fn headers(headers: &HeaderMap) -> Vec<(&'static str, HeaderValue)> {
    let version = headers.get(VERSION).cloned().unwrap_or(DEFAULT_VERSION);
    let betas = headers
        .get_all(BETA)
        .iter()
        .cloned()
        .map(|value| (BETA, value));
    std::iter::once((VERSION, version)).chain(betas).collect()
}

/// The only query that Anthropic's own clients send.
pub(super) fn query(query: Option<&str>) -> Option<&'static str> {
    query
        .is_some_and(|query| query.split('&').any(|pair| pair == "beta=true"))
        .then_some("beta=true")
}

/// Keeps the budget for thinking below the limit.
pub(super) fn limit_thinking(body: &RequestBody, limit: u64, edits: &mut FieldEdits) {
    const BUDGET: &str = "budget_tokens";
    let thinking = body
        .literal("thinking")
        .and_then(|literal| RequestBody::read(literal.as_bytes()).ok());
    let Some((thinking, fields)) = thinking else {
        return;
    };
    if fields
        .get(BUDGET)
        .and_then(Value::as_u64)
        .is_none_or(|budget| budget < limit)
    {
        return;
    }
    let lowered = if limit > LEAST_THINKING {
        thinking.with(&FieldEdits::from([(
            BUDGET,
            FieldEdit::Set((limit - 1).to_string()),
        )]))
    } else {
        json!({"type": "disabled"}).to_string()
    };
    edits.insert("thinking", FieldEdit::Set(lowered));
}

/// The first part of the request that tokens and the price list do not price.
pub(super) fn unpriceable(fields: &Map<String, Value>) -> Option<String> {
    let listed: [(&str, &[&str]); 2] = [
        ("service_tier", &["auto", "standard_only"]),
        ("speed", &["standard", "normal"]),
    ];
    let edits = fields
        .get("context_management")
        .and_then(|management| management["edits"].as_array());
    // Clearing is part of the call. Compacting is a call of its own, with a usage of its own.
    let edit = || {
        let mut kinds = edits.into_iter().flatten().map(kind);
        let kind = kinds.find(|kind| !kind.starts_with("clear_"))?;
        Some(format!("context_management of type \"{kind}\""))
    };
    let content = |message: &Value| foreign_content(&message["content"]);
    unpriceable_field(fields, &UNPRICEABLE, &listed)
        .or_else(edit)
        .or_else(|| list(fields, "tools").iter().find_map(foreign_tool))
        .or_else(|| list(fields, "messages").iter().find_map(content))
}

fn foreign_tool(tool: &Value) -> Option<String> {
    let kind = kind(tool);
    let own = tool["type"].is_null() || OWN_TOOLS.iter().any(|own| kind.starts_with(own));
    // The provider searches among many tools, within the tokens of the call.
    let own = own || kind.starts_with("tool_search_tool_");
    (!own).then(|| format!("tools of type \"{kind}\""))
}

/// Pictures and documents, whose tokens do not follow from their size, and the results of hosted
/// tools.
fn foreign_content(content: &Value) -> Option<String> {
    content.as_array()?.iter().find_map(|part| {
        let kind = kind(part);
        let of_tool_search = kind == "server_tool_use" || kind == "tool_search_tool_result";
        if !TEXTS.contains(&kind) && !of_tool_search {
            return Some(format!("message content of type \"{kind}\""));
        }
        if kind == "tool_result" {
            foreign_content(&part["content"])
        } else {
            None
        }
    })
}

/// Reads an answer that is not a stream.
pub(super) fn read(body: &[u8]) -> AnswerResult {
    let message: Value = parse(body)?;
    let usage = Reported::of_messages(&message["usage"]);
    let content = message["content"].as_array();
    if kind(&message) == "error" || error_in(&message).is_some() {
        // An answer with neither content nor usage means that no work was done.
        let nothing = content.is_none_or(Vec::is_empty).then(Reported::default);
        return Err((NoAnswer::Failed(message), usage.or(nothing)));
    }
    let content = content.ok_or_else(|| match error_alone(&message) {
        Some(error) => (NoAnswer::Failed(error), usage.or(Some(Reported::default()))),
        None => (NoAnswer::Lacks("content"), usage),
    })?;
    let empty = !content.iter().any(says_something);
    let reason = message["stop_reason"].as_str();
    Ok(AnswerContent::new(usage, reason, empty))
}

/// Reads the events of a stream, from `message_start` to `message_stop`.
pub(super) fn read_stream(body: &[u8]) -> AnswerResult {
    let events = sse::events_of(body)?;
    if let Some(at) = events.iter().position(sse::is_error) {
        return Err((
            NoAnswer::Failed(events[at].clone()),
            used_before_an_error(&events[..at]),
        ));
    }
    let of_kind = |wanted: &'static str| events.iter().filter(move |event| kind(event) == wanted);
    if of_kind("message_start").next().is_none() && !events.is_empty() {
        return Err((NoAnswer::Lacks("message_start"), None));
    }
    if of_kind("message_stop").next().is_none() {
        return Err((NoAnswer::Cut, None));
    }
    let reason = of_kind("message_delta")
        .rev()
        .find_map(|delta| delta["delta"]["stop_reason"].as_str());
    let begins =
        of_kind("content_block_start").any(|event| says_something(&event["content_block"]));
    let goes_on = of_kind("content_block_delta").any(|event| says_something(&event["delta"]));
    let empty = !begins && !goes_on;
    Ok(AnswerContent::new(streamed_usage(&events), reason, empty))
}

/// The usage before an error. None: some output had come, and the provider has not said how much.
fn used_before_an_error(events: &[Value]) -> Option<Reported> {
    let of_kind = |wanted: &str| events.iter().any(|event| kind(event) == wanted);
    if of_kind("content_block_delta") && !of_kind("message_delta") {
        return None;
    }
    Some(streamed_usage(events).unwrap_or_default())
}

/// The counts at the start of the stream, raised by later ones.
fn streamed_usage(events: &[Value]) -> Option<Reported> {
    let start = events.iter().find(|event| kind(event) == "message_start")?;
    let mut counts = start["message"]["usage"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    let deltas = events.iter().filter(|event| kind(event) == "message_delta");
    deltas.for_each(|delta| raise(&mut counts, &delta["usage"]));
    Reported::of_messages(&Value::Object(counts))
}

/// Whether a block of content, or a piece of one, is not empty.
fn says_something(block: &Value) -> bool {
    match kind(block) {
        "text" | "text_delta" => block["text"]
            .as_str()
            .is_some_and(|text| !text.trim().is_empty()),
        "tool_use" => true,
        _other => false,
    }
}

/// Raises the counts. In a stream they only rise.
fn raise(counts: &mut Map<String, Value>, later: &Value) {
    for (name, value) in later.as_object().into_iter().flatten() {
        let so_far = counts.get(name).and_then(whole);
        if whole(value) >= so_far {
            counts.insert(name.clone(), value.clone());
        }
    }
}

#[cfg(test)]
#[path = "messages_tests.rs"]
mod tests;
