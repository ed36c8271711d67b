//! Removes trees of any depth, whatever an agent changes in them at the same moment.

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, RenameFlags, renameat_with, unlinkat};
use rustix::io::Errno;

use super::{Directory, Entry, OPEN_AT_ONCE, status};

/// How often [`Directory::empty`] looks again. Each look removes [`OPEN_AT_ONCE`] levels.
const LOOKS: u32 = 10_000;

impl Directory {
    /// Removes everything in this directory.
    ///
    /// # Errors
    /// If something remains. A mount somewhere inside is not touched.
    pub(crate) fn empty(&self) -> io::Result<()> {
        for _ in 0..LOOKS {
            let entries = self.entries()?;
            if entries.is_empty() {
                return Ok(());
            }
            for entry in entries {
                self.remove_entry(&entry, self, OPEN_AT_ONCE)?;
            }
        }
        Err(io::Error::other(format!(
            "{} does not become empty: a process writes into it",
            self.path.display()
        )))
    }

    /// Removes a file, a link (not its target), or a directory with everything in it. It is fine
    /// if nothing has this name.
    ///
    /// # Errors
    /// Those of [`Self::empty`].
    pub(crate) fn remove(&self, name: &OsStr) -> io::Result<()> {
        match self.kind(name)? {
            None => Ok(()),
            Some(FileType::Directory) => match self.enter(name) {
                Ok(inner) => {
                    inner.empty()?;
                    self.unlink(name, AtFlags::REMOVEDIR)
                }
                Err(error) => self.unlink_replaced(name, error),
            },
            Some(_) => self.unlink(name, AtFlags::empty()),
        }
    }

    /// Like [`Self::remove`]. A directory only moves to `refuse` if that is possible, which takes
    /// no time.
    ///
    /// # Errors
    /// Those of [`Self::remove`].
    pub(crate) fn discard(&self, name: &OsStr, refuse: &Self) -> io::Result<()> {
        match self.enter(name) {
            Ok(inner) if self.lift(name, &inner, refuse).is_ok() => Ok(()),
            _ => self.remove(name),
        }
    }

    /// Removes the directories on the way to a path that are empty, from the innermost on.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) fn remove_empty_above(&self, path: &Path) -> io::Result<()> {
        for above in path.ancestors().skip(1) {
            let Some((directory, name)) = self.find(above)? else {
                continue;
            };
            match unlinkat(&directory.file, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn remove_entry(&self, entry: &Entry, top: &Self, levels: u32) -> io::Result<()> {
        let name = &entry.name;
        if entry.kind != FileType::Directory {
            return self.unlink(name, AtFlags::empty());
        }
        let inner = match self.enter(name) {
            Ok(inner) => inner,
            Err(error) => return self.unlink_replaced(name, error),
        };
        if levels == 0 {
            return self.lift(name, &inner, top);
        }
        for entry in inner.entries()? {
            inner.remove_entry(&entry, top, levels - 1)?;
        }
        self.unlink(name, AtFlags::REMOVEDIR)
    }

    /// Moves a directory that lies too deep to the top, where the next look finds it.
    fn lift(&self, name: &OsStr, inner: &Self, top: &Self) -> io::Result<()> {
        let unique = format!("lifted-{}", status(&inner.file)?.stx_ino);
        Ok(renameat_with(
            &self.file,
            name,
            &top.file,
            unique.as_str(),
            RenameFlags::NOREPLACE,
        )?)
    }

    /// Removes the thing that has just taken the place of a directory.
    fn unlink_replaced(&self, name: &OsStr, error: io::Error) -> io::Result<()> {
        let kind = error.kind();
        if kind == io::ErrorKind::NotADirectory {
            self.unlink(name, AtFlags::empty())
        } else if kind == io::ErrorKind::NotFound {
            Ok(())
        } else {
            Err(error)
        }
    }

    fn unlink(&self, name: &OsStr, flags: AtFlags) -> io::Result<()> {
        match unlinkat(&self.file, name, flags) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => {
                let (error, path) = (io::Error::from(error), self.path.join(name));
                Err(io::Error::new(
                    error.kind(),
                    format!("cannot remove {}: {error}", path.display()),
                ))
            }
        }
    }
}
