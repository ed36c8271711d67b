//! The place where acceptance checks run: the tree of the commit that will be published, in a
//! checkout of its own.
//!
//! It is next to the agent's worktree and shares no file with it. So a check cannot pass because of
//! something that the commit lacks, such as an ignored file, other line ends, or a file in the
//! place of a hidden link. Its repository is new, too. HEAD and index are the base commit, so `git
//! diff HEAD` shows the change. No setting, hook or attribute of the agent applies.

use std::io;
use std::path::{Path, PathBuf};

use pool_core::result::TaskFailure;
use rustix::fs::FileType;

use super::attributes::ATTRIBUTES;
use super::directory::Directory;
use super::disk::{copy_regular, failure, off_the_runtime, private_directory, remove_tree};
use super::git::GitError;
use super::kept::{INDEX, TREE};
use super::layout::write_own_repository;
use super::links::hide_links_that_lead_outside;
use super::survey::{LONGEST_PATH, replaced_by, special_files};
use super::worktree::Worktree;

/// The directory of the checkout in that of the attempt.
pub(super) const CHECKS: &str = "checks";

/// A checkout for acceptance checks. It is removed with its worktree, or by the next checkout.
#[derive(Debug, Clone)]
pub struct Checkout {
    /// The parent of everything below.
    dir: PathBuf,
    /// The directory in which the checks start.
    pub tree: PathBuf,
    /// The home directory of each check. It does not exist yet.
    pub scratch: PathBuf,
    /// The index of the tree that was checked out. `base_index` is that of the base commit.
    index: PathBuf,
    base_index: PathBuf,
}

impl Worktree {
    /// Checks out the changes that the last [`Self::collect`] took in.
    ///
    /// # Errors
    /// [`ErrorKind::Workspace`](pool_core::result::ErrorKind::Workspace) if git fails.
    pub async fn check_out_for_checks(&self) -> Result<Checkout, TaskFailure> {
        self.try_check_out()
            .await
            .map_err(|error| failure("cannot make the checkout for the checks", error))
    }

    /// Restores every file of the commit, and the repository, for the next check. Other files,
    /// which earlier checks have built, stay.
    ///
    /// # Errors
    /// Those of [`Self::check_out_for_checks`].
    pub async fn renew(&self, checkout: &Checkout) -> Result<(), TaskFailure> {
        self.try_renew(checkout)
            .await
            .map_err(|error| failure("cannot renew the checkout for the checks", error))
    }

    /// Removes the checkout. The agent must not find the files that its checks have made.
    ///
    /// # Errors
    /// [`ErrorKind::Workspace`](pool_core::result::ErrorKind::Workspace) if files remain.
    pub async fn drop_checkout(&self, checkout: &Checkout) -> Result<(), TaskFailure> {
        let dir = checkout.dir.clone();
        let remove = move || remove_tree(&dir);
        off_the_runtime(remove)
            .await
            .map_err(|error| failure("cannot remove the checkout of the checks", error))
    }

    async fn try_check_out(&self) -> Result<Checkout, GitError> {
        let dir = self.dir().join(CHECKS);
        let checkout = Checkout {
            dir: dir.clone(),
            tree: dir.join(TREE),
            scratch: dir.join("scratch"),
            index: dir.join("index"),
            base_index: dir.join("base-index"),
        };
        let collected = self.git().line(&["write-tree"]).await?;
        self.make_tree(&checkout, &collected).await?;
        // Unchanged files keep their times in the index, so that git need not read them again.
        let (index, base_index) = (checkout.index.clone(), checkout.base_index.clone());
        off_the_runtime(move || copy_regular(&index, &base_index)).await?;
        self.git_in(&checkout.tree)
            .env("GIT_INDEX_FILE", &checkout.base_index)
            .run(&["read-tree", "-m", self.base()])
            .await?;
        self.give_repository(&checkout).await?;
        Ok(checkout)
    }

    /// Checks the collected changes out, if possible over a kept tree.
    async fn make_tree(&self, checkout: &Checkout, collected: &str) -> Result<(), GitError> {
        let dir = checkout.dir.clone();
        self.make_holder(&dir).await?;
        if let Some(stock) = self.take_kept(&dir, collected).await {
            self.reuse.set_checks(Some(stock));
            let (from, to) = (dir.join(INDEX), checkout.index.clone());
            return Ok(off_the_runtime(move || copy_regular(&from, &to)).await?);
        }
        // A kept tree may have arrived, and turned out to be in doubt.
        self.make_holder(&dir).await?;
        let git = || {
            self.git_in(&checkout.tree)
                .env("GIT_INDEX_FILE", &checkout.index)
        };
        git()
            .run(&["read-tree", "--reset", "-u", collected])
            .await?;
        let hidden = hide_links_that_lead_outside(&checkout.tree, git).await?;
        let stock = self
            .note_new(&dir, &checkout.index, collected, hidden)
            .await;
        self.reuse.set_checks(stock);
        Ok(())
    }

    /// Makes the directory of the checkout anew, with an empty tree.
    async fn make_holder(&self, dir: &Path) -> io::Result<()> {
        let dir = dir.to_owned();
        off_the_runtime(move || {
            remove_tree(&dir)?;
            private_directory(&dir.join(TREE))
        })
        .await
    }

    async fn try_renew(&self, checkout: &Checkout) -> Result<(), GitError> {
        let tree = checkout.tree.clone();
        let cleared = off_the_runtime(move || {
            if replaced_by(&tree)?.is_some() {
                return Ok(false);
            }
            // Git would block on these.
            let special = special_files(&tree, |_| true)?;
            let tree = Directory::open(&tree)?;
            for special in special.iter().filter(|special| special.is_opened_by_git()) {
                if let Some((above, name)) = tree.find(&special.path)? {
                    above.remove(name)?;
                }
            }
            remove_attributes(&tree)?;
            Ok(true)
        });
        if !cleared.await? {
            return self.try_check_out().await.map(|_| ());
        }
        let git = || {
            self.git_in(&checkout.tree)
                .env("GIT_INDEX_FILE", &checkout.index)
        };
        git()
            .run(&["checkout-index", "--all", "--force", "--quiet"])
            .await?;
        // Git before 2.36 restores them.
        hide_links_that_lead_outside(&checkout.tree, git).await?;
        self.give_repository(checkout).await
    }

    async fn give_repository(&self, checkout: &Checkout) -> Result<(), GitError> {
        let (checkout, git_dir, origin) = (checkout.clone(), self.git_dir(), self.origin().clone());
        let make =
            move || write_own_repository(&checkout.tree, &git_dir, &checkout.base_index, &origin);
        Ok(off_the_runtime(make).await?)
    }
}

/// Removes the files with attributes. `git checkout-index` would obey them before those of the
/// index, and a check may have made or changed them.
fn remove_attributes(tree: &Directory) -> io::Result<()> {
    let visited = tree.walk(&mut |directory, path, entry| {
        if path == Path::new(".git") {
            return Ok(false);
        }
        if entry.name == ATTRIBUTES && entry.kind != FileType::Directory {
            directory.remove(&entry.name)?;
        }
        Ok(path.as_os_str().len() < LONGEST_PATH)
    });
    visited.map(drop)
}
