//! The directories of a self-test.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// Makes directories that only this user can enter.
fn private() -> fs::DirBuilder {
    let mut builder = fs::DirBuilder::new();
    builder.mode(0o700);
    builder
}

/// Directories of one self-test: a worktree and a secret beside it.
pub(super) struct ProbeDirectory(PathBuf);

impl ProbeDirectory {
    /// A full disk must not keep a worker from its start: its tasks fail by name until there is room.
    /// So the worktree of the self-test then lies in the directory for temporary files.
    pub(super) fn with_room(workspace: &Path) -> io::Result<Self> {
        let is_full = |error: &io::Error| {
            matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            )
        };
        match Self::new(workspace) {
            Err(error) if is_full(&error) => Self::new(&std::env::temp_dir()).map_err(|_| error),
            made => made,
        }
    }

    fn new(directory: &Path) -> io::Result<Self> {
        private().recursive(true).create(directory)?;
        for number in 0..u32::MAX {
            let name = format!("sandbox-test-{}-{number}", std::process::id());
            let place = Self(directory.join(name));
            match private().create(&place.0) {
                Ok(()) => {
                    fs::create_dir(place.tree())?;
                    fs::write(place.secret(), "secret")?;
                    return Ok(place);
                }
                // Another process's, so it must not be removed.
                Err(error) => {
                    std::mem::forget(place);
                    if error.kind() != io::ErrorKind::AlreadyExists {
                        return Err(error);
                    }
                }
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    pub(super) fn tree(&self) -> PathBuf {
        self.0.join("tree")
    }

    pub(super) fn secret(&self) -> PathBuf {
        self.0.join("secret")
    }
}

impl Drop for ProbeDirectory {
    fn drop(&mut self) {
        // If this fails, a small directory remains in the workspace directory.
        let _ = fs::remove_dir_all(&self.0);
    }
}
