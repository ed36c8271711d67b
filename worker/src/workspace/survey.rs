//! Examines an agent's worktree before git looks at it.
//!
//! Git opens `.gitignore`, `.gitattributes` and the repositories that it finds, so a pipe in such a
//! place would block it for ever. Git silently skips other pipes, sockets and devices, and
//! directories that it cannot read.

use std::ffi::OsStr;
use std::fs::{self, FileType, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A pipe, a socket or a device.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Special {
    /// The path relative to the worktree.
    pub(super) path: PathBuf,
    /// Its kind, for people: `a named pipe`.
    pub(super) what: &'static str,
}

impl Special {
    /// Whether git would open it, ignored or not.
    pub(super) fn is_opened_by_git(&self) -> bool {
        self.path.components().any(|part| is_gits(part.as_os_str()))
    }
}

/// `.git`, `.gitignore`, `.gitattributes`, `.gitmodules`.
pub(super) fn is_gits(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".git")
}

/// Names the thing that replaced the worktree. None: it is still a directory.
pub(super) fn replaced_by(tree: &Path) -> io::Result<Option<&'static str>> {
    match tree.symlink_metadata() {
        Ok(found) if found.is_dir() => Ok(None),
        Ok(found) => Ok(Some(name_of(found.file_type()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Some("nothing")),
        Err(error) => Err(error),
    }
}

/// All special files in a worktree, except in the agent's own repository, which nothing reads.
/// Directories, and files whose name is `needed`, are made readable on the way. Git does not keep
/// such a mode, and may not notice a change of it.
pub(super) fn special_files(
    tree: &Path,
    needed: impl Fn(&OsStr) -> bool,
) -> io::Result<Vec<Special>> {
    let mut special = Vec::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        let path = tree.join(&directory);
        make_readable(&path, &path.symlink_metadata()?, 0o700)?;
        let entries = match fs::read_dir(&path) {
            // The path is longer than the kernel accepts, which git finds as well.
            Err(error) if error.kind() == io::ErrorKind::InvalidFilename => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let (kind, path) = (entry.file_type()?, directory.join(entry.file_name()));
            if path == Path::new(".git") {
                continue;
            }
            if kind.is_dir() {
                directories.push(path);
            } else if !kind.is_file() && !kind.is_symlink() {
                special.push(Special {
                    path,
                    what: name_of(kind),
                });
            } else if kind.is_file() && needed(&entry.file_name()) {
                make_readable(&entry.path(), &entry.metadata()?, 0o400)?;
            }
        }
    }
    Ok(special)
}

/// Gives the owner these rights on a file or a directory (not on a link).
pub(super) fn make_readable(path: &Path, found: &Metadata, rights: u32) -> io::Result<()> {
    let mode = found.permissions().mode();
    if mode & rights == rights {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(mode | rights))
}

fn name_of(kind: FileType) -> &'static str {
    if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_symlink() {
        "a link"
    } else if kind.is_file() {
        "a file"
    } else {
        "a device"
    }
}
