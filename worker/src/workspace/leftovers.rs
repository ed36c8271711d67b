//! Removes the files of crashed workers, and keeps those of live ones.
//!
//! Every worker process holds a lock on `workers/<its id>.lock` while it lives. The kernel releases
//! the lock however the process ends. The attempts of a process are below `attempts/<its id>/`. If
//! its lock can be taken, the process is dead.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::disk::{private_directory, remove_tree};
use super::kept::{is_kept_tree, remove_behind};

/// The life of one worker process in a workspace directory.
#[derive(Debug)]
pub(super) struct WorkspaceLock {
    /// The parent of this process's attempts, one directory each.
    pub(super) attempts: PathBuf,
    lock_file: PathBuf,
    _held: File,
}

impl WorkspaceLock {
    /// Enters the workspace directory under a new id and removes the files of dead workers.
    ///
    /// # Errors
    /// If the directory cannot be written.
    pub(super) fn begin(dir: &Path, id: &str) -> io::Result<Self> {
        let (workers, all_attempts, trash) =
            (dir.join("workers"), dir.join("attempts"), dir.join("trash"));
        let discarded = dir.join("discarded");
        for part in [&workers, &all_attempts, &trash, &discarded] {
            private_directory(part)?;
        }
        // One at a time, so that no process sees a lock file that exists but is not held yet.
        let gate = File::create(dir.join("workers.lock"))?;
        gate.lock()?;
        trash_dead_workers(&workers, &all_attempts, &trash, &discarded)?;
        let lock_file = workers.join(format!("{id}.lock"));
        let held = File::create(&lock_file)?;
        held.lock()?;
        let attempts = all_attempts.join(id);
        private_directory(&attempts)?;
        gate.unlock()?;
        empty_trash(&trash);
        for entry in fs::read_dir(&discarded)?.flatten() {
            remove_behind(entry.path());
        }
        Ok(Self {
            attempts,
            lock_file,
            _held: held,
        })
    }
}

impl Drop for WorkspaceLock {
    fn drop(&mut self) {
        // Fails if an attempt is still there. The next worker removes it.
        if fs::remove_dir(&self.attempts).is_ok() {
            let _ = fs::remove_file(&self.lock_file);
        }
    }
}

/// Moves the files of dead workers to the trash. Moving is quick, so other starting workers do not
/// wait for the removal.
fn trash_dead_workers(
    workers: &Path,
    attempts: &Path,
    trash: &Path,
    discarded: &Path,
) -> io::Result<()> {
    for entry in fs::read_dir(attempts)? {
        let entry = entry?;
        let lock_file = workers.join(format!("{}.lock", entry.file_name().to_string_lossy()));
        if is_dead(&lock_file)? {
            tracing::info!(worker = ?entry.file_name(), "removing the files of a crashed worker from the workspace");
            discard_kept_trees(&entry.path(), discarded)?;
            fs::rename(entry.path(), trash.join(entry.file_name()))?;
            let _ = fs::remove_file(&lock_file);
        }
    }
    Ok(())
}

/// Moves the kept trees of a dead worker aside. They may be many and large, so the worker that
/// starts does not wait for their removal.
fn discard_kept_trees(attempts: &Path, discarded: &Path) -> io::Result<()> {
    for entry in fs::read_dir(attempts)? {
        let entry = entry?;
        let name = entry.file_name();
        if is_kept_tree(&name) {
            fs::rename(entry.path(), discarded.join(name))?;
        }
    }
    Ok(())
}

fn is_dead(lock_file: &Path) -> io::Result<bool> {
    match File::open(lock_file) {
        Ok(file) => match file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Empties the trash. Two workers may do this at once; either of them, or the next start, removes
/// each file.
fn empty_trash(trash: &Path) {
    for entry in fs::read_dir(trash).into_iter().flatten().flatten() {
        if let Err(error) = remove_tree(&entry.path()) {
            tracing::warn!(path = ?entry.path(), %error, "cannot remove the files of a crashed worker");
        }
    }
}
