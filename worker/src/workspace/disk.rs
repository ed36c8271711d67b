//! Removes, writes and reads files in directories that an agent writes to, in whatever state the
//! agent left them. Nothing here follows a link in the place of a file, or blocks on a pipe.

use std::fmt::Display;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use pool_core::result::{ErrorKind, TaskFailure};

/// Removes a directory with all its contents. It does not follow symbolic links. A missing
/// directory is fine.
///
/// # Errors
/// If something remains even after directories without permissions have been opened.
pub(crate) fn remove_tree(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_directories(dir)?;
            fs::remove_dir_all(dir)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// An agent can remove its own permissions on a directory.
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

/// Removes a file, a link (not its target), or a directory with all its contents. It is fine if
/// nothing has this name.
///
/// # Errors
/// Those of [`remove_tree`].
pub(crate) fn remove_any(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Ok(found) if found.is_dir() => remove_tree(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes everything in a directory, and keeps the directory.
///
/// # Errors
/// Those of [`remove_tree`]; also if the directory is a link, which leads to other people's files.
pub(super) fn empty_directory(dir: &Path) -> io::Result<()> {
    if !dir.symlink_metadata()?.is_dir() {
        return Err(io::Error::other(format!(
            "{} is not a directory any more",
            dir.display()
        )));
    }
    fs::set_permissions(dir, Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(dir)? {
        remove_any(&entry?.path())?;
    }
    Ok(())
}

/// Makes a directory that only this user can enter.
///
/// # Errors
/// If it cannot be made.
pub(super) fn private_directory(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
}

/// Makes a directory that only this user can enter. Anything else in its place is removed. The
/// contents of an existing directory stay.
///
/// # Errors
/// If it cannot be made.
pub(crate) fn make_directory(dir: &Path) -> io::Result<()> {
    if dir.symlink_metadata().is_ok_and(|found| found.is_dir()) {
        return fs::set_permissions(dir, Permissions::from_mode(0o700));
    }
    remove_any(dir)?;
    private_directory(dir)
}

/// Writes a new file. Anything with its name is removed first.
///
/// # Errors
/// If it cannot be written.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    remove_any(path)?;
    File::create_new(path)?.write_all(bytes)
}

/// Opens a regular file for reading. None if nothing has this name.
///
/// # Errors
/// If it is anything else (a link, a pipe, a device), or cannot be read.
pub(crate) fn open_regular(path: &Path) -> io::Result<Option<File>> {
    match OpenOptions::new()
        .read(true)
        .custom_flags(O_NOFOLLOW | O_NONBLOCK)
        .open(path)
    {
        Ok(file) if file.metadata()?.is_file() => Ok(Some(file)),
        Ok(_) => Err(io::Error::other(format!(
            "{} is not a regular file",
            path.display()
        ))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Copies a regular file to a new one. A missing file is fine.
///
/// # Errors
/// Those of [`open_regular`]; also if the new file cannot be written.
pub(super) fn copy_regular(from: &Path, to: &Path) -> io::Result<()> {
    match open_regular(from)? {
        Some(mut file) => io::copy(&mut file, &mut File::create_new(to)?).map(|_| ()),
        None => Ok(()),
    }
}

/// Runs file work on a thread where it does not block the runtime.
///
/// # Errors
/// Those of the work itself, and one for a panic in it.
pub(crate) async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    // Its log lines belong to the attempt that asks for it.
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work))
        .await
        .map_err(io::Error::other)?
}

/// The failure of a task whose files the worker could not handle.
pub(crate) fn failure(what: &str, problem: impl Display) -> TaskFailure {
    TaskFailure::new(ErrorKind::Workspace, format!("{what}: {problem}"))
}
