//! Mirrors of remote repositories: one bare repository per URL, which all programmers share.
//!
//! The remote's branches are kept below `refs/remotes/origin/`, so that pruning never touches
//! `refs/heads/pool/`. A mirror has one fetch at a time, in this process (a mutex) and among
//! processes (a lock file). A task that was already waiting when a fetch *began* uses its result.
//! So ten tasks at once on one repository cause two fetches, not ten.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pool_core::source::Repository;
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use super::disk::private_directory;
use super::git::{Git, GitError};

/// The remote's branches in a mirror.
pub(super) const BRANCHES: &str = "refs/remotes/origin/";
/// How often to try a lock that another process holds.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// When the last successful fetch of a mirror began.
type LastFetch = Arc<Mutex<Option<Instant>>>;

#[derive(Debug)]
pub(super) struct Mirrors {
    git: Git,
    dir: PathBuf,
    fetch_timeout: Duration,
    fetches: std::sync::Mutex<HashMap<PathBuf, LastFetch>>,
}

impl Mirrors {
    pub(super) fn new(git: Git, dir: PathBuf, fetch_timeout: Duration) -> Self {
        Self {
            git,
            dir,
            fetch_timeout,
            fetches: std::sync::Mutex::default(),
        }
    }

    /// The directory of this URL's mirror, which may not exist yet.
    pub(super) fn git_dir(&self, url: &Repository) -> PathBuf {
        let digest = Sha256::digest(url.as_str());
        let name: String = digest
            .iter()
            .take(16)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        self.dir.join(format!("{name}.git"))
    }

    /// Fetches the current state of the remote and returns the mirror's git directory.
    ///
    /// # Errors
    /// If the remote cannot be read in time.
    pub(super) async fn fetch(&self, url: &Repository) -> Result<PathBuf, GitError> {
        let asked = Instant::now();
        let git_dir = self.git_dir(url);
        let last = Arc::clone(
            self.fetches
                .lock()
                .unwrap_or_else(|e| e.into_inner())
                .entry(git_dir.clone())
                .or_default(),
        );
        let mut last = last.lock().await;
        if last.is_some_and(|began| began > asked) {
            return Ok(git_dir);
        }
        private_directory(&self.dir)?;
        let _held = self.lock(&git_dir).await?;
        let began = Instant::now();
        self.create(&git_dir).await?;
        let refspecs = [
            "+refs/heads/*:refs/remotes/origin/*",
            "+refs/tags/*:refs/tags/*",
        ];
        let args = [
            "fetch",
            "--quiet",
            "--prune",
            "--no-tags",
            "--no-write-fetch-head",
            "--no-recurse-submodules",
        ];
        let args: Vec<&str> = args
            .into_iter()
            .chain(["--end-of-options", url.as_str()])
            .chain(refspecs)
            .collect();
        self.git
            .at(&git_dir)
            .remote(self.fetch_timeout)
            .run(&args)
            .await?;
        // Git would do this housekeeping in the background, where nothing could stop it.
        let tidy = self
            .git
            .at(&git_dir)
            .set("gc.auto=6700")
            .set("gc.autoDetach=false")
            .run(&["gc", "--auto", "--quiet"]);
        if let Err(error) = tidy.await {
            tracing::warn!(mirror = %git_dir.display(), %error, "cannot tidy a mirror");
        }
        *last = Some(began);
        Ok(git_dir)
    }

    /// The remote's default branch, as a ref of the mirror.
    ///
    /// # Errors
    /// If the remote cannot be read in time.
    pub(super) async fn default_branch(
        &self,
        git_dir: &Path,
        url: &Repository,
    ) -> Result<Option<String>, GitError> {
        let args = [
            "ls-remote",
            "--symref",
            "--end-of-options",
            url.as_str(),
            "HEAD",
        ];
        let said = self
            .git
            .at(git_dir)
            .remote(self.fetch_timeout)
            .line(&args)
            .await?;
        let branch = said
            .lines()
            .find_map(|line| line.strip_prefix("ref: refs/heads/")?.split_once('\t'));
        Ok(branch.map(|(branch, _)| format!("{BRANCHES}{branch}")))
    }

    /// Makes the mirror under another name first, so that an existing mirror is always complete.
    async fn create(&self, git_dir: &Path) -> Result<(), GitError> {
        if git_dir.join("HEAD").exists() {
            return Ok(());
        }
        let unfinished = git_dir.with_extension("new");
        super::disk::remove_tree(&unfinished)?;
        self.git
            .at(&unfinished)
            .run(&["init", "--bare", "--quiet", "--template="])
            .await?;
        Ok(fs::rename(unfinished, git_dir)?)
    }

    /// Takes the lock. Waits for another process a little longer than a fetch may take.
    async fn lock(&self, git_dir: &Path) -> io::Result<File> {
        let file = File::create(git_dir.with_extension("lock"))?;
        let deadline = Instant::now() + self.fetch_timeout * 2;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    sleep(LOCK_POLL).await
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(io::Error::other(
                        "another worker has been fetching this repository for too long",
                    ));
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }
}
