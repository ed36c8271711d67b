//! Which paths a change may contain: the rules of the pool file and of the task. Pure.
//!
//! The paths are those that git has found in the change. Both names of a moved file are among them,
//! and so are removed files, links and files whose mode changed. A task can add rules and take none
//! away.

use pool_core::patterns::{PathMatcher, PathPattern};
use pool_core::pool;
use pool_core::result::{ErrorKind, TaskFailure};

use super::runs::RunEnd;
use crate::workspace::AttributeChange;

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

/// A change that a rule forbids.
struct Violation<'a> {
    /// The changed file.
    path: &'a str,
    pattern: &'a PathPattern,
    rule: &'a Rule,
    /// The change of another file, if the rule protects that one.
    of_other: Option<&'a AttributeChange>,
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

    /// Whether a rule protects this path.
    pub(super) fn protects(&self, path: &str) -> bool {
        self.protection(path).is_some()
    }

    /// How a run with this change ends, if the change is forbidden. `attributes` are the protected
    /// files that get other git attributes from it.
    pub(super) fn refuse(
        &self,
        files: &[String],
        attributes: &[AttributeChange],
        instruction: &str,
    ) -> Option<RunEnd> {
        let by_path = files.iter().filter_map(|path| self.violation(path));
        let by_attribute = attributes.iter().filter_map(|change| {
            let (rule, pattern) = self.protection(&change.path)?;
            Some(Violation {
                path: &change.source,
                pattern,
                rule,
                of_other: Some(change),
            })
        });
        let violations: Vec<Violation<'_>> = by_path.chain(by_attribute).collect();
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
                of_other: None,
            })
        })
    }

    fn protection(&self, path: &str) -> Option<(&Rule, &PathPattern)> {
        let mut protecting = self
            .rules
            .iter()
            .filter(|rule| rule.kind == ErrorKind::ProtectedChanged);
        protecting.find_map(|rule| Some((rule, rule.matcher.find(path)?)))
    }
}

fn message(first: &Violation<'_>, others: usize) -> String {
    let Violation {
        path,
        pattern,
        rule,
        of_other,
    } = first;
    let what = match of_other {
        None => (*path).to_owned(),
        Some(AttributeChange {
            path: other,
            attribute,
            ..
        }) => format!("{path} changes the git attribute `{attribute}` of {other}, which"),
    };
    let others = match others {
        0 => String::new(),
        1 => " (and one more path)".to_owned(),
        several => format!(" (and {several} more paths)"),
    };
    format!(
        "the change is refused: {what} may not be changed, because `{pattern}` of {} matches it{others}: say in the \
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
        refused_with(files, &[])
    }

    fn refused_with(
        files: &[&str],
        attributes: &[AttributeChange],
    ) -> Option<(TaskFailure, String)> {
        let files: Vec<String> = files.iter().map(ToString::to_string).collect();
        let end = policy().refuse(&files, attributes, "Fix add.")?;
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
    fn an_attribute_of_a_protected_file_is_refused_with_its_source() {
        let change = |path: &str| AttributeChange {
            path: path.to_owned(),
            attribute: "eol".to_owned(),
            source: ".gitattributes".to_owned(),
        };
        let files = [".gitattributes", "calc.py"];
        assert!(policy().protects("tests/a.py") && !policy().protects(".env.local"));
        let (failure, repair) = refused_with(&files, &[change("tests/a.py")]).expect("a refusal");
        assert_eq!(failure.kind, ErrorKind::ProtectedChanged);
        let said = ".gitattributes changes the git attribute `eol` of tests/a.py, which may not be changed, because \
                    `tests/**` of `protect` in the task matches it";
        assert!(failure.message.contains(said), "{}", failure.message);
        assert!(repair.contains("\n.gitattributes\n"), "{repair}");
        assert!(
            refused_with(&files, &[change("src/a.py")]).is_none(),
            "no rule protects that file"
        );
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
