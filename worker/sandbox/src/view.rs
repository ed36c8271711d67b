//! Makes the file system of `strict`: a new root with copies of the mounts that may be seen, at the
//! same paths as outside.
//!
//! It opens everything before it covers anything, and mounts parents before children. It never
//! makes a file or directory below a copied mount, because that would be a change of the machine.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, fstat};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount,
    mount_change, mount_remount, move_mount, open_tree, unmount,
};

use crate::message::{AtStep as _, SetupError, SetupStep, at_path, named};
use crate::path_walk::open_end;
use crate::plan::Plan;
use crate::show::{Entries, PathAccess};
use crate::system;

const SEALED: MountFlags = MountFlags::RDONLY
    .union(MountFlags::NOSUID)
    .union(MountFlags::NODEV);
const WRITABLE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);
const TERMINAL: MountFlags = MountFlags::NOSUID.union(MountFlags::NOEXEC);
/// Devices can be written to, but their owner and mode stay.
const DEVICE: MountFlags = TERMINAL.union(MountFlags::RDONLY);
/// The most that the temporary files in memory may take.
const TEMPORARY: &str = "mode=1777,size=1g,nr_inodes=200k";
const HOSTS: &str = "127.0.0.1 localhost sandbox\n::1 localhost\n";

/// Something at a path of the new root.
enum Node {
    /// A copy of a mount from outside, and the flags that it gets.
    Copy {
        tree: OwnedFd,
        directory: bool,
        flags: MountFlags,
    },
    Hidden,
    Link(PathBuf),
    Temporary(&'static str),
    Empty,
    /// A file with this text in place of one from outside.
    Text(&'static str),
}

/// Builds the new root and enters it.
pub(crate) fn enter(plan: &Plan, shown: &Entries) -> Result<(), SetupError> {
    change_propagation().at(SetupStep::View)?;
    let nodes = open(shown, plan.layers.own_network).at(SetupStep::View)?;
    // The new root stands on this directory until it becomes the root.
    let directory = at_path(&plan.directory, fs::canonicalize(&plan.directory));
    let root = match directory.at(SetupStep::View)? {
        root if root.parent().is_none() => PathBuf::from("/usr"),
        directory => directory,
    };
    temporary(&root, "mode=755,size=4m,nr_inodes=50k").at(SetupStep::View)?;
    let rules = place(&root, nodes).at(SetupStep::View)?;
    restrict_mounts(&root, Path::new("/"), &rules).at(SetupStep::View)?;
    terminals(&root).at(SetupStep::View)?;
    processes(&root).at(SetupStep::Proc)?;
    pivot(&root).at(SetupStep::View)
}

/// Mounts of this namespace do not appear outside, and the other way round.
fn change_propagation() -> io::Result<()> {
    let all = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    named(
        "make mounts private",
        mount_change("/", all).map_err(Into::into),
    )
}

/// A copy of the mounts at a path without links.
fn copy(path: &Path) -> io::Result<OwnedFd> {
    at_path(path, open_end(path).and_then(copy_of))
}

fn copy_of(file: OwnedFd) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(file, "", flags)?)
}

fn is_directory(file: &OwnedFd) -> bool {
    fstat(file).is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::Directory)
}

fn attach(tree: OwnedFd, target: &Path) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(move_mount(tree, "", CWD, target, flags)?)
}

fn temporary(target: &Path, options: &str) -> io::Result<()> {
    let options = CString::new(options)?;
    mount("tmpfs", target, "tmpfs", WRITABLE, Some(options.as_c_str()))?;
    Ok(())
}

/// Opens everything that is shown.
fn open(shown: &Entries, own_network: bool) -> io::Result<BTreeMap<PathBuf, Node>> {
    let mut nodes = BTreeMap::new();
    for path in system::EMPTY {
        nodes.insert(PathBuf::from(path), Node::Empty);
    }
    nodes.insert("/proc".into(), Node::Empty);
    nodes.insert("/tmp".into(), Node::Temporary(TEMPORARY));
    nodes.insert("/var/tmp".into(), Node::Link("/tmp".into()));
    nodes.insert("/var/run".into(), Node::Link("/run".into()));
    nodes.insert(
        "/dev".into(),
        Node::Temporary("mode=755,size=64k,nr_inodes=100"),
    );
    nodes.insert("/dev/shm".into(), Node::Temporary(TEMPORARY));
    nodes.insert("/dev/pts".into(), Node::Empty);
    for name in system::DEVICES {
        let path = Path::new("/dev").join(name);
        let tree = copy(&path)?;
        nodes.insert(
            path,
            Node::Copy {
                tree,
                directory: false,
                flags: DEVICE,
            },
        );
    }
    for (name, target) in system::DEVICE_LINKS {
        nodes.insert(Path::new("/dev").join(name), Node::Link(target.into()));
    }
    if own_network {
        nodes.insert("/etc/hosts".into(), Node::Text(HOSTS));
        nodes.insert(system::NAME_SERVERS.into(), Node::Text(""));
    }
    for (path, entry) in shown {
        if let Some(node) = at_path(path, shown_node(path, entry))? {
            nodes.insert(path.clone(), node);
        }
    }
    Ok(nodes)
}

/// None: nothing is shown at this path.
fn shown_node(path: &Path, entry: &PathAccess) -> io::Result<Option<Node>> {
    let flags = match entry {
        PathAccess::ReadOnly | PathAccess::Pinned(_) if path.starts_with("/dev") => DEVICE,
        PathAccess::ReadOnly | PathAccess::Pinned(_) => SEALED,
        PathAccess::Writable => WRITABLE,
        PathAccess::Hidden => return Ok(Some(Node::Hidden)),
        PathAccess::Link(target) => return Ok(Some(Node::Link(target.clone()))),
    };
    let Some(file) = entry.open(path)? else {
        return Ok(None);
    };
    Ok(Some(Node::Copy {
        directory: is_directory(&file),
        tree: copy_of(file)?,
        flags,
    }))
}

/// The flags that mounts at and below a path get.
type MountRules = BTreeMap<PathBuf, MountFlags>;

/// Mounts everything below `root`. Returns the flags that the copies get.
fn place(root: &Path, nodes: BTreeMap<PathBuf, Node>) -> io::Result<MountRules> {
    let mut rules = MountRules::new();
    // The parents come first. False: a cover.
    let mut copies: BTreeMap<PathBuf, bool> = BTreeMap::new();
    for (number, (path, node)) in nodes.into_iter().enumerate() {
        let target = at(root, &path);
        let in_copy = path.ancestors().find_map(|above| copies.get(above)) == Some(&true);
        let exists = target.symlink_metadata().is_ok();
        if in_copy && !exists {
            // Only things that this module adds on its own are missing in a copy.
            continue;
        }
        if let (false, Some(parent)) = (exists, target.parent()) {
            at_path(&path, fs::create_dir_all(parent))?;
        }
        let stand = |directory: bool| match (exists, directory) {
            (true, _) => Ok(()),
            (false, true) => fs::create_dir(&target),
            (false, false) => fs::write(&target, ""),
        };
        let done = match node {
            Node::Link(_) if exists => Ok(()),
            Node::Link(to) => symlink(to, &target),
            Node::Empty if exists => Ok(()),
            Node::Empty => fs::create_dir(&target),
            Node::Temporary(options) => stand(true).and_then(|()| temporary(&target, options)),
            Node::Copy {
                tree,
                directory,
                flags,
            } => {
                rules.insert(target.clone(), flags);
                copies.insert(path.clone(), true);
                stand(directory).and_then(|()| attach(tree, &target))
            }
            // The target of a link lies elsewhere, and is not shown or has an entry of its own.
            Node::Text(_) | Node::Hidden if target.is_symlink() => Ok(()),
            Node::Text(text) => cover(root, number, &target, text).map(|()| {
                rules.insert(target.clone(), SEALED);
            }),
            Node::Hidden => cover(root, number, &target, "").map(|()| {
                rules.insert(target.clone(), SEALED);
                copies.insert(path.clone(), false);
            }),
        };
        at_path(&path, done)?;
    }
    Ok(rules)
}

fn at(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Covers a path with a file or directory of the new root.
fn cover(root: &Path, number: usize, target: &Path, text: &str) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    if !target.exists() {
        return Ok(());
    }
    let covers = root.join(".covers");
    fs::create_dir_all(&covers)?;
    let source = covers.join(number.to_string());
    let mode = if target.is_dir() {
        fs::create_dir(&source)?;
        // Entries below it stay reachable.
        0o111
    } else {
        fs::write(&source, text)?;
        if text.is_empty() { 0o000 } else { 0o444 }
    };
    fs::set_permissions(&source, fs::Permissions::from_mode(mode))?;
    match attach(copy(&source)?, target) {
        // It has just been removed.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !target.exists() => Ok(()),
        done => done,
    }
}

/// A mount, with the flags that a remount has to keep.
#[derive(Debug, PartialEq, Eq)]
struct Mounted {
    at: PathBuf,
    flags: MountFlags,
}

/// Reads a line of `/proc/self/mountinfo`.
fn mounted(line: &[u8]) -> Option<Mounted> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let at = PathBuf::from(OsStr::from_bytes(&unescape(fields.get(4)?)));
    let mut flags = MountFlags::empty();
    for option in fields.get(5)?.split(|byte| *byte == b',') {
        flags |= match option {
            b"ro" => MountFlags::RDONLY,
            b"nosuid" => MountFlags::NOSUID,
            b"nodev" => MountFlags::NODEV,
            b"noexec" => MountFlags::NOEXEC,
            _ => MountFlags::empty(),
        };
    }
    Some(Mounted { at, flags })
}

/// The kernel writes a backslash and three octal digits for spaces and the like.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = (*first == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok());
        match octal {
            Some(byte) => {
                text.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                text.push(*first);
                rest = after;
            }
        }
    }
    text
}

/// Gives every mount below `root` the flags of the nearest rule above it. A bind mount takes its
/// flags from outside, and mounts inside of it have flags of their own. `outside` is what `root`
/// shows.
fn restrict_mounts(root: &Path, outside: &Path, rules: &MountRules) -> io::Result<()> {
    let info = fs::read("/proc/self/mountinfo")?;
    for mount in info.split(|byte| *byte == b'\n').filter_map(mounted) {
        let rule = mount.at.ancestors().find_map(|above| rules.get(above));
        if let (Ok(below), Some(more)) = (mount.at.strip_prefix(root), rule) {
            let remounted = remount(&mount.at, mount.flags | *more);
            at_path(&outside.join(below), remounted)?;
        }
    }
    Ok(())
}

fn remount(target: &Path, flags: MountFlags) -> io::Result<()> {
    let done = mount_remount(target, MountFlags::BIND | flags, c"");
    named("remount", done.map_err(Into::into))
}

/// Terminals of its own, so that nobody types into those of others.
fn terminals(root: &Path) -> io::Result<()> {
    let options = c"newinstance,ptmxmode=0666,mode=620";
    let done = mount(
        "devpts",
        root.join("dev/pts"),
        "devpts",
        TERMINAL,
        Some(options),
    );
    named("/dev/pts", done.map_err(Into::into))
}

/// A `/proc` of its own. In a container with a masked `/proc` the kernel refuses that; then the
/// container's is shown read-only.
fn processes(root: &Path) -> io::Result<()> {
    let proc = root.join("proc");
    let flags = WRITABLE | MountFlags::NOEXEC;
    if mount("proc", &proc, "proc", flags, None).is_err() {
        let outside = Path::new("/proc");
        attach(copy(outside)?, &proc)?;
        let rules = MountRules::from([(proc.clone(), SEALED | MountFlags::NOEXEC)]);
        return restrict_mounts(&proc, outside, &rules);
    }
    for name in system::PROC_READ_ONLY {
        let path = proc.join(name);
        if path.exists() {
            attach(copy(&path)?, &path)?;
            remount(&path, SEALED | MountFlags::NOEXEC)?;
        }
    }
    for name in system::PROC_HIDDEN {
        let path = proc.join(name);
        if path.exists() {
            attach(copy(&root.join("dev/null"))?, &path)?;
        }
    }
    Ok(())
}

fn pivot(root: &Path) -> io::Result<()> {
    remount(&root.join("dev"), DEVICE)?;
    remount(root, SEALED)?;
    std::env::set_current_dir(root)?;
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    std::env::set_current_dir("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_gives_the_path_and_the_flags() {
        let line = b"36 35 98:0 /a /mnt\\040x/\\134y ro,nosuid,noexec,relatime - ext4 /dev/root rw";
        let expected = Mounted {
            at: "/mnt x/\\y".into(),
            flags: MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NOEXEC,
        };
        assert_eq!(
            mounted(line),
            Some(expected),
            "flags of the mount, not of the file system"
        );
        assert_eq!(mounted(b"36 35"), None, "a short line is skipped");
    }
}
