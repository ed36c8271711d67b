//! Patterns of paths in a repository, such as `tests/**`.
//!
//! They decide what an agent may not change. So two spellings of one name count as the same name, on every file system:
//! paths are compared in lower case and in Unicode's form NFC, without characters that some file systems ignore.

use icu_normalizer::ComposingNormalizerBorrowed;

use crate::id::name;

name!(
    /// A pattern of paths, from the root of the repository. `*` and `?` stay within a name, `**` stands for any
    /// directories. Every other character means itself.
    ///
    /// ```
    /// use pool_core::patterns::{PathMatcher, PathPattern};
    ///
    /// let tests = PathPattern::new("tests/**")?;
    /// let matcher = PathMatcher::new([&tests]);
    /// assert_eq!(matcher.find("Tests/unit/a.py"), Some(&tests));
    /// assert_eq!(matcher.find("src/tests/a.py"), None);
    /// # Ok::<(), pool_core::id::InvalidName>(())
    /// ```
    PathPattern,
    "pattern",
    r"^[^/!].*$",
    "a pattern of paths from the root of the repository, such as `tests/**`, `**/*.lock` or `Makefile`",
    is_pattern
);

const ANY_DIRECTORIES: &str = "**";

fn is_pattern(text: &str) -> bool {
    let plain = (1..=256).contains(&text.len())
        && !text.starts_with(['/', '!'])
        && !text.contains(['\\', '\0', '\n']);
    let part_is_good = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && (part == ANY_DIRECTORIES || !part.contains(ANY_DIRECTORIES))
    };
    plain && text.split('/').all(part_is_good)
}

/// Patterns, prepared for many paths.
#[derive(Debug, Clone, Default)]
pub struct PathMatcher {
    patterns: Vec<PreparedPattern>,
}

#[derive(Debug, Clone)]
struct PreparedPattern {
    pattern: PathPattern,
    parts: Vec<Vec<char>>,
}

impl PathMatcher {
    /// Prepares these patterns.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a PathPattern>) -> Self {
        let prepare = |pattern: &PathPattern| PreparedPattern {
            pattern: pattern.clone(),
            parts: parts(pattern.as_str()),
        };
        Self {
            patterns: patterns.into_iter().map(prepare).collect(),
        }
    }

    /// The first pattern that a change of this path concerns: it matches the path, or only paths below it. A file or link
    /// in the place of a directory replaces everything in there.
    pub fn find(&self, path: &str) -> Option<&PathPattern> {
        let path = parts(path);
        let found =
            |prepared: &&PreparedPattern| prepared.matches(&path) || prepared.is_below(&path);
        self.patterns.iter().find(found).map(|found| &found.pattern)
    }

    /// Whether a pattern matches this path. `tests/**` also matches the directory `tests`.
    pub fn covers(&self, path: &str) -> bool {
        let path = parts(path);
        self.patterns.iter().any(|prepared| prepared.matches(&path))
    }
}

impl PreparedPattern {
    fn matches(&self, path: &[Vec<char>]) -> bool {
        wildcard(
            &self.parts,
            path,
            |part| is_any_directories(part),
            |part, name| {
                wildcard(
                    part,
                    name,
                    |wanted| *wanted == '*',
                    |wanted, found| *wanted == '?' || wanted == found,
                )
            },
        )
    }

    /// Whether the pattern begins with this path, letter by letter, and goes on.
    fn is_below(&self, path: &[Vec<char>]) -> bool {
        self.parts.len() > path.len()
            && self.parts.iter().zip(path).all(|(part, name)| {
                part == name && !part.iter().any(|letter| matches!(letter, '*' | '?'))
            })
    }
}

fn is_any_directories(part: &[char]) -> bool {
    part == ['*', '*']
}

/// The names of a path, in the form in which they are compared.
fn parts(path: &str) -> Vec<Vec<char>> {
    let nfc = ComposingNormalizerBorrowed::new_nfc();
    let lower = nfc.normalize(path).to_lowercase();
    let folded = nfc.normalize(&lower);
    folded
        .split('/')
        .map(|name| name.chars().filter(|letter| !is_ignored(*letter)).collect())
        .collect()
}

/// Characters that HFS+ ignores in names. Git refuses a `.git` with them for the same reason.
fn is_ignored(letter: char) -> bool {
    matches!(
        letter,
        '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}'
    )
}

/// Matches in time `pattern × text`: only the last wildcard needs to be tried again.
fn wildcard<P, T>(
    pattern: &[P],
    text: &[T],
    is_wildcard: impl Fn(&P) -> bool,
    fits: impl Fn(&P, &T) -> bool,
) -> bool {
    let (mut next, mut at) = (0, 0);
    let mut again: Option<(usize, usize)> = None;
    while let Some(found) = text.get(at) {
        match (pattern.get(next), again) {
            (Some(wanted), _) if is_wildcard(wanted) => {
                next += 1;
                again = Some((next, at));
            }
            (Some(wanted), _) if fits(wanted, found) => {
                next += 1;
                at += 1;
            }
            (Some(_) | None, Some((after, from))) => {
                next = after;
                at = from + 1;
                again = Some((after, at));
            }
            (Some(_) | None, None) => return false,
        }
    }
    pattern.iter().skip(next).all(is_wildcard)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> PathPattern {
        PathPattern::new(text).expect("a pattern")
    }

    #[test]
    fn a_change_is_found_by_every_spelling_of_its_path() {
        for (text, path) in [
            ("tests/**", "tests/a.py"),
            ("tests/**", "tests/unit/deep/a.py"),
            ("tests/**", "tests"),
            ("tests/**", "TESTS/A.py"),
            (".env*", ".env"),
            (".env*", ".env.local"),
            (".ENV*", ".env"),
            ("**/.git*config", ".gitconfig"),
            ("**/.git*config", "a/b/.git-x-config"),
            (".github/workflows/**", ".github/workflows/ci.yml"),
            (".github/workflows/**", ".github"),
            (".github/workflows/**", ".GitHub/Workflows/ci.yml"),
            (".github/workflows/**", ".g\u{200c}ithub/workflows/ci.yml"),
            ("caf\u{e9}/*", "cafe\u{301}/menu"),
            ("cafe\u{301}/*", "CAF\u{c9}/menu"),
            ("a?c", "abc"),
            ("**/x/**/y", "x/y"),
            ("**/x/**/y", "1/x/2/x/3/y"),
            ("src/[id].tsx", "src/[id].tsx"),
            ("*a*b*", "xxaxxbxx"),
        ] {
            let matcher = PathMatcher::new([&pattern(text)]);
            assert!(matcher.find(path).is_some(), "{text} concerns {path}");
        }
    }

    #[test]
    fn other_paths_are_free() {
        for (text, path) in [
            ("tests/**", "src/tests/a.py"),
            ("tests/**", "tests2/a.py"),
            (".env*", "config/.env"),
            ("*.lock", "a/b.lock"),
            ("*/secret", "README.md"),
            ("**/secret", "README.md"),
            (".github/workflows/**", ".github/CODEOWNERS"),
            ("a?c", "a/c"),
            ("tests/*", "tests/unit/a.py"),
            ("src/[id].tsx", "src/i.tsx"),
            ("*a*b", "ba"),
        ] {
            let matcher = PathMatcher::new([&pattern(text)]);
            assert_eq!(matcher.find(path), None, "{text} leaves {path} alone");
        }
    }

    #[test]
    fn a_directory_is_covered_only_as_a_whole() {
        let matcher = PathMatcher::new([&pattern("tests/unit/**")]);
        assert!(matcher.covers("tests/unit"), "the directory itself");
        assert!(!matcher.covers("tests"), "a part of it is free");
    }

    #[test]
    fn many_wildcards_take_no_time() {
        let hard = pattern(&format!("{}b", "*a".repeat(120)));
        let path = "a".repeat(4000);
        let deep = pattern(&format!("{}z", "**/a/".repeat(50)));
        let matcher = PathMatcher::new([&hard, &deep]);
        assert_eq!(matcher.find(&path), None, "no letter b");
        assert_eq!(matcher.find(&"a/".repeat(2000)), None, "no name z");
    }

    #[test]
    fn a_pattern_that_could_match_nothing_is_refused() {
        for text in [
            "", "/tests", "tests/", "a//b", "../x", "./a", "a\\b", "!tests", "a**", "**b/c", "a\nb",
        ] {
            assert!(PathPattern::new(text).is_err(), "{text:?} is a mistake");
        }
    }
}
