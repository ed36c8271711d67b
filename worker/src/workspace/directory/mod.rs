//! Open directories, for work in places that an agent can change at the same moment.
//!
//! A path means whatever its names mean when the kernel walks it. An agent, or a process that it
//! left behind, may put a link there, or mount something. Here every step starts from an open
//! directory, follows no link, and stays on the mount of the directory above. So the worker cannot
//! be made to change or remove files that are not the attempt's.

mod files;
mod removal;
mod stamp;
mod tree_walk;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Statx, StatxFlags, chmodat, openat, statx,
};
use rustix::io::Errno;

pub(crate) use stamp::{Moment, STAMP_BYTES, Stamp};

/// How many directories one step keeps open, one inside the other. Trees may be deeper.
const OPEN_AT_ONCE: u32 = 64;

/// An open directory.
#[derive(Debug)]
pub(crate) struct Directory {
    file: OwnedFd,
    mount: Mount,
    /// For messages. The directory may have another place by now.
    path: PathBuf,
}

/// Tells mounts apart. Kernels before 5.8 do not give the id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mount {
    id: Option<u64>,
    device: (u32, u32),
}

/// A name in a directory.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) name: OsString,
    pub(crate) kind: FileType,
}

impl Directory {
    /// Opens a directory. Only the directories above may be links.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotADirectory`] if it is a link or a file,
    /// [`io::ErrorKind::CrossesDevices`] if something is mounted there.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let (above, name) = Self::holding(path)?;
        above.enter(name)
    }

    /// The directory that contains `path`, and its name there. It may be a link.
    ///
    /// # Errors
    /// If that directory cannot be opened.
    pub(crate) fn holding(path: &Path) -> io::Result<(Self, &OsStr)> {
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::other(format!(
                "{} is not in a directory",
                path.display()
            )));
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let file = openat(CWD, above, flags, Mode::empty())?;
        let mount = Mount::of(&status(&file)?);
        let path = above.to_owned();
        Ok((Self { file, mount, path }, name))
    }

    /// Opens a directory in this one, and gives its owner all rights on it.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub(crate) fn enter(&self, name: &OsStr) -> io::Result<Self> {
        let path = self.path.join(name);
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |flags| {
            openat(&self.file, name, flags, Mode::empty()).map_err(|error| match error {
                Errno::NOTDIR | Errno::LOOP => io::Error::new(
                    io::ErrorKind::NotADirectory,
                    format!("{} is not a directory any more", path.display()),
                ),
                error => error.into(),
            })
        };
        let found = match open(flags) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                open(flags | OFlags::PATH)?
            }
            found => found?,
        };
        let state = status(&found)?;
        let mount = Mount::of(&state);
        if mount != self.mount {
            return Err(io::Error::new(
                io::ErrorKind::CrossesDevices,
                format!(
                    "something is mounted at {}, and the worker does not touch it: unmount it",
                    path.display()
                ),
            ));
        }
        let file = if has(&state, Mode::RWXU) {
            found
        } else {
            give(&found, &state, Mode::RWXU)?;
            openat(&found, ".", flags, Mode::empty())?
        };
        Ok(Self { file, mount, path })
    }

    /// Opens the directory at a relative path, step by step.
    ///
    /// # Errors
    /// Those of [`Self::open`]; also for a path that does not only go down.
    pub(crate) fn descend(&self, path: &Path) -> io::Result<Self> {
        let mut here = self.again()?;
        for part in path.components() {
            let Component::Normal(name) = part else {
                return Err(io::Error::other(format!("{path:?} does not only go down")));
            };
            here = here.enter(name)?;
        }
        Ok(here)
    }

    /// The directory that contains the relative path, and its name there. None: the way to it is
    /// missing, or leads through something else than directories.
    ///
    /// # Errors
    /// Those of [`Self::descend`].
    pub(crate) fn find<'p>(&self, path: &'p Path) -> io::Result<Option<(Self, &'p OsStr)>> {
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(None);
        };
        match self.descend(above) {
            Ok(directory) => Ok(Some((directory, name))),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn again(&self) -> io::Result<Self> {
        Ok(Self {
            file: self.file.try_clone()?,
            mount: self.mount,
            path: self.path.clone(),
        })
    }

    /// A path that means this directory as long as it is open, also for a child process until it
    /// starts a program.
    pub(crate) fn handle(&self) -> PathBuf {
        handle(&self.file)
    }

    /// All names in this directory.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in Dir::read_from(&self.file)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            // Not every file system says the kind.
            let known = Some(entry.file_type()).filter(|kind| *kind != FileType::Unknown);
            let Some(kind) = known.map_or_else(|| self.kind(name), |kind| Ok(Some(kind)))? else {
                continue;
            };
            let name = name.to_owned();
            entries.push(Entry { name, kind });
        }
        Ok(entries)
    }

    /// The kind of the file with this name. None: no file has this name.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) fn kind(&self, name: &OsStr) -> io::Result<Option<FileType>> {
        match statx(
            &self.file,
            name,
            AtFlags::SYMLINK_NOFOLLOW,
            StatxFlags::TYPE,
        ) {
            Ok(found) => Ok(Some(FileType::from_raw_mode(found.stx_mode.into()))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Mount {
    fn of(state: &Statx) -> Self {
        let known = StatxFlags::from_bits_retain(state.stx_mask).contains(StatxFlags::MNT_ID);
        Self {
            id: known.then_some(state.stx_mnt_id),
            device: (state.stx_dev_major, state.stx_dev_minor),
        }
    }
}

fn status(file: &OwnedFd) -> io::Result<Statx> {
    let wanted = StatxFlags::TYPE | StatxFlags::MODE | StatxFlags::INO | StatxFlags::MNT_ID;
    Ok(statx(file, "", AtFlags::EMPTY_PATH, wanted)?)
}

fn has(state: &Statx, rights: Mode) -> bool {
    Mode::from_raw_mode(state.stx_mode.into()).contains(rights)
}

/// Gives the owner these rights on an open file. It may be open for nothing else, so the way leads
/// through `/proc`.
fn give(file: &OwnedFd, state: &Statx, rights: Mode) -> io::Result<()> {
    let mode = Mode::from_raw_mode(state.stx_mode.into()) | rights;
    Ok(chmodat(CWD, handle(file), mode, AtFlags::empty())?)
}

fn handle(file: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

#[cfg(test)]
mod tests;
