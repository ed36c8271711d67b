//! The kept trees of a worker process: which there are, and how long they stay.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pool_core::id::AttemptId;
use pool_telemetry::clock::new_id;
use tokio::sync::oneshot;

use super::super::directory::Directory;
use super::super::disk::{private_directory, remove_tree};
use super::super::telemetry::{KeptTreesAre, TreeThrownAway};
use super::stock::{INDEX, INVENTORY, Stock, TREE};

/// The beginning of the names of kept trees, and of trees that are being put back. The other names
/// beside them are those of attempts.
const KEPT: &str = "kept-";
const LEAVING: &str = "leaving-";

/// Whether a directory of a worker belongs to a kept tree.
pub(in super::super) fn is_kept_tree(name: &OsStr) -> bool {
    let begins = |start: &str| name.as_encoded_bytes().starts_with(start.as_bytes());
    begins(KEPT) || begins(LEAVING)
}

/// How long an attempt waits for a tree that is being put back.
const MOST_PATIENCE: Duration = Duration::from_secs(5);

/// The niceness of the removal of old trees.
const LEAST_IMPORTANT: i32 = 19;

/// The programs that can reach a tree that no attempt uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// No agent or check, also not through a file that it has opened.
    Nobody,
    /// Agents and checks may change modes and attributes of files whose path they guess.
    Attributes,
}

/// Trees with the same key can stand in for each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct KeptKey {
    /// The git directory of the repository.
    pub(in super::super) repository: PathBuf,
    /// The settings that its objects depend on.
    pub(in super::super) settings: String,
}

/// A tree that no attempt uses. Dropping it removes it.
#[derive(Debug)]
pub(in super::super) struct KeptTree {
    /// The holder of the tree.
    dir: PathBuf,
    key: KeptKey,
    pub(in super::super) stock: Stock,
}

/// A tree that is being put back.
#[derive(Debug)]
pub(in super::super) struct Announced {
    number: u64,
    finished: oneshot::Sender<KeptTree>,
}

#[derive(Debug)]
enum ShelfSlot {
    Ready(KeptTree),
    /// An attempt on the same repository waits for it, which is quicker than a new checkout.
    Soon {
        number: u64,
        key: KeptKey,
        finished: oneshot::Receiver<KeptTree>,
    },
}

/// The kept trees. The one that was used last is at the end.
#[derive(Debug)]
pub(in super::super) struct KeptTrees {
    /// The directory of this process, which contains the holders.
    dir: PathBuf,
    max_bytes: u64,
    reach: Reach,
    next: AtomicU64,
    slots: Mutex<Vec<ShelfSlot>>,
}

impl KeptTrees {
    pub(in super::super) fn new(dir: PathBuf, max_bytes: u64, reach: Reach) -> Self {
        Self {
            dir,
            max_bytes,
            reach,
            next: AtomicU64::default(),
            slots: Mutex::default(),
        }
    }

    /// Whether a tree must be looked at again before an attempt gets it.
    pub(in super::super) fn looks_twice(&self) -> bool {
        self.reach == Reach::Attributes
    }

    /// A tree for this repository, if possible at this commit. Waits for one that is being put
    /// back.
    pub(in super::super) async fn take(&self, key: &KeptKey, commit: &str) -> Option<KeptTree> {
        loop {
            let slot = self.choose(key, commit)?;
            self.show();
            match slot {
                ShelfSlot::Ready(tree) => return Some(tree),
                ShelfSlot::Soon { finished, .. } => {
                    match tokio::time::timeout(MOST_PATIENCE, finished).await {
                        Ok(Ok(tree)) => return Some(tree),
                        // It was thrown away.
                        Ok(Err(_)) => {}
                        // An agent may have left millions of files.
                        Err(_) => return None,
                    }
                }
            }
        }
    }

    fn choose(&self, key: &KeptKey, commit: &str) -> Option<ShelfSlot> {
        let mut slots = self.slots();
        let fits = |slot: &ShelfSlot, exactly: bool| match slot {
            ShelfSlot::Ready(tree) => {
                tree.key == *key && (!exactly || tree.stock.checked_out == commit)
            }
            ShelfSlot::Soon { key: of, .. } => of == key && !exactly,
        };
        let is_ready = |slot: &ShelfSlot| matches!(slot, ShelfSlot::Ready(_));
        let found = slots
            .iter()
            .rposition(|slot| fits(slot, true))
            .or_else(|| {
                slots
                    .iter()
                    .rposition(|slot| is_ready(slot) && fits(slot, false))
            })
            .or_else(|| slots.iter().position(|slot| fits(slot, false)))?;
        Some(slots.remove(found))
    }

    /// Moves the directory of an attempt, or a part of it, to a place of its own.
    ///
    /// # Errors
    /// If it cannot be moved.
    pub(in super::super) fn leave(&self, holder: &Path) -> io::Result<PathBuf> {
        let place = self.dir.join(format!("{LEAVING}{}", new_id::<AttemptId>()));
        fs::rename(holder, &place)?;
        Ok(place)
    }

    /// Announces a tree that is being put back. [`Self::keep`] must follow.
    pub(in super::super) fn announce(&self, key: KeptKey) -> Announced {
        let (finished, soon) = oneshot::channel();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.slots().push(ShelfSlot::Soon {
            number,
            key,
            finished: soon,
        });
        Announced { number, finished }
    }

    /// Keeps a tree, and removes those that were used longest ago if they are too many. None: the
    /// announced tree was thrown away.
    pub(in super::super) fn keep(&self, pending: Announced, tree: Option<KeptTree>) {
        let Announced { number, finished } = pending;
        let mut slots = self.slots();
        let before = slots.len();
        slots.retain(|slot| !matches!(slot, ShelfSlot::Soon { number: of, .. } if *of == number));
        let tree = match tree {
            // An attempt waits for it, or has given up.
            Some(tree) if slots.len() == before => finished.send(tree).err(),
            tree => tree,
        };
        slots.extend(tree.map(ShelfSlot::Ready));
        while used(&slots) > self.max_bytes {
            let Some(oldest) = slots
                .iter()
                .position(|slot| matches!(slot, ShelfSlot::Ready(_)))
            else {
                break;
            };
            slots.remove(oldest);
            TreeThrownAway::TooMany.emit();
        }
        drop(slots);
        self.show();
    }

    fn slots(&self) -> MutexGuard<'_, Vec<ShelfSlot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self) {
        let slots = self.slots();
        KeptTreesAre {
            trees: slots.iter().filter_map(ready).count(),
            bytes: used(&slots),
        }
        .emit();
    }
}

fn ready(slot: &ShelfSlot) -> Option<&KeptTree> {
    match slot {
        ShelfSlot::Ready(tree) => Some(tree),
        ShelfSlot::Soon { .. } => None,
    }
}

fn used(slots: &[ShelfSlot]) -> u64 {
    let sizes = slots.iter().filter_map(ready).map(|tree| tree.stock.bytes);
    sizes.fold(0, u64::saturating_add)
}

impl KeptTree {
    /// Moves a tree and its companions from the directory `from` to a holder of its own.
    ///
    /// # Errors
    /// If they cannot be moved.
    pub(in super::super) fn take_over(
        trees: &KeptTrees,
        from: &Directory,
        key: KeptKey,
        stock: Stock,
    ) -> io::Result<Self> {
        let dir = trees.dir.join(format!("{KEPT}{}", new_id::<AttemptId>()));
        private_directory(&dir)?;
        let kept = Self { dir, key, stock };
        let holder = Directory::open(&kept.dir)?;
        for name in [TREE, INDEX, INVENTORY] {
            from.rename(name.as_ref(), &holder)?;
        }
        Ok(kept)
    }

    /// Moves the tree and its companions to the directory of an attempt.
    ///
    /// # Errors
    /// If they cannot be moved.
    pub(in super::super) fn hand_over(self, to: &Path) -> io::Result<Stock> {
        let (holder, to) = (Directory::open(&self.dir)?, Directory::open(to)?);
        for name in [TREE, INDEX, INVENTORY] {
            holder.rename(name.as_ref(), &to)?;
        }
        Ok(self.stock.clone())
    }
}

impl Drop for KeptTree {
    fn drop(&mut self) {
        remove_behind(std::mem::take(&mut self.dir));
    }
}

/// Removes a directory on a thread of its own, which gives way to everything else. Nothing waits
/// for it. The next worker that starts removes the rest.
pub(in super::super) fn remove_behind(dir: PathBuf) {
    let place = dir.clone();
    let remove = move || {
        // Without a number this is the thread itself. If the kernel refuses, it is only less polite.
        let _ = rustix::process::setpriority_process(None, LEAST_IMPORTANT);
        if let Err(error) = remove_tree(&dir) {
            tracing::warn!(path = %dir.display(), %error, "cannot remove a directory of the workspace; the next worker that starts tries again");
        }
    };
    if let Err(error) = std::thread::Builder::new().spawn(remove) {
        tracing::warn!(path = %place.display(), %error, "no thread to remove a directory of the workspace; the next worker that starts removes it");
    }
}
