//! Names that are checked once, where they enter the program: a value that exists is valid.
//!
//! Each of these names ends up in a queue name, a git ref, a file name or an argument list. So the
//! patterns are strict, and no name may begin with `-`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A text that does not fit the pattern of its type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not valid: {rule}")]
pub struct InvalidName {
    /// The kind of name, for the message: `task id`, `capability`, …
    pub what: &'static str,
    /// The refused text.
    pub value: String,
    /// The pattern in words, for the message.
    pub rule: &'static str,
}

/// Defines a checked text. The arguments are the type, the kind of name for error messages, the
/// pattern for JSON Schemas, the same pattern in words, and the check.
macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $pattern:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// Checks the text.
            ///
            /// # Errors
            /// [`InvalidName`](crate::id::InvalidName) when it does not fit the pattern of this type.
            pub fn new(value: impl Into<String>) -> Result<Self, $crate::id::InvalidName> {
                let value = value.into();
                let check: fn(&str) -> bool = $check;
                if check(&value) {
                    Ok(Self(value))
                } else {
                    Err($crate::id::InvalidName { what: $what, value, rule: $rule })
                }
            }

            /// The text as it was given to [`Self::new`].
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

        $crate::id::inline_schema!($type, stringify!($type), {"type": "string", "pattern": $pattern, "description": $rule});
    };
}

/// Defines the JSON Schema of a type. Schemas that use the type contain it, so that it has no page of its own.
macro_rules! inline_schema {
    ($type:ident, $name:expr, $schema:tt) => {
        impl schemars::JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!($schema)
            }
        }
    };
}

/// Defines an id that is a UUID.
macro_rules! uuid_id {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $type(uuid::Uuid);

        impl From<uuid::Uuid> for $type {
            fn from(id: uuid::Uuid) -> Self {
                Self(id)
            }
        }

        impl $type {
            /// An id with a fixed value, for tests.
            pub fn from_u128(value: u128) -> Self {
                Self(uuid::Uuid::from_u128(value))
            }
        }
    };
}

pub(crate) use {inline_schema, name};

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
    /// The id of a task. It becomes part of git refs, file names and message properties.
    ///
    /// ```
    /// use pool_core::id::TaskId;
    ///
    /// assert!(TaskId::new("fix-42").is_ok());
    /// assert!(TaskId::new("-rf").is_err(), "a program could take it for an option");
    /// assert!(TaskId::new("../up").is_err(), "it would leave the folder of the worktrees");
    /// ```
    TaskId,
    "task id",
    "^[A-Za-z0-9_][A-Za-z0-9_-]{0,63}$",
    "1 to 64 characters of A-Z a-z 0-9 _ -, not beginning with -",
    |text| is_word(text, 64, word_byte) && !text.starts_with('-')
);

impl From<uuid::Uuid> for TaskId {
    /// The id of a task whose submitter chose none: `t-` and the UUID in hexadecimal.
    fn from(id: uuid::Uuid) -> Self {
        Self(format!("t-{}", id.simple()))
    }
}

name!(
    /// The id of a programmer: `001` in the sample pool. Tables and pages show it as `Prog-001`.
    ProgrammerId,
    "programmer id",
    "^[A-Za-z0-9_][A-Za-z0-9_-]{0,31}$",
    "1 to 32 characters of A-Z a-z 0-9 _ -, not beginning with -",
    |text| is_word(text, 32, word_byte) && !text.starts_with('-')
);

name!(
    /// A word that a programmer offers and a task requires. It becomes part of routing keys and
    /// queue names.
    Capability,
    "capability",
    "^[a-z0-9][a-z0-9_-]{0,31}$",
    "1 to 32 characters of a-z 0-9 _ -, beginning with a letter or digit; not the word `any`",
    |text| is_word(text, 32, lower_byte) && !text.starts_with(['-', '_']) && text != "any"
);

name!(
    /// The name of an LLM in the pool file: `provider/model`, split at the first slash.
    ///
    /// ```
    /// use pool_core::id::LlmName;
    ///
    /// let llm = LlmName::new("openrouter/meta/llama-3:8b")?;
    /// assert_eq!((llm.provider(), llm.model()), ("openrouter", "meta/llama-3:8b"));
    /// # Ok::<(), pool_core::id::InvalidName>(())
    /// ```
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

    /// The part after the first slash: the model's name at the provider.
    pub fn model(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, model)| model)
    }
}

impl ProgrammerId {
    /// The name that people see, and that clients of the previous pool know: `Prog-001`.
    pub fn display_name(&self) -> String {
        format!("Prog-{}", self.0)
    }
}

uuid_id!(
    /// One execution of a task by one programmer; a task may take several. A UUID.
    AttemptId
);

impl AttemptId {
    /// The UUID of zeros, which no attempt has.
    pub(crate) const NIL: Self = Self(uuid::Uuid::nil());
}

uuid_id!(
    /// One incarnation of a process that appends events. A restarted process is another emitter.
    EmitterId
);

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

inline_schema!(AttemptId, "AttemptId", {"type": "string", "format": "uuid"});

/// Orders the deliveries of one task: the delivery with the highest token owns the task.
///
/// The generation decides first. Two copies of one message have equal tokens; the second is dropped.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Token {
    /// How often the task was published again: 0 at first. A header of the message, set by its
    /// publisher.
    pub generation: u32,
    /// The broker's own count: how often this message was returned. 0 for the first delivery.
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
