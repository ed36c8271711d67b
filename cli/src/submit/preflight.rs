//! Looks at a task for `--dry-run`, without running it: its repository, base, files, and the
//! programs and files of its checks.
//!
//! It looks at this machine only. A worker on another machine may have other programs and
//! repositories, so a program that is missing here is a warning. Git runs no program of a repository.

use std::collections::{BTreeMap, HashMap};
use std::env::split_paths;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use pool_core::patterns::PathMatcher;
use pool_core::pool::Pool;
use pool_core::task::{AcceptanceCheck, Before, TaskMessage};

/// The findings of a look at a task.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The task would fail.
    pub(super) problem: Option<String>,
    pub(super) warnings: Vec<String>,
}

/// The files of a commit, and whether each can be executed.
type BaseTree = BTreeMap<String, bool>;

/// Looks at tasks. It reads each commit once.
pub(super) struct Preflight<'a> {
    pool: &'a Pool,
    trees: HashMap<(PathBuf, String), Result<BaseTree, Unknown>>,
}

/// Why the files of a commit are not known.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Unknown {
    /// The task is wrong.
    Wrong(String),
    /// Nobody can tell on this machine.
    NotHere(String),
}

impl<'a> Preflight<'a> {
    pub(super) fn new(pool: &'a Pool) -> Self {
        Self {
            pool,
            trees: HashMap::new(),
        }
    }

    pub(super) fn look(&mut self, task: &TaskMessage) -> Found {
        let mut found = Found::default();
        found.warnings.extend(missing_programs(&task.acceptance));
        let tree = match self.tree(task) {
            Ok(tree) => tree,
            Err(Unknown::Wrong(problem)) => {
                found.problem = Some(problem);
                return found;
            }
            Err(Unknown::NotHere(why)) => {
                found.warnings.push(why);
                return found;
            }
        };
        found.problem = missing_file(task, &tree).or_else(|| not_executable(task, &tree));
        let protected = self.protected(task);
        for check in &task.acceptance {
            found
                .warnings
                .extend(unprotected(task, check, &tree, &protected));
        }
        found
    }

    fn tree(&mut self, task: &TaskMessage) -> Result<BaseTree, Unknown> {
        let name = task.repository.as_str();
        if name.contains("://") {
            let why = format!("{name} is a URL: its base and its files are not checked here");
            return Err(Unknown::NotHere(why));
        }
        let directory = self.directory(name)?;
        let base = task.base.as_ref().map_or("HEAD", |base| base.as_str());
        let read = || files_of(&directory, name, base);
        let key = (directory.clone(), base.to_owned());
        self.trees.entry(key).or_insert_with(read).clone()
    }

    /// The directory of a local repository.
    fn directory(&self, name: &str) -> Result<PathBuf, Unknown> {
        let roots = &self.pool.workspace.roots;
        if let Some(found) = self.repository(name) {
            return Ok(found);
        }
        let listed: Vec<String> = roots
            .iter()
            .map(|root| root.display().to_string())
            .collect();
        let problem = format!("repository {name}: not found below {}", listed.join(", "));
        if !roots.is_empty() && roots.iter().all(|root| root.is_dir()) {
            Err(Unknown::Wrong(problem))
        } else {
            Err(Unknown::NotHere(format!(
                "{problem}; the worker may have it"
            )))
        }
    }

    fn repository(&self, name: &str) -> Option<PathBuf> {
        let mut roots = self.pool.workspace.roots.iter();
        roots.find_map(|root| root.join(name).canonicalize().ok())
    }

    /// Everything that the agent may not change.
    fn protected(&self, task: &TaskMessage) -> PathMatcher {
        let patch = &self.pool.patch;
        let is_same = |name: &str| {
            let own = task.repository.as_str();
            name == own
                || self
                    .repository(name)
                    .is_some_and(|found| self.repository(own) == Some(found))
        };
        let of_repository = patch
            .protect_in
            .iter()
            .filter(|(name, _)| is_same(name.as_str()))
            .flat_map(|(_, patterns)| patterns);
        let everywhere = patch.deny.iter().chain(&patch.protect);
        PathMatcher::new(everywhere.chain(of_repository).chain(&task.protect))
    }
}

/// The files of a commit in a local repository.
fn files_of(directory: &Path, name: &str, base: &str) -> Result<BaseTree, Unknown> {
    let not_here = |why: String| {
        Unknown::NotHere(format!(
            "repository {name} cannot be looked at from here: {why}"
        ))
    };
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        git.args(["-c", "core.fsmonitor=false", "-C"])
            .arg(directory);
        git.args(args).env("GIT_OPTIONAL_LOCKS", "0");
        git.output().map_err(|error| not_here(error.to_string()))
    };
    let revision = format!("{base}^{{commit}}");
    let commit = git(&[
        "rev-parse",
        "--verify",
        "--quiet",
        "--end-of-options",
        &revision,
    ])?;
    match commit.status.code() {
        Some(0) => {}
        Some(1) => {
            let problem = format!("repository {name}: base {base} does not name a commit in it");
            return Err(Unknown::Wrong(problem));
        }
        Some(_) | None => return Err(not_here(first_line(&commit.stderr))),
    }
    let commit = String::from_utf8_lossy(&commit.stdout).trim().to_owned();
    let listed = git(&["ls-tree", "-r", "-z", "--full-tree", &commit])?;
    if listed.status.success() {
        Ok(tree_of(&listed.stdout))
    } else {
        Err(not_here(first_line(&listed.stderr)))
    }
}

/// Reads `100644 blob <id>\tpath\0` and so on.
fn tree_of(listed: &[u8]) -> BaseTree {
    let entries = listed.split(|byte| *byte == 0);
    let entry = |entry: &[u8]| {
        let text = String::from_utf8_lossy(entry).into_owned();
        let (about, path) = text.split_once('\t')?;
        Some((path.to_owned(), about.starts_with("100755")))
    };
    entries.filter_map(entry).collect()
}

fn first_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.lines().next().unwrap_or("git failed").to_owned()
}

fn is_directory(tree: &BaseTree, path: &str) -> bool {
    let below = format!("{path}/");
    let mut rest = tree.range(below.clone()..);
    rest.next()
        .is_some_and(|(path, _)| path.starts_with(&below))
}

fn has(tree: &BaseTree, path: &str) -> bool {
    tree.contains_key(path) || is_directory(tree, path)
}

fn missing_file(task: &TaskMessage, tree: &BaseTree) -> Option<String> {
    let mut files = task.files.iter();
    let file = files.find(|file| !has(tree, file.as_str()))?;
    Some(format!(
        "files: the base has no {file}: correct the path, or say in the instruction that it is to be made"
    ))
}

/// A program of the repository that the worker could not start.
fn not_executable(task: &TaskMessage, tree: &BaseTree) -> Option<String> {
    task.acceptance.iter().find_map(|check| {
        let path = own_program(check)?;
        let comes_later =
            check.before == Before::Fails || check.overlay.keys().any(|laid| laid.as_str() == path);
        let cannot = !comes_later && tree.get(path) == Some(&false);
        cannot.then(|| {
            format!(
                "acceptance: the check {:?} cannot start: {path} is not executable",
                check.name
            )
        })
    })
}

/// The path of a check's program in the repository, if it is there.
fn own_program(check: &AcceptanceCheck) -> Option<&str> {
    let program = check.run.first()?;
    let is_relative = program.contains('/') && !program.starts_with('/');
    is_relative.then(|| program.trim_start_matches("./"))
}

/// Programs that are not on this machine.
fn missing_programs(checks: &[AcceptanceCheck]) -> Vec<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_program = |file: &Path| {
        let found = file.metadata();
        found.is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    let is_missing = |program: &str| match program.split_once('/') {
        None => !split_paths(&path).any(|directory| is_program(&directory.join(program))),
        Some(("", _)) => !is_program(Path::new(program)),
        Some(_) => false,
    };
    let warn = |check: &AcceptanceCheck| {
        let program = check.run.first().filter(|program| is_missing(program))?;
        Some(format!(
            "the check {:?} needs {program}, which is not on this machine; the worker must have it",
            check.name
        ))
    };
    checks.iter().filter_map(warn).collect()
}

/// Files that a check names and that the agent may change, so that it could make the check pass.
/// Files that the task gives to the agent are meant to be changed.
fn unprotected(
    task: &TaskMessage,
    check: &AcceptanceCheck,
    tree: &BaseTree,
    protected: &PathMatcher,
) -> Vec<String> {
    // It compares files with the base, and runs none.
    if check.run.first().is_some_and(|program| program == "git") {
        return Vec::new();
    }
    let mut named: Vec<String> = check
        .run
        .iter()
        .flat_map(|word| paths_in(word, tree))
        .collect();
    named.sort();
    named.dedup();
    let is_free = |path: &&String| {
        let is = |other: &str| other == path.as_str();
        !protected.covers(path)
            && !check.overlay.keys().any(|laid| is(laid.as_str()))
            && !task.files.iter().any(|file| is(file.as_str()))
    };
    let warn = |path: &String| {
        format!(
            "the check {:?} reads {path}, which the agent may change: add it to `protect`",
            check.name
        )
    };
    named.iter().filter(is_free).map(warn).collect()
}

/// The paths of the repository that a word of a command names: as such, after `=`, before `::`, or as
/// a Python module. In a script only words with a slash count.
fn paths_in(word: &str, tree: &BaseTree) -> Vec<String> {
    let is_script = word.contains(char::is_whitespace);
    let separators = |c: char| c.is_whitespace() || "=:;,()'\"`<>|&".contains(c);
    let candidates = word.split(separators).filter_map(|part| {
        let path = part.trim_start_matches("./").trim_end_matches('/');
        (!path.is_empty() && (path.contains('/') || !is_script)).then_some(path)
    });
    let found = candidates.filter_map(|path| {
        let module = path.replace('.', "/");
        let script = format!("{module}.py");
        let mut names = [path, script.as_str(), module.as_str()].into_iter();
        names.find(|name| has(tree, name)).map(str::to_owned)
    });
    found.collect()
}

#[cfg(test)]
#[path = "preflight_tests.rs"]
mod tests;
