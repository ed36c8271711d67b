//! Finds the last event of an agent in its output: a line with some text, or a JSON object with
//! some fields. Pure.
//!
//! Output comes in pieces that end anywhere and contain escape sequences of terminals, and lines
//! have any length. A JSON object is searched in a line of at most [`MAX_LINE_BYTES`]. A text is
//! searched in any line, and found as soon as it is there.

use pool_core::pool::LastEvent;
use serde_json::Value;

/// The longest line that may be an event. Some agents put their whole answer into their last event.
const MAX_LINE_BYTES: usize = 1024 * 1024;

const ESC: u8 = 0x1b;
const BEL: u8 = 0x07;

/// Reads output and reports when the event is in it.
#[derive(Debug, Clone)]
pub(super) struct Finder {
    event: LastEvent,
    /// The kept part of the current line, without escape sequences.
    line: Vec<u8>,
    /// The current line is longer than its kept part.
    cut: bool,
    escape: Escape,
}

/// The position in an escape sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escape {
    None,
    /// After ESC.
    Begun,
    /// `ESC [`, until a byte from `@` to `~`.
    Control,
    /// `ESC ]` and others that contain a text, until BEL or `ESC \`.
    Text,
    /// ESC inside such a text.
    TextEnds,
}

impl Finder {
    pub(super) fn new(event: LastEvent) -> Self {
        Self {
            event,
            line: Vec::new(),
            cut: false,
            escape: Escape::None,
        }
    }

    /// Takes the next bytes. True if the event ends in them.
    pub(super) fn push(&mut self, bytes: &[u8]) -> bool {
        let (mut found, mut rest) = (false, bytes);
        while let Some(first) = rest.first() {
            let length = if self.is_escaped(*first) {
                1
            } else if is_line_end(*first) {
                found |= self.line_is_it();
                self.line.clear();
                self.cut = false;
                1
            } else {
                let plain = rest
                    .iter()
                    .position(|byte| *byte == ESC || is_line_end(*byte))
                    .unwrap_or(rest.len());
                found |= self.take(&rest[..plain]);
                plain
            };
            rest = &rest[length..];
        }
        // An event may have no line end.
        found || (self.line.last() == Some(&b'}') && self.line_is_it())
    }

    /// Takes the next part of the current line.
    fn take(&mut self, plain: &[u8]) -> bool {
        match &self.event {
            LastEvent::Text(text) => {
                self.line.extend_from_slice(plain);
                let found = self
                    .line
                    .windows(text.len().max(1))
                    .any(|window| window == text.as_bytes());
                // The beginning of the text may be here already.
                let keep = text.len().saturating_sub(1);
                self.line.drain(..self.line.len().saturating_sub(keep));
                found
            }
            LastEvent::Fields(_) => {
                let room = MAX_LINE_BYTES - self.line.len();
                self.line.extend_from_slice(&plain[..plain.len().min(room)]);
                self.cut |= plain.len() > room;
                false
            }
        }
    }

    fn line_is_it(&self) -> bool {
        let LastEvent::Fields(fields) = &self.event else {
            return false;
        };
        let line = self.line.trim_ascii();
        if self.cut || line.first() != Some(&b'{') {
            return false;
        }
        let printed: Option<serde_json::Map<String, Value>> = serde_json::from_slice(line).ok();
        printed.is_some_and(|printed| holds(&printed, fields))
    }

    /// Whether a byte belongs to an escape sequence.
    fn is_escaped(&mut self, byte: u8) -> bool {
        let (next, escaped) = match (self.escape, byte) {
            (Escape::None, ESC) => (Escape::Begun, true),
            (Escape::None, _) => (Escape::None, false),
            (Escape::Begun, b'[') => (Escape::Control, true),
            (Escape::Begun, b']' | b'P' | b'X' | b'^' | b'_') => (Escape::Text, true),
            // Bytes from space to slash may come in between.
            (Escape::Begun, b' '..=b'/') => (Escape::Begun, true),
            (Escape::Begun, _) => (Escape::None, true),
            (Escape::Control, b' '..=b'?') => (Escape::Control, true),
            (Escape::Control, _) => (Escape::None, true),
            (Escape::Text, BEL) | (Escape::TextEnds, b'\\') => (Escape::None, true),
            (Escape::Text | Escape::TextEnds, ESC) => (Escape::TextEnds, true),
            // A text without an end must not hide everything after it.
            (Escape::Text | Escape::TextEnds, b'\n') => (Escape::None, false),
            (Escape::Text | Escape::TextEnds, _) => (Escape::Text, true),
        };
        self.escape = next;
        escaped
    }
}

/// Progress bars end their lines with a carriage return.
fn is_line_end(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

/// Whether an object has all these fields with these values. Nested objects are compared in the
/// same way.
fn holds(
    printed: &serde_json::Map<String, Value>,
    fields: &serde_json::Map<String, Value>,
) -> bool {
    fields
        .iter()
        .all(|(name, wanted)| match (printed.get(name), wanted) {
            (Some(Value::Object(printed)), Value::Object(wanted)) => holds(printed, wanted),
            (Some(printed), wanted) => printed == wanted,
            (None, _) => false,
        })
}

#[cfg(test)]
#[path = "last_event_tests.rs"]
mod tests;
