//! Which files a program may see: an allow-list of paths, made from the plan.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Bound;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::path_walk::{PathKind, Walk, kind_of, open_end, walk_anyway};
use crate::plan::{FileId, PinnedPath, Plan};
use crate::system;

/// How a path is shown. Everything below a shown directory is shown the same way, unless it has an
/// entry of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathAccess {
    ReadOnly,
    /// Read-only, as long as this file is there.
    Pinned(FileId),
    Writable,
    Hidden,
    /// A link that leads to a path with an entry.
    Link(PathBuf),
}

impl PathAccess {
    /// Opens the file that is to be shown at a path without links. None: others have put another
    /// file there, or removed it. The descriptor only names the file.
    pub(crate) fn open(&self, path: &Path) -> io::Result<Option<OwnedFd>> {
        let opened = open_end(path);
        let Self::Pinned(pinned) = self else {
            return opened.map(Some);
        };
        Ok(opened
            .ok()
            .filter(|file| FileId::of(file).is_ok_and(|id| id == *pinned)))
    }
}

pub type Entries = BTreeMap<PathBuf, PathAccess>;

/// The entries of a plan on this machine.
pub fn entries(plan: &Plan) -> Entries {
    let mut entries = of_plan(plan, &kind_of);
    for path in not_for_everybody(Path::new(system::CONFIGURATION)) {
        entries.entry(path).or_insert(PathAccess::Hidden);
    }
    drop_repetitions(&entries)
}

fn of_plan(plan: &Plan, kind: &dyn Fn(&Path) -> Option<PathKind>) -> Entries {
    let mut entries = Entries::new();
    let written = written(plan, kind);
    let mut show = |path: &Path, how: &PathAccess| {
        for (path, entry) in follow(path, how, &written, kind) {
            match entry {
                // A link never replaces what it leads to. A pinned path may lead anywhere by now.
                PathAccess::Link(_) | PathAccess::Pinned(_) => {
                    entries.entry(path).or_insert(entry);
                }
                PathAccess::ReadOnly | PathAccess::Writable | PathAccess::Hidden => {
                    drop(entries.insert(path, entry));
                }
            }
        }
    };
    for path in system::DIRECTORIES
        .iter()
        .chain([&system::CONFIGURATION, &system::PROCESSORS])
    {
        show(Path::new(path), &PathAccess::ReadOnly);
    }
    if plan.layers.opens_network() {
        show(Path::new(system::NAME_SERVERS), &PathAccess::ReadOnly);
    }
    for path in &plan.hide {
        show(path, &PathAccess::Hidden);
    }
    for path in &plan.read {
        show(path, &PathAccess::ReadOnly);
    }
    for path in &plan.write {
        show(path, &PathAccess::Writable);
    }
    for PinnedPath { path, file } in &plan.pinned {
        show(path, &PathAccess::Pinned(*file));
    }
    // A file that the program makes itself is its own.
    let own =
        |path: &Path| above(&entries, path) == Some(&PathAccess::Writable) && kind(path).is_none();
    let made_inside: Vec<PathBuf> = entries.keys().filter(|path| own(path)).cloned().collect();
    entries.retain(|path, _| !made_inside.contains(path));
    entries
}

/// The writable directories, without links. The links in them are those of agents.
fn written(plan: &Plan, kind: &dyn Fn(&Path) -> Option<PathKind>) -> Vec<PathBuf> {
    let mut paths: Vec<&PathBuf> = plan.write.iter().collect();
    paths.sort_by_key(|path| path.components().count());
    let mut written = Vec::new();
    for path in paths {
        let walk = trusted_walk(path, &written, kind).filter(|walk| walk.exists);
        // The root itself is never shown as a whole.
        written.extend(
            walk.map(|walk| walk.end)
                .filter(|end| end.parent().is_some()),
        );
    }
    written
}

/// Follows a path, unless an agent may have made a link on the way.
fn trusted_walk(
    path: &Path,
    written: &[PathBuf],
    kind: &dyn Fn(&Path) -> Option<PathKind>,
) -> Option<Walk> {
    let of_agent = |at: &Path| written.iter().any(|directory| at.starts_with(directory));
    walk_anyway(path, kind).filter(|walk| !walk.links.iter().any(|link| of_agent(&link.at)))
}

/// The entry of a path after all links on the way, and the entries of those links. Nothing if the
/// path leads where an agent wants it to lead, or nowhere; but a hidden file may be made later.
fn follow(
    path: &Path,
    how: &PathAccess,
    written: &[PathBuf],
    kind: &dyn Fn(&Path) -> Option<PathKind>,
) -> Vec<(PathBuf, PathAccess)> {
    let is_shown = |walk: &Walk| walk.exists || *how == PathAccess::Hidden;
    let walked = trusted_walk(path, written, kind).filter(is_shown);
    let Some(Walk { links, end, .. }) = walked else {
        return Vec::new();
    };
    let links = links
        .into_iter()
        .map(|link| (link.at, PathAccess::Link(link.target)));
    // The root itself is never shown as a whole.
    let shown = end.parent().is_some().then(|| (end, how.clone()));
    links.chain(shown).collect()
}

/// The entry that decides about a path, other than the path's own.
fn above<'a>(entries: &'a Entries, path: &Path) -> Option<&'a PathAccess> {
    path.ancestors()
        .skip(1)
        .find_map(|ancestor| entries.get(ancestor))
}

/// Drops entries that say the same as an entry above them.
fn drop_repetitions(entries: &Entries) -> Entries {
    let repeats = |path: &Path, entry: &PathAccess| match above(entries, path) {
        None | Some(PathAccess::Link(_)) => *entry == PathAccess::Hidden,
        Some(PathAccess::Hidden) => *entry == PathAccess::Hidden,
        Some(PathAccess::ReadOnly) => matches!(
            entry,
            PathAccess::ReadOnly | PathAccess::Pinned(_) | PathAccess::Link(_)
        ),
        Some(PathAccess::Writable) => {
            matches!(entry, PathAccess::Writable | PathAccess::Link(_))
        }
        Some(PathAccess::Pinned(_)) => matches!(entry, PathAccess::Link(_)),
    };
    entries
        .iter()
        .filter(|(path, entry)| !repeats(path, entry))
        .map(|(path, entry)| (path.clone(), entry.clone()))
        .collect()
}

/// The parts of a directory that not every user can read. The worker may be able to: as root, or
/// as a member of a group.
fn not_for_everybody(directory: &Path) -> Vec<PathBuf> {
    const READ: u32 = 0o4;
    const READ_AND_ENTER: u32 = 0o5;
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_symlink() {
            continue;
        }
        let needed = if meta.is_dir() { READ_AND_ENTER } else { READ };
        if meta.mode() & needed != needed {
            found.push(entry.path());
        } else if meta.is_dir() {
            found.extend(not_for_everybody(&entry.path()));
        }
    }
    found
}

/// Whether anything below a path is hidden.
pub(crate) fn hides_a_part(entries: &Entries, path: &Path) -> bool {
    // A directory comes before everything in it, and that before everything else.
    entries
        .range::<Path, _>((Bound::Excluded(path), Bound::Unbounded))
        .take_while(|(other, _)| other.starts_with(path))
        .any(|(_, entry)| *entry == PathAccess::Hidden)
}

/// The parts of a shown directory that together leave out everything that is hidden. A rule on a
/// directory would show all that is below it, and a rule on a link all that it leads to.
pub(crate) fn parts(entries: &Entries, shown: &Path) -> Vec<PathBuf> {
    match entries.get(shown) {
        Some(PathAccess::Hidden) => return Vec::new(),
        Some(_) | None if !hides_a_part(entries, shown) => return vec![shown.to_owned()],
        // Its parts could be those of another directory by now.
        Some(PathAccess::Pinned(_)) => return Vec::new(),
        Some(_) | None => {}
    }
    let children = fs::read_dir(shown).into_iter().flatten().flatten();
    children
        .filter(|child| child.file_type().is_ok_and(|kind| !kind.is_symlink()))
        .flat_map(|child| parts(entries, &child.path()))
        .collect()
}

#[cfg(test)]
#[path = "show_tests.rs"]
mod tests;
