//! Removing what an agent left behind, however it left it.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Removes a directory with everything in it; symbolic links are not followed, and nothing there is fine.
///
/// # Errors
/// What still stands in the way after directories without permissions have been opened.
pub(super) fn remove_tree(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_directories(dir)?;
            fs::remove_dir_all(dir)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// An agent can take its own permissions on a directory away.
fn open_directories(dir: &Path) -> io::Result<()> {
    fs::set_permissions(dir, Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_directories(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a file, a link (not what it points to), or a directory with everything in it.
///
/// # Errors
/// As [`remove_tree`].
pub(crate) fn remove_any(path: &Path) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() { remove_tree(path) } else { fs::remove_file(path) }
}

/// Removes everything in a directory, and keeps the directory.
///
/// # Errors
/// As [`remove_tree`].
pub(super) fn empty_directory(dir: &Path) -> io::Result<()> {
    fs::set_permissions(dir, Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(dir)? {
        remove_any(&entry?.path())?;
    }
    Ok(())
}

/// A directory that only this user can enter.
///
/// # Errors
/// When it cannot be made.
pub(super) fn private_directory(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Runs file work where it does not hold up the runtime.
///
/// # Errors
/// Those of the work itself, and one for a panic in it.
pub(crate) async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
