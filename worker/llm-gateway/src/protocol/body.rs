//! The body of an agent's request: a JSON object that is read strictly and edited in place, so that a provider gets the
//! bytes that the agent sent. Pure.
//!
//! The provider must read what the gateway has checked. So the gateway refuses a body that two parsers may read
//! differently. Of two members with one name some parsers take the first, some the last. At the top level some take `MODEL`
//! for `model`.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};

use super::fields::BadRequest;

/// Edits of a body, by member name.
pub(crate) type FieldEdits = BTreeMap<&'static str, FieldEdit>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FieldEdit {
    /// Sets the member to this JSON value. A member that is missing is added at the end.
    Set(String),
    Remove,
}

/// A JSON object, byte for byte as it came.
#[derive(Debug, Clone)]
pub(crate) struct RequestBody {
    text: Box<str>,
    members: Vec<Member>,
}

#[derive(Debug, Clone)]
struct Member {
    name: String,
    /// The position of its name in the text, quotes included.
    key: Range<usize>,
    value: Range<usize>,
}

impl RequestBody {
    /// Reads a body. Returns it as text and as a tree, for checks.
    pub(crate) fn read(bytes: &[u8]) -> Result<(Self, Map<String, Value>), BadRequest> {
        let unreadable = |error: serde_json::Error| BadRequest::Json(error.to_string());
        let text =
            std::str::from_utf8(bytes).map_err(|error| BadRequest::Json(error.to_string()))?;
        let UniqueJson(Value::Object(fields)) = serde_json::from_str(text).map_err(unreadable)?
        else {
            return Err(BadRequest::Json("it is another JSON value".to_owned()));
        };
        let Spans(spans) = serde_json::from_str(text).map_err(unreadable)?;
        let place = |raw: &RawValue| {
            let start = raw.get().as_ptr().addr() - text.as_ptr().addr();
            start..start + raw.get().len()
        };
        let member = |(key, value): &(&RawValue, &RawValue)| {
            let name = serde_json::from_str(key.get()).map_err(unreadable)?;
            Ok(Member {
                name,
                key: place(key),
                value: place(value),
            })
        };
        let members = spans
            .iter()
            .map(member)
            .collect::<Result<_, BadRequest>>()?;
        Ok((
            Self {
                text: text.into(),
                members,
            },
            fields,
        ))
    }

    /// A member whose name is not in `known`, but which some parsers take for one that is.
    pub(crate) fn look_alike(&self, known: impl Fn(&str) -> bool) -> Option<&str> {
        // Go's parser ignores letter case, and takes two letters beyond ASCII for `s` and `k`.
        let folded = |name: &str| {
            name.chars()
                .flat_map(char::to_uppercase)
                .flat_map(char::to_lowercase)
                .collect()
        };
        let names = self.members.iter().map(|member| member.name.as_str());
        names.into_iter().find(|name| {
            let plain: String = folded(name);
            plain != **name && known(&plain)
        })
    }

    /// A member's value, as text.
    pub(crate) fn literal(&self, name: &str) -> Option<&str> {
        let member = self.members.iter().find(|member| member.name == name)?;
        Some(&self.text[member.value.clone()])
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The text with its edits. Everything else stays the same, byte for byte.
    pub(crate) fn with(&self, edits: &FieldEdits) -> String {
        let mut out = String::with_capacity(self.text.len() + 64);
        let begin = self.members.first().map_or_else(
            || self.text.find('{').map_or(0, |at| at + 1),
            |m| m.key.start,
        );
        out.push_str(&self.text[..begin]);
        let (mut any, mut end) = (false, begin);
        for member in &self.members {
            // The comma and the whitespace after the value before.
            let gap = &self.text[end..member.key.start];
            end = member.value.end;
            let edit = edits.get(member.name.as_str());
            if edit == Some(&FieldEdit::Remove) {
                continue;
            }
            if any {
                out.push_str(gap);
            }
            any = true;
            out.push_str(&self.text[member.key.start..member.value.start]);
            match edit {
                Some(FieldEdit::Set(value)) => out.push_str(value),
                Some(FieldEdit::Remove) | None => out.push_str(&self.text[member.value.clone()]),
            }
        }
        for (name, edit) in edits {
            if let FieldEdit::Set(value) = edit
                && self.literal(name).is_none()
            {
                out.push_str(if any { ",\"" } else { "\"" });
                any = true;
                out.push_str(name);
                out.push_str("\":");
                out.push_str(value);
            }
        }
        out.push_str(&self.text[end..]);
        out
    }
}

/// The members of an object, as they are in the text.
struct Spans<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de> Deserialize<'de> for Spans<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Spans<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Spans<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Spans(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// A JSON value in which no object has a member twice.
struct UniqueJson(Value);

impl<'de> Deserialize<'de> for UniqueJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Strict).map(UniqueJson)
    }
}

struct Strict;

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(UniqueJson(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some((name, UniqueJson(value))) = map.next_entry::<String, UniqueJson>()? {
            if fields.contains_key(&name) {
                return Err(de::Error::custom(format_args!(
                    "an object has `{name}` twice"
                )));
            }
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
