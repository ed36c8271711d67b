//! Directories at paths that others than the operator can change.
//!
//! The worker checks such a directory before a run, and the stages of the sandbox show it later. In
//! between somebody may put another directory, or a link, at its path. So the stages show it only if
//! it is the one that was checked.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent_sandbox::path_walk::open_end;
use agent_sandbox::{FileId, PinnedPath};

use super::trust::real;

/// A directory, with the path at which it was found. It stays open, so that no other directory gets
/// its number.
#[derive(Debug, Clone)]
pub struct PinnedDirectory {
    path: PathBuf,
    id: FileId,
    held: Arc<OwnedFd>,
}

impl PinnedDirectory {
    /// # Errors
    /// Those of the system, and one for a path that leads to no directory.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let held = open_end(&real(&path))?;
        let opened = Self {
            id: FileId::of(&held)?,
            held: Arc::new(held),
            path,
        };
        match fs::metadata(opened.handle())?.is_dir() {
            true => Ok(opened),
            false => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path that leads into this directory, whatever is at its usual path by now.
    pub(crate) fn handle(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.held.as_raw_fd()).into()
    }

    /// Where the directory is now, without links.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) fn place(&self) -> io::Result<PathBuf> {
        fs::read_link(self.handle())
    }

    pub(super) fn pin(&self) -> PinnedPath {
        PinnedPath {
            path: self.path.clone(),
            file: self.id,
        }
    }
}
