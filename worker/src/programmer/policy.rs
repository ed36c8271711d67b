//! Which paths a change may contain: the rules of the pool file and of the task. Pure.
//!
//! The paths are those that git has found in the change. Both names of a moved file are among them,
//! and so are removed files, links and files whose mode changed. A task can add rules and take none
//! away.

use pool_core::patterns::{PathMatcher, PathPattern};
use pool_core::pool;
use pool_core::result::{ErrorKind, TaskFailure};

use super::runs::RunEnd;

/// How many paths a prompt for a repair lists.
const LISTED: usize = 20;

/// All rules for the changes of one task.
#[derive(Debug)]
pub(super) struct Policy {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    kind: ErrorKind,
    /// Where the patterns are written, for people.
    key: String,
    matcher: PathMatcher,
}

/// A path that a rule forbids.
struct Violation<'a> {
    path: &'a str,
    pattern: &'a PathPattern,
    rule: &'a Rule,
}

impl Policy {
    /// `is_of_repository` says whether a name in `protect_in` means the task's repository. `of_task`
    /// is the task's `protect`.
    pub(super) fn new(
        patch: &pool::Patch,
        is_of_repository: impl Fn(&pool_core::source::Repository) -> bool,
        of_task: &[PathPattern],
    ) -> Self {
        let rule = |kind, key: &str, patterns: &[PathPattern]| Rule {
            kind,
            key: key.to_owned(),
            matcher: PathMatcher::new(patterns),
        };
        let mut rules = vec![
            rule(
                ErrorKind::Policy,
                "`patch.deny` in the pool file",
                &patch.deny,
            ),
            rule(
                ErrorKind::ProtectedChanged,
                "`protect` in the task",
                of_task,
            ),
            rule(
                ErrorKind::ProtectedChanged,
                "`patch.protect` in the pool file",
                &patch.protect,
            ),
        ];
        for (name, patterns) in &patch.protect_in {
            if is_of_repository(name) {
                let key = format!("`patch.protect_in` of {name} in the pool file");
                rules.push(rule(ErrorKind::ProtectedChanged, &key, patterns));
            }
        }
        Self { rules }
    }

    /// How a run with this change ends, if the change is forbidden.
    pub(super) fn refuse(&self, files: &[String], instruction: &str) -> Option<RunEnd> {
        let violations: Vec<Violation<'_>> = files
            .iter()
            .filter_map(|path| self.violation(path))
            .collect();
        let first = violations.first()?;
        Some(RunEnd::Refused {
            failure: TaskFailure::new(first.rule.kind, message(first, violations.len() - 1)),
            repair: repair_prompt(instruction, &violations),
        })
    }

    fn violation<'a>(&'a self, path: &'a str) -> Option<Violation<'a>> {
        self.rules.iter().find_map(|rule| {
            let pattern = rule.matcher.find(path)?;
            Some(Violation {
                path,
                pattern,
                rule,
            })
        })
    }
}

fn message(first: &Violation<'_>, others: usize) -> String {
    let Violation {
        path,
        pattern,
        rule,
    } = first;
    let others = match others {
        0 => String::new(),
        1 => " (and one more path)".to_owned(),
        several => format!(" (and {several} more paths)"),
    };
    format!(
        "the change is refused: {path} may not be changed, because `{pattern}` of {} matches it{others}: say in the \
         instruction that it stays as it is, or remove the pattern",
        rule.key
    )
}

fn repair_prompt(instruction: &str, violations: &[Violation<'_>]) -> String {
    let mut listed: Vec<&str> = violations
        .iter()
        .take(LISTED)
        .map(|violation| violation.path)
        .collect();
    let more = format!("and {} more", violations.len().saturating_sub(LISTED));
    if violations.len() > LISTED {
        listed.push(&more);
    }
    format!(
        "{instruction}\n\nThe files already contain a change for this task, but it contains files that may not be \
         changed:\n\n{}\n\nUndo the changes of these files: restore those that were there before, as \
         `git checkout HEAD -- FILE` does, and remove those that are new. Keep the rest of the change. Solve the task \
         without changing these files.\n",
        listed.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use pool_core::source::Repository;

    fn patterns(texts: &[&str]) -> Vec<PathPattern> {
        let pattern = |text: &&str| PathPattern::new(*text).expect("a pattern");
        texts.iter().map(pattern).collect()
    }

    fn repository(name: &str) -> Repository {
        Repository::new(name).expect("a repository")
    }

    fn policy() -> Policy {
        let patch = pool::Patch {
            deny: patterns(&[".env*", "**/.git*config"]),
            protect: patterns(&["LICENSE"]),
            protect_in: BTreeMap::from([
                (repository("app"), patterns(&["spec/**"])),
                (repository("other"), patterns(&["src/**"])),
            ]),
            max_bytes: u64::MAX,
        };
        let of_app = |name: &Repository| name.as_str() == "app";
        Policy::new(&patch, of_app, &patterns(&["tests/**", ".env"]))
    }

    fn refused(files: &[&str]) -> Option<(TaskFailure, String)> {
        let files: Vec<String> = files.iter().map(ToString::to_string).collect();
        let end = policy().refuse(&files, "Fix add.")?;
        let RunEnd::Refused { failure, repair } = end else {
            panic!("another end: {end:?}")
        };
        Some((failure, repair))
    }

    #[test]
    fn each_rule_is_named_with_its_path_pattern_and_key() {
        for (path, kind, pattern, key) in [
            (".env.local", ErrorKind::Policy, ".env*", "patch.deny"),
            (
                "a/.gitconfig",
                ErrorKind::Policy,
                "**/.git*config",
                "patch.deny",
            ),
            // The task cannot turn a rule of the pool file into its own.
            (".env", ErrorKind::Policy, ".env*", "patch.deny"),
            (
                "tests/a.py",
                ErrorKind::ProtectedChanged,
                "tests/**",
                "`protect` in the task",
            ),
            (
                "LICENSE",
                ErrorKind::ProtectedChanged,
                "LICENSE",
                "patch.protect",
            ),
            (
                "spec/a",
                ErrorKind::ProtectedChanged,
                "spec/**",
                "patch.protect_in` of app",
            ),
        ] {
            let (failure, repair) = refused(&["calc.py", path]).expect("a refusal");
            assert_eq!(failure.kind, kind, "{path}");
            for part in [path, pattern, key] {
                assert!(
                    failure.message.contains(part),
                    "{part} is in {}",
                    failure.message
                );
            }
            assert!(
                repair.contains(&format!("\n{path}\n")) && repair.starts_with("Fix add."),
                "the agent is told what to undo: {repair}"
            );
            assert!(!repair.contains("calc.py"), "and nothing else: {repair}");
        }
    }

    #[test]
    fn other_paths_are_free() {
        assert!(
            refused(&["calc.py", "src/a", "docs/tests"]).is_none(),
            "no rule matches"
        );
    }

    #[test]
    fn many_paths_are_counted() {
        let files: Vec<String> = (0..30).map(|number| format!("tests/{number}")).collect();
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let (failure, repair) = refused(&files).expect("a refusal");
        assert!(
            failure.message.contains("and 29 more paths"),
            "{}",
            failure.message
        );
        assert!(repair.contains("and 10 more\n"), "{repair}");
    }
}
