//! Turns the deserialiser's messages into words for somebody who edits a YAML file.

/// The candidate that was probably meant, if the word differs from one only by a few typing errors.
///
/// ```
/// use pool_config::did_you_mean;
///
/// assert_eq!(did_you_mean("timout_s", ["timeout_s", "retry_delay_s"]), Some("timeout_s"));
/// assert_eq!(did_you_mean("colour", ["timeout_s", "retry_delay_s"]), None);
/// ```
pub fn did_you_mean<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let slips = |candidate: &str| strsim::damerau_levenshtein(&word.to_lowercase(), candidate);
    let most = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|c| (slips(c), c))
        .filter(|(slips, _)| *slips <= most)
        .min()
        .map(|(_, c)| c)
}

/// `did you mean …?`, else `known are …`.
pub(super) fn suggestion(word: &str, candidates: &[&str]) -> String {
    match did_you_mean(word, candidates.iter().copied()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None if candidates.is_empty() => "none are known".to_owned(),
        None => format!("known are {}", candidates.join(", ")),
    }
}

/// The deserialiser's message in plain words. A message of an unknown form stays as it is.
pub(super) fn plain(message: &str) -> String {
    unknown(message, "unknown field ", |_, hint| {
        format!("unknown key: {hint}")
    })
    .or_else(|| {
        unknown(message, "unknown variant ", |word, hint| {
            format!("\"{word}\" is not valid: {hint}")
        })
    })
    .or_else(|| wrong_type(message))
    .unwrap_or_else(|| message.replacen("is not valid: ", "is not valid: write ", 1))
}

/// Reads "unknown field `a`, expected one of `b`, `c`".
fn unknown(message: &str, prefix: &str, say: fn(&str, &str) -> String) -> Option<String> {
    let mut quoted = message.strip_prefix(prefix)?.split('`').skip(1).step_by(2);
    let word = quoted.next()?;
    let known: Vec<&str> = quoted.collect();
    Some(say(word, &suggestion(word, &known)))
}

/// Reads "invalid type: integer `12`, expected a string", also "invalid value: …".
fn wrong_type(message: &str) -> Option<String> {
    let rest = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "))?;
    let (found, expected) = rest.rsplit_once(", expected ")?;
    if found == "unit value" {
        return Some("has no value: give it one, or remove the key".to_owned());
    }
    let found = plain_value(found);
    Some(match expected {
        "a string" if !found.starts_with("a ") => {
            format!("{found} is not a text: write it in quotes")
        }
        other => format!("{found} is not valid: write {}", plain_type(other)),
    })
}

fn plain_value(found: &str) -> &str {
    match found {
        "map" => "a mapping",
        "sequence" => "a list",
        scalar => {
            let value = ["string ", "integer ", "boolean ", "floating point "]
                .iter()
                .find_map(|kind| scalar.strip_prefix(kind))
                .unwrap_or(scalar);
            value.trim_matches('`')
        }
    }
}

fn plain_type(expected: &str) -> &str {
    match expected {
        "a boolean" => "true or false",
        "u16" => "a whole number from 0 to 65535",
        "u32" | "u64" | "usize" => "a whole number, 0 or more",
        "a sequence" => "a list",
        "a map" => "a mapping, one `key: value` a line",
        "a string" => "a text",
        "field identifier" => "a key that is a text",
        other if other.starts_with("struct ") => "a mapping, one `key: value` a line",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_become_plain_words() {
        for (message, words) in [
            (
                "unknown field `prot`, expected one of `id`, `port`",
                "unknown key: did you mean `port`?",
            ),
            (
                "unknown field `x`, expected `id` or `port`",
                "unknown key: known are id, port",
            ),
            (
                "unknown variant `fils`, expected one of `strict`, `files`",
                "\"fils\" is not valid: did you mean `files`?",
            ),
            (
                "invalid type: integer `12`, expected a string",
                "12 is not a text: write it in quotes",
            ),
            (
                "invalid type: string \"x\", expected u32",
                "\"x\" is not valid: write a whole number, 0 or more",
            ),
            (
                "invalid value: integer `-1`, expected u64",
                "-1 is not valid: write a whole number, 0 or more",
            ),
            (
                "invalid type: unit value, expected u64",
                "has no value: give it one, or remove the key",
            ),
            (
                "invalid type: sequence, expected struct RawX",
                "a list is not valid: write a mapping, one `key: value` a line",
            ),
            (
                "capability \"A\" is not valid: a-z",
                "capability \"A\" is not valid: write a-z",
            ),
            ("something else", "something else"),
        ] {
            assert_eq!(plain(message), words, "{message}");
        }
    }
}
