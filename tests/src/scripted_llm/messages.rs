//! Anthropic's Messages, from the provider's side. Pure.

use serde_json::{Value, json};

use super::answer::Fail;
use super::render::PIECE_CHARS;
use super::script::{ChatRequest, text};
use super::turn::{Conversation, Turn};

pub(super) fn read(body: &Value) -> Conversation {
    let messages = body["messages"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let holds = |message: &Value, kind: &str| {
        message["content"]
            .as_array()
            .is_some_and(|parts| parts.iter().any(|part| part["type"] == kind))
    };
    // Text that claude itself adds to tool results is not a prompt.
    let of_user = messages
        .iter()
        .filter(|message| message["role"] == "user" && !holds(message, "tool_result"));
    let tools = body["tools"].as_array().into_iter().flatten();
    Conversation {
        request: ChatRequest {
            model: body["model"].as_str().unwrap_or_default().to_owned(),
            stream: body["stream"] == true,
            include_usage: true,
            user_messages: of_user.map(|message| text(&message["content"])).collect(),
            prompt_chars: body["messages"].to_string().chars().count(),
        },
        tools: tools
            .filter_map(|tool| tool["name"].as_str())
            .map(str::to_owned)
            .collect(),
        rounds: messages
            .iter()
            .filter(|message| holds(message, "tool_use"))
            .count(),
    }
}

fn content(conversation: &Conversation, turn: &Turn) -> Vec<Value> {
    let round = conversation.rounds;
    let text = (!turn.text.is_empty()).then(|| json!({"type": "text", "text": turn.text}));
    let calls = turn.calls.iter().enumerate().map(|(index, call)| {
        json!({"type": "tool_use", "id": format!("toolu_{round}_{index}"), "name": call.name, "input": call.arguments})
    });
    text.into_iter().chain(calls).collect()
}

fn stop_reason(turn: &Turn) -> &'static str {
    match (turn.cut, turn.calls.is_empty()) {
        (true, _) => "max_tokens",
        (false, true) => "end_turn",
        (false, false) => "tool_use",
    }
}

pub(super) fn body(conversation: &Conversation, turn: &Turn) -> Value {
    let mut body = json!({
        "id": format!("msg_{}", conversation.rounds), "type": "message", "role": "assistant",
        "model": conversation.request.model, "content": content(conversation, turn),
        "stop_reason": stop_reason(turn), "stop_sequence": null,
    });
    if let Some(usage) = turn.usage {
        // `input_tokens` does not include cached tokens.
        body["usage"] = json!({
            "input_tokens": usage.input_tokens.saturating_sub(usage.cached_input_tokens),
            "cache_read_input_tokens": usage.cached_input_tokens, "cache_creation_input_tokens": 0,
            "output_tokens": usage.output_tokens,
        });
    }
    body
}

/// The answer without its content.
pub(super) fn hollow(mut body: Value) -> Value {
    body["content"] = Value::Null;
    body
}

pub(super) fn events(conversation: &Conversation, turn: &Turn, body: &Value) -> Vec<Value> {
    let mut message = body.clone();
    (message["content"], message["stop_reason"]) = (json!([]), Value::Null);
    let mut delta = json!({"type": "message_delta", "delta": {"stop_reason": stop_reason(turn), "stop_sequence": null}});
    // claude expects the field, also without usage.
    delta["usage"] = json!({});
    if let Some(usage) = turn.usage {
        message["usage"]["output_tokens"] = 1.into();
        delta["usage"]["output_tokens"] = usage.output_tokens.into();
    }
    let mut events = vec![
        json!({"type": "message_start", "message": message}),
        json!({"type": "ping"}),
    ];
    for (index, block) in content(conversation, turn).into_iter().enumerate() {
        let (empty, deltas) = pieces(&block, turn);
        events.push(json!({"type": "content_block_start", "index": index, "content_block": empty}));
        events.extend(
            deltas.into_iter().map(
                |delta| json!({"type": "content_block_delta", "index": index, "delta": delta}),
            ),
        );
        events.push(json!({"type": "content_block_stop", "index": index}));
    }
    events.extend([delta, json!({"type": "message_stop"})]);
    events
}

/// A block as it begins, and its content.
fn pieces(block: &Value, turn: &Turn) -> (Value, Vec<Value>) {
    let mut empty = block.clone();
    if block["type"] == "tool_use" {
        let input = std::mem::replace(&mut empty["input"], json!({}));
        return (
            empty,
            vec![json!({"type": "input_json_delta", "partial_json": input.to_string()})],
        );
    }
    empty["text"] = "".into();
    let chars: Vec<char> = turn.text.chars().collect();
    let deltas = chars
        .chunks(PIECE_CHARS)
        .map(|piece| piece.iter().collect::<String>());
    (
        empty,
        deltas
            .map(|text| json!({"type": "text_delta", "text": text}))
            .collect(),
    )
}

/// The body of an error answer.
pub(super) fn error_body(fail: &Fail) -> Value {
    let kind = match fail.status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        400..500 => "invalid_request_error",
        0..400 | 500.. => "api_error",
    };
    let kind = fail.code.as_deref().unwrap_or(kind);
    let message = fail
        .message
        .clone()
        .unwrap_or_else(|| format!("scripted failure with status {}", fail.status));
    json!({"type": "error", "error": {"type": kind, "message": message}})
}

pub(super) fn context_too_long() -> Fail {
    let message = "prompt is too long: 9999 tokens > 8192 maximum".to_owned();
    Fail {
        status: 400,
        message: Some(message),
        ..Fail::default()
    }
}
