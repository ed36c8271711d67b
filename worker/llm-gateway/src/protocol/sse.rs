//! Server-sent events, in pieces or as a whole, and the failure if a body contains none. Pure.

use serde_json::Value;

use super::content::{AnswerResult, NoAnswer};
use super::fields::kind;
use super::usage::Reported;
use crate::error_inside::{error_alone, error_in};

/// Splits a stream into lines, with any line ending, and those into events.
#[derive(Debug, Default)]
pub(super) struct Parser {
    /// The line that has not ended yet.
    line: Vec<u8>,
    /// The last line ended with CR, so a LF that follows belongs to it.
    after_cr: bool,
    name: String,
    data: String,
    /// A line of the format was seen.
    is_stream: bool,
}

impl Parser {
    /// Takes in more bytes. `is_last` gets the name and data of each complete event, until it
    /// returns true. Then the stream is over, and the result is the number of bytes up to there.
    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        mut is_last: impl FnMut(&str, &str) -> bool,
    ) -> Option<usize> {
        for (index, byte) in bytes.iter().enumerate() {
            let of_crlf = std::mem::take(&mut self.after_cr) && *byte == b'\n';
            match byte {
                b'\n' if of_crlf => {}
                b'\n' | b'\r' => {
                    self.after_cr = *byte == b'\r';
                    if self.end_line(&mut is_last) {
                        return Some(index + 1);
                    }
                }
                byte => self.line.push(*byte),
            }
        }
        None
    }

    fn end_line(&mut self, is_last: &mut impl FnMut(&str, &str) -> bool) -> bool {
        let line = String::from_utf8_lossy(&self.line).into_owned();
        self.line.clear();
        let value = |field: &str| {
            let value = line.strip_prefix(field)?;
            Some(value.strip_prefix(' ').unwrap_or(value))
        };
        if line.is_empty() {
            let (name, data) = (
                std::mem::take(&mut self.name),
                std::mem::take(&mut self.data),
            );
            return !data.is_empty() && is_last(&name, &data);
        }
        if let Some(part) = value("data:") {
            self.data.push_str(part);
            self.data.push('\n');
        } else if let Some(name) = value("event:") {
            name.clone_into(&mut self.name);
        } else if !line.starts_with(':') {
            return false;
        }
        self.is_stream = true;
        false
    }
}

/// The data of all complete events, as JSON. An event without an empty line after it does not
/// count, as for any client.
///
/// # Errors
/// If the body contains anything but events with JSON. Then the provider did not answer in the
/// protocol.
fn events(body: &[u8]) -> Result<Vec<Value>, NoAnswer> {
    let text = std::str::from_utf8(body).map_err(|error| NoAnswer::Json(error.to_string()))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut parser = Parser::default();
    let mut events = Vec::new();
    let mut broken = None;
    parser.push(text.as_bytes(), |name, data| {
        match read(name, data) {
            Ok(event) => events.extend(event),
            Err(error) => broken = Some(error),
        }
        broken.is_some()
    });
    match broken {
        Some(error) => Err(NoAnswer::Json(error.to_string())),
        None if parser.is_stream || text.is_empty() => Ok(events),
        None => Err(no_stream(text)),
    }
}

/// Like [`events`], for readers that also report the usage. An error instead of a stream used
/// nothing.
pub(super) fn events_of(body: &[u8]) -> AnswerResult<Vec<Value>> {
    events(body).map_err(|error| {
        let nothing = matches!(error, NoAnswer::Failed(_)).then(Reported::default);
        (error, nothing)
    })
}

/// Whether an event is an error.
pub(super) fn is_error(event: &Value) -> bool {
    kind(event) == "error" || (event["type"].is_null() && error_in(event).is_some())
}

/// The data of one event. None if the event only marks the end of a stream, as in chat completions.
pub(super) fn read(name: &str, data: &str) -> Result<Option<Value>, serde_json::Error> {
    let text = data.trim();
    if text.is_empty() || is_end_mark(text) {
        return Ok(None);
    }
    let mut event: Value = serde_json::from_str(text)?;
    // Some providers name an event and leave its type out.
    let is_ours = ["response.", "message_", "content_block_"]
        .iter()
        .any(|begin| name.starts_with(begin));
    if let Some(fields) = event.as_object_mut()
        && (is_ours || name == "error")
    {
        fields.entry("type").or_insert_with(|| name.into());
    }
    Ok(Some(event))
}

pub(super) fn is_end_mark(data: &str) -> bool {
    data.trim() == "[DONE]"
}

/// The failure of a body that is not a stream: an error that came with status 200, or something
/// else.
fn no_stream(text: &str) -> NoAnswer {
    match serde_json::from_str::<Value>(text) {
        Ok(value) if error_in(&value).is_some() => NoAnswer::Failed(value),
        Ok(value) => error_alone(&value).map_or_else(
            || NoAnswer::Json("it is one object, not a stream of events".to_owned()),
            NoAnswer::Failed,
        ),
        Err(_) => NoAnswer::Json("it is not a stream of events".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn whole_events_are_read_in_every_spelling() {
        let text = ": hello\n\nevent: a\ndata: {\"a\": 1}\n\ndata:{\"b\":\r\ndata: 2}\r\n\r\nretry: 5\n\ndata: [DONE]\n\n";
        assert_eq!(
            events(text.as_bytes()),
            Ok(vec![json!({"a": 1}), json!({"b": 2})]),
            "two events"
        );
        assert_eq!(
            events(b""),
            Ok(vec![]),
            "a stream that ended before it began"
        );
        assert_eq!(
            events(b"event: ping\n"),
            Ok(vec![]),
            "an event without its end"
        );
    }

    #[test]
    fn an_event_that_was_cut_does_not_count() {
        for text in [
            "data: {\"a\": 1}\n\ndata: {\"b\":",
            "data: {\"a\": 1}\n\ndata: {\"b\": 2}",
            "data: {\"a\": 1}\n\ndata: {}\n",
        ] {
            assert_eq!(
                events(text.as_bytes()),
                Ok(vec![json!({"a": 1})]),
                "{text:?}"
            );
        }
    }

    #[test]
    fn what_is_no_stream_is_told_apart() {
        assert!(
            matches!(events(b"data: {\"a\":\n\n"), Err(NoAnswer::Json(_))),
            "half of a JSON text in a whole event"
        );
        assert!(
            matches!(events(b"<html>\n</html>\n"), Err(NoAnswer::Json(_))),
            "a page"
        );
        assert!(
            matches!(events(b"{\"output\": []}"), Err(NoAnswer::Json(_))),
            "an answer that is not a stream"
        );
        let error = json!({"error": {"message": "busy"}});
        assert_eq!(
            events(error.to_string().as_bytes()),
            Err(NoAnswer::Failed(error)),
            "an error"
        );
        assert!(
            matches!(events(b"data: \xff\n\n"), Err(NoAnswer::Json(_))),
            "no text at all"
        );
    }
}
