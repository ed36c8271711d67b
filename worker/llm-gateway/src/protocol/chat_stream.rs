//! Writes a complete answer as server-sent events, for agents that insist on a stream. Pure.
//!
//! The answer is not streamed while it is made. A broken answer must never reach an agent, which
//! would apply half of it.

use serde_json::{Map, Value, json};

use super::fields::list;

/// The whole text of the event stream, `[DONE]` included.
pub(crate) fn chat_events(answer: &Map<String, Value>, include_usage: bool) -> String {
    let mut events = String::new();
    let mut push = |choices: Value, usage: Option<&Value>| {
        let mut chunk = json!({"object": "chat.completion.chunk", "choices": choices});
        for name in ["id", "created", "model", "system_fingerprint"] {
            if let Some(value) = answer.get(name) {
                chunk[name] = value.clone();
            }
        }
        if let Some(usage) = usage {
            chunk["usage"] = usage.clone();
        }
        events.push_str(&format!("data: {chunk}\n\n"));
    };
    for (position, choice) in list(answer, "choices").iter().enumerate() {
        let index = choice["index"].as_u64().unwrap_or(position as u64);
        push(
            json!([{"index": index, "delta": delta(&choice["message"]), "finish_reason": null}]),
            None,
        );
        push(
            json!([{"index": index, "delta": {}, "finish_reason": choice["finish_reason"]}]),
            None,
        );
    }
    if include_usage && let Some(usage) = answer.get("usage") {
        push(json!([]), Some(usage));
    }
    events.push_str("data: [DONE]\n\n");
    events
}

/// The message in one piece. In a stream, tool calls carry their index.
fn delta(message: &Value) -> Value {
    let mut delta: Map<String, Value> = message.as_object().cloned().unwrap_or_default();
    delta.entry("role").or_insert_with(|| "assistant".into());
    if let Some(calls) = delta.get_mut("tool_calls").and_then(Value::as_array_mut) {
        for (index, call) in calls.iter_mut().enumerate() {
            if let Some(call) = call.as_object_mut() {
                call.insert("index".to_owned(), index.into());
            }
        }
    }
    Value::Object(delta)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(body: Value, include_usage: bool) -> Vec<Value> {
        let answer = body.as_object().expect("an answer");
        let text = chat_events(answer, include_usage);
        let done = text
            .strip_suffix("data: [DONE]\n\n")
            .expect("the end mark comes last");
        let datas = done.split("\n\n").filter(|event| !event.is_empty());
        datas
            .map(|event| serde_json::from_str(&event["data: ".len()..]).expect("JSON"))
            .collect()
    }

    #[test]
    fn every_choice_comes_with_its_text_then_its_end() {
        let chunks = rendered(
            json!({"id": "1", "model": "m", "usage": {"prompt_tokens": 1}, "choices": [
                {"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"},
                {"index": 1, "message": {"content": "b"}, "finish_reason": "length"},
            ]}),
            false,
        );
        let seen: Vec<_> = chunks
            .iter()
            .map(|chunk| chunk["choices"][0].clone())
            .collect();
        let expected = [
            json!({"index": 0, "delta": {"role": "assistant", "content": "a"}, "finish_reason": null}),
            json!({"index": 0, "delta": {}, "finish_reason": "stop"}),
            json!({"index": 1, "delta": {"role": "assistant", "content": "b"}, "finish_reason": null}),
            json!({"index": 1, "delta": {}, "finish_reason": "length"}),
        ];
        assert_eq!(
            seen, expected,
            "two events for each choice, and no usage when none was asked for"
        );
    }

    #[test]
    fn tool_calls_get_an_index_and_usage_comes_last_when_asked_for() {
        let chunks = rendered(
            json!({"usage": {"prompt_tokens": 1}, "choices": [{"message": {"tool_calls": [{"id": "a"}, {"id": "b"}]}}]}),
            true,
        );
        let calls = &chunks[0]["choices"][0]["delta"]["tool_calls"];
        assert_eq!(
            *calls,
            json!([{"id": "a", "index": 0}, {"id": "b", "index": 1}]),
            "tool calls"
        );
        let last = &chunks[chunks.len() - 1];
        assert_eq!(
            (&last["choices"], &last["usage"]),
            (&json!([]), &json!({"prompt_tokens": 1})),
            "usage"
        );
    }
}
