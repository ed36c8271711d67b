//! OpenAI's Responses, as codex speaks it. Pure. Requests and answers are passed on as they are.
//!
//! A conversation that the provider keeps (`previous_response_id`, `conversation`, items by
//! reference) is refused. The gateway cannot know its length, and so its price. The next LLM does
//! not know the conversation.

use serde_json::{Map, Value};

use super::super::answer::{NoAnswer, Reading};
use super::super::error_inside::error_in;
use super::super::pricing::Tokens;
use super::super::request::{Asked, BadRequest, given, list};
use super::{Ending, output_limit, sse};

/// Fields that make a provider read data that is not in the request, or do and charge for more than
/// tokens.
pub(super) const UNPRICEABLE: [&str; 6] = [
    "background",
    "context_management",
    "conversation",
    "previous_response_id",
    "prompt",
    "plugins",
];
/// Tools that the agent itself runs. The provider runs all other tools, for a price of their own.
const OWN_TOOLS: [&str; 4] = ["function", "custom", "local_shell", "apply_patch"];

pub(super) fn check(fields: &Map<String, Value>) -> Result<Asked, BadRequest> {
    let text = fields
        .get("input")
        .and_then(Value::as_str)
        .is_some_and(|text| !text.is_empty());
    if !text && list(fields, "input").is_empty() {
        return Err(BadRequest::Nothing("input"));
    }
    if let Some(field) = unpriceable(fields) {
        return Err(BadRequest::Unpriceable(field));
    }
    Ok(Asked {
        choices: 1,
        max_output: output_limit::asked(fields)?,
        input_surcharge: 0,
    })
}

fn unpriceable(fields: &Map<String, Value>) -> Option<String> {
    if let Some(name) = UNPRICEABLE.into_iter().find(|name| given(fields, name)) {
        return Some(name.to_owned());
    }
    if given(fields, "service_tier") && fields["service_tier"] != "default" {
        return Some("service_tier".to_owned());
    }
    list(fields, "tools")
        .iter()
        .find_map(foreign_tool)
        .or_else(|| list(fields, "input").iter().find_map(foreign_item))
}

fn foreign_tool(tool: &Value) -> Option<String> {
    let kind = tool["type"].as_str().unwrap_or_default();
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
    if item["type"] == "item_reference" {
        return Some("input of type \"item_reference\"".to_owned());
    }
    let parts = [&item["content"], &item["output"]]
        .into_iter()
        .filter_map(Value::as_array)
        .flatten();
    let mut kinds = parts.filter_map(|part| part["type"].as_str());
    let kind = kinds
        .find(|kind| ["input_image", "input_file", "input_audio", "input_video"].contains(kind))?;
    Some(format!("input content of type \"{kind}\""))
}

/// Reads an answer that is not a stream.
pub(super) fn read(body: &[u8]) -> Result<Reading, (NoAnswer, Option<Tokens>)> {
    let response: Value =
        serde_json::from_slice(body).map_err(|error| (NoAnswer::Json(error.to_string()), None))?;
    of_response(&response, &[])
}

/// Reads the events of a stream. The last one contains the whole response.
pub(super) fn read_stream(body: &[u8]) -> Result<Reading, (NoAnswer, Option<Tokens>)> {
    let events = sse::events_of(body)?;
    if let Some(at) = events.iter().position(is_error) {
        let began = events[..at].iter().any(|event| {
            event["type"]
                .as_str()
                .is_some_and(|kind| kind.ends_with(".delta"))
        });
        return Err((
            NoAnswer::Failed(error_of(&events[at])),
            (!began).then(Tokens::default),
        ));
    }
    let is_last = |event: &&Value| {
        matches!(
            event["type"].as_str(),
            Some("response.completed" | "response.incomplete" | "response.failed")
        )
    };
    let last = events
        .iter()
        .rev()
        .find(is_last)
        .ok_or((NoAnswer::Cut, None))?;
    let done = events
        .iter()
        .filter(|event| event["type"] == "response.output_item.done");
    of_response(
        &last["response"],
        &done.map(|event| event["item"].clone()).collect::<Vec<_>>(),
    )
}

fn is_error(event: &Value) -> bool {
    event["type"] == "error" || (event["type"].is_null() && error_in(event).is_some())
}

/// The error of an event. OpenAI writes its fields into the event itself, others into an object
/// `error`.
fn error_of(event: &Value) -> Value {
    error_in(event).unwrap_or_else(|| serde_json::json!({"error": event}))
}

/// Reads a response. `streamed` are the earlier items, for providers that do not repeat them at the
/// end.
fn of_response(
    response: &Value,
    streamed: &[Value],
) -> Result<Reading, (NoAnswer, Option<Tokens>)> {
    let usage = usage(&response["usage"]);
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
            usage.or_else(|| items().next().is_none().then(Tokens::default)),
        )
    };
    if let Some(error) = error_in(response) {
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
    let (ending, empty) = (Ending::of(Some(finish_reason)), items().all(is_empty));
    Ok(Reading {
        usage,
        finish_reason: Some(finish_reason.to_owned()),
        ending,
        empty,
        chat: None,
    })
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

/// Reads a usage. Its `output_tokens` includes hidden reasoning.
fn usage(usage: &Value) -> Option<Tokens> {
    let input = usage["input_tokens"].as_u64()?;
    let output = usage["output_tokens"].as_u64()?;
    let beyond_input = usage["total_tokens"]
        .as_u64()
        .map_or(0, |total| total.saturating_sub(input));
    let cached = usage["input_tokens_details"]["cached_tokens"]
        .as_u64()
        .unwrap_or(0);
    Some(Tokens {
        input,
        cached_input: cached.min(input),
        output: output.max(beyond_input),
        surcharge: 0,
    })
}

#[cfg(test)]
#[path = "responses_tests.rs"]
mod tests;
