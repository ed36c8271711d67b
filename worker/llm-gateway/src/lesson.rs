//! Reads a provider's refusal of the output limit: the highest limit that the model accepts, the
//! length of its context, or the name of the field. Pure.
//!
//! Providers share neither codes nor words, so this reads the sentence and looks for a number after
//! a cue. The gateway keeps a lesson only if the next request, which uses it, is answered (`call`).

use pool_core::pool::OutputLimitField;

use super::protocol::LIMIT_NAMES;

/// A fact about an LLM, from its refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lesson {
    /// The highest output limit that the LLM accepts.
    MaxOutput(u64),
    /// The tokens that prompt and limit may have together. `prompt` is the size of the refused
    /// prompt, if the refusal says it.
    Context { length: u64, prompt: Option<u64> },
    /// The field in which the LLM takes the limit.
    Field(OutputLimitField),
}

/// The limit that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RefusedLimit {
    pub(super) limit: u64,
    /// None: the dialect has only one name.
    pub(super) field: Option<OutputLimitField>,
}

/// Words for the limit, other than the names of fields.
const TOPICS: [&str; 8] = [
    "output token",
    "completion token",
    "new tokens",
    "maximum tokens",
    "max tokens",
    "maxoutputtokens",
    "in the completion",
    "in the output",
];
/// Cues before the length of the context.
const CONTEXT: [&str; 4] = [
    "context length",
    "context window",
    "context size",
    "max_model_len",
];
/// Cues before the highest accepted limit. An entry ends where the number begins.
const AT_MOST: [&str; 15] = [
    "at most",
    "<=",
    "≤",
    "equal to",
    "exceed",
    "exceeds",
    "no more than",
    "maximum",
    "maximum of",
    "maximum is",
    "max is",
    "limit of",
    "limit is",
    "up to",
    ">",
];
/// Cues before the lowest limit that is refused.
const BELOW: [&str; 4] = ["less than", "lower than", "smaller than", "below"];
/// Separators between the two ends of a range.
const RANGE: [&str; 7] = [",", "and", "to", "-", "~", "..", "(inclusive) to"];
/// Words for a field that the model does not know or accept.
const UNKNOWN: [&str; 9] = [
    "unsupported",
    "not supported",
    "unrecognized",
    "unknown",
    "unexpected",
    "extra inputs",
    "extra_forbidden",
    "not permitted",
    "not allowed",
];
/// No model accepts less. Smaller numbers are something else: a status, the lower end of a range.
const LEAST: u64 = 256;

pub(super) fn read(body: &[u8], refused: RefusedLimit) -> Option<Lesson> {
    let text = String::from_utf8_lossy(body).to_lowercase();
    let of_the_limit = LIMIT_NAMES
        .iter()
        .chain(&TOPICS)
        .any(|topic| text.contains(topic));
    // A limit of tokens per minute is another limit.
    if !of_the_limit || text.contains("per min") {
        return None;
    }
    let numbers = numbers(&text);
    context(&text, &numbers, refused.limit)
        .or_else(|| said_most(&text, &numbers, refused.limit).map(Lesson::MaxOutput))
        .or_else(|| other_field(&text, refused.field?).map(Lesson::Field))
        .or_else(|| largest(&numbers, refused.limit).map(Lesson::MaxOutput))
}

/// A number in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Number {
    start: usize,
    end: usize,
    value: u64,
}

/// The numbers in a text that are not parts of words, model names or identifiers.
fn numbers(text: &str) -> Vec<Number> {
    let in_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '@');
    let mut found = Vec::new();
    let mut rest = 0;
    while let Some(start) = text[rest..].find(in_word).map(|at| rest + at) {
        let end = text[start..]
            .find(|c| !in_word(c))
            .map_or(text.len(), |at| start + at);
        rest = end;
        if text[start..end].contains(|c: char| c.is_alphabetic() || c == '_') {
            continue;
        }
        let mut at = start;
        while let Some(begin) = text[at..end]
            .find(|c: char| c.is_ascii_digit())
            .map(|n| at + n)
        {
            at = text[begin..end]
                .find(|c: char| !c.is_ascii_digit())
                .map_or(end, |n| begin + n);
            if let Ok(value) = text[begin..at].parse() {
                found.push(Number {
                    start: begin,
                    end: at,
                    value,
                });
            }
        }
    }
    join_thousands(text, &found)
}

/// `16,384` is one number; `[1, 8192]` and `1,8192` are two.
fn join_thousands(text: &str, numbers: &[Number]) -> Vec<Number> {
    let mut joined: Vec<Number> = Vec::new();
    for number in numbers {
        match joined.last_mut() {
            Some(last)
                if &text[last.end..number.start] == ","
                    && number.end - number.start == 3
                    && last.value > 1 =>
            {
                last.value = last.value.saturating_mul(1000).saturating_add(number.value);
                last.end = number.end;
            }
            Some(_) | None => joined.push(*number),
        }
    }
    joined
}

/// The text before a position, without the quotes and signs at its end.
fn before(text: &str, place: usize) -> &str {
    text[..place].trim_end_matches([' ', ':', '=', '\'', '"', '`', '(', '[', '\\'])
}

fn ends_with_any(text: &str, cues: &[&str]) -> bool {
    cues.iter().any(|cue| text.ends_with(cue))
}

/// The context length, if the prompt and the limit together are too long, but the prompt alone is
/// not.
fn context(text: &str, numbers: &[Number], limit: u64) -> Option<Lesson> {
    let cue = CONTEXT
        .iter()
        .find_map(|cue| Some(text.find(cue)? + cue.len()))?;
    let length = numbers
        .iter()
        .find(|number| number.start >= cue && text[cue..number.start].len() < 16)?
        .value;
    let is_sum = |prompt: u64| {
        numbers
            .iter()
            .any(|number| Some(number.value) == prompt.checked_add(limit))
    };
    let is_prompt = |number: &&Number| {
        let exact = !before(text, number.start).ends_with("at least");
        number.value < length
            && exact
            && (is_sum(number.value) || text[number.end..].starts_with(" input tokens"))
    };
    let prompt = numbers.iter().find(is_prompt).map(|number| number.value);
    (limit < length || prompt.is_some()).then_some(Lesson::Context { length, prompt })
}

/// The highest accepted limit, found by a cue.
fn said_most(text: &str, numbers: &[Number], limit: u64) -> Option<u64> {
    let mut previous: Option<Number> = None;
    let said = numbers.iter().filter_map(|number| {
        let range = previous.is_some_and(|first| {
            first.value <= 1
                && RANGE
                    .contains(&text[first.end..number.start].trim_matches([' ', '\'', '"', '`']))
        });
        previous = Some(*number);
        let (lead, tail) = (before(text, number.start), &text[number.end..]);
        let at_most = range || ends_with_any(lead, &AT_MOST);
        let open = tail.starts_with(" (exclusive)") || (range && tail.starts_with(')'));
        match (at_most, open || ends_with_any(lead, &BELOW)) {
            (true, false) => Some(number.value),
            (true, true) | (false, true) => number.value.checked_sub(1),
            (false, false) => None,
        }
    });
    said.filter(|most| (LEAST..limit).contains(most)).max()
}

/// Without a known cue: the largest number below the refused limit that is not a status.
fn largest(numbers: &[Number], limit: u64) -> Option<u64> {
    let values = numbers.iter().map(|number| number.value);
    values
        .filter(|value| (LEAST..limit).contains(value) && !(400..600).contains(value))
        .max()
}

fn other_field(text: &str, refused: OutputLimitField) -> Option<OutputLimitField> {
    let other = match refused {
        OutputLimitField::MaxTokens => OutputLimitField::MaxCompletionTokens,
        OutputLimitField::MaxCompletionTokens => OutputLimitField::MaxTokens,
    };
    (text.contains(refused.as_str()) && UNKNOWN.iter().any(|word| text.contains(word)))
        .then_some(other)
}

#[cfg(test)]
#[path = "lesson_tests.rs"]
mod tests;
