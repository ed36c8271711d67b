//! One attempt's files: the worktree that the agent sees, and the files beside it that the agent
//! must not see.
//!
//! An attempt's directory contains `tree` (the worktree), `scratch` (home and temporary files of
//! the agent), `checks` ([`checkout`](super::checkout)) and `git`. The last is the worker's git
//! directory for this worktree, with its own index, HEAD, configuration and new objects. So the
//! repository's configuration never applies here, attempts do not share a lock, and nothing in the
//! repository needs pruning. `tree/.git` is for the agent alone. It can read all objects, and the
//! worker never reads it and discards everything in it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use pool_core::id::AttemptId;
use pool_core::result::{ErrorKind, TaskFailure};

use super::bounds::end_search_at;
use super::commit::{Credit, RepositoryHandle};
use super::directory::Directory;
use super::disk::{failure, off_the_runtime, private_directory, remove_tree};
use super::git::{GitCommand, GitError};
use super::kept::{KeptTrees, Stock, TREE, remove_behind};
use super::layout::{Origin, write_git_dir, write_own_repository};
use super::links::hide_links_that_lead_outside;
use super::objects::borrowing;
use super::references::packed_refs;
use crate::sandbox::PinnedDirectory;

/// The worktree of one attempt. Remove it with [`Worktree::remove`]; dropping it does the same in
/// the background.
#[derive(Debug)]
pub struct Worktree {
    /// The attempt's directory; empty after the removal.
    dir: PathBuf,
    /// The same, opened before an agent could replace it.
    root: Arc<Directory>,
    attempt: AttemptId,
    origin: Origin,
    /// Whether the attempt's ref keeps the base, and so has no use after the attempt.
    keeps_base: AtomicBool,
    pub(super) reuse: Reuse,
}

/// The worker's knowledge of the trees of an attempt, so that later attempts can use them again.
#[derive(Debug)]
pub(super) struct Reuse {
    /// None: no tree is used again.
    pub(super) kept: Option<Arc<KeptTrees>>,
    /// The agent's tree; None: it is not used again.
    pub(super) tree: Mutex<Option<Stock>>,
    /// The tree of the present checkout for checks.
    pub(super) checks: Mutex<Option<Stock>>,
    /// Whether a process of the attempt may be alive. Then no tree of it is used again.
    pub(super) doubted: AtomicBool,
}

impl Worktree {
    /// Makes the directory `dir`, which does not exist yet, and checks the base commit out.
    pub(super) async fn make(
        dir: PathBuf,
        attempt: AttemptId,
        origin: Origin,
        kept: Option<Arc<KeptTrees>>,
    ) -> Result<Self, TaskFailure> {
        let unprepared = |error: GitError| failure("cannot prepare the worktree", error);
        let root = make_directories(&dir).map_err(|error| unprepared(error.into()))?;
        let worktree = Self {
            dir,
            root: Arc::new(root),
            attempt,
            origin,
            keeps_base: AtomicBool::new(false),
            reuse: Reuse {
                kept,
                tree: Mutex::default(),
                checks: Mutex::default(),
                doubted: AtomicBool::new(false),
            },
        };
        worktree.build().await.map_err(unprepared)?;
        Ok(worktree)
    }

    /// The directory in which the agent works.
    pub fn path(&self) -> PathBuf {
        self.dir.join(TREE)
    }

    /// The directory for the home, temporary files and prompts of programs that run in the
    /// worktree.
    pub fn scratch(&self) -> PathBuf {
        self.dir.join("scratch")
    }

    /// A directory beside the worktree that no program is shown.
    pub fn hidden(&self) -> PathBuf {
        self.dir.join("hidden")
    }

    /// The directories with objects, which a checkout reads.
    pub fn objects(&self) -> Vec<PinnedDirectory> {
        let own = PinnedDirectory::open(self.own_objects());
        let of_repository = self.origin.objects.iter().cloned();
        of_repository.chain(own).collect()
    }

    /// Whether git LFS keeps files of the base commit. A worktree has only the pointers to them,
    /// because the worker runs no filters.
    pub async fn has_lfs_pointers(&self) -> bool {
        const USES_LFS: &str = "^[^#]*[[:space:]]filter=lfs";
        let attributes = ":(glob)**/.gitattributes";
        let args = ["grep", "--quiet", USES_LFS, self.base(), "--", attributes];
        self.git().run(&args).await.is_ok()
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
    /// the commit id. The commit goes to the repository, where a ref of the attempt keeps it from
    /// garbage collection until [`RepositoryHandle::forget`].
    ///
    /// # Errors
    /// [`ErrorKind::Workspace`] if git fails.
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
    /// [`ErrorKind::ChangeRefused`] if something has taken the place of the worktree,
    /// [`ErrorKind::Workspace`] if that fails.
    pub async fn restore(&self) -> Result<(), TaskFailure> {
        let again = async {
            if !self.put_back_collected().await {
                self.empty_tree().await?;
                self.git()
                    .run(&["checkout-index", "--all", "--force", "--quiet"])
                    .await?;
                // Git before 2.36 restores them.
                hide_links_that_lead_outside(&self.path(), || self.git()).await?;
            }
            self.finish_tree().await
        };
        again
            .await
            .map_err(|error: GitError| refused_or_failed("cannot restore the worktree", error))
    }

    /// Resets the worktree to the base commit, so that nothing of a half-applied edit stays.
    ///
    /// # Errors
    /// Those of [`Self::restore`].
    pub async fn reset(&self) -> Result<(), TaskFailure> {
        let again = async {
            self.drop_own_objects().await?;
            if self.put_back_base().await {
                return self.finish_tree().await;
            }
            self.check_out().await
        };
        again
            .await
            .map_err(|error: GitError| refused_or_failed("cannot reset the worktree", error))
    }

    /// Removes everything of this attempt except its commit.
    ///
    /// # Errors
    /// [`ErrorKind::Workspace`] if files remain. The next worker that starts after this process has
    /// ended removes them.
    pub async fn remove(mut self) -> Result<(), TaskFailure> {
        self.forget_base().await;
        let dir = self.leave();
        off_the_runtime(move || remove_tree(&dir))
            .await
            .map_err(|error| failure("cannot remove the worktree", error))
    }

    /// Removes the ref that keeps the base.
    pub(super) async fn forget_base(&self) {
        if self.keeps_base.swap(false, Ordering::Relaxed) {
            self.repository().forget(self.attempt).await;
        }
    }

    /// The attempt's directory, which the caller removes from now on.
    pub(super) fn leave(&mut self) -> PathBuf {
        std::mem::take(&mut self.dir)
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

    pub(super) fn attempt(&self) -> AttemptId {
        self.attempt
    }

    pub(super) fn keep_base_until_removal(&self, keeps: bool) {
        self.keeps_base.store(keeps, Ordering::Relaxed);
    }

    pub(super) fn git(&self) -> GitCommand<'_> {
        self.git_in(&self.path())
    }

    /// A git command on another checkout of this attempt than the agent's.
    pub(super) fn git_in(&self, checkout: &Path) -> GitCommand<'_> {
        let path = checkout.strip_prefix(&self.dir).unwrap_or(checkout);
        let git = self.origin.git.at(&self.git_dir());
        borrowing(git.checkout(&self.root, path.to_owned()), &self.origin)
    }

    async fn build(&self) -> Result<(), GitError> {
        write_git_dir(&self.git_dir(), &self.origin)?;
        let refs = packed_refs(&self.origin).await?;
        fs::write(self.git_dir().join("packed-refs"), refs)?;
        if self.use_kept_tree().await {
            return self.finish_tree().await;
        }
        self.check_out().await
    }

    async fn check_out(&self) -> Result<(), GitError> {
        self.empty_tree().await?;
        remove_tree(&self.git_dir().join("index"))?;
        self.git()
            .run(&["read-tree", "--reset", "-u", self.base()])
            .await?;
        let hidden = hide_links_that_lead_outside(&self.path(), || self.git()).await?;
        self.note_new_tree(hidden).await;
        self.finish_tree().await
    }

    async fn empty_tree(&self) -> io::Result<()> {
        let root = Arc::clone(&self.root);
        off_the_runtime(move || root.enter(TREE.as_ref())?.empty()).await
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
        self.hand_over(&commit).await?;
        self.keep_base_until_removal(false);
        fs::write(self.git_dir().join("HEAD"), format!("{commit}\n"))?;
        Ok(commit)
    }
}

/// Makes the directories of an attempt, and opens the one that contains them.
fn make_directories(dir: &Path) -> io::Result<Directory> {
    private_directory(dir)?;
    end_search_at(dir)?;
    let root = Directory::open(dir)?;
    for part in [TREE, "scratch", "git", "hidden"] {
        root.make(part)?;
    }
    Ok(root)
}

/// The agent is to blame if something else is in the place of its worktree, or mounted in it. No
/// other attempt would be better.
fn refused_or_failed(what: &str, error: GitError) -> TaskFailure {
    use io::ErrorKind::{CrossesDevices, NotADirectory};
    if let GitError::Start(found) = &error
        && matches!(found.kind(), NotADirectory | CrossesDevices)
    {
        return TaskFailure::new(ErrorKind::ChangeRefused, format!("{what}: {found}"));
    }
    failure(what, error)
}

impl Drop for Worktree {
    fn drop(&mut self) {
        let dir = std::mem::take(&mut self.dir);
        if !dir.as_os_str().is_empty() {
            remove_behind(dir);
        }
    }
}
