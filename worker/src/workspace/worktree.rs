//! One attempt's files: the worktree that the agent sees, and the files beside it that the agent
//! must not see.
//!
//! An attempt's directory contains `tree` (the worktree), `scratch` (home and temporary files of
//! the agent), `checks` ([`checkout`](super::checkout)) and `git`. The last is the worker's git
//! directory for this worktree, with its own index, HEAD and configuration, and the repository's
//! objects. So the repository's configuration never applies here, attempts do not share a lock, and
//! nothing in the repository needs pruning. `tree/.git` is for the agent alone. It can read all
//! objects, and the worker never reads it and discards everything in it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pool_core::id::AttemptId;
use pool_core::result::TaskFailure;

use super::bounds::end_search_at;
use super::changes::lexically_outside;
use super::commit::{Credit, RepositoryHandle, attempt_ref};
use super::disk::{
    empty_directory, failure, off_the_runtime, private_directory, remove_any, remove_tree,
};
use super::git::{GitCommand, GitError, path_of};
use super::layout::{Origin, repository_settings, write_git_dir, write_own_repository};

/// The worktree of one attempt. Remove it with [`Worktree::remove`]; dropping it does the same in
/// the background.
#[derive(Debug)]
pub struct Worktree {
    /// The attempt's directory; empty after the removal.
    dir: PathBuf,
    attempt: AttemptId,
    origin: Origin,
}

impl Worktree {
    /// Makes the directory `dir`, which does not exist yet, and checks the base commit out.
    pub(super) async fn make(
        dir: PathBuf,
        attempt: AttemptId,
        origin: Origin,
    ) -> Result<Self, TaskFailure> {
        let worktree = Self {
            dir,
            attempt,
            origin,
        };
        worktree
            .build()
            .await
            .map_err(|error| failure("cannot prepare the worktree", error))?;
        Ok(worktree)
    }

    /// The directory in which the agent works.
    pub fn path(&self) -> PathBuf {
        self.dir.join("tree")
    }

    /// The directory for the home, temporary files and prompts of programs that run in the
    /// worktree.
    pub fn scratch(&self) -> PathBuf {
        self.dir.join("scratch")
    }

    /// The directories with the repository's objects, which a checkout reads.
    pub fn objects(&self) -> Vec<PathBuf> {
        self.origin.objects.clone()
    }

    /// The base commit.
    pub fn base(&self) -> &str {
        &self.origin.base
    }

    /// The repository, which outlives the worktree.
    pub fn repository(&self) -> RepositoryHandle {
        RepositoryHandle {
            git: self.origin.git.clone(),
            git_dir: self.origin.repository.clone(),
        }
    }

    /// Commits the changes that the last [`Self::collect`] took in, on a detached HEAD, and returns
    /// the commit id. A ref of the attempt keeps it from garbage collection until
    /// [`RepositoryHandle::forget`].
    ///
    /// # Errors
    /// [`ErrorKind::Workspace`](pool_core::result::ErrorKind::Workspace) if git fails.
    pub async fn commit(&self, credit: &Credit<'_>) -> Result<String, TaskFailure> {
        self.try_commit(credit)
            .await
            .map_err(|error| failure("cannot commit", error))
    }

    /// Makes the worktree anew from the changes that [`Self::collect`] took in, so that another run
    /// can continue from there. Nothing that an acceptance check has written or changed stays, and
    /// the agent gets a fresh repository of its own.
    ///
    /// # Errors
    /// [`ErrorKind::Workspace`](pool_core::result::ErrorKind::Workspace) if that fails.
    pub async fn restore(&self) -> Result<(), TaskFailure> {
        let again = async {
            self.empty_tree().await?;
            self.git()
                .run(&["checkout-index", "--all", "--force", "--quiet"])
                .await?;
            // Git before 2.36 restores them.
            hide_links_that_lead_outside(&self.path(), || self.git()).await?;
            self.finish_tree().await
        };
        again
            .await
            .map_err(|error: GitError| failure("cannot restore the worktree", error))
    }

    /// Resets the worktree to the base commit, so that nothing of a half-applied edit stays.
    ///
    /// # Errors
    /// [`ErrorKind::Workspace`](pool_core::result::ErrorKind::Workspace) if that fails.
    pub async fn reset(&self) -> Result<(), TaskFailure> {
        self.check_out()
            .await
            .map_err(|error| failure("cannot reset the worktree", error))
    }

    /// Removes everything of this attempt except its commit.
    ///
    /// # Errors
    /// [`ErrorKind::Workspace`](pool_core::result::ErrorKind::Workspace) if files remain. The next worker that starts after this process has
    /// ended removes them.
    pub async fn remove(mut self) -> Result<(), TaskFailure> {
        let dir = std::mem::take(&mut self.dir);
        off_the_runtime(move || remove_tree(&dir))
            .await
            .map_err(|error| failure("cannot remove the worktree", error))
    }

    pub(super) fn git_dir(&self) -> PathBuf {
        self.dir.join("git")
    }

    /// The parent of all files of this attempt.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    pub(super) fn git(&self) -> GitCommand<'_> {
        self.git_in(&self.path())
    }

    /// A git command on another checkout than the agent's.
    pub(super) fn git_in(&self, checkout: &Path) -> GitCommand<'_> {
        let call = self.origin.git.at(&self.git_dir()).work_tree(checkout);
        call.env(
            "GIT_OBJECT_DIRECTORY",
            self.origin.repository.join("objects"),
        )
    }

    async fn build(&self) -> Result<(), GitError> {
        for part in [
            self.dir.clone(),
            self.path(),
            self.scratch(),
            self.git_dir(),
        ] {
            private_directory(&part)?;
        }
        end_search_at(&self.dir)?;
        let settings = repository_settings(&self.origin).await?;
        write_git_dir(&self.git_dir(), &self.origin, &settings)?;
        self.check_out().await
    }

    async fn check_out(&self) -> Result<(), GitError> {
        self.empty_tree().await?;
        remove_any(&self.git_dir().join("index"))?;
        self.git()
            .run(&["read-tree", "--reset", "-u", self.base()])
            .await?;
        hide_links_that_lead_outside(&self.path(), || self.git()).await?;
        self.finish_tree().await
    }

    async fn empty_tree(&self) -> io::Result<()> {
        let tree = self.path();
        off_the_runtime(move || empty_directory(&tree)).await
    }

    /// Gives the agent its temporary repository.
    async fn finish_tree(&self) -> Result<(), GitError> {
        let (tree, own, origin) = (self.path(), self.git_dir(), self.origin.clone());
        let make = move || write_own_repository(&tree, &own, &own.join("index"), &origin);
        Ok(off_the_runtime(make).await?)
    }

    async fn try_commit(&self, credit: &Credit<'_>) -> Result<String, GitError> {
        let tree = self.git().line(&["write-tree"]).await?;
        let author = &self.origin.author;
        let mut command = self.git().input(credit.message().into_bytes());
        for role in ["AUTHOR", "COMMITTER"] {
            command = command
                .env(&format!("GIT_{role}_NAME"), &author.author_name)
                .env(&format!("GIT_{role}_EMAIL"), &author.author_email);
        }
        let commit = command
            .line(&["commit-tree", "-p", self.base(), "-F", "-", &tree])
            .await?;
        let repository = self.origin.git.at(&self.origin.repository);
        repository
            .run(&[
                "update-ref",
                "--no-deref",
                &attempt_ref(self.attempt),
                &commit,
            ])
            .await?;
        fs::write(self.git_dir().join("HEAD"), format!("{commit}\n"))?;
        Ok(commit)
    }
}

/// Removes links that lead out of the checkout, because an edit would change other files through
/// them. Makes git skip them. `git` returns a command on the checkout and its index.
pub(super) async fn hide_links_that_lead_outside<'a>(
    checkout: &Path,
    git: impl Fn() -> GitCommand<'a>,
) -> Result<(), GitError> {
    let tree = checkout.canonicalize()?;
    let mut hidden = Vec::new();
    for entry in git()
        .run(&["ls-files", "-t", "--stage", "-z"])
        .await?
        .split(|byte| *byte == 0)
    {
        let (hidden_before, entry) = (entry.starts_with(b"S "), entry.get(2..).unwrap_or_default());
        let Some(path) = entry
            .strip_prefix(b"120000 ")
            .and_then(|rest| rest.splitn(2, |byte| *byte == b'\t').nth(1))
        else {
            continue;
        };
        let link = tree.join(path_of(path));
        let in_place = link
            .parent()
            .is_some_and(|parent| parent.canonicalize().is_ok_and(|real| real == parent));
        if !in_place {
            continue;
        }
        if hidden_before {
            // Git before 2.36 has restored it, or a check has made it.
            remove_any(&link)?;
        }
        let target = match fs::read_link(&link) {
            Ok(target) => target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        let resolved_outside = link
            .canonicalize()
            .is_ok_and(|target| !target.starts_with(&tree));
        if target.is_absolute() || resolved_outside || lexically_outside(&path_of(path), &target) {
            fs::remove_file(&link)?;
            hidden.extend_from_slice(path);
            hidden.push(0);
        }
    }
    if !hidden.is_empty() {
        git()
            .input(hidden)
            .run(&["update-index", "-z", "--skip-worktree", "--stdin"])
            .await?;
    }
    Ok(())
}

impl Drop for Worktree {
    fn drop(&mut self) {
        let dir = std::mem::take(&mut self.dir);
        if !dir.as_os_str().is_empty() {
            // Nothing waits for this thread. The next worker that starts removes the rest.
            std::thread::spawn(move || remove_tree(&dir));
        }
    }
}
