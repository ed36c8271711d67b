//! The git directories of an attempt: the worker's and those in checkouts. They take over only some
//! of the repository's settings.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pool_core::pool;

use super::disk::{copy_regular, private_directory, remove_any};
use super::git::{Git, GitError};

/// The source of a worktree.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub(super) git: Git,
    /// The git directory of the repository or mirror.
    pub(super) repository: PathBuf,
    /// The directories with its objects.
    pub(super) objects: Vec<PathBuf>,
    /// The full id of the base commit.
    pub(super) base: String,
    pub(super) author: pool::Workspace,
}

/// The settings of the repository that its objects depend on, as lines of a configuration file.
pub(super) async fn repository_settings(origin: &Origin) -> Result<String, GitError> {
    let listed = origin
        .git
        .at(&origin.repository)
        .run(&["config", "--local", "--list", "-z"])
        .await?;
    let listed = String::from_utf8_lossy(&listed).to_lowercase();
    let mut lines = "[core]\n\tbare = false\n\tfilemode = true\n".to_owned();
    let mut version = 0;
    for entry in listed.split('\0') {
        match entry.split_once('\n') {
            Some(("extensions.objectformat", "sha256")) => {
                version = 1;
                lines.push_str("[extensions]\n\tobjectformat = sha256\n");
            }
            Some(("core.sharedrepository", value))
                if value.bytes().all(|byte| byte.is_ascii_alphanumeric()) =>
            {
                lines.push_str(&format!("[core]\n\tsharedRepository = {value}\n"));
            }
            Some(_) | None => {}
        }
    }
    Ok(format!(
        "{lines}[core]\n\trepositoryformatversion = {version}\n"
    ))
}

/// Makes the git directory without `git init`, which would copy templates.
pub(super) fn write_git_dir(git_dir: &Path, origin: &Origin, settings: &str) -> io::Result<()> {
    private_directory(&git_dir.join("refs"))?;
    fs::write(git_dir.join("HEAD"), format!("{}\n", origin.base))?;
    let identity = format!(
        "[user]\n\tname = {:?}\n\temail = {:?}\n",
        origin.author.author_name, origin.author.author_email
    );
    fs::write(git_dir.join("config"), format!("{settings}{identity}"))?;
    copy_regular(&origin.repository.join("shallow"), &git_dir.join("shallow"))
}

/// Gives a checkout a temporary repository at its base commit. `index` is its index, and it can
/// read the objects of `origin`. An existing repository is removed.
pub(super) fn write_own_repository(
    checkout: &Path,
    git_dir: &Path,
    index: &Path,
    origin: &Origin,
) -> io::Result<()> {
    let own = checkout.join(".git");
    remove_any(&own)?;
    private_directory(&own.join("refs/heads"))?;
    private_directory(&own.join("objects/info"))?;
    let mut alternates = origin
        .repository
        .join("objects")
        .into_os_string()
        .into_encoded_bytes();
    alternates.push(b'\n');
    fs::write(own.join("objects/info/alternates"), alternates)?;
    fs::write(own.join("HEAD"), format!("{}\n", origin.base))?;
    for file in ["config", "shallow"] {
        copy_regular(&git_dir.join(file), &own.join(file))?;
    }
    copy_regular(index, &own.join("index"))
}
