//! A git worktree for every attempt, from a repository that is below a configured root or behind a
//! URL.
//!
//! Nothing here trusts a repository, or a worktree after an agent has run in it. See [`git`] for
//! how git is run and [`worktree`] for the files that the agent sees. The submitter of the task
//! reads the errors: [`ErrorKind::Repository`] if the task names something wrongly,
//! [`ErrorKind::ChangeRefused`] if a change cannot be kept, [`ErrorKind::Workspace`] if something
//! fails here.

mod alternates;
mod attributes;
mod bounds;
mod changes;
mod checkout;
mod collect;
mod commit;
mod directory;
mod disk;
mod git;
mod kept;
mod layout;
mod leftovers;
mod links;
mod mirror;
mod objects;
mod overlay;
mod patch;
mod process_group;
mod quote;
mod references;
mod reuse;
mod source;
mod survey;
mod telemetry;
mod worktree;

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use pool_core::id::AttemptId;
use pool_core::pool;
use pool_core::result::{ErrorKind, TaskFailure};
use pool_core::source::{GitRef, Repository};
use pool_core::task::Task;
use pool_telemetry::clock::{new_id, wall_clock};

use crate::sandbox::PinnedDirectory;
use crate::sandbox::trust::{named_by, real};
use crate::sandbox::warm::WarmPlaces;

use alternates::{ObjectPlaces, object_directories};
pub use attributes::AttributeChange;
pub(crate) use bounds::bound_git;
pub use changes::WorktreeChanges;
pub use checkout::Checkout;
pub use commit::{Credit, KEPT_DAYS, RepositoryHandle};
pub(crate) use directory::Directory;
pub(crate) use disk::{failure, make_directory, off_the_runtime, open_regular, remove_tree};
use git::{Git, GitError};
use kept::KeptTrees;
pub use kept::Reach;
use layout::{Origin, repository_settings};
use leftovers::WorkspaceLock;
use mirror::Mirrors;
pub use overlay::{LaidOver, Overlay, lay_over};
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
    /// None: every attempt gets a new tree.
    kept: Option<Arc<KeptTrees>>,
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
        telemetry::begin();
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
            kept: None,
        })
    }

    /// Uses trees of attempts that ended well for later attempts. `reach` says who could reach a
    /// tree between them.
    #[must_use]
    pub fn keeping_trees(mut self, reach: Reach) -> Self {
        let (dir, max_bytes) = (self.lock.attempts.clone(), self.config.keep_trees_bytes);
        if max_bytes > 0 {
            self.kept = Some(Arc::new(KeptTrees::new(dir, max_bytes, reach)));
        }
        self
    }

    /// Keeps more places from agents.
    #[must_use]
    pub(crate) fn guarding(mut self, places: Vec<PathBuf>) -> Self {
        self.guarded.extend(places);
        self
    }

    /// The places for the files of fork servers. The recorded runs of a worker that crashes are
    /// removed with its attempts.
    pub(crate) fn warm_places(&self) -> WarmPlaces {
        WarmPlaces {
            lists: self.config.dir.join("warm"),
            records: self.lock.attempts.clone(),
        }
    }

    /// Makes the worktree of an attempt, at the task's base commit.
    ///
    /// # Errors
    /// [`ErrorKind::Repository`] or [`ErrorKind::Workspace`].
    pub async fn prepare(&self, task: &Task, attempt: AttemptId) -> Result<Worktree, TaskFailure> {
        let (name, base) = (&task.message.repository, task.message.base.as_ref());
        let source = self.source(name, base).await?;
        let repository = source.git_dir.clone();
        let objects = self.objects(&repository, name)?;
        let (base, found_as) = self.resolve(&source, name, base).await?;
        self.tidy(&repository).await;
        let unreadable = |error| unreadable(name, error);
        let settings = repository_settings(&self.git, &repository)
            .await
            .map_err(unreadable)?;
        let origin = Origin {
            git: self.git.clone(),
            branches: self.branches(&source, &found_as).await,
            settings,
            repository,
            objects,
            base,
            author: self.config.clone(),
        };
        if origin.settings.is_partial {
            refuse_incomplete(name, &origin).await?;
        }
        let dir = self.lock.attempts.join(attempt.to_string());
        Worktree::make(dir, attempt, origin, self.kept.clone()).await
    }

    /// Finds the repository. Fetches it if a URL names it.
    async fn source(
        &self,
        name: &Repository,
        base: Option<&GitRef>,
    ) -> Result<TaskSource, TaskFailure> {
        if !source::is_url(name) {
            let local = source::local_repository(name, &self.config.roots)?;
            return Ok(TaskSource {
                git_dir: local.git_dir,
                head: local.head,
                candidates: vec![base.map_or_else(|| "HEAD".to_owned(), ToString::to_string)],
            });
        }
        let unreadable = |error| unreadable(name, error);
        let mirror = self.mirrors.fetch(name).await.map_err(unreadable)?;
        let candidates = match base {
            Some(base) => remote_candidates(base),
            None => {
                let branch = self.mirrors.default_branch(&mirror, name);
                branch.await.map_err(unreadable)?.into_iter().collect()
            }
        };
        Ok(TaskSource {
            head: mirror.clone(),
            git_dir: mirror,
            candidates,
        })
    }

    /// The branches that the base was read from, as the agent is to see them.
    async fn branches(&self, source: &TaskSource, found_as: &str) -> Vec<String> {
        if let Some(branch) = found_as.strip_prefix(mirror::BRANCHES) {
            return vec![format!("refs/heads/{branch}"), found_as.to_owned()];
        }
        let args = ["rev-parse", "--symbolic-full-name", found_as];
        // A commit id has no name.
        let named = self.git.at(&source.head).line(&args).await;
        let named = named.unwrap_or_default();
        let is_branch = |name: &&str| name.starts_with("refs/heads/");
        named
            .lines()
            .filter(is_branch)
            .take(1)
            .map(str::to_owned)
            .collect()
    }

    /// The directories with a repository's objects, which agents and checks see.
    fn objects(
        &self,
        repository: &Path,
        name: &Repository,
    ) -> Result<Vec<PinnedDirectory>, TaskFailure> {
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
            source::local_repository(name, &self.config.roots)?.git_dir
        };
        Ok(RepositoryHandle {
            git: self.git.clone(),
            git_dir,
        })
    }

    /// Whether two names mean the same repository.
    pub fn is_same(&self, one: &Repository, other: &Repository) -> bool {
        if source::is_url(one) || source::is_url(other) {
            return source::plain_url(one) == source::plain_url(other);
        }
        let git_dir = |name| {
            let found = source::local_repository(name, &self.config.roots);
            found.ok().map(|repository| repository.git_dir)
        };
        one == other || git_dir(one).is_some_and(|dir| git_dir(other) == Some(dir))
    }

    /// The full id of the first candidate that names a commit, and the candidate.
    async fn resolve(
        &self,
        source: &TaskSource,
        name: &Repository,
        base: Option<&GitRef>,
    ) -> Result<(String, String), TaskFailure> {
        let mut problem = None;
        for candidate in &source.candidates {
            let revision = format!("{candidate}^{{commit}}");
            let args = [
                "rev-parse",
                "--verify",
                "--quiet",
                "--end-of-options",
                &revision,
            ];
            match self.git.at(&source.head).line(&args).await {
                Ok(commit) => return Ok((commit, candidate.clone())),
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

/// The place that a base is read from.
struct TaskSource {
    /// The git directory with objects and branches.
    git_dir: PathBuf,
    /// The git directory with HEAD.
    head: PathBuf,
    /// The names to try for the base.
    candidates: Vec<String>,
}

fn unreadable(name: &Repository, error: GitError) -> TaskFailure {
    TaskFailure::new(ErrorKind::Repository, format!("repository {name}: {error}"))
}

/// Refuses a base whose files are not all here. Git would fetch them with the repository's own
/// settings, which the worker does not use.
async fn refuse_incomplete(name: &Repository, origin: &Origin) -> Result<(), TaskFailure> {
    let args = ["rev-list", "--objects", "--no-walk", "--missing=print"];
    let args: Vec<&str> = args.into_iter().chain([origin.base.as_str()]).collect();
    let repository = origin.git.at(&origin.repository);
    let listed = repository.run(&args).await;
    let listed = listed.map_err(|error| unreadable(name, error))?;
    let lines = listed.split(|byte| *byte == b'\n');
    match lines.filter(|line| line.starts_with(b"?")).count() {
        0 => Ok(()),
        missing => Err(TaskFailure::new(
            ErrorKind::Repository,
            format!(
                "repository {name}: it is a partial clone that lacks {missing} objects of {base}: run `git checkout {base}` \
                 there once, or use a full clone",
                base = origin.base
            ),
        )),
    }
}

/// The refs to try for a base: a branch of the remote, then a tag, then anything else (a commit
/// id).
fn remote_candidates(base: &GitRef) -> Vec<String> {
    vec![
        format!("{}{base}", mirror::BRANCHES),
        format!("refs/tags/{base}"),
        base.to_string(),
    ]
}
