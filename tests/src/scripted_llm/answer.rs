//! The parts of a script: answers, the file that holds them, outage rules.

use std::time::Duration;

use serde::Deserialize;

/// A script from which no answer can be made.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    #[error("the answers file is not valid: {0}")]
    File(#[source] serde_yaml::Error),
    #[error("the SCRIPT line is not valid: {0}; write one answer as JSON, or a list of them")]
    Line(#[source] serde_json::Error),
    #[error("the rules are not valid: {0}; write a JSON list of answers that each name a `model`")]
    Rules(#[source] serde_json::Error),
    #[error("{place} needs `{key}`")]
    Missing { place: String, key: &'static str },
    #[error("{place} cannot have `{key}`")]
    Surplus { place: String, key: &'static str },
}

/// One answer. Layers are merged until one is complete: a rule with only `delay_ms` delays the
/// answer of the prompt or the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    pub say: Option<String>,
    pub edits: Vec<Edit>,
    pub fail: Option<Fail>,
    pub behave: Option<Behave>,
    pub delay: Option<Duration>,
    pub usage: Option<UsageReport>,
    /// The finish reason of a chat completion, instead of the true one.
    pub finish: Option<String>,
}

/// A change of one file. `search` is whole lines as they stand in the file; an empty `search` makes
/// a new file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    pub file: String,
    #[serde(default)]
    pub search: String,
    pub replace: String,
}

/// An error status of the provider.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fail {
    pub status: u16,
    pub retry_after_s: Option<u64>,
    pub code: Option<String>,
    pub message: Option<String>,
}

/// A behaviour other than a plain answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Behave {
    /// Reads the request and never answers.
    Hang,
    /// Closes the connection without a byte.
    Drop,
    /// Resets the connection (RST), as a crashed provider does.
    Reset,
    /// Sends half of the answer, then closes the connection.
    CutStream,
    /// Status 200 with half a JSON text.
    BrokenJson,
    /// Status 200 with no choices.
    NoChoices,
    /// A choice without text.
    Empty,
    /// Half of the text, finish reason `length`.
    Length,
    /// Status 400, code `context_length_exceeded`.
    ContextTooLong,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenUsage {
    pub input_tokens: u64,
    #[serde(default)]
    pub cached_input_tokens: u64,
    pub output_tokens: u64,
}

/// The token usage in the answer. Without it the answer counts one token for four characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsageReport {
    Unreported,
    Tokens(TokenUsage),
}

/// An outage: this answer to every matching request, until the rules are replaced. The first
/// matching rule holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// A part of the model's name, or `*`.
    pub model: String,
    /// A part of any user message; None matches every prompt. So the calls of one task can fail at
    /// every LLM.
    pub prompt: Option<String>,
    /// Requests wait until the rules are replaced; the new rules answer them.
    pub hold: bool,
    pub answer: Answer,
}

/// An answer for prompts that contain `when`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PromptAnswer {
    pub(super) when: String,
    pub(super) answer: Answer,
}

#[derive(Debug, Default)]
pub(super) struct AnswersFile {
    /// The models of `GET /v1/models`. Other models are answered 404, unless this is empty.
    pub(super) models: Vec<String>,
    pub(super) answers: Vec<PromptAnswer>,
}

impl Answer {
    /// Whether this layer is complete without a layer below it.
    pub(super) fn is_complete(&self) -> bool {
        let behaviour = match self.behave {
            None | Some(Behave::CutStream | Behave::Length) => false,
            Some(
                Behave::Hang
                | Behave::Drop
                | Behave::Reset
                | Behave::BrokenJson
                | Behave::NoChoices
                | Behave::Empty
                | Behave::ContextTooLong,
            ) => true,
        };
        behaviour || self.fail.is_some() || self.say.is_some() || !self.edits.is_empty()
    }

    /// This answer; the layer below fills in what is missing.
    pub(super) fn over(self, below: Self) -> Self {
        let has_text = self.say.is_some() || !self.edits.is_empty();
        let (say, edits) = if has_text {
            (self.say, self.edits)
        } else {
            (below.say, below.edits)
        };
        Self {
            say,
            edits,
            fail: self.fail.or(below.fail),
            behave: self.behave.or(below.behave),
            delay: self.delay.or(below.delay),
            usage: self.usage.or(below.usage),
            finish: self.finish.or(below.finish),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    models: Vec<String>,
    answers: Vec<RawAnswer>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAnswer {
    when: Option<String>,
    model: Option<String>,
    prompt: Option<String>,
    hold: Option<bool>,
    say: Option<String>,
    #[serde(default)]
    edits: Vec<Edit>,
    fail: Option<Fail>,
    behave: Option<Behave>,
    delay_ms: Option<u64>,
    usage: Option<RawUsage>,
    finish: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawUsage {
    Word(RawUsageWord),
    Tokens(TokenUsage),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawUsageWord {
    None,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawLine {
    Many(Vec<RawAnswer>),
    One(Box<RawAnswer>),
}

impl RawAnswer {
    fn answer(self) -> Answer {
        Answer {
            say: self.say,
            edits: self.edits,
            fail: self.fail,
            behave: self.behave,
            delay: self.delay_ms.map(Duration::from_millis),
            usage: self.usage.map(|usage| match usage {
                RawUsage::Word(RawUsageWord::None) => UsageReport::Unreported,
                RawUsage::Tokens(tokens) => UsageReport::Tokens(tokens),
            }),
            finish: self.finish,
        }
    }

    /// A key that only rules have.
    fn key_of_a_rule(&self) -> Option<&'static str> {
        let given = [
            ("model", self.model.is_some()),
            ("prompt", self.prompt.is_some()),
            ("hold", self.hold.is_some()),
        ];
        given
            .into_iter()
            .find(|(_, given)| *given)
            .map(|(key, _)| key)
    }

    fn prompt_answer(mut self, index: usize) -> Result<PromptAnswer, ScriptError> {
        let place = || format!("answers[{index}]");
        if let Some(key) = self.key_of_a_rule() {
            return Err(ScriptError::Surplus {
                place: place(),
                key,
            });
        }
        let when = self.when.take().ok_or_else(|| ScriptError::Missing {
            place: place(),
            key: "when",
        })?;
        Ok(PromptAnswer {
            when,
            answer: self.answer(),
        })
    }

    fn rule(mut self, index: usize) -> Result<Rule, ScriptError> {
        let place = || format!("rules[{index}]");
        if self.when.is_some() {
            return Err(ScriptError::Surplus {
                place: place(),
                key: "when",
            });
        }
        let model = self.model.take().ok_or_else(|| ScriptError::Missing {
            place: place(),
            key: "model",
        })?;
        Ok(Rule {
            model,
            prompt: self.prompt.take(),
            hold: self.hold.unwrap_or(false),
            answer: self.answer(),
        })
    }
}

pub(super) fn parse_file(yaml: &str) -> Result<AnswersFile, ScriptError> {
    let raw: RawFile = serde_yaml::from_str(yaml).map_err(ScriptError::File)?;
    let answers = raw
        .answers
        .into_iter()
        .enumerate()
        .map(|(index, raw)| raw.prompt_answer(index));
    Ok(AnswersFile {
        models: raw.models,
        answers: answers.collect::<Result<_, _>>()?,
    })
}

/// The answers of one `SCRIPT:` line, at least one; text after the JSON value is ignored.
pub(super) fn parse_line(json: &str) -> Result<Vec<Answer>, ScriptError> {
    let mut values = serde_json::Deserializer::from_str(json).into_iter::<serde_json::Value>();
    let value = values
        .next()
        .unwrap_or(Ok(serde_json::Value::Null))
        .map_err(ScriptError::Line)?;
    let raw = match serde_json::from_value(value).map_err(ScriptError::Line)? {
        RawLine::Many(many) => many,
        RawLine::One(one) => vec![*one],
    };
    let place = || "the SCRIPT line".to_owned();
    if raw.is_empty() {
        return Err(ScriptError::Missing {
            place: place(),
            key: "an answer",
        });
    }
    let surplus = raw.iter().find_map(|raw| {
        raw.when
            .as_ref()
            .map(|_| "when")
            .or_else(|| raw.key_of_a_rule())
    });
    if let Some(key) = surplus {
        return Err(ScriptError::Surplus {
            place: place(),
            key,
        });
    }
    Ok(raw.into_iter().map(RawAnswer::answer).collect())
}

pub(super) fn parse_rules(json: &[u8]) -> Result<Vec<Rule>, ScriptError> {
    let raw: Vec<RawAnswer> = serde_json::from_slice(json).map_err(ScriptError::Rules)?;
    raw.into_iter()
        .enumerate()
        .map(|(index, raw)| raw.rule(index))
        .collect()
}
