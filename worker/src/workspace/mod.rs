//! A git worktree for every attempt, from a repository that is below a configured root or behind a
//! URL.
//!
//! Nothing here trusts a repository, or a worktree after an agent has run in it. See [`git`] for
//! how git is run and [`worktree`] for the files that the agent sees. The submitter of the task
//! reads the errors: [`ErrorKind::Repository`] if the task names something wrongly,
//! [`ErrorKind::ChangeRefused`] if a change cannot be kept, [`ErrorKind::Workspace`] if something
//! fails here.

mod alternates;
mod bounds;
mod changes;
mod checkout;
mod collect;
mod commit;
mod disk;
mod git;
mod layout;
mod leftovers;
mod mirror;
mod process_group;
mod source;
mod survey;
mod worktree;

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use pool_core::id::AttemptId;
use pool_core::pool;
use pool_core::result::{ErrorKind, TaskFailure};
use pool_core::source::{GitRef, Repository};
use pool_core::task::Task;
use pool_telemetry::clock::{new_id, wall_clock};

use crate::sandbox::trust::{named_by, real};

use alternates::{ObjectPlaces, object_directories};
pub(crate) use bounds::bound_git;
pub use changes::WorktreeChanges;
pub use checkout::Checkout;
pub use commit::{Credit, KEPT_DAYS, RepositoryHandle};
pub(crate) use disk::{
    failure, make_directory, off_the_runtime, open_regular, remove_any, remove_tree, write_new,
};
use git::{Git, GitError};
use layout::Origin;
use leftovers::WorkspaceLock;
use mirror::Mirrors;
pub use worktree::Worktree;

/// Makes worktrees. One value per worker process, which its programmers share.
#[derive(Debug)]
pub struct Workspaces {
    config: pool::Workspace,
    git: Git,
    mirrors: Mirrors,
    lock: WorkspaceLock,
    /// Repositories in which this process has already removed the refs of old attempts.
    tidied: Mutex<HashSet<PathBuf>>,
    /// Places that agents must not see, even if a repository names them.
    guarded: Vec<PathBuf>,
}

impl Workspaces {
    /// Enters the workspace directory and removes the files of crashed workers. Those of live
    /// workers stay.
    ///
    /// # Errors
    /// If the directory cannot be written.
    pub fn open(config: &pool::Workspace) -> io::Result<Self> {
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
        Self::open_with(config, path, std::env::vars_os())
    }

    /// Like [`Self::open`], with the `PATH` for git and ssh, and the other variables that git may
    /// see.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub fn open_with(
        config: &pool::Workspace,
        path: OsString,
        env: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> io::Result<Self> {
        let env: Vec<(OsString, OsString)> = env.into_iter().collect();
        let mut guarded = named_by(env.clone());
        guarded.push(config.dir.clone());
        let git = Git::new(path, env);
        let lock = WorkspaceLock::begin(&config.dir, &new_id::<AttemptId>().to_string())?;
        let mirrors = Mirrors::new(
            git.clone(),
            config.dir.join("mirrors"),
            config.fetch_timeout,
        );
        Ok(Self {
            config: config.clone(),
            git,
            mirrors,
            lock,
            tidied: Mutex::default(),
            guarded,
        })
    }

    /// Keeps more places from agents.
    #[must_use]
    pub(crate) fn guarding(mut self, places: Vec<PathBuf>) -> Self {
        self.guarded.extend(places);
        self
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
        let objects = self.objects(&repository, name)?;
        let base = self.resolve(&repository, name, base, &candidates).await?;
        self.tidy(&repository).await;
        let dir = self.lock.attempts.join(attempt.to_string());
        let origin = Origin {
            git: self.git.clone(),
            repository,
            objects,
            base,
            author: self.config.clone(),
        };
        Worktree::make(dir, attempt, origin).await
    }

    /// The directories with a repository's objects, which agents and checks see.
    fn objects(&self, repository: &Path, name: &Repository) -> Result<Vec<PathBuf>, TaskFailure> {
        let mut open: Vec<PathBuf> = self.config.roots.iter().map(|root| real(root)).collect();
        open.push(real(repository));
        let guarded = self.guarded.iter().map(|place| real(place)).collect();
        let places = ObjectPlaces { open, guarded };
        object_directories(&repository.join("objects"), &places).map_err(|problem| {
            TaskFailure::new(
                ErrorKind::Repository,
                format!("repository {name}: {problem}"),
            )
        })
    }

    /// The repository of a task whose worktree is gone, for setting its branch.
    ///
    /// # Errors
    /// [`ErrorKind::Repository`] if it does not exist (any more).
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
        repository: &Path,
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
                // With `--quiet`, status 1 means a missing ref.
                Err(GitError::Failed { status, .. }) if status.code() == Some(1) => {}
                Err(error) => problem = Some(error.to_string()),
            }
        }
        let missing = base.map_or_else(
            || "its default branch has no commit".to_owned(),
            |base| format!("base {base} does not name a commit in it"),
        );
        let problem = problem.unwrap_or(missing);
        Err(TaskFailure::new(
            ErrorKind::Repository,
            format!("repository {name}: {problem}"),
        ))
    }

    /// Removes old refs, once per process and repository.
    async fn tidy(&self, repository: &Path) {
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

/// The refs to try for a base: a branch of the remote, then a tag, then anything else (a commit
/// id).
fn remote_candidates(base: &GitRef) -> Vec<String> {
    vec![
        format!("refs/remotes/origin/{base}"),
        format!("refs/tags/{base}"),
        base.to_string(),
    ]
}
