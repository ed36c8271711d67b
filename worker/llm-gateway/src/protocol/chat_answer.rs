//! Answers of chat completions. Pure.

use serde_json::{Map, Value};

use super::super::answer::{NoAnswer, Reading};
use super::super::error_inside::{error_in, status_of};
use super::super::pricing::Tokens;
use super::Ending;

pub(super) fn read(body: &[u8]) -> Result<Reading, (NoAnswer, Option<Tokens>)> {
    let chat = ChatAnswer::read(body)?;
    let (finish_reason, ending) = chat.end();
    Ok(Reading {
        usage: chat.usage(),
        finish_reason,
        ending,
        empty: chat.is_empty(),
        chat: Some(chat),
    })
}

#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct ChatAnswer {
    fields: Map<String, Value>,
}

impl ChatAnswer {
    /// # Errors
    /// [`NoAnswer`], and the usage that the provider reports nevertheless.
    pub(super) fn read(body: &[u8]) -> Result<Self, (NoAnswer, Option<Tokens>)> {
        let fields: Map<String, Value> = serde_json::from_slice(body)
            .map_err(|error| (NoAnswer::Json(error.to_string()), None))?;
        let answer = Self { fields };
        let usage = answer.usage();
        let choices = answer.choices();
        if let Some(error) = answer.error_inside() {
            // An answer with neither text nor usage means that no work was done.
            let usage = usage.or_else(|| answer.is_empty().then(Tokens::default));
            return Err((error, usage));
        }
        if choices.is_empty() {
            return Err((NoAnswer::NoChoices, usage));
        }
        if choices.iter().any(|choice| !choice["message"].is_object()) {
            return Err((NoAnswer::NoMessage, usage));
        }
        Ok(answer)
    }

    /// An error beside the choices, in one of them, or instead of them.
    fn error_inside(&self) -> Option<NoAnswer> {
        let own = self
            .fields
            .get("error")
            .and_then(|error| error_in(&serde_json::json!({"error": error})));
        if !self.choices().is_empty() {
            return own
                .or_else(|| self.choices().iter().find_map(error_in))
                .map(NoAnswer::Failed);
        }
        let own = own?;
        let error = &own["error"];
        let message = error["message"]
            .as_str()
            .map_or_else(|| error.to_string(), str::to_owned);
        Some(NoAnswer::ErrorInside {
            status: status_of(error),
            message,
        })
    }

    pub(super) fn choices(&self) -> &[Value] {
        self.fields
            .get("choices")
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    fn usage(&self) -> Option<Tokens> {
        Tokens::reported(self.fields.get("usage")?)
    }

    /// The end of the first choice that is not whole, or else of the first choice.
    fn end(&self) -> (Option<String>, Ending) {
        let mut ends = self
            .choices()
            .iter()
            .map(|choice| choice["finish_reason"].as_str());
        let first = ends.clone().next().flatten();
        let reason = ends
            .find(|reason| !Ending::of(*reason).is_whole())
            .unwrap_or(first);
        (reason.map(str::to_owned), Ending::of(reason))
    }

    /// True if no choice has text or tool calls.
    fn is_empty(&self) -> bool {
        self.choices().iter().all(|choice| {
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
        })
    }

    /// Replaces the LLM's name by our own.
    pub(in super::super) fn named(mut self, llm: &str) -> Self {
        self.fields.insert("model".to_owned(), llm.into());
        self
    }

    pub(super) fn field(&self, name: &str) -> Option<&Value> {
        self.fields.get(name)
    }

    pub(in super::super) fn into_body(self) -> String {
        Value::Object(self.fields).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(body: Value) -> Result<ChatAnswer, (NoAnswer, Option<Tokens>)> {
        ChatAnswer::read(body.to_string().as_bytes())
    }

    fn of_message(message: Value) -> ChatAnswer {
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
            assert_eq!(of_message(message.clone()).is_empty(), empty, "{message}");
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
            Some(Tokens {
                input: 3,
                ..Tokens::default()
            }),
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
                ChatAnswer::read(b"<html>").expect_err("html").0,
                NoAnswer::Json(_)
            ),
            "no JSON"
        );
    }
}
