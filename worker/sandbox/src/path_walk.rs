//! Follows a path as the kernel does, and says which links are on the way.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, fstat, open, openat};

/// The kind of file at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathKind {
    Link(PathBuf),
    Other,
}

/// The kind of file at a path of this machine; None: there is no file.
pub(crate) fn kind_of(path: &Path) -> Option<PathKind> {
    let meta = path.symlink_metadata().ok()?;
    if meta.is_symlink() {
        return Some(PathKind::Link(fs::read_link(path).ok()?));
    }
    Some(PathKind::Other)
}

/// A link and its target, as it is written there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FollowedLink {
    /// This path contains no other link.
    pub(crate) at: PathBuf,
    pub(crate) target: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Walk {
    pub(crate) links: Vec<FollowedLink>,
    /// The path without links. The part that does not exist stays as it is written.
    pub(crate) end: PathBuf,
    /// Whether there is a file at its end.
    pub(crate) exists: bool,
}

/// None: the path leads nowhere.
pub(crate) fn walk(path: &Path, kind: impl Fn(&Path) -> Option<PathKind>) -> Option<Walk> {
    walk_anyway(path, kind).filter(|walk| walk.exists)
}

/// The same for a path whose file may be made later. None: links lead in a circle.
pub(crate) fn walk_anyway(path: &Path, kind: impl Fn(&Path) -> Option<PathKind>) -> Option<Walk> {
    /// The kernel gives up after this number, too.
    const MOST_LINKS: usize = 40;
    let mut links = Vec::new();
    let mut path = path.to_owned();
    'again: for _ in 0..MOST_LINKS {
        let mut end = PathBuf::from("/");
        let mut exists = true;
        let mut parts = path.components();
        while let Some(part) = parts.next() {
            match part {
                Component::Normal(name) => end.push(name),
                Component::ParentDir => drop(end.pop()),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => continue,
            }
            let found = kind(&end);
            exists &= found.is_some();
            if let Some(PathKind::Link(target)) = found {
                let parent = end.parent().unwrap_or(Path::new("/"));
                let rest = parts.as_path();
                path = parent.join(&target).join(rest);
                links.push(FollowedLink { at: end, target });
                continue 'again;
            }
        }
        return Some(Walk { links, end, exists });
    }
    None
}

/// Opens the end of a walk, if there is still no link on the way: an agent of another run may put
/// one there at any time. The descriptor only names the file.
///
/// # Errors
/// Those of the system, and one for a link.
pub fn open_end(end: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = open("/", flags, Mode::empty())?;
    for part in end.components() {
        match part {
            Component::Normal(name) => file = openat(&file, name, flags, Mode::empty())?,
            Component::RootDir => {}
            Component::ParentDir | Component::CurDir | Component::Prefix(_) => {
                return Err(io::ErrorKind::InvalidInput.into());
            }
        }
    }
    if FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::Symlink {
        return Err(io::Error::other("is a link now, and was none before"));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every other path exists, except below `/no`.
    fn machine(path: &Path) -> Option<PathKind> {
        let links = [
            ("/bin", "usr/bin"),
            ("/a", "/b/c"),
            ("/b/c", "../d"),
            ("/d/up", ".."),
            ("/loop", "loop"),
        ];
        match links.iter().find(|(from, _)| Path::new(from) == path) {
            Some((_, to)) => Some(PathKind::Link(to.into())),
            None => (!path.starts_with("/no")).then_some(PathKind::Other),
        }
    }

    #[test]
    fn a_walk_ends_where_the_kernel_ends_and_names_every_link() {
        for (path, end, links) in [
            ("/usr/x", Some("/usr/x"), vec![]),
            ("/bin/x", Some("/usr/bin/x"), vec!["/bin"]),
            ("/a/x", Some("/d/x"), vec!["/a", "/b/c"]),
            ("/a/../x", Some("/x"), vec!["/a", "/b/c"]),
            ("/a/up/x", Some("/x"), vec!["/a", "/b/c", "/d/up"]),
            ("/no/x", None, vec![]),
            ("/loop", None, vec![]),
        ] {
            let walked = walk(Path::new(path), machine);
            let found = walked.as_ref().map(|walk| walk.end.as_path());
            assert_eq!(found, end.map(Path::new), "the end of {path}");
            let at: Vec<PathBuf> = walked
                .map(|walk| walk.links.into_iter().map(|link| link.at).collect())
                .unwrap_or_default();
            let links: Vec<PathBuf> = links.into_iter().map(PathBuf::from).collect();
            assert_eq!(at, links, "the links of {path}");
        }
    }

    #[test]
    fn a_walk_to_a_missing_file_ends_where_the_file_would_be() {
        for (path, end) in [
            ("/no/x/../y", Some("/no/y")),
            ("/bin/../no/x", Some("/usr/no/x")),
            ("/a/x", Some("/d/x")),
            ("/loop", None),
        ] {
            let walked = walk_anyway(Path::new(path), machine);
            let found = walked.as_ref().map(|walk| walk.end.as_path());
            assert_eq!(found, end.map(Path::new), "the end of {path}");
        }
    }

    #[test]
    fn the_end_of_a_walk_is_not_opened_through_a_link() {
        let dir = tempfile::tempdir().expect("a directory");
        let real = dir.path().canonicalize().expect("its path");
        fs::create_dir(real.join("a")).expect("a directory");
        fs::write(real.join("a/file"), "").expect("a file");
        std::os::unix::fs::symlink("a", real.join("link")).expect("a link");
        open_end(&real.join("a/file")).expect("there is no link");
        for path in ["link", "link/file", "a/../a"] {
            open_end(&real.join(path)).expect_err("there is a link, or a way up");
        }
    }
}
