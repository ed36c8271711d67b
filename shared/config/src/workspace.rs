//! Section `workspace`: where agents work, and which repositories they may work on.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Workspace;
use super::checks::Checks;
use super::paths::resolve;
use super::position::At;

const MIB: u64 = 1024 * 1024;
/// 16 TiB: more than a disk for worktrees has.
const MOST_KEPT_MIB: u64 = 16 * 1024 * 1024;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct RawWorkspace {
    /// The directory in which a worker keeps worktrees, mirrors and scratch files. A relative path starts from this file's
    /// directory.
    dir: String,
    /// Directories with local repositories. Without any, tasks can only name https:// and ssh:// URLs.
    roots: Vec<String>,
    /// The author of commits.
    author_name: String,
    /// The e-mail address of the author.
    author_email: String,
    /// Seconds for each git command on a remote.
    #[schemars(range(min = 1, max = 86400))]
    fetch_timeout_s: u64,
    /// MiB of worktrees that a worker keeps for later attempts on the same repository, so that only differences are checked
    /// out. 0: every attempt gets a new worktree. Needs the sandbox, and ext4 below `dir`.
    #[schemars(range(max = 16_777_216))]
    keep_trees_mib: u64,
}

impl Default for RawWorkspace {
    fn default() -> Self {
        Self {
            dir: "../.pool/work".to_owned(),
            roots: Vec::new(),
            author_name: "Programmer Pool".to_owned(),
            author_email: "pool@localhost".to_owned(),
            fetch_timeout_s: 120,
            keep_trees_mib: 0,
        }
    }
}

impl RawWorkspace {
    pub(super) fn check(self, base: &Path, checks: &mut Checks) -> Workspace {
        let at = At::top("workspace");
        for (key, text) in [
            ("author_name", &self.author_name),
            ("author_email", &self.author_email),
        ] {
            if text.trim().is_empty() || text.contains(['<', '>', '\n', '\0']) {
                checks.mistake(
                    &at.key(key),
                    "must be a text without < > and line breaks, because git does not accept them",
                );
            }
        }
        checks.section(At::top("workspace")).within(
            "keep_trees_mib",
            self.keep_trees_mib,
            0..=MOST_KEPT_MIB,
            "MiB",
        );
        let roots = self.roots.iter().enumerate();
        Workspace {
            dir: check_path(&at.key("dir"), base, &self.dir, checks),
            roots: roots
                .map(|(index, root)| check_path(&at.key("roots").index(index), base, root, checks))
                .collect(),
            fetch_timeout: checks.seconds(&at.key("fetch_timeout_s"), self.fetch_timeout_s),
            keep_trees_bytes: self.keep_trees_mib.saturating_mul(MIB),
            author_name: self.author_name,
            author_email: self.author_email,
        }
    }
}

pub(super) fn check_path(at: &At, base: &Path, text: &str, checks: &mut Checks) -> PathBuf {
    if text.is_empty() {
        checks.mistake(at, "is empty: write a path");
    }
    if text.starts_with('~') {
        checks.mistake(
            at,
            format!("{text:?} begins with ~, which only a shell understands: write the whole path"),
        );
    }
    let path = resolve(base, text);
    if path == Path::new("/") {
        checks.mistake(at, "is the root of the file system: write a path below it");
    }
    path
}
