//! Removes, writes and reads files in directories that an agent writes to, in whatever state the
//! agent left them. Nothing here follows a link in the place of a file, or blocks on a pipe.

use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use pool_core::result::{ErrorKind, TaskFailure};

use super::directory::Directory;

/// Removes a directory with all its contents, or whatever has its name. It does not follow symbolic
/// links. It is fine if nothing has this name.
///
/// # Errors
/// If something remains. A mount somewhere inside is not touched.
pub(crate) fn remove_tree(dir: &Path) -> io::Result<()> {
    match Directory::holding(dir) {
        Ok((above, name)) => above.remove(name),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
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
    let (above, name) = Directory::holding(dir)?;
    above.ensure(name)
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
