//! OpenAI's Responses, from the provider's side. Pure.

use serde_json::{Value, json};

use super::render::PIECE_CHARS;
use super::script::{ChatRequest, text};
use super::turn::{Conversation, Turn};

const CREATED_S: u64 = 1_700_000_000;

pub(super) fn read(body: &Value) -> Conversation {
    let items = match &body["input"] {
        Value::String(text) => vec![json!({"role": "user", "content": text})],
        Value::Array(items) => items.clone(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => Vec::new(),
    };
    let of_user = items
        .iter()
        .filter(|item| item["role"] == "user")
        .map(|item| text(&item["content"]));
    let tools = body["tools"].as_array().into_iter().flatten();
    let is_call = |item: &&Value| {
        item["type"]
            .as_str()
            .is_some_and(|kind| kind.ends_with("_call"))
    };
    Conversation {
        request: ChatRequest {
            model: body["model"].as_str().unwrap_or_default().to_owned(),
            stream: body["stream"] == true,
            include_usage: true,
            user_messages: of_user.collect(),
            prompt_chars: body["input"].to_string().chars().count(),
        },
        tools: tools
            .filter_map(|tool| tool["name"].as_str())
            .map(str::to_owned)
            .collect(),
        // All calls of an answer stand together.
        rounds: items
            .chunk_by(|a, b| is_call(&a) == is_call(&b))
            .filter(|run| is_call(&&run[0]))
            .count(),
    }
}

fn output(conversation: &Conversation, turn: &Turn) -> Vec<Value> {
    let round = conversation.rounds;
    if turn.calls.is_empty() {
        let content = json!([{"type": "output_text", "text": turn.text, "annotations": []}]);
        let id = format!("msg_{round}");
        return vec![
            json!({"type": "message", "id": id, "role": "assistant", "status": "completed", "content": content}),
        ];
    }
    let call = |(index, call): (usize, &super::turn::Call)| {
        json!({
            "type": "function_call", "id": format!("fc_{round}_{index}"), "call_id": format!("call_{round}_{index}"),
            "name": call.name, "arguments": call.arguments.to_string(), "status": "completed",
        })
    };
    turn.calls.iter().enumerate().map(call).collect()
}

pub(super) fn body(conversation: &Conversation, turn: &Turn) -> Value {
    let (status, details) = if turn.cut {
        ("incomplete", json!({"reason": "max_output_tokens"}))
    } else {
        ("completed", Value::Null)
    };
    let usage = turn.usage.map(|usage| {
        json!({
            "input_tokens": usage.input_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_input_tokens},
            "output_tokens": usage.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.input_tokens.saturating_add(usage.output_tokens),
        })
    });
    json!({
        "id": format!("resp_{}", conversation.rounds), "object": "response", "created_at": CREATED_S,
        "status": status, "incomplete_details": details, "error": null, "model": conversation.request.model,
        "output": output(conversation, turn), "usage": usage,
    })
}

/// The answer without its content.
pub(super) fn hollow(mut body: Value) -> Value {
    body["output"] = Value::Null;
    body
}

pub(super) fn events(conversation: &Conversation, turn: &Turn, body: &Value) -> Vec<Value> {
    let mut begun = body.clone();
    (begun["status"], begun["output"], begun["usage"]) =
        ("in_progress".into(), json!([]), Value::Null);
    let mut events = vec![json!({"type": "response.created", "response": begun})];
    for (index, item) in output(conversation, turn).into_iter().enumerate() {
        let mut added = item.clone();
        if turn.calls.is_empty() {
            added["content"] = json!([]);
        }
        events.push(
            json!({"type": "response.output_item.added", "output_index": index, "item": added}),
        );
        let chars: Vec<char> = turn.text.chars().collect();
        events.extend(chars.chunks(PIECE_CHARS).map(|piece| {
            let delta = piece.iter().collect::<String>();
            json!({"type": "response.output_text.delta", "output_index": index, "content_index": 0,
                   "item_id": item["id"], "delta": delta})
        }));
        events.push(
            json!({"type": "response.output_item.done", "output_index": index, "item": item}),
        );
    }
    let last = if turn.cut {
        "response.incomplete"
    } else {
        "response.completed"
    };
    events.push(json!({"type": last, "response": body}));
    events
}
