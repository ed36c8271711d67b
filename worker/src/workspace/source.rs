//! Finds a task's repository: a git directory below a configured root.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use pool_core::result::{ErrorKind, TaskFailure};
use pool_core::source::Repository;

use super::disk::open_regular;

/// The most that is read of a file that contains a path. No path is longer.
const MAX_PATH_BYTES: u64 = 8192;

/// Whether a repository is given by a URL and needs a mirror.
pub(super) fn is_url(repository: &Repository) -> bool {
    repository.as_str().contains("://")
}

/// Host and path of a URL, without what makes no other repository: scheme, user, standard port,
/// upper case in the host, doubled slashes, and `.git` at the end.
pub(super) fn plain_url(repository: &Repository) -> String {
    let text = repository.as_str();
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = authority.rsplit('@').next().unwrap_or_default();
    let host = host
        .strip_suffix(":443")
        .or_else(|| host.strip_suffix(":22"))
        .unwrap_or(host);
    let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
    let path = names.join("/");
    let path = path.strip_suffix(".git").unwrap_or(&path);
    format!("{}/{path}", host.to_lowercase())
}

/// The git directory of a local repository: absolute, without symbolic links, below one of `roots`.
///
/// # Errors
/// [`ErrorKind::Repository`] if it does not exist or leads out of the roots.
pub(super) fn local_git_dir(
    repository: &Repository,
    roots: &[PathBuf],
) -> Result<PathBuf, TaskFailure> {
    let failure = |problem: String| {
        TaskFailure::new(
            ErrorKind::Repository,
            format!("repository {repository}: {problem}"),
        )
    };
    let configured = roots;
    let roots: Vec<PathBuf> = roots
        .iter()
        .filter_map(|root| root.canonicalize().ok())
        .collect();
    let named = Path::new(repository.as_str());
    let candidates: Vec<PathBuf> = roots.iter().map(|root| root.join(named)).collect();
    let Some(found) = candidates.iter().find_map(|path| path.canonicalize().ok()) else {
        return Err(failure(format!("not found below {}", list(configured))));
    };
    let git_dir = git_dir_of(&found).map_err(|problem| failure(problem.to_string()))?;
    let inside = |path: &Path| roots.iter().any(|root| path.starts_with(root));
    if inside(&found) && inside(&git_dir) {
        Ok(git_dir)
    } else {
        Err(failure(format!(
            "is outside of the configured roots ({})",
            list(&roots)
        )))
    }
}

fn list(roots: &[PathBuf]) -> String {
    let name = |root: &PathBuf| match root.exists() {
        true => root.display().to_string(),
        false => format!("{} (which does not exist)", root.display()),
    };
    match roots {
        [] => "any root, because `workspace.roots` is empty".to_owned(),
        some => some.iter().map(name).collect::<Vec<_>>().join(", "),
    }
}

/// The git directory of a repository with files, of a bare one, or of a linked worktree.
fn git_dir_of(dir: &Path) -> io::Result<PathBuf> {
    let inner = dir.join(".git");
    if inner.is_file() {
        return linked(dir, &inner);
    }
    let candidate = if inner.is_dir() {
        inner
    } else {
        dir.to_owned()
    };
    if candidate.join("objects").is_dir() && candidate.join("HEAD").exists() {
        return candidate.canonicalize();
    }
    Err(io::Error::other("is not a git repository"))
}

/// Follows a `.git` file. It names a directory, whose `commondir` names the directory with the
/// objects.
fn linked(dir: &Path, file: &Path) -> io::Result<PathBuf> {
    let text = read_short(file)?.unwrap_or_default();
    let own = text
        .trim()
        .strip_prefix("gitdir: ")
        .ok_or_else(|| io::Error::other("has a `.git` file without `gitdir:`"))?;
    let own = dir.join(own);
    match read_short(&own.join("commondir"))? {
        Some(common) => own.join(common.trim()).canonicalize(),
        None => own.canonicalize(),
    }
}

/// The text of a file that contains a path. None: the file does not exist.
fn read_short(file: &Path) -> io::Result<Option<String>> {
    let Some(file) = open_regular(file)? else {
        return Ok(None);
    };
    let mut text = String::new();
    file.take(MAX_PATH_BYTES).read_to_string(&mut text)?;
    Ok(Some(text))
}
