//! Finds in the output of a program which paths it could not use. Pure, and bounded: it reads the end of the output once.
//!
//! It only ever returns paths that stand in the output as a whole. [`hints`](super::hints) decides which of them are worth a
//! word.

/// How much of the end of the output is read, in bytes.
pub(super) const OUTPUT_BYTES: usize = 64 * 1024;
/// The most paths, the last ones first.
const MOST_PATHS: usize = 16;
/// Longer paths are left out.
const LONGEST_PATH: usize = 256;
/// Cargo names a path up to this many lines before the reason.
const LINES_BEFORE: usize = 4;

/// How a program was refused a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Missing,
    Denied,
    ReadOnly,
}

/// A path that the output names beside a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RefusedPath<'a> {
    pub(super) path: &'a str,
    pub(super) how: Refusal,
}

/// The words of programs and languages for a refusal, in lower case.
const WORDS: [(Refusal, &[&str]); 3] = [
    (
        Refusal::ReadOnly,
        &["read-only file system", "erofs", "(os error 30)"],
    ),
    (
        Refusal::Denied,
        &[
            "permission denied",
            "eacces",
            "(os error 13)",
            "accessdeniedexception",
            "access denied",
            "access to the path",
            "permissionerror",
        ],
    ),
    (
        Refusal::Missing,
        &[
            "no such file or directory",
            "enoent",
            "(os error 2)",
            "nosuchfileexception",
            "filenotfoundexception",
            "could not find a part of the path",
            "could not find file",
            "cannot find",
            "can't find",
            "could not find",
            "not found",
            "does not exist",
        ],
    ),
];

/// The words for a system call that was refused, in lower case.
const REFUSED_CALL: [&str; 3] = ["operation not permitted", "eperm", "bad system call"];

/// The paths that the end of the output names beside a refusal, the last ones first, each once.
pub(super) fn refused_paths(output: &str) -> Vec<RefusedPath<'_>> {
    let lines: Vec<&str> = end_of(output).lines().collect();
    let mut found: Vec<RefusedPath<'_>> = Vec::new();
    for (number, line) in lines.iter().enumerate().rev() {
        let Some(how) = refusal(line) else { continue };
        let first = number.saturating_sub(LINES_BEFORE);
        let near = lines.get(first..=number).unwrap_or_default().iter().rev();
        let Some(named) = near.map(|line| paths(line)).find(|paths| !paths.is_empty()) else {
            continue;
        };
        for path in named {
            if found.iter().all(|known| known.path != path) {
                found.push(RefusedPath { path, how });
            }
        }
        if found.len() >= MOST_PATHS {
            break;
        }
    }
    found.truncate(MOST_PATHS);
    found
}

/// Whether the end of the output has the words for a refused system call.
pub(super) fn names_a_refused_call(output: &str) -> bool {
    let text = end_of(output).to_ascii_lowercase();
    REFUSED_CALL.iter().any(|words| contains_word(&text, words))
}

fn end_of(output: &str) -> &str {
    let mut start = output.len().saturating_sub(OUTPUT_BYTES);
    while !output.is_char_boundary(start) {
        start += 1;
    }
    output.get(start..).unwrap_or_default()
}

fn refusal(line: &str) -> Option<Refusal> {
    let line = line.to_ascii_lowercase();
    let says = |words: &&str| contains_word(&line, words);
    let known = WORDS.iter().find(|(_, words)| words.iter().any(&says));
    known.map(|(how, _)| *how)
}

/// Whether a text has these words, and not only as a part of a longer word.
fn contains_word(text: &str, words: &str) -> bool {
    let is_part = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    text.match_indices(words).any(|(at, _)| {
        let (before, after) = (text.get(..at), text.get(at + words.len()..));
        let before = before.and_then(|text| text.chars().next_back());
        let after = after.and_then(|text| text.chars().next());
        !is_part(before) && !is_part(after)
    })
}

/// The absolute paths in a line.
fn paths(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut before = None;
    let mut skip_to = 0;
    for (at, c) in line.char_indices() {
        let opens = at >= skip_to && c == '/' && may_open(before);
        let quote = before.and_then(closing_quote);
        before = Some(c);
        if !opens {
            continue;
        }
        let rest = line.get(at..).unwrap_or_default();
        let path = cut(rest, quote);
        skip_to = at + path.len();
        if is_sound(path) {
            found.push(path);
        }
    }
    found
}

/// Whether a path may begin behind this character. A slash behind a letter is a part of a relative path.
fn may_open(before: Option<char>) -> bool {
    before.is_none_or(|c| c.is_whitespace() || "'\"`‘’“”«([{<>=:,;@|".contains(c))
}

fn closing_quote(open: char) -> Option<char> {
    match open {
        '\'' | '"' | '`' | '’' => Some(open),
        '‘' => Some('’'),
        '“' => Some('”'),
        '«' => Some('»'),
        _ => None,
    }
}

/// The path at the beginning of a text: up to the closing quote or, without quotes, up to the first character that ends a
/// word.
fn cut(text: &str, quote: Option<char>) -> &str {
    // A quote that is closed far away, or never, must not be searched for again and again.
    let mut near = text.char_indices().take(LONGEST_PATH + 1);
    let closed = quote.and_then(|quote| near.find(|(_, c)| *c == quote));
    if let Some(path) = closed.and_then(|(end, _)| text.get(..end)) {
        return path;
    }
    let end = text.find(|c: char| c.is_whitespace() || "'\"`‘’“”»)]}<>:,;|".contains(c));
    let path = end.and_then(|end| text.get(..end)).unwrap_or(text);
    path.trim_end_matches(['.', '!', '?'])
}

fn is_sound(path: &str) -> bool {
    path.len() > 1
        && path.len() <= LONGEST_PATH
        && !path.starts_with("//")
        && !path.contains(|c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER)
        && !path.split('/').any(|part| part == "..")
}

#[cfg(test)]
#[path = "denials_tests.rs"]
mod tests;
