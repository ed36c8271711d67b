//! Answers of chat completions. Pure.

use serde_json::{Map, Value};

use super::content::{AnswerContent, AnswerResult, NoAnswer, message_of, parse};
use super::ending::Ending;
use super::fields::list;
use super::usage::Reported;
use crate::error_inside::{error_alone, error_in, status_of};

pub(super) fn read(body: &[u8]) -> AnswerResult {
    let fields: Map<String, Value> = parse(body)?;
    let choices = list(&fields, "choices");
    let usage = Reported::of_openai(&fields);
    let empty = choices.iter().all(is_empty);
    if let Some(error) = error_inside(&fields, choices) {
        // An answer with neither text nor usage means that no work was done.
        return Err((error, usage.or(empty.then(Reported::default))));
    }
    if choices.is_empty() {
        return Err((NoAnswer::NoChoices, usage));
    }
    if choices.iter().any(|choice| !choice["message"].is_object()) {
        return Err((NoAnswer::NoMessage, usage));
    }
    let content = AnswerContent::new(usage, finish_reason(choices), empty);
    Ok(AnswerContent {
        chat: Some(fields),
        ..content
    })
}

/// An error beside the choices, in one of them, or instead of them.
fn error_inside(fields: &Map<String, Value>, choices: &[Value]) -> Option<NoAnswer> {
    let own = fields
        .get("error")
        .and_then(|error| error_in(&serde_json::json!({"error": error})));
    if !choices.is_empty() {
        return own
            .or_else(|| choices.iter().find_map(error_in))
            .map(NoAnswer::Failed);
    }
    let own = own.or_else(|| error_alone(&Value::Object(fields.clone())))?;
    Some(NoAnswer::ErrorInside {
        status: status_of(&own["error"]),
        message: message_of(&own),
    })
}

/// The end of the first choice that is not whole, or else of the first choice.
fn finish_reason(choices: &[Value]) -> Option<&str> {
    let mut reasons = choices
        .iter()
        .map(|choice| choice["finish_reason"].as_str());
    let first = reasons.clone().next().flatten();
    reasons
        .find(|reason| !Ending::of(*reason).is_whole())
        .unwrap_or(first)
}

/// True if a choice has neither text nor tool calls.
fn is_empty(choice: &Value) -> bool {
    let message = &choice["message"];
    let text = match &message["content"] {
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(parts) => !parts.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
    };
    let tools = message["tool_calls"]
        .as_array()
        .is_some_and(|calls| !calls.is_empty());
    !text && !tools && message["function_call"].is_null()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pricing::Tokens;
    use serde_json::json;

    fn read(body: Value) -> AnswerResult {
        super::read(body.to_string().as_bytes())
    }

    fn of_message(message: Value) -> AnswerContent {
        read(json!({"choices": [{"message": message, "finish_reason": "stop"}]}))
            .expect("an answer")
    }

    #[test]
    fn an_answer_is_empty_only_without_text_and_tool_calls() {
        for (message, empty) in [
            (json!({"content": "x"}), false),
            (json!({"content": " \n"}), true),
            (json!({"content": null}), true),
            (json!({"content": null, "tool_calls": [{"id": "1"}]}), false),
            (json!({"content": "", "tool_calls": []}), true),
            (json!({"content": null, "reasoning_content": "hm"}), true),
        ] {
            assert_eq!(of_message(message.clone()).empty, empty, "{message}");
        }
    }

    #[test]
    fn a_body_without_an_answer_is_told_apart() {
        let (error, usage) =
            read(json!({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 0}}))
                .expect_err("no choices");
        assert_eq!(error, NoAnswer::NoChoices, "no choices");
        assert_eq!(
            usage,
            Some(
                Tokens {
                    input: 3,
                    ..Tokens::default()
                }
                .into()
            ),
            "the usage is known nevertheless"
        );
        let (error, _) =
            read(json!({"error": {"code": 502, "message": "upstream"}})).expect_err("an error");
        assert_eq!(
            error,
            NoAnswer::ErrorInside {
                status: Some(502),
                message: "upstream".into()
            },
            "error with 200"
        );
        assert_eq!(
            read(json!({"choices": [{}]})).expect_err("no message").0,
            NoAnswer::NoMessage,
            "no message"
        );
        assert!(
            matches!(
                super::read(b"<html>").expect_err("html").0,
                NoAnswer::Json(_)
            ),
            "no JSON"
        );
    }
}
