//! A git worktree for every attempt, from a repository that is below a configured root or behind a URL.
//!
//! Nothing here trusts what is in a repository or what an agent left in a worktree: see [`git`] for how git is run and
//! [`worktree`] for what the agent gets to see. Errors are those that the submitter of the task reads:
//! [`ErrorKind::Repository`] for what the task names wrongly, [`ErrorKind::ChangeRefused`] for a change that cannot be
//! kept, [`ErrorKind::Workspace`] for what fails here.

mod bounds;
mod changes;
mod checkout;
mod collect;
mod commit;
mod disk;
mod git;
mod group;
mod layout;
mod leftovers;
mod mirror;
mod source;
mod survey;
mod worktree;

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use pool_core::id::AttemptId;
use pool_core::pool;
use pool_core::result::{ErrorKind, TaskFailure};
use pool_core::source::{GitRef, Repository};
use pool_core::task::Task;
use pool_telemetry::clock::wall_clock;

pub(crate) use bounds::bound_git;
pub use changes::Changes;
pub use checkout::Checkout;
pub use commit::{Credit, KEPT_DAYS, RepositoryHandle};
pub(crate) use disk::{
    make_directory, off_the_runtime, open_regular, remove_any, remove_tree, write_new,
};
use git::{Git, GitError};
use leftovers::Life;
use mirror::Mirrors;
use worktree::Origin;
pub use worktree::Worktree;

/// Makes worktrees. One per worker process; programmers share it.
#[derive(Debug)]
pub struct Workspaces {
    config: pool::Workspace,
    git: Git,
    mirrors: Mirrors,
    life: Life,
    /// Repositories whose old attempts this process has already let go of.
    tidied: Mutex<HashSet<PathBuf>>,
}

impl Workspaces {
    /// Enters the workspace directory and removes what crashed workers left there; what live ones use stays.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn open(config: &pool::Workspace) -> io::Result<Self> {
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
        Self::open_with(config, path, std::env::vars_os())
    }

    /// Like [`Self::open`], with the `PATH` where git and ssh are found, and the other variables that git may see.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(
        config: &pool::Workspace,
        path: OsString,
        env: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> io::Result<Self> {
        let git = Git::new(path, env);
        let life = Life::begin(&config.dir, &AttemptId::new().to_string())?;
        let mirrors = Mirrors::new(
            git.clone(),
            config.dir.join("mirrors"),
            config.fetch_timeout,
        );
        Ok(Self {
            config: config.clone(),
            git,
            mirrors,
            life,
            tidied: Mutex::default(),
        })
    }

    /// Makes the worktree of an attempt, at the task's base commit.
    ///
    /// # Errors
    /// [`ErrorKind::Repository`] or [`ErrorKind::Workspace`].
    pub async fn prepare(&self, task: &Task, attempt: AttemptId) -> Result<Worktree, TaskFailure> {
        let (name, base) = (&task.message.repository, task.message.base.as_ref());
        let unreadable = |error: GitError| {
            TaskFailure::new(ErrorKind::Repository, format!("repository {name}: {error}"))
        };
        let (repository, candidates) = if source::is_url(name) {
            let mirror = self.mirrors.fetch(name).await.map_err(unreadable)?;
            let candidates = match base {
                Some(base) => remote_candidates(base),
                None => self
                    .mirrors
                    .default_branch(&mirror, name)
                    .await
                    .map_err(unreadable)?
                    .into_iter()
                    .collect(),
            };
            (mirror, candidates)
        } else {
            let git_dir = source::local_git_dir(name, &self.config.roots)?;
            (
                git_dir,
                vec![base.map_or_else(|| "HEAD".to_owned(), ToString::to_string)],
            )
        };
        let base = self.resolve(&repository, name, base, &candidates).await?;
        self.tidy(&repository).await;
        let dir = self.life.attempts.join(attempt.to_string());
        let origin = Origin {
            git: self.git.clone(),
            repository,
            base,
            author: self.config.clone(),
        };
        Worktree::make(dir, attempt, origin).await
    }

    /// The repository of a task whose worktree is gone, for setting its branch.
    ///
    /// # Errors
    /// [`ErrorKind::Repository`] when it is not there (any more).
    pub fn repository(&self, name: &Repository) -> Result<RepositoryHandle, TaskFailure> {
        let git_dir = if source::is_url(name) {
            self.mirrors.git_dir(name)
        } else {
            source::local_git_dir(name, &self.config.roots)?
        };
        Ok(RepositoryHandle {
            git: self.git.clone(),
            git_dir,
        })
    }

    /// The full id of the first candidate that names a commit.
    async fn resolve(
        &self,
        repository: &std::path::Path,
        name: &Repository,
        base: Option<&GitRef>,
        candidates: &[String],
    ) -> Result<String, TaskFailure> {
        let mut problem = None;
        for candidate in candidates {
            let revision = format!("{candidate}^{{commit}}");
            let args = [
                "rev-parse",
                "--verify",
                "--quiet",
                "--end-of-options",
                &revision,
            ];
            match self.git.at(repository).line(&args).await {
                Ok(commit) => return Ok(commit),
                // `--quiet` says nothing about a missing ref, with status 1.
                Err(GitError::Failed { status, .. }) if status.code() == Some(1) => {}
                Err(error) => problem = Some(error.to_string()),
            }
        }
        let missing = base.map_or_else(
            || "there is no commit on its default branch".to_owned(),
            |base| format!("base {base} names no commit in it"),
        );
        let problem = problem.unwrap_or(missing);
        Err(TaskFailure::new(
            ErrorKind::Repository,
            format!("repository {name}: {problem}"),
        ))
    }

    /// Once per process and repository.
    async fn tidy(&self, repository: &std::path::Path) {
        let first = self
            .tidied
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(repository.to_owned());
        if first {
            let handle = RepositoryHandle {
                git: self.git.clone(),
                git_dir: repository.to_owned(),
            };
            handle.forget_old(wall_clock()).await;
        }
    }
}

/// A branch of the remote before a tag, and both before anything else (a commit id).
fn remote_candidates(base: &GitRef) -> Vec<String> {
    vec![
        format!("refs/remotes/origin/{base}"),
        format!("refs/tags/{base}"),
        base.to_string(),
    ]
}
