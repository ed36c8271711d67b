//! Keeps the git of agents and checks from finding a repository outside of their directory.
//!
//! Git looks for a repository in every directory above, and the workspace directory is often inside
//! someone's checkout. An agent that lost its own repository would work on that one.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;

/// Variables that point git to another repository, worktree or index.
const LEAD_ELSEWHERE: [&str; 14] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_COMMON_DIR",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
    "GIT_GRAFT_FILE",
    "GIT_SHALLOW_FILE",
    "GIT_REPLACE_REF_BASE",
    "GIT_DISCOVERY_ACROSS_FILESYSTEM",
    CEILINGS,
];
const CEILINGS: &str = "GIT_CEILING_DIRECTORIES";

/// Keeps git in `worktree`: it searches no directory above, and no variable points elsewhere.
pub(crate) fn bound_git(env: &mut Vec<(OsString, OsString)>, worktree: &Path) {
    env.retain(|(name, _)| !LEAD_ELSEWHERE.iter().any(|known| name == known));
    let Some(above) = worktree.parent() else {
        return;
    };
    let mut ceilings = above.as_os_str().to_owned();
    // Git compares the path without links. Other programs that read the variable may not resolve
    // it.
    if let Ok(resolved) = above.canonicalize()
        && resolved != above
    {
        ceilings.push(":");
        ceilings.push(resolved);
    }
    env.push((CEILINGS.into(), ceilings));
}

/// Ends the search for a repository at this directory: git gives up at a `.git` that it cannot
/// read. This also works for a program with a cleared environment, and for a path with a colon,
/// which the variable cannot express.
pub(super) fn end_search_at(dir: &Path) -> io::Result<()> {
    fs::write(
        dir.join(".git"),
        "gitdir: /nonexistent/this-directory-has-no-repository\n",
    )
}
