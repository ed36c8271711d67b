//! Mistakes in a JSON message, in words for its sender. This module translates the words of the JSON reader.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::error::Category;

use crate::id::TaskId;

/// The most characters that are quoted from a message that is not JSON.
const MOST_QUOTED: usize = 40;

/// The name of the wrong field (`message` when no field is wrong), and its mistake.
pub(crate) fn told(path: &str, error: &serde_json::Error, body: &[u8]) -> (String, String) {
    let whole = || "message".to_owned();
    let (line, column) = (error.line(), error.column());
    match error.classify() {
        Category::Eof if body.trim_ascii().is_empty() => {
            (whole(), "is empty; send a JSON object".to_owned())
        }
        Category::Eof => (
            whole(),
            format!("is not complete: its JSON ends too early, at line {line} column {column}"),
        ),
        Category::Syntax | Category::Io => {
            let begins = quoted_beginning(body);
            (
                whole(),
                format!(
                    "is not JSON: unexpected character at line {line} column {column}; it begins with {begins}"
                ),
            )
        }
        Category::Data => {
            let words = error.to_string();
            let words = words
                .strip_suffix(&format!(" at line {line} column {column}"))
                .unwrap_or(&words);
            let (field, problem) = about_data(words);
            (joined(path, field), problem)
        }
    }
}

/// The mistake in the body of a request, as one sentence.
pub fn in_words(error: &serde_json::Error, body: &[u8]) -> String {
    let (field, problem) = told("", error, body);
    if field == "message" {
        format!("the request {problem}")
    } else {
        format!("{field}: {problem}")
    }
}

fn quoted_beginning(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let beginning: String = text.trim_start().chars().take(MOST_QUOTED).collect();
    format!("{beginning:?}")
}

/// The path of a field, `message` when neither a path nor a field is known.
fn joined(path: &str, field: Option<&str>) -> String {
    let path = if path == "." || path == "?" { "" } else { path };
    match field {
        Some(field) if path.is_empty() => field.to_owned(),
        // The path already ends with the field.
        Some(field) if path == field || path.ends_with(&format!(".{field}")) => path.to_owned(),
        Some(field) => format!("{path}.{field}"),
        None if path.is_empty() => "message".to_owned(),
        None => path.to_owned(),
    }
}

/// The field that the reader's words name, and the mistake in plain words. Unknown words stay as they are.
fn about_data(words: &str) -> (Option<&str>, String) {
    let quoted = |prefix: &str| {
        let mut parts = words.strip_prefix(prefix)?.split('`').skip(1).step_by(2);
        Some((parts.next()?, parts.collect::<Vec<&str>>()))
    };
    if let Some((field, known)) = quoted("unknown field ") {
        return (
            Some(field),
            format!("unknown field; known are {}", known.join(", ")),
        );
    }
    if let Some((field, _)) = quoted("missing field ") {
        return (Some(field), "is missing".to_owned());
    }
    if let Some((field, _)) = quoted("duplicate field ") {
        return (Some(field), "is given twice".to_owned());
    }
    if let Some((word, known)) = quoted("unknown variant ") {
        return (
            None,
            format!("\"{word}\" is not one of {}", known.join(", ")),
        );
    }
    let wrong_type = ["invalid type: ", "invalid value: "]
        .iter()
        .find_map(|prefix| words.strip_prefix(prefix));
    match wrong_type.and_then(|rest| rest.rsplit_once(", expected ")) {
        Some((found, expected)) => (
            None,
            format!("must be {}, not {}", wanted(expected), given(found)),
        ),
        None => (None, words.to_owned()),
    }
}

fn given(found: &str) -> String {
    let value = [
        "integer ",
        "floating point ",
        "boolean ",
        "string ",
        "character ",
    ];
    match found {
        "map" => "an object".to_owned(),
        "sequence" => "a list".to_owned(),
        scalar => match value.iter().find_map(|kind| scalar.strip_prefix(kind)) {
            Some(value) => value.trim_matches('`').to_owned(),
            None => scalar.to_owned(),
        },
    }
}

fn wanted(expected: &str) -> &str {
    match expected {
        "a boolean" => "true or false",
        "u16" | "u32" | "u64" | "usize" => "a whole number, 0 or more",
        "a sequence" => "a list",
        "a map" => "an object",
        other if other.starts_with("struct ") => "an object",
        other => other,
    }
}

/// The `id` of a message that may not be a valid task: it is read even when the message breaks off
/// behind it. None when the message has no valid id.
///
/// ```
/// use pool_core::wrong::id_in;
///
/// let cut_off = br#"{"id": "fix-42", "instruction": "add a te"#;
/// assert_eq!(id_in(cut_off).map(String::from).as_deref(), Some("fix-42"));
/// ```
pub fn id_in(body: &[u8]) -> Option<TaskId> {
    let found = RefCell::new(None);
    // A mistake in the rest does not matter here.
    let _ = LookForId(&found).deserialize(&mut serde_json::Deserializer::from_slice(body));
    found.into_inner()
}

struct LookForId<'a>(&'a RefCell<Option<TaskId>>);

impl<'de> DeserializeSeed<'de> for LookForId<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for LookForId<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "id" {
                *self.0.borrow_mut() = map.next_value::<TaskId>().ok();
                return Ok(());
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_from_what_is_no_task() {
        let id = |body: &str| id_in(body.as_bytes()).map(String::from);
        for body in [
            r#"{"id": "t"}"#,
            r#"{"id": "t", "instruction": "#,
            r#"{"id": "t", "instruction": "cut o"#,
            r#"{"id": "t" "instruction"}"#,
            r#"{"instruction": {"a": [1, null]}, "id": "t", "x"#,
        ] {
            assert_eq!(id(body).as_deref(), Some("t"), "{body}");
        }
        for body in [
            "",
            "hello",
            "[1]",
            r#"{"id": 5}"#,
            r#"{"id": "-x"}"#,
            r#"{"id": "cut"#,
            r#"{"a": {"id": "t"}}"#,
        ] {
            assert_eq!(id(body), None, "{body}");
        }
    }

    #[test]
    fn words_of_the_reader_become_plain_ones() {
        for (words, field, plain) in [
            (
                "unknown field `a`, expected one of `b`, `c`",
                Some("a"),
                "unknown field; known are b, c",
            ),
            (
                "missing field `repository`",
                Some("repository"),
                "is missing",
            ),
            ("duplicate field `id`", Some("id"), "is given twice"),
            (
                "unknown variant `x`, expected `normal` or `high`",
                None,
                "\"x\" is not one of normal, high",
            ),
            (
                "invalid type: integer `5`, expected a string",
                None,
                "must be a string, not 5",
            ),
            (
                "invalid type: null, expected a string",
                None,
                "must be a string, not null",
            ),
            (
                "invalid type: string \"a\", expected a sequence",
                None,
                "must be a list, not \"a\"",
            ),
            (
                "invalid type: floating point `1.5`, expected u64",
                None,
                "must be a whole number, 0 or more, not 1.5",
            ),
            (
                "invalid value: integer `-1`, expected u64",
                None,
                "must be a whole number, 0 or more, not -1",
            ),
            (
                "invalid type: sequence, expected an object",
                None,
                "must be an object, not a list",
            ),
            (
                "task id \"-x\" is not valid: no",
                None,
                "task id \"-x\" is not valid: no",
            ),
        ] {
            assert_eq!(about_data(words), (field, plain.to_owned()), "{words}");
        }
    }

    #[test]
    fn a_field_is_named_once_and_below_what_it_is_in() {
        for (path, field, name) in [
            (".", Some("repository"), "repository"),
            ("?", None, "message"),
            ("colour", Some("colour"), "colour"),
            ("limits", Some("colour"), "limits.colour"),
            ("limits.colour", Some("colour"), "limits.colour"),
            ("acceptance[0]", Some("run"), "acceptance[0].run"),
            ("files[1]", None, "files[1]"),
        ] {
            assert_eq!(joined(path, field), name, "{path} {field:?}");
        }
    }
}
