//! OpenAI's Responses, as codex speaks it. Pure. Requests and answers are passed on as they are.
//!
//! A conversation that the provider keeps (`previous_response_id`, `conversation`, items by
//! reference) is refused. The gateway cannot know its length, and so its price. The next LLM does
//! not know the conversation.

use serde_json::{Map, Value};

use super::content::{AnswerContent, AnswerResult, NoAnswer, parse};
use super::fields::{kind, list, unpriceable_field};
use super::sse;
use super::usage::Reported;
use crate::error_inside::{error_alone, error_in};

/// Fields that make a provider read data that is not in the request, or do and charge for more than
/// tokens.
pub(super) const UNPRICEABLE: [&str; 5] = [
    "background",
    "context_management",
    "conversation",
    "previous_response_id",
    "prompt",
];
/// Tools that the agent itself runs. The provider runs all other tools, for a price of their own.
const OWN_TOOLS: [&str; 4] = ["function", "custom", "local_shell", "apply_patch"];

/// The first part of the request that tokens and the price list do not price.
pub(super) fn unpriceable(fields: &Map<String, Value>) -> Option<String> {
    unpriceable_field(fields, &UNPRICEABLE, &[("service_tier", &["default"])])
        .or_else(|| list(fields, "tools").iter().find_map(foreign_tool))
        .or_else(|| list(fields, "input").iter().find_map(foreign_item))
}

fn foreign_tool(tool: &Value) -> Option<String> {
    let kind = kind(tool);
    let own = match kind {
        "namespace" => {
            return tool["tools"]
                .as_array()
                .into_iter()
                .flatten()
                .find_map(foreign_tool);
        }
        "tool_search" => tool["execution"] == "client",
        "shell" => tool["environment"]["type"] == "local",
        kind => OWN_TOOLS.contains(&kind),
    };
    (!own).then(|| format!("tools of type \"{kind}\""))
}

/// References, whose length is unknown, and pictures and files, whose tokens do not follow from
/// their size.
fn foreign_item(item: &Value) -> Option<String> {
    if kind(item) == "item_reference" {
        return Some("input of type \"item_reference\"".to_owned());
    }
    let parts = [&item["content"], &item["output"]]
        .into_iter()
        .filter_map(Value::as_array)
        .flatten();
    let kind = parts
        .map(kind)
        .find(|kind| ["input_image", "input_file", "input_audio", "input_video"].contains(kind))?;
    Some(format!("input content of type \"{kind}\""))
}

/// Reads an answer that is not a stream.
pub(super) fn read(body: &[u8]) -> AnswerResult {
    of_response(&parse(body)?, &[])
}

/// Reads the events of a stream. The last one contains the whole response.
pub(super) fn read_stream(body: &[u8]) -> AnswerResult {
    let events = sse::events_of(body)?;
    if let Some(at) = events.iter().position(sse::is_error) {
        let began = events[..at]
            .iter()
            .any(|event| kind(event).ends_with(".delta"));
        return Err((
            NoAnswer::Failed(error_of(&events[at])),
            (!began).then(Reported::default),
        ));
    }
    const LAST: [&str; 3] = [
        "response.completed",
        "response.incomplete",
        "response.failed",
    ];
    let last = events
        .iter()
        .rfind(|event| LAST.contains(&kind(event)))
        .ok_or((NoAnswer::Cut, None))?;
    let done = events
        .iter()
        .filter(|event| kind(event) == "response.output_item.done");
    of_response(
        &last["response"],
        &done.map(|event| event["item"].clone()).collect::<Vec<_>>(),
    )
}

/// The error of an event. OpenAI writes its fields into the event itself, others into an object
/// `error`.
fn error_of(event: &Value) -> Value {
    error_in(event).unwrap_or_else(|| serde_json::json!({"error": event}))
}

/// Reads a response. `streamed` are the earlier items, for providers that do not repeat them at the
/// end.
fn of_response(response: &Value, streamed: &[Value]) -> AnswerResult {
    // Its `output_tokens` includes hidden reasoning.
    let usage = response.as_object().and_then(Reported::of_openai);
    let items = || {
        response["output"]
            .as_array()
            .into_iter()
            .flatten()
            .chain(streamed)
    };
    // A response with neither an item nor usage means that no work was done.
    let failed = |error: Value| {
        (
            NoAnswer::Failed(error),
            usage.or_else(|| items().next().is_none().then(Reported::default)),
        )
    };
    if let Some(error) = error_in(response) {
        return Err(failed(error));
    }
    if !response["output"].is_array()
        && let Some(error) = error_alone(response)
    {
        return Err(failed(error));
    }
    let finish_reason = match response["status"].as_str() {
        Some("completed") => "completed",
        Some("incomplete") => response["incomplete_details"]["reason"]
            .as_str()
            .unwrap_or("incomplete"),
        Some("failed" | "cancelled") => return Err(failed(response.clone())),
        Some(_) | None => return Err((NoAnswer::Lacks("status"), usage)),
    };
    if !response["output"].is_array() {
        return Err((NoAnswer::Lacks("output"), usage));
    }
    let empty = items().all(is_empty);
    Ok(AnswerContent::new(usage, Some(finish_reason), empty))
}

/// True if an item has neither text nor a call.
fn is_empty(item: &Value) -> bool {
    match item["type"].as_str() {
        Some("message") => item["content"]
            .as_array()
            .into_iter()
            .flatten()
            .all(|part| {
                let text = part["text"]
                    .as_str()
                    .or(part["refusal"].as_str())
                    .unwrap_or_default();
                text.trim().is_empty()
            }),
        Some("reasoning") | None => true,
        Some(_) => false,
    }
}

#[cfg(test)]
#[path = "responses_tests.rs"]
mod tests;
