//! Makes, moves and reads single things in an open directory.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, mkdirat, openat, readlinkat, renameat};
use rustix::io::Errno;

use super::{Directory, give, has, status};
use crate::workspace::disk::open_regular;

impl Directory {
    /// Makes a new directory that only this user can enter.
    ///
    /// # Errors
    /// If something has this name.
    pub(crate) fn make(&self, name: &str) -> io::Result<Self> {
        mkdirat(&self.file, name, Mode::RWXU)?;
        self.enter(OsStr::new(name))
    }

    /// Makes a directory, or gives its owner all rights on an existing one, whose contents stay.
    /// Anything else with its name is removed.
    ///
    /// # Errors
    /// Those of [`Self::enter`].
    pub(crate) fn ensure(&self, name: &OsStr) -> io::Result<()> {
        match self.enter(name) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => Err(error),
            Err(_) => {
                self.remove(name)?;
                Ok(mkdirat(&self.file, name, Mode::RWXU)?)
            }
        }
    }

    /// Makes a new file for writing. Anything with its name is removed first.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(crate) fn create(&self, name: &OsStr) -> io::Result<File> {
        self.remove(name)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(&self.file, name, flags, Mode::from_raw_mode(0o666))?.into())
    }

    /// Writes a new file. Anything with its name is removed first.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.create(OsStr::new(name))?.write_all(bytes)
    }

    /// Copies a regular file to a new one here. A missing file is fine.
    ///
    /// # Errors
    /// If it is anything else, or the new file cannot be written.
    pub(crate) fn copy(&self, from: &Path, name: &str) -> io::Result<()> {
        match open_regular(from)? {
            Some(mut from) => io::copy(&mut from, &mut self.create(OsStr::new(name))?).map(|_| ()),
            None => Ok(()),
        }
    }

    /// Moves something to another directory. It replaces a file there.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) fn rename(&self, name: &OsStr, to: &Self) -> io::Result<()> {
        Ok(renameat(&self.file, name, &to.file, name)?)
    }

    /// The target of a link. None: there is no link with this name.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) fn read_link(&self, name: &OsStr) -> io::Result<Option<PathBuf>> {
        match readlinkat(&self.file, name, Vec::new()) {
            Ok(target) => Ok(Some(PathBuf::from(OsStr::from_bytes(target.to_bytes())))),
            Err(Errno::NOENT | Errno::INVAL) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives the owner the right to read a file. Does nothing for anything but a regular file.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) fn make_readable(&self, name: &OsStr) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match openat(&self.file, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(()),
            found => found?,
        };
        let state = status(&found)?;
        let is_file = FileType::from_raw_mode(state.stx_mode.into()) == FileType::RegularFile;
        if !is_file || has(&state, Mode::RUSR) {
            return Ok(());
        }
        give(&found, &state, Mode::RUSR)
    }
}
