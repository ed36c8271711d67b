//! Renders an answer in the protocol: the text with its edits, the whole completion, or the events
//! of a stream.

use serde_json::{Value, json};

use super::answer::{Answer, Behave, Fail, TokenUsage, UsageReport};
use super::script::ChatRequest;

/// Fixed, so that answers are the same byte for byte.
const CREATED_S: u64 = 1_700_000_000;
const ID: &str = "chatcmpl-scripted";
pub(super) const PIECE_CHARS: usize = 24;

/// A complete answer before it is rendered.
#[derive(Debug)]
pub(super) struct Completion {
    model: String,
    text: String,
    finish_reason: String,
    usage: Option<TokenUsage>,
}

impl Completion {
    pub(super) fn new(request: &ChatRequest, answer: &Answer) -> Self {
        let whole = text(answer);
        let half = whole.chars().count() / 2;
        let (text, finish_reason) = match answer.behave {
            Some(Behave::Length) => (whole.chars().take(half).collect(), "length"),
            Some(Behave::Empty) => (String::new(), "stop"),
            None
            | Some(
                Behave::Hang
                | Behave::Drop
                | Behave::Reset
                | Behave::CutStream
                | Behave::BrokenJson
                | Behave::NoChoices
                | Behave::ContextTooLong,
            ) => (whole, "stop"),
        };
        let usage = match answer.usage {
            Some(UsageReport::Unreported) => None,
            Some(UsageReport::Tokens(tokens)) => Some(tokens),
            None => Some(TokenUsage {
                input_tokens: tokens(request.prompt_chars),
                cached_input_tokens: 0,
                output_tokens: tokens(text.chars().count()),
            }),
        };
        let finish_reason = answer
            .finish
            .clone()
            .unwrap_or_else(|| finish_reason.to_owned());
        Self {
            model: request.model.clone(),
            text,
            finish_reason,
            usage,
        }
    }

    /// The body of an answer that is not a stream.
    pub(super) fn body(&self) -> Value {
        let message = json!({"role": "assistant", "content": self.text});
        let choices =
            json!([{"index": 0, "message": message, "finish_reason": self.finish_reason}]);
        self.envelope("chat.completion", choices, self.usage)
    }

    pub(super) fn body_without_choices(&self) -> Value {
        self.envelope("chat.completion", json!([]), None)
    }

    /// The server-sent events of a stream, including the closing `[DONE]`.
    pub(super) fn events(&self, include_usage: bool) -> Vec<String> {
        let chunk = |delta: Value, finish: Option<&str>| {
            let choices = json!([{"index": 0, "delta": delta, "finish_reason": finish}]);
            format!(
                "data: {}\n\n",
                self.envelope("chat.completion.chunk", choices, None)
            )
        };
        let mut events = vec![chunk(json!({"role": "assistant", "content": ""}), None)];
        let chars: Vec<char> = self.text.chars().collect();
        for piece in chars.chunks(PIECE_CHARS) {
            events.push(chunk(
                json!({"content": piece.iter().collect::<String>()}),
                None,
            ));
        }
        events.push(chunk(json!({}), Some(&self.finish_reason)));
        if include_usage && self.usage.is_some() {
            events.push(format!(
                "data: {}\n\n",
                self.envelope("chat.completion.chunk", json!([]), self.usage)
            ));
        }
        events.push("data: [DONE]\n\n".to_owned());
        events
    }

    fn envelope(&self, object: &str, choices: Value, usage: Option<TokenUsage>) -> Value {
        let mut body = json!({"id": ID, "object": object, "created": CREATED_S, "model": self.model, "choices": choices});
        if let Some(usage) = usage {
            body["usage"] = json!({
                "prompt_tokens": usage.input_tokens,
                "completion_tokens": usage.output_tokens,
                "total_tokens": usage.input_tokens.saturating_add(usage.output_tokens),
                "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens},
            });
        }
        body
    }
}

pub(super) fn tokens(chars: usize) -> u64 {
    chars.div_ceil(4).max(1) as u64
}

/// The text, then each edit as a SEARCH/REPLACE block (aider's `diff` edit format).
pub(super) fn text(answer: &Answer) -> String {
    let mut parts: Vec<String> = answer.say.iter().cloned().collect();
    for edit in &answer.edits {
        let (search, replace) = (with_newline(&edit.search), with_newline(&edit.replace));
        parts.push(format!(
            "{}\n```\n<<<<<<< SEARCH\n{search}=======\n{replace}>>>>>>> REPLACE\n```",
            edit.file
        ));
    }
    parts.join("\n\n")
}

fn with_newline(text: &str) -> String {
    if text.is_empty() || text.ends_with('\n') {
        text.to_owned()
    } else {
        format!("{text}\n")
    }
}

/// The body of an error answer.
pub(super) fn error_body(fail: &Fail) -> Value {
    let (kind, code) = match fail.status {
        401 => ("invalid_request_error", Some("invalid_api_key")),
        404 => ("invalid_request_error", Some("model_not_found")),
        429 => ("rate_limit_error", Some("rate_limit_exceeded")),
        400..500 => ("invalid_request_error", None),
        0..400 | 500.. => ("server_error", None),
    };
    let code = fail.code.as_deref().or(code);
    let message = fail
        .message
        .clone()
        .unwrap_or_else(|| format!("scripted failure with status {}", fail.status));
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
}

pub(super) fn context_too_long() -> Fail {
    Fail {
        status: 400,
        retry_after_s: None,
        code: Some("context_length_exceeded".to_owned()),
        message: Some(
            "this model's maximum context length is 8192 tokens; reduce the length of the messages"
                .to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::answer::Edit;
    use super::*;

    fn answer() -> Answer {
        let edit = |file: &str, search: &str, replace: &str| Edit {
            file: file.into(),
            search: search.into(),
            replace: replace.into(),
        };
        let edits = vec![
            edit("a.py", "x = 1", "x = 2\n"),
            edit("new/b.py", "", "y = 1"),
        ];
        Answer {
            say: Some("Done.".into()),
            edits,
            ..Answer::default()
        }
    }

    #[test]
    fn edits_become_search_replace_blocks() {
        let expected = "Done.\n\n\
            a.py\n```\n<<<<<<< SEARCH\nx = 1\n=======\nx = 2\n>>>>>>> REPLACE\n```\n\n\
            new/b.py\n```\n<<<<<<< SEARCH\n=======\ny = 1\n>>>>>>> REPLACE\n```";
        assert_eq!(text(&answer()), expected, "the text that aider reads");
    }

    #[test]
    fn the_pieces_of_a_stream_are_the_whole_text() {
        let request = ChatRequest {
            model: "m".into(),
            prompt_chars: 9,
            ..ChatRequest::default()
        };
        let completion = Completion::new(&request, &answer());
        let events = completion.events(true);
        let datas: Vec<Value> = events
            .iter()
            .filter_map(|event| serde_json::from_str(event.strip_prefix("data: ")?).ok())
            .collect();
        let joined: String = datas
            .iter()
            .filter_map(|data| data["choices"][0]["delta"]["content"].as_str())
            .collect();
        assert_eq!(
            joined,
            text(&answer()),
            "nothing is lost between the pieces"
        );
        assert_eq!(
            datas[datas.len() - 1]["usage"]["prompt_tokens"],
            3,
            "the usage comes last: 9 characters"
        );
        assert_eq!(
            events.last().map(String::as_str),
            Some("data: [DONE]\n\n"),
            "the end mark"
        );
    }

    #[test]
    fn an_answer_cut_at_the_output_limit_is_half_and_says_so() {
        let answer = Answer {
            say: Some("abcdef".into()),
            behave: Some(Behave::Length),
            ..Answer::default()
        };
        let body = Completion::new(&ChatRequest::default(), &answer).body();
        assert_eq!(
            body["choices"][0]["message"]["content"], "abc",
            "half of the text"
        );
        assert_eq!(body["choices"][0]["finish_reason"], "length", "the reason");
    }
}
