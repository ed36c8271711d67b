//! The git directories of an attempt: the worker's and those in checkouts. They take over only some
//! of the repository's settings.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pool_core::pool;

use super::directory::Directory;
use super::disk::{copy_regular, private_directory};
use super::git::{Git, GitError};
use crate::sandbox::PinnedDirectory;

/// The source of a worktree.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub(super) git: Git,
    /// The git directory of the repository or mirror.
    pub(super) repository: PathBuf,
    /// The directories with its objects.
    pub(super) objects: Vec<PinnedDirectory>,
    /// The full id of the base commit.
    pub(super) base: String,
    /// The full names of the branches that the base was read from, if it was.
    pub(super) branches: Vec<String>,
    pub(super) settings: RepositorySettings,
    pub(super) author: pool::Workspace,
}

/// The settings of a repository that matter to an attempt.
#[derive(Debug, Clone, Default)]
pub(super) struct RepositorySettings {
    /// Those that its objects depend on, as lines of a configuration file.
    lines: String,
    /// Git fetches missing objects when it needs them.
    pub(super) is_partial: bool,
}

impl RepositorySettings {
    /// The settings that its objects depend on, as lines of a configuration file.
    pub(super) fn lines(&self) -> &str {
        &self.lines
    }
}

/// Reads the settings of a repository.
pub(super) async fn repository_settings(
    git: &Git,
    repository: &Path,
) -> Result<RepositorySettings, GitError> {
    let listed = git
        .at(repository)
        .run(&["config", "--local", "--list", "-z"])
        .await?;
    let listed = String::from_utf8_lossy(&listed).to_lowercase();
    let mut lines = "[core]\n\tbare = false\n\tfilemode = true\n".to_owned();
    let (mut version, mut is_partial) = (0, false);
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
            Some((key, _)) => {
                is_partial |= key == "extensions.partialclone" || key.ends_with(".promisor");
            }
            None => {}
        }
    }
    let lines = format!("{lines}[core]\n\trepositoryformatversion = {version}\n");
    Ok(RepositorySettings { lines, is_partial })
}

/// Makes the git directory without `git init`, which would copy templates.
pub(super) fn write_git_dir(git_dir: &Path, origin: &Origin) -> io::Result<()> {
    private_directory(&git_dir.join("refs"))?;
    private_directory(&git_dir.join("objects"))?;
    fs::write(git_dir.join("HEAD"), format!("{}\n", origin.base))?;
    let identity = format!(
        "[user]\n\tname = {:?}\n\temail = {:?}\n",
        origin.author.author_name, origin.author.author_email
    );
    let settings = &origin.settings.lines;
    fs::write(git_dir.join("config"), format!("{settings}{identity}"))?;
    copy_regular(&origin.repository.join("shallow"), &git_dir.join("shallow"))
}

/// Gives a checkout a temporary repository at its base commit. `index` is its index, and it can
/// read the objects of the attempt and of `origin`. An existing repository is removed.
pub(super) fn write_own_repository(
    checkout: &Path,
    git_dir: &Path,
    index: &Path,
    origin: &Origin,
) -> io::Result<()> {
    let checkout = Directory::open(checkout)?;
    checkout.remove(".git".as_ref())?;
    let own = checkout.make(".git")?;
    own.make("refs")?.make("heads")?;
    let mut alternates = Vec::new();
    for objects in [origin.repository.join("objects"), git_dir.join("objects")] {
        alternates.extend(objects.into_os_string().into_encoded_bytes());
        alternates.push(b'\n');
    }
    let info = own.make("objects")?.make("info")?;
    info.write("alternates", &alternates)?;
    own.write("HEAD", format!("{}\n", origin.base).as_bytes())?;
    for file in ["config", "shallow", "packed-refs"] {
        own.copy(&git_dir.join(file), file)?;
    }
    own.copy(index, "index")
}
