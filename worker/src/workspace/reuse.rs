//! Uses trees again: those of earlier attempts for this one, and those of this attempt for later
//! ones. Where that fails, the caller makes a tree anew. How it works is in [`kept`](super::kept).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use pool_core::result::TaskFailure;

use super::checkout::{CHECKS, Checkout};
use super::directory::Directory;
use super::disk::{copy_regular, off_the_runtime, private_directory, remove_tree};
use super::git::{GitCommand, GitError};
use super::kept::{
    Announced, INDEX, KeptKey, KeptTree, KeptTrees, Stock, TREE, clear, differences, remove_behind,
    take_stock, unchanged,
};
use super::layout::{Origin, write_git_dir};
use super::links::hide_links_that_lead_outside;
use super::objects::borrowing;
use super::telemetry::{TreeMade, TreeThrownAway};
use super::worktree::{Reuse, Worktree};

impl Reuse {
    /// The kept trees; None: this attempt takes and leaves none.
    fn kept(&self) -> Option<&Arc<KeptTrees>> {
        let is_doubted = self.doubted.load(Ordering::Relaxed);
        self.kept.as_ref().filter(|_| !is_doubted)
    }

    pub(super) fn set_checks(&self, stock: Option<Stock>) {
        set(&self.checks, stock);
    }
}

impl Worktree {
    /// Makes the worktree from a kept tree. Returns whether that worked.
    pub(super) async fn use_kept_tree(&self) -> bool {
        let base = self.base().to_owned();
        match self.take_kept(self.dir(), &base).await {
            Some(stock) => self.adopt(stock, &self.git_dir().join("index")).await,
            None => false,
        }
    }

    /// Takes a kept tree to `holder` and checks a commit or tree out over it.
    pub(super) async fn take_kept(&self, holder: &Path, treeish: &str) -> Option<Stock> {
        let kept = self.reuse.kept()?;
        let tree = kept.take(&key(self.origin()), treeish).await?;
        let taken = async {
            let to = holder.to_owned();
            let stock = off_the_runtime(move || tree.hand_over(&to)).await?;
            let rest = if kept.looks_twice() {
                clear(holder, stock).await?
            } else {
                unchanged(holder, stock).await?
            };
            let git = || self.pristine_git(holder);
            rest.check_out(holder, treeish, git).await
        };
        match taken.await {
            Ok(stock) => {
                TreeMade::Again.emit();
                Some(stock)
            }
            Err(error) => {
                TreeThrownAway::Doubt(&error.to_string()).emit();
                None
            }
        }
    }

    /// Takes stock of the worktree, which is new, so that it can be put back.
    pub(super) async fn note_new_tree(&self, hidden: Vec<Vec<u8>>) {
        let index = self.git_dir().join("index");
        let noted = self.note_new(self.dir(), &index, self.base(), hidden);
        let stock = noted.await;
        set(&self.reuse.tree, stock);
    }

    /// Takes stock of a new tree in `holder`, which git has checked out with `index`.
    pub(super) async fn note_new(
        &self,
        holder: &Path,
        index: &Path,
        treeish: &str,
        hidden: Vec<Vec<u8>>,
    ) -> Option<Stock> {
        TreeMade::New.emit();
        self.reuse.kept()?;
        let noted = async {
            replace(index, &holder.join(INDEX)).await?;
            take_stock(holder, treeish, hidden).await
        };
        noted
            .await
            .inspect_err(|error| TreeThrownAway::Doubt(&error.to_string()).emit())
            .ok()
    }

    /// Puts the worktree back to the base. Returns whether that worked.
    pub(super) async fn put_back_base(&self) -> bool {
        let Some(stock) = take(&self.reuse.tree) else {
            return false;
        };
        let (holder, base) = (self.dir(), self.base());
        let put_back = async {
            let rest = clear(holder, stock).await?;
            let git = || self.pristine_git(holder);
            rest.check_out(holder, base, git).await
        };
        match put_back.await {
            Ok(stock) => self.adopt(stock, &self.git_dir().join("index")).await,
            Err(error) => {
                TreeThrownAway::Doubt(&error.to_string()).emit();
                false
            }
        }
    }

    /// Puts the worktree back to the changes that were collected last. Returns whether that worked.
    pub(super) async fn put_back_collected(&self) -> bool {
        let Ok(collected) = self.git().line(&["write-tree"]).await else {
            return false;
        };
        if !self.put_back_base().await {
            return false;
        }
        let lay = async {
            differences(&collected, &|| self.git()).await?;
            let args = ["read-tree", "-m", "-u", &collected];
            self.git().run(&args).await?;
            hide_links_that_lead_outside(&self.path(), || self.git()).await
        };
        if lay.await.is_ok() {
            return true;
        }
        // The caller makes the tree from the index.
        let _ = self.git().run(&["read-tree", &collected]).await;
        false
    }

    /// Makes the index of a tree that was put back the index of the next step.
    async fn adopt(&self, stock: Stock, index: &Path) -> bool {
        let copied = replace(&self.dir().join(INDEX), index).await;
        set(&self.reuse.tree, copied.is_ok().then_some(stock));
        copied.is_ok()
    }

    /// A git command on the tree in `holder` with the index of its last checkout.
    fn pristine_git(&self, holder: &Path) -> GitCommand<'_> {
        let git = self.git_in(&holder.join(TREE));
        git.env("GIT_INDEX_FILE", holder.join(INDEX))
    }
}

impl Worktree {
    /// Removes everything of this attempt except its commit. The worktree is put back in the
    /// background, and later attempts may use it again. The attempt must have ended well: every
    /// process in the worktree is gone.
    ///
    /// # Errors
    /// Those of [`Self::remove`].
    pub async fn give_back(mut self) -> Result<(), TaskFailure> {
        let (stock, kept) = (take(&self.reuse.tree), self.reuse.kept().cloned());
        let Some((stock, kept)) = stock.zip(kept) else {
            return self.remove().await;
        };
        self.forget_base().await;
        let origin = self.origin().clone();
        match kept.leave(self.dir()) {
            Ok(holder) => {
                self.leave();
                PutBack::start(holder, stock, origin, kept);
                Ok(())
            }
            Err(_) => self.remove().await,
        }
    }

    /// Like [`Self::drop_checkout`], but later checkouts may use the tree again. Every check must
    /// have ended well.
    ///
    /// # Errors
    /// Those of [`Self::drop_checkout`].
    pub async fn give_back_checkout(&self, checkout: &Checkout) -> Result<(), TaskFailure> {
        let stock = take(&self.reuse.checks).zip(self.reuse.kept().cloned());
        if let Some((stock, kept)) = stock
            && let Ok(holder) = kept.leave(&self.dir().join(CHECKS))
        {
            PutBack::start(holder, stock, self.origin().clone(), kept);
            return Ok(());
        }
        self.drop_checkout(checkout).await
    }

    /// Says that a process of the attempt may be alive. None of its trees is used again.
    pub fn doubt(&self) {
        self.reuse.doubted.store(true, Ordering::Relaxed);
        for stock in [&self.reuse.tree, &self.reuse.checks] {
            if take(stock).is_some() {
                TreeThrownAway::Attempt.emit();
            }
        }
    }
}

/// A tree that is being put back in the background. If it cannot be kept, it is removed.
struct PutBack {
    holder: PathBuf,
    origin: Origin,
    kept: Arc<KeptTrees>,
}

impl PutBack {
    /// The holder has left its attempt. It contains the tree with its companions, and other files.
    fn start(holder: PathBuf, stock: Stock, origin: Origin, kept: Arc<KeptTrees>) {
        let pending = kept.announce(key(&origin));
        let put_back = Self {
            holder,
            origin,
            kept,
        };
        tokio::spawn(put_back.run(stock, pending));
    }

    async fn run(self, stock: Stock, pending: Announced) {
        let tree = self.put_back(stock).await;
        let tree = tree
            .inspect_err(|error| TreeThrownAway::Doubt(&error.to_string()).emit())
            .ok();
        self.kept.keep(pending, tree);
    }

    async fn put_back(&self, stock: Stock) -> Result<KeptTree, GitError> {
        let rest = clear(&self.holder, stock).await?;
        let git_dir = self.holder.join("put-back");
        let (dir, origin) = (git_dir.clone(), self.origin.clone());
        let make = move || {
            private_directory(&dir)?;
            write_git_dir(&dir, &origin)?;
            Directory::open(dir.parent().unwrap_or(&dir))
        };
        let root = off_the_runtime(make).await?;
        let git = || {
            let git = self.origin.git.at(&git_dir).checkout(&root, TREE.into());
            borrowing(git, &self.origin).env("GIT_INDEX_FILE", self.holder.join(INDEX))
        };
        let base = &self.origin.base;
        let stock = rest.check_out(&self.holder, base, git).await?;
        let (kept, key) = (Arc::clone(&self.kept), key(&self.origin));
        let take_over = move || KeptTree::take_over(&kept, &root, key, stock);
        Ok(off_the_runtime(take_over).await?)
    }
}

impl Drop for PutBack {
    fn drop(&mut self) {
        remove_behind(std::mem::take(&mut self.holder));
    }
}

fn key(origin: &Origin) -> KeptKey {
    KeptKey {
        repository: origin.repository.clone(),
        settings: origin.settings.lines().to_owned(),
    }
}

fn take(stock: &Mutex<Option<Stock>>) -> Option<Stock> {
    stock.lock().unwrap_or_else(PoisonError::into_inner).take()
}

fn set(place: &Mutex<Option<Stock>>, stock: Option<Stock>) {
    *place.lock().unwrap_or_else(PoisonError::into_inner) = stock;
}

/// Puts a copy of a file in the place of another one.
async fn replace(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (from.to_owned(), to.to_owned());
    let copy = move || {
        let new = to.with_extension("new");
        remove_tree(&new)?;
        copy_regular(&from, &new)?;
        fs::rename(new, to)
    };
    off_the_runtime(copy).await
}
