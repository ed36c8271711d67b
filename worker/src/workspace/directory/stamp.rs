//! The kernel's account of a file, by which a change of the file is seen without reading it.

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, IFlags, Mode, Statx, StatxFlags, StatxTimestamp};
use rustix::fs::{chmodat, flistxattr, fstatfs, ioctl_getflags, statx};
use rustix::io::Errno;

use super::{Directory, handle};

/// Attributes of a directory that its owner can set, and that change what is made in it.
const SETTABLE: IFlags = IFlags::COMPRESSED
    .union(IFlags::SYNC)
    .union(IFlags::IMMUTABLE)
    .union(IFlags::APPEND)
    .union(IFlags::NODUMP)
    .union(IFlags::NOATIME)
    .union(IFlags::DIRSYNC)
    .union(IFlags::NOCOW)
    .union(IFlags::PROJECT_INHERIT);
/// An attribute of this name belongs to the machine, which sets it on every file.
const OF_THE_MACHINE: &[u8] = b"security.selinux";

/// A time of the file system: seconds and nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

/// Everything that the kernel says about a file, except for the time of the last reading.
///
/// `changed` is set by the kernel at every change of content, size, mode, owner, links, name and
/// attributes, and no program can set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    mode: u32,
    links: u32,
    inode: u64,
    device: (u32, u32),
    owner: (u32, u32),
    size: u64,
    modified: Moment,
    changed: Moment,
}

/// The number of bytes of a stamp in a file.
pub(crate) const STAMP_BYTES: usize = 72;

impl Stamp {
    fn of(state: &Statx) -> Self {
        let moment = |time: &StatxTimestamp| Moment {
            seconds: time.tv_sec,
            nanoseconds: time.tv_nsec,
        };
        Self {
            mode: state.stx_mode.into(),
            links: state.stx_nlink,
            inode: state.stx_ino,
            device: (state.stx_dev_major, state.stx_dev_minor),
            owner: (state.stx_uid, state.stx_gid),
            size: state.stx_size,
            modified: moment(&state.stx_mtime),
            changed: moment(&state.stx_ctime),
        }
    }

    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.kind() == FileType::Directory
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn changed(&self) -> Moment {
        self.changed
    }

    /// Whether both are the same directory, of the same owner. The mode and the names in it may
    /// differ.
    pub(crate) fn is_same_directory(&self, other: &Self) -> bool {
        self.is_directory()
            && other.is_directory()
            && (self.inode, self.device, self.owner) == (other.inode, other.device, other.owner)
    }

    /// The bits of the mode that say who may do what.
    pub(crate) fn rights(&self) -> u32 {
        self.mode & 0o7777
    }

    pub(crate) fn to_bytes(self) -> [u8; STAMP_BYTES] {
        let pair = |(low, high): (u32, u32)| u64::from(low) | u64::from(high) << 32;
        let words = [
            pair((self.mode, self.links)),
            self.inode,
            pair(self.device),
            pair(self.owner),
            self.size,
            self.modified.seconds.cast_unsigned(),
            self.changed.seconds.cast_unsigned(),
            pair((self.modified.nanoseconds, self.changed.nanoseconds)),
            0,
        ];
        let mut bytes = [0; STAMP_BYTES];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// None: these are too few bytes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut words = bytes
            .chunks_exact(8)
            .filter_map(|word| Some(u64::from_le_bytes(word.try_into().ok()?)));
        let mut word = || words.next();
        #[expect(clippy::cast_possible_truncation, reason = "each half has 32 bits")]
        let halves = |word: u64| (word as u32, (word >> 32) as u32);
        let (mode, links) = halves(word()?);
        let (inode, device, owner, size) = (word()?, halves(word()?), halves(word()?), word()?);
        let (modified, changed) = (word()?.cast_signed(), word()?.cast_signed());
        let (modified_nanoseconds, changed_nanoseconds) = halves(word()?);
        let moment = |seconds, nanoseconds| Moment {
            seconds,
            nanoseconds,
        };
        Some(Self {
            mode,
            links,
            inode,
            device,
            owner,
            size,
            modified: moment(modified, modified_nanoseconds),
            changed: moment(changed, changed_nanoseconds),
        })
    }
}

impl Directory {
    /// The stamp of the file at a relative path; its last name may be a link. None: there is no
    /// such file.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) fn stamp(&self, path: &Path) -> io::Result<Option<Stamp>> {
        let wanted = StatxFlags::BASIC_STATS;
        match statx(&self.file, path, AtFlags::SYMLINK_NOFOLLOW, wanted) {
            Ok(found) => Ok(Some(Stamp::of(&found))),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sets the rights on a directory in this one.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) fn set_rights(&self, name: &OsStr, rights: u32) -> io::Result<()> {
        let inner = self.enter(name)?;
        let mode = Mode::from_raw_mode(rights);
        Ok(chmodat(
            rustix::fs::CWD,
            handle(&inner.file),
            mode,
            AtFlags::empty(),
        )?)
    }

    /// Whether this directory has attributes that somebody has set: an access list, labels, flags.
    /// They change what is made in it.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) fn has_attributes(&self) -> io::Result<bool> {
        let mut names = [0; 4096];
        let names = match flistxattr(&self.file, &mut names) {
            Ok(length) => names.get(..length).unwrap_or_default(),
            Err(Errno::OPNOTSUPP) => &[],
            Err(Errno::RANGE) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        let mut names = names.split(|byte| *byte == 0);
        if names.any(|name| !name.is_empty() && name != OF_THE_MACHINE) {
            return Ok(true);
        }
        match ioctl_getflags(&self.file) {
            Ok(flags) => Ok(flags.intersects(SETTABLE)),
            Err(Errno::NOTTY | Errno::OPNOTSUPP) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The number by which the kernel knows the kind of this file system (`man 2 statfs`).
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) fn file_system(&self) -> io::Result<i64> {
        Ok(fstatfs(&self.file)?.f_type)
    }

    /// The time of the file system, from a new file with this name, which is removed again.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub(crate) fn now(&self, name: &str) -> io::Result<Moment> {
        drop(self.create(OsStr::new(name))?);
        let made = self.stamp(Path::new(name))?;
        self.remove(OsStr::new(name))?;
        made.map(|made| made.changed)
            .ok_or_else(|| io::Error::other(format!("{name} is gone at once")))
    }
}
