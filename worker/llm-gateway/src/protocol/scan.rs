//! Finds the end of an answer in a body that is still coming. Pure.
//!
//! A provider may keep the connection open after its answer, or send more. An answer ends with the
//! last event of its dialect; a JSON object ends with its last brace.

use pool_core::llm::Dialect;

use super::sse;

/// Bytes before an answer: white space, with which some providers keep a connection alive, and a
/// byte order mark.
const BEFORE: &[u8] = b" \t\r\n\xef\xbb\xbf";

/// Takes the body of an answer piece by piece.
#[derive(Debug)]
pub(crate) struct Scanner {
    dialect: Dialect,
    format: BodyFormat,
}

#[derive(Debug)]
enum BodyFormat {
    /// Nothing was seen yet.
    Unknown,
    Json(Braces),
    Events(sse::Parser),
}

impl Scanner {
    pub(crate) fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            format: BodyFormat::Unknown,
        }
    }

    /// Takes a piece. Returns how many of its bytes belong to the answer, if the answer is complete
    /// with them.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut begin = 0;
        if matches!(self.format, BodyFormat::Unknown) {
            begin = bytes.iter().position(|byte| !BEFORE.contains(byte))?;
            self.format = if bytes[begin] == b'{' {
                BodyFormat::Json(Braces::default())
            } else {
                BodyFormat::Events(sse::Parser::default())
            };
        }
        let bytes = &bytes[begin..];
        let end = match &mut self.format {
            BodyFormat::Unknown => None,
            BodyFormat::Json(braces) => braces.push(bytes),
            BodyFormat::Events(parser) => {
                parser.push(bytes, |name, data| ends_stream(self.dialect, name, data))
            }
        };
        end.map(|end| begin + end)
    }
}

/// Whether this event ends its stream.
fn ends_stream(dialect: Dialect, name: &str, data: &str) -> bool {
    if sse::is_end_mark(data) {
        return true;
    }
    let last: &[&str] = match dialect {
        Dialect::Chat => &["error"],
        Dialect::Responses => &[
            "response.completed",
            "response.incomplete",
            "response.failed",
            "error",
        ],
        Dialect::Messages => &["message_stop", "error"],
    };
    // Most events are parsed only once: when the answer is complete.
    if !last.iter().any(|word| name == *word || data.contains(word)) {
        return false;
    }
    let Ok(Some(event)) = sse::read(name, data) else {
        return false;
    };
    match event["type"].as_str() {
        Some(kind) => last.contains(&kind),
        None => event["error"].is_object(),
    }
}

/// Counts the brackets of a JSON text that begins with one.
#[derive(Debug, Default)]
struct Braces {
    depth: usize,
    in_text: bool,
    escaped: bool,
}

impl Braces {
    fn push(&mut self, bytes: &[u8]) -> Option<usize> {
        for (index, byte) in bytes.iter().enumerate() {
            match (self.in_text, byte) {
                (true, _) if self.escaped => self.escaped = false,
                (true, b'\\') => self.escaped = true,
                (_, b'"') => self.in_text = !self.in_text,
                (false, b'{' | b'[') => self.depth += 1,
                (false, b'}' | b']') => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(index + 1);
                    }
                }
                (true | false, _) => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// The end of the answer in a body that comes in pieces of `piece` bytes.
    fn end(dialect: Dialect, body: &str, piece: usize) -> Option<usize> {
        let mut scanner = Scanner::new(dialect);
        let pieces = body.as_bytes().chunks(piece).enumerate();
        pieces
            .into_iter()
            .find_map(|(index, bytes)| Some(index * piece + scanner.push(bytes)?))
    }

    #[test]
    fn an_answer_ends_with_the_last_event_of_its_dialect() {
        let data = |event: Value| format!("data: {event}\n\n");
        for (dialect, event, ends) in [
            (
                Dialect::Messages,
                data(json!({"type": "message_stop"})),
                true,
            ),
            (
                Dialect::Messages,
                "event: message_stop\ndata: {}\n\n".to_owned(),
                true,
            ),
            (
                Dialect::Messages,
                data(json!({"type": "message_delta", "delta": "message_stop"})),
                false,
            ),
            (
                Dialect::Messages,
                data(json!({"type": "content_block_delta", "text": "an error"})),
                false,
            ),
            (
                Dialect::Messages,
                "data: {\"type\": \"message_stop\"}\n".to_owned(),
                false,
            ),
            (
                Dialect::Responses,
                data(json!({"type": "response.incomplete"})),
                true,
            ),
            (
                Dialect::Responses,
                data(json!({"type": "response.created", "error": {}})),
                false,
            ),
            (
                Dialect::Responses,
                data(json!({"error": {"message": "busy"}})),
                true,
            ),
            (
                Dialect::Chat,
                data(json!({"choices": [], "error": null})),
                false,
            ),
            (Dialect::Chat, "data: [DONE]\n\n".to_owned(), true),
            (
                Dialect::Chat,
                "event: error\ndata: {\"message\": \"busy\"}\n\n".to_owned(),
                true,
            ),
        ] {
            let body = format!(": hello\n\n{event}data: {{\"type\": \"error\"}}\n\n");
            let expected = ends.then_some(": hello\n\n".len() + event.len());
            for piece in [1, 7, 1000] {
                let seen = end(dialect, &body, piece).filter(|seen| *seen < body.len());
                assert_eq!(
                    seen, expected,
                    "{dialect:?}: {event:?} in pieces of {piece}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn a_json_answer_ends_with_its_last_brace(
            text in "[a-zäöü{}\\[\\]\"\\\\]{0,20}", number: f64, before in "[ \r\n]{0,3}", piece in 1..9_usize,
        ) {
            let object = json!({"a": [text, {"b": number, "c": {}}], "d": text}).to_string();
            let body = format!("{before}{object}\n{{\"more\": 1}}");
            prop_assert_eq!(end(Dialect::Chat, &body, piece), Some(before.len() + object.len()), "{}", body);
        }
    }
}
