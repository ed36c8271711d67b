//! The files of a run: what they take on the disk, and what in memory.
//!
//! A run may try to hide its files. So the walk also looks into directories that nobody may read,
//! goes deeper than the longest path, and finds open files that have no name any more. It counts a
//! file with several names once.

use std::collections::HashSet;
use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::unistd::Pid;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, chmod, fstat, openat, statat, statfs,
};
use rustix::io::Errno;

/// The magic number of file systems in memory.
const TMPFS: u64 = 0x0102_1994;
/// A longer path below an open directory is opened in parts. The kernel takes 4,096 bytes.
const LONGEST: usize = 2048;
/// Of directories that nobody may read, one in the other, so many get their modes back.
const NESTED: usize = 64;
const READABLE: u32 = 0o500;

/// Bytes of files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FileUsage {
    pub(crate) disk: u64,
    pub(crate) memory: u64,
}

/// The places where a run may write.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places {
    disk: Vec<PathBuf>,
    /// File systems in memory.
    memory: Vec<PathBuf>,
}

impl Places {
    /// `temporary` are directories that lie in memory, unless the machine has them on the disk.
    pub(crate) fn new(write: &[PathBuf], temporary: &[&str]) -> Self {
        let below = |path: &PathBuf| {
            let others = write.iter().filter(|other| *other != path);
            others.into_iter().any(|other| path.starts_with(other))
        };
        let mut disk: Vec<PathBuf> = write.iter().filter(|path| !below(path)).cloned().collect();
        disk.sort();
        disk.dedup();
        let temporary = temporary.iter().map(PathBuf::from);
        let (memory, more): (Vec<_>, Vec<_>) = temporary.partition(|path| is_in_memory(path));
        disk.extend(more);
        Self { disk, memory }
    }

    /// None: something else has become more urgent.
    pub(crate) fn usage(&self, processes: &[Pid], urgent: &dyn Fn() -> bool) -> Option<FileUsage> {
        let mut seen = CountedFiles::default();
        let mut sum = |places: &[PathBuf]| {
            let bytes = places.iter().map(|path| below(path, &mut seen, urgent));
            bytes.sum::<Option<u64>>()
        };
        let mut usage = FileUsage {
            disk: sum(&self.disk)?,
            memory: sum(&self.memory)?,
        };
        for pid in processes {
            usage.add_nameless(*pid, &mut seen);
        }
        Some(usage)
    }
}

fn is_in_memory(path: &Path) -> bool {
    statfs(path).is_ok_and(|system| u64::try_from(system.f_type).ok() == Some(TMPFS))
}

impl FileUsage {
    /// Adds the open files of a process that have no name, or never had one.
    fn add_nameless(&mut self, pid: Pid, seen: &mut CountedFiles) {
        let open = fs::read_dir(format!("/proc/{pid}/fd"));
        for entry in open.into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(meta) = path.metadata() else { continue };
            if meta.nlink() > 0 || !meta.is_file() || !seen.is_new(meta.dev(), meta.ino()) {
                continue;
            }
            let bytes = meta.blocks() * 512;
            match is_in_memory(&path) {
                true => self.memory += bytes,
                false => self.disk += bytes,
            }
        }
    }
}

/// Files with several names, or without one, that were counted.
#[derive(Default)]
struct CountedFiles(HashSet<(u64, u64)>);

impl CountedFiles {
    fn is_new(&mut self, device: u64, inode: u64) -> bool {
        self.0.insert((device, inode))
    }
}

/// Bytes below a directory, on its own file system. Links are not followed. None: the walk was given
/// up.
fn below(directory: &Path, seen: &mut CountedFiles, urgent: &dyn Fn() -> bool) -> Option<u64> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(root) = openat(CWD, directory, flags, Mode::empty()) else {
        return Some(0);
    };
    let Ok(stat) = fstat(&root) else {
        return Some(0);
    };
    let mut walk = DiskWalk {
        device: stat.st_dev,
        seen,
        urgent,
        given_up: false,
        sum: 0,
    };
    walk.all(Rc::new(root), 0);
    (!walk.given_up).then_some(walk.sum)
}

struct DiskWalk<'a> {
    device: u64,
    seen: &'a mut CountedFiles,
    urgent: &'a dyn Fn() -> bool,
    given_up: bool,
    sum: u64,
}

/// A directory that is still to be read: a path below an open one.
struct PendingDirectory {
    base: Rc<OwnedFd>,
    path: Vec<u8>,
}

impl PendingDirectory {
    fn open(&self, how: OFlags) -> rustix::io::Result<OwnedFd> {
        let flags = how | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&*self.base, self.path.as_slice(), flags, Mode::empty())
    }
}

impl DiskWalk<'_> {
    /// Adds everything below an open directory.
    fn all(&mut self, root: Rc<OwnedFd>, nested: usize) {
        let mut open = vec![PendingDirectory {
            base: root,
            path: b".".to_vec(),
        }];
        while let Some(next) = open.pop() {
            self.given_up |= (self.urgent)();
            if self.given_up {
                return;
            }
            let directory = next.open(OFlags::RDONLY);
            let read = directory.and_then(|directory| self.read(&next, &directory, &mut open));
            // After any other error it has gone.
            if read == Err(Errno::ACCESS) {
                self.read_unreadable(&next, nested, &mut open);
            }
        }
    }

    /// Adds the entries of one directory. Its directories are to be read next.
    fn read(
        &mut self,
        at: &PendingDirectory,
        directory: &OwnedFd,
        open: &mut Vec<PendingDirectory>,
    ) -> rustix::io::Result<()> {
        let entries = Dir::read_from(directory)?;
        let mut base = Rc::clone(&at.base);
        let mut prefix = at.path.clone();
        if prefix.len() > LONGEST
            && let Ok(copy) = directory.try_clone()
        {
            (base, prefix) = (Rc::new(copy), b".".to_vec());
        }
        for entry in entries.flatten() {
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let Ok(stat) = statat(directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            if self.add(&stat) {
                let mut path = prefix.clone();
                path.push(b'/');
                path.extend_from_slice(name);
                let base = Rc::clone(&base);
                open.push(PendingDirectory { base, path });
            }
        }
        Ok(())
    }

    /// Adds a file. True: it is a directory of the same file system.
    fn add(&mut self, stat: &Stat) -> bool {
        let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if stat.st_dev != self.device
            || (!directory && stat.st_nlink > 1 && !self.seen.is_new(stat.st_dev, stat.st_ino))
        {
            return false;
        }
        self.sum += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        directory
    }

    /// Adds what lies below a directory that its owner may not read, and gives the directory its mode
    /// back. Only needed without the right to read everything.
    fn read_unreadable(
        &mut self,
        next: &PendingDirectory,
        nested: usize,
        open: &mut Vec<PendingDirectory>,
    ) {
        let directory = match next.path.as_slice() {
            b"." => next.base.try_clone().ok(),
            _ => next.open(OFlags::PATH).ok(),
        };
        let Some(directory) = directory else { return };
        let Ok(stat) = fstat(&directory) else { return };
        let mode = Mode::from_raw_mode(stat.st_mode);
        let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
        if mode.bits() & READABLE == READABLE
            || chmod(&path, mode | Mode::from_raw_mode(READABLE)).is_err()
        {
            return;
        }
        let directory = Rc::new(directory);
        if nested == NESTED {
            open.push(PendingDirectory {
                base: directory,
                path: b".".to_vec(),
            });
            return;
        }
        self.all(Rc::clone(&directory), nested + 1);
        // It may have gone in the meantime.
        let _ = chmod(&path, mode);
    }
}
