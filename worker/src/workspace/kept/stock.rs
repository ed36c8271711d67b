//! A tree with what is needed to put it back: the index that git wrote when it checked the tree
//! out, and the inventory that the worker took then.
//!
//! All three lie side by side in a *holder*, which is the directory of an attempt or of a kept
//! tree. The agent can write to the tree alone.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::super::changes::split_paths;
use super::super::directory::{Directory, Moment};
use super::super::disk::off_the_runtime;
use super::super::git::{GitCommand, GitError, path_of};
use super::super::links::hide_links_that_lead_outside;
use super::inventory::{Digest, Inventory};
use super::put_back::put_back;

pub(in super::super) const TREE: &str = "tree";
pub(in super::super) const INDEX: &str = "pristine-index";
pub(super) const INVENTORY: &str = "inventory";
const CLOCK: &str = "clock";
/// The directories that were removed from the tree. They go with the holder.
const REFUSE: &str = "refuse";

/// File systems on which the kernel sets the time of the last change at every change. On others
/// (XFS: `XFS_IOC_SWAPEXT`) a program can exchange the content of files without it. The sandbox
/// denies the one call of ext4 that does the same. On tmpfs a write to a shared mapping does not set
/// it.
const TRUSTED_FILE_SYSTEMS: [i64; 1] = [0xef53]; // ext4
/// How long the clock of the file system may take to go on.
const CLOCK_STANDS: Duration = Duration::from_secs(3);
/// How far the clock of the file system may fall behind before it counts as set back.
const CLOCK_SLACK: i64 = 1;
/// The rights on the directory of a tree.
const TREE_RIGHTS: u32 = 0o700;

/// The worker's knowledge of a tree that git has checked out, to put it back after an agent.
#[derive(Debug, Clone)]
pub(in super::super) struct Stock {
    /// The commit or tree object that was checked out.
    pub(in super::super) checked_out: String,
    /// The links that git skips, because they lead out of the tree.
    hidden: Vec<Vec<u8>>,
    digest: Digest,
    pub(in super::super) bytes: u64,
    /// When the inventory was taken, by the clock of the file system and by the worker's.
    taken: Moment,
    taken_at: Instant,
}

/// A tree that was put back, and what git has to restore in it.
pub(in super::super) struct Rest {
    inventory: Inventory,
    missing: Vec<Vec<u8>>,
    stock: Stock,
}

/// Takes stock of a tree that git has just checked out with the index [`INDEX`] beside it.
///
/// # Errors
/// If the tree cannot be kept, for example because of its file system.
pub(in super::super) async fn take_stock(
    holder: &Path,
    checked_out: &str,
    hidden: Vec<Vec<u8>>,
) -> io::Result<Stock> {
    let dir = holder.to_owned();
    let look = move || {
        let tree = Directory::open(&dir.join(TREE))?;
        let kind = tree.file_system()?;
        if !TRUSTED_FILE_SYSTEMS.contains(&kind) {
            let problem = format!("its file system ({kind:#x}) is not ext4 or tmpfs");
            return Err(io::Error::other(problem));
        }
        if tree.has_attributes()? {
            return Err(io::Error::other("its directory has attributes"));
        }
        Inventory::take(&tree)
    };
    let inventory = off_the_runtime(look).await?;
    note(holder, checked_out, hidden, inventory).await
}

/// Writes the inventory down, and waits until every later change gets a later time than all
/// changes so far. Otherwise a change in the same tick of the clock would go unseen.
async fn note(
    holder: &Path,
    checked_out: &str,
    hidden: Vec<Vec<u8>>,
    inventory: Inventory,
) -> io::Result<Stock> {
    let file = holder.join(INVENTORY);
    let (last_change, bytes) = (inventory.last_change(), inventory.bytes());
    let digest = off_the_runtime(move || inventory.save(&file)).await?;
    let started = Instant::now();
    loop {
        let now = Directory::open(holder)?.now(CLOCK)?;
        if now > last_change {
            return Ok(Stock {
                checked_out: checked_out.to_owned(),
                hidden,
                digest,
                bytes,
                taken: now,
                taken_at: Instant::now(),
            });
        }
        if started.elapsed() > CLOCK_STANDS {
            return Err(io::Error::other(
                "the clock of its file system stands still",
            ));
        }
        sleep(Duration::from_millis(1)).await;
    }
}

/// Removes whatever an agent has left in the tree. No process may write into it any more.
///
/// # Errors
/// If the tree is in doubt: it must be thrown away.
pub(in super::super) async fn clear(holder: &Path, stock: Stock) -> io::Result<Rest> {
    let path = holder.to_owned();
    let clear = move || {
        let holder = Directory::open(&path)?;
        holder.set_rights(TREE.as_ref(), TREE_RIGHTS)?;
        refuse_set_back(holder.now(CLOCK)?, &stock)?;
        let inventory = Inventory::load(&path.join(INVENTORY), &stock.digest)?;
        holder.ensure(REFUSE.as_ref())?;
        let refuse = holder.enter(REFUSE.as_ref())?;
        let rest = put_back(&holder.enter(TREE.as_ref())?, &inventory, &refuse)?;
        Ok(Rest {
            missing: inventory.not_in(&rest),
            inventory: rest,
            stock,
        })
    };
    off_the_runtime(clear).await
}

/// Reads the inventory of a tree that nobody could change since its stock was taken.
///
/// # Errors
/// If it cannot be read.
pub(in super::super) async fn unchanged(holder: &Path, stock: Stock) -> io::Result<Rest> {
    let file = holder.join(INVENTORY);
    let load = move || {
        Ok(Rest {
            inventory: Inventory::load(&file, &stock.digest)?,
            missing: Vec::new(),
            stock,
        })
    };
    off_the_runtime(load).await
}

/// A clock that was set back could give a change an earlier time.
fn refuse_set_back(now: Moment, stock: &Stock) -> io::Result<()> {
    let elapsed = i64::try_from(stock.taken_at.elapsed().as_secs()).unwrap_or(i64::MAX);
    let expected = stock.taken.seconds.saturating_add(elapsed);
    if now < stock.taken || now.seconds.saturating_add(CLOCK_SLACK) < expected {
        return Err(io::Error::other("the clock was set back"));
    }
    Ok(())
}

impl Rest {
    /// Restores what is missing, and checks `commit` out over the rest. `git` returns a command on
    /// the tree and on [`INDEX`]. The cost follows the difference.
    ///
    /// # Errors
    /// If git cannot do it, or not as a new checkout would: the tree must be thrown away.
    pub(in super::super) async fn check_out<'a>(
        self,
        holder: &Path,
        commit: &str,
        git: impl Fn() -> GitCommand<'a>,
    ) -> Result<Stock, GitError> {
        let Self {
            inventory,
            missing,
            stock,
        } = self;
        let moves = stock.checked_out != commit;
        if missing.is_empty() && !moves {
            return Ok(stock);
        }
        let mut changed = Vec::new();
        let mut absent = missing;
        if moves {
            changed = differences(commit, &git).await?;
            absent.extend(stock.hidden.iter().cloned());
        }
        forget_absent(holder, &absent, &git).await?;
        git().run(&["read-tree", "-m", "-u", commit]).await?;
        let hidden = if moves {
            hide_links_that_lead_outside(&holder.join(TREE), &git).await?
        } else {
            stock.hidden
        };
        changed.extend(absent);
        changed.extend(hidden.iter().cloned());
        let inventory = look_again(holder, inventory, changed, hidden.clone()).await?;
        Ok(note(holder, commit, hidden, inventory).await?)
    }
}

/// Lets git forget the files that are not in the tree, and removes the directories that are empty
/// without them. Git makes both again if the commit has them.
async fn forget_absent<'a>(
    holder: &Path,
    absent: &[Vec<u8>],
    git: &impl Fn() -> GitCommand<'a>,
) -> Result<(), GitError> {
    if absent.is_empty() {
        return Ok(());
    }
    let (tree, paths) = (holder.join(TREE), absent.to_vec());
    let remove = move || {
        let tree = Directory::open(&tree)?;
        let paths = paths.iter().map(|path| path_of(path));
        paths
            .into_iter()
            .try_for_each(|path| tree.remove_empty_above(&path))
    };
    off_the_runtime(remove).await?;
    let mut input = absent.join(&0);
    input.push(0);
    let args = ["update-index", "-z", "--force-remove", "--stdin"];
    git().input(input).run(&args).await.map(drop)
}

/// The inventory after git has changed the files at these paths. Those that are hidden must not be
/// there.
async fn look_again(
    holder: &Path,
    mut inventory: Inventory,
    changed: Vec<Vec<u8>>,
    hidden: Vec<Vec<u8>>,
) -> io::Result<Inventory> {
    let tree = holder.join(TREE);
    let look = move || {
        inventory.look_again(&Directory::open(&tree)?, &changed)?;
        let mut hidden = hidden.iter().map(|path| path_of(path));
        match hidden.find(|path| inventory.get(path).is_some()) {
            Some(path) => {
                let problem = format!("the link {} is there again", path.display());
                Err(io::Error::other(problem))
            }
            None => Ok(inventory),
        }
    };
    off_the_runtime(look).await
}

/// The paths of files that are not the same in the index and in a commit or tree.
///
/// # Errors
/// Also if attributes differ: then a checkout over the tree is not the same as a new one.
pub(in super::super) async fn differences<'a>(
    commit: &str,
    git: &impl Fn() -> GitCommand<'a>,
) -> Result<Vec<Vec<u8>>, GitError> {
    let args = ["diff-index", "--cached", "--name-only", "--no-renames"];
    let args: Vec<&str> = args.into_iter().chain(["-z", commit]).collect();
    let paths = split_paths(&git().run(&args).await?);
    let sets_attributes = |path: &Vec<u8>| {
        let path = path_of(path);
        let name = path.file_name().unwrap_or_default();
        name.eq_ignore_ascii_case(".gitattributes")
    };
    if paths.iter().any(sets_attributes) {
        let why = "the attributes differ, and so may files whose content in git does not";
        return Err(io::Error::other(why).into());
    }
    Ok(paths)
}
