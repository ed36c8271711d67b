//! Where acceptance checks run: the tree of the commit that will be handed out, in a checkout of its own.
//!
//! It lies beside the agent's worktree and shares no file with it. So nothing that the commit lacks can make a check
//! pass: ignored files, what stands in the place of a hidden link or in the directory of a submodule, line ends that a
//! checkout does not have. Its repository is new, too: HEAD and index are the base commit, so that `git diff HEAD` is the
//! change, and no setting, hook or attribute of the agent's is in force.

use std::path::PathBuf;

use pool_shared::result::TaskFailure;

use super::disk::{off_the_runtime, private_directory, remove_tree};
use super::git::GitError;
use super::layout::write_own_repository;
use super::worktree::{Worktree, failure, hide_links_that_lead_outside};

/// A checkout for acceptance checks. It is removed with its worktree, or by the next one.
#[derive(Debug, Clone)]
pub struct Checkout {
    /// Where the checks are started.
    pub tree: PathBuf,
    /// Not there yet: the home directory of one check after another.
    pub scratch: PathBuf,
}

impl Worktree {
    /// Checks out what the last [`Self::collect`] took in.
    ///
    /// # Errors
    /// [`ErrorKind::Workspace`](pool_shared::result::ErrorKind::Workspace) when git fails.
    pub async fn check_out_for_checks(&self) -> Result<Checkout, TaskFailure> {
        self.try_check_out().await.map_err(|error| failure("cannot make the checkout for the checks", error))
    }

    async fn try_check_out(&self) -> Result<Checkout, GitError> {
        let dir = self.dir().join("checks");
        let checkout = Checkout { tree: dir.join("tree"), scratch: dir.join("scratch") };
        let index = dir.join("index");
        let (old, tree) = (dir, checkout.tree.clone());
        off_the_runtime(move || remove_tree(&old).and_then(|()| private_directory(&tree))).await?;
        let collected = self.git().line(&["write-tree"]).await?;
        let git = || self.git_in(&checkout.tree).env("GIT_INDEX_FILE", &index);
        git().run(&["read-tree", "--reset", "-u", &collected]).await?;
        hide_links_that_lead_outside(&checkout.tree, git).await?;
        // What is as in the base commit keeps its times, so that git need not read it again.
        git().run(&["read-tree", "-m", self.base()]).await?;
        let (tree, own, origin) = (checkout.tree.clone(), self.git_dir(), self.origin().clone());
        let make = move || write_own_repository(&tree, &own, &index, &origin);
        off_the_runtime(make).await?;
        Ok(checkout)
    }
}
