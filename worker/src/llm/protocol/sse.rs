//! The events of a stream that has ended, and what to make of one that is none. Pure.

use serde_json::Value;

use super::super::answer::NoAnswer;

/// The data of all complete events, as JSON. An event that is not closed by an empty line does not count, here as little
/// as for any client.
///
/// # Errors
/// When the body holds anything but events with JSON: then the provider did not answer in the protocol.
pub(super) fn events(body: &[u8]) -> Result<Vec<Value>, NoAnswer> {
    let text = std::str::from_utf8(body).map_err(|error| NoAnswer::Json(error.to_string()))?;
    let mut events = Vec::new();
    let mut data = String::new();
    let mut is_stream = text.is_empty();
    for line in text.split_inclusive('\n') {
        let Some(line) = line.strip_suffix('\n') else { break };
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.is_empty() {
            take(&mut data, &mut events)?;
        } else if let Some(part) = line.strip_prefix("data:") {
            is_stream = true;
            data.push_str(part.strip_prefix(' ').unwrap_or(part));
            data.push('\n');
        } else if line.starts_with("event:") || line.starts_with(':') {
            is_stream = true;
        }
    }
    if is_stream { Ok(events) } else { Err(no_stream(text)) }
}

fn take(data: &mut String, events: &mut Vec<Value>) -> Result<(), NoAnswer> {
    let text = std::mem::take(data);
    match text.trim() {
        // Some providers close every stream as chat completions do.
        "" | "[DONE]" => {}
        text => events.push(serde_json::from_str(text).map_err(|error| NoAnswer::Json(error.to_string()))?),
    }
    Ok(())
}

/// An error that came with status 200, or something else altogether.
fn no_stream(text: &str) -> NoAnswer {
    match serde_json::from_str::<Value>(text) {
        Ok(value) if value["error"].is_object() => NoAnswer::Failed(value),
        Ok(_) => NoAnswer::Json("it is one object and no stream of events".to_owned()),
        Err(_) => NoAnswer::Json("it is no stream of events".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn whole_events_are_read_in_every_spelling() {
        let text =
            ": hello\n\nevent: a\ndata: {\"a\": 1}\n\ndata:{\"b\":\r\ndata: 2}\r\n\r\nretry: 5\n\ndata: [DONE]\n\n";
        assert_eq!(events(text.as_bytes()), Ok(vec![json!({"a": 1}), json!({"b": 2})]), "two events");
        assert_eq!(events(b""), Ok(vec![]), "a stream that ended before it began");
        assert_eq!(events(b"event: ping\n"), Ok(vec![]), "an event without its end");
    }

    #[test]
    fn an_event_that_was_cut_does_not_count() {
        for text in [
            "data: {\"a\": 1}\n\ndata: {\"b\":",
            "data: {\"a\": 1}\n\ndata: {\"b\": 2}",
            "data: {\"a\": 1}\n\ndata: {}\n",
        ] {
            assert_eq!(events(text.as_bytes()), Ok(vec![json!({"a": 1})]), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_stream_is_told_apart() {
        assert!(matches!(events(b"data: {\"a\":\n\n"), Err(NoAnswer::Json(_))), "half a JSON text in a whole event");
        assert!(matches!(events(b"<html>\n</html>\n"), Err(NoAnswer::Json(_))), "a page");
        assert!(matches!(events(b"{\"output\": []}"), Err(NoAnswer::Json(_))), "an answer that is no stream");
        let error = json!({"error": {"message": "busy"}});
        assert_eq!(events(error.to_string().as_bytes()), Err(NoAnswer::Failed(error)), "an error");
        assert!(matches!(events(b"data: \xff\n\n"), Err(NoAnswer::Json(_))), "no text at all");
    }
}
