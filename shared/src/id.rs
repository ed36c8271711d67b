//! Names that are checked once, at the edge: a value that exists is valid.
//!
//! Every name here ends up in a queue name, a git ref, a file name or an argument list, so the patterns are strict
//! and none may begin with `-`.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A name that does not fit its pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not valid: {rule}")]
pub struct InvalidName {
    pub what: &'static str,
    pub value: String,
    pub rule: &'static str,
}

/// A checked text: what it is, its pattern for schemas, its rule for people, and the check itself.
macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $pattern:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// # Errors
            /// [`InvalidName`](crate::id::InvalidName) when the text does not fit the pattern of this type.
            pub fn new(value: impl Into<String>) -> Result<Self, $crate::id::InvalidName> {
                let value = value.into();
                let check: fn(&str) -> bool = $check;
                if check(&value) {
                    Ok(Self(value))
                } else {
                    Err($crate::id::InvalidName { what: $what, value, rule: $rule })
                }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $type {
            type Error = $crate::id::InvalidName;
            fn try_from(value: String) -> Result<Self, $crate::id::InvalidName> {
                Self::new(value)
            }
        }

        impl std::str::FromStr for $type {
            type Err = $crate::id::InvalidName;
            fn from_str(value: &str) -> Result<Self, $crate::id::InvalidName> {
                Self::new(value)
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.0
            }
        }

        impl schemars::JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "pattern": $pattern, "description": $rule})
            }
        }
    };
}

pub(crate) use name;

fn is_word(text: &str, max: usize, allowed: fn(u8) -> bool) -> bool {
    (1..=max).contains(&text.len()) && text.bytes().all(allowed)
}

fn word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

fn lower_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-'
}

name!(
    /// The id of a task: part of git refs, file names and message properties.
    TaskId,
    "task id",
    "^[A-Za-z0-9_][A-Za-z0-9_-]{0,63}$",
    "1 to 64 characters of A-Z a-z 0-9 _ -, not beginning with -",
    |text| is_word(text, 64, word_byte) && !text.starts_with('-')
);

name!(
    /// The id of a programmer, `001` in the sample pool; shown to people as `Prog-001`.
    ProgrammerId,
    "programmer id",
    "^[A-Za-z0-9_][A-Za-z0-9_-]{0,31}$",
    "1 to 32 characters of A-Z a-z 0-9 _ -, not beginning with -",
    |text| is_word(text, 32, word_byte) && !text.starts_with('-')
);

name!(
    /// Something a programmer offers and a task requires; part of routing keys and queue names.
    Capability,
    "capability",
    "^[a-z0-9][a-z0-9_-]{0,31}$",
    "1 to 32 characters of a-z 0-9 _ -, beginning with a letter or digit; not the word `any`",
    |text| is_word(text, 32, lower_byte) && !text.starts_with(['-', '_']) && text != "any"
);

name!(
    /// `provider/model`, as in `ollama/qwen2.5-coder:7b-instruct`. The provider is the part before the first slash.
    LlmName,
    "LLM",
    "^[a-z0-9][a-z0-9_-]*/[A-Za-z0-9][A-Za-z0-9._:/@+-]*$",
    "`provider/model`, for example ollama/qwen2.5-coder:7b-instruct",
    |text| text.len() <= 128
        && text.split_once('/').is_some_and(|(provider, model)| {
            is_word(provider, 32, lower_byte)
                && !provider.starts_with(['-', '_'])
                && model.starts_with(|c: char| c.is_ascii_alphanumeric())
                && model.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:/@+-".contains(&b))
        })
);

impl LlmName {
    /// The part before the first slash: a key of `providers` in the pool file.
    pub fn provider(&self) -> &str {
        self.0.split_once('/').map_or("", |(provider, _)| provider)
    }

    /// The part after the first slash: the name that the provider knows.
    pub fn model(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, model)| model)
    }
}

impl ProgrammerId {
    /// The old clients' name of a programmer: `Prog-001`.
    pub fn display_name(&self) -> String {
        format!("Prog-{}", self.0)
    }
}

/// One execution of a task by one programmer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AttemptId(uuid::Uuid);

impl AttemptId {
    /// A new id; sorts by the time it was made (UUID version 7).
    #[expect(
        clippy::new_without_default,
        reason = "an id that is made by accident is a bug"
    )]
    pub fn new() -> Self {
        Self(uuid::Uuid::now_v7())
    }

    pub fn from_u128(value: u128) -> Self {
        Self(uuid::Uuid::from_u128(value))
    }
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl JsonSchema for AttemptId {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "AttemptId".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "uuid"})
    }
}

/// What decides between two deliveries of one task: the higher token owns it.
///
/// The generation is set by whoever publishes (0 at first), the count is the broker's own for this message.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Token {
    pub generation: u32,
    pub count: u64,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.generation, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_taken_for_an_option_or_a_path_are_refused() {
        for bad in ["", "-x", "a/b", "a b", "..", "a\n", "ä", &"x".repeat(65)] {
            assert!(TaskId::new(bad).is_err(), "{bad:?} must not be a task id");
        }
        for bad in ["", "any", "Fast", "a.b", "-a", "_a"] {
            assert!(
                Capability::new(bad).is_err(),
                "{bad:?} must not be a capability"
            );
        }
        for bad in [
            "gpt-4o",
            "/x",
            "openai/",
            "openai/-x",
            "open ai/x",
            "openai/x y",
        ] {
            assert!(LlmName::new(bad).is_err(), "{bad:?} must not be an LLM");
        }
    }

    #[test]
    fn an_llm_splits_at_the_first_slash() {
        let llm = LlmName::new("openrouter/meta/llama-3:8b").expect("a valid name");
        assert_eq!(
            (llm.provider(), llm.model()),
            ("openrouter", "meta/llama-3:8b"),
            "provider and model"
        );
    }

    #[test]
    fn a_later_generation_beats_any_count() {
        assert!(
            Token {
                generation: 1,
                count: 0
            } > Token {
                generation: 0,
                count: 99
            },
            "generation decides first"
        );
    }
}
