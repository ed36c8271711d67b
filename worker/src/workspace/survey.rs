//! Examines an agent's worktree before git looks at it.
//!
//! Git opens `.gitignore`, `.gitattributes` and the repositories that it finds, so a pipe in such a
//! place would block it for ever. Git silently skips other pipes, sockets and devices, and
//! directories that it cannot read.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::directory::Directory;

const MOUNTED: &str = "a mounted file system";
/// The longest path that the kernel accepts, with its closing zero.
pub(super) const LONGEST_PATH: usize = 4096;

/// A pipe, a socket, a device, or a directory where something is mounted.
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
        self.what == MOUNTED || self.path.components().any(|part| is_gits(part.as_os_str()))
    }
}

/// `.git`, `.gitignore`, `.gitattributes`, `.gitmodules`.
pub(super) fn is_gits(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".git")
}

/// Names the thing that replaced the worktree. None: it is still a directory of this attempt.
pub(super) fn replaced_by(tree: &Path) -> io::Result<Option<&'static str>> {
    let (above, name) = Directory::holding(tree)?;
    match above.kind(name)? {
        None => Ok(Some("nothing")),
        Some(FileType::Directory) => match above.enter(name) {
            Ok(_) => Ok(None),
            Err(error) if is_mounted(&error) => Ok(Some(MOUNTED)),
            Err(error) => Err(error),
        },
        Some(kind) => Ok(Some(name_of(kind))),
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
    let mounted = Directory::open(tree)?.walk(&mut |directory, path, entry| {
        match entry.kind {
            _ if path == Path::new(".git") => return Ok(false),
            // Git finds paths that are longer than the kernel accepts.
            FileType::Directory => return Ok(path.as_os_str().len() < LONGEST_PATH),
            FileType::RegularFile if needed(&entry.name) => directory.make_readable(&entry.name)?,
            FileType::RegularFile | FileType::Symlink => {}
            kind @ (FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown) => special.push(Special {
                path: path.to_owned(),
                what: name_of(kind),
            }),
        }
        Ok(false)
    })?;
    let what = MOUNTED;
    special.extend(mounted.into_iter().map(|path| Special { path, what }));
    Ok(special)
}

fn is_mounted(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::CrossesDevices
}

fn name_of(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        FileType::Symlink => "a link",
        FileType::RegularFile => "a file",
        FileType::Directory
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => "a device",
    }
}
