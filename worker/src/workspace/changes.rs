//! The changes that an agent made: which files, as a patch, and whether they may be kept.

use std::path::{Component, Path};

use super::git::path_of;

/// The difference between the base commit and the worktree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorktreeChanges {
    /// Relative paths, sorted. Bytes that are not UTF-8 are replaced.
    pub files: Vec<String>,
    /// For `git apply` on the base commit. None if it is larger than a result may carry.
    pub patch: Option<String>,
    /// The size of the added and changed files, in bytes. Files that were only moved do not count.
    pub bytes: u64,
}

impl WorktreeChanges {
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }
}

/// One entry of `git diff-index --raw -z`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DiffEntry {
    pub(super) kind: DiffKind,
    /// The id of the object after the change.
    pub(super) object: String,
    pub(super) path: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DiffKind {
    File,
    SymbolicLink,
    Submodule,
    Removed,
}

/// Parses `:100644 100644 <before> <after> M\0path\0` and so on. None if it is something else.
pub(super) fn parse_raw(raw: &[u8]) -> Option<Vec<DiffEntry>> {
    let mut parts = raw.split(|byte| *byte == 0);
    let mut entries = Vec::new();
    while let Some(header) = parts.next() {
        if header.is_empty() {
            return parts.next().is_none().then_some(entries);
        }
        let fields: Vec<&str> = std::str::from_utf8(header)
            .ok()?
            .strip_prefix(':')?
            .split(' ')
            .collect();
        let [before, after, _, object, _] = fields[..] else {
            return None;
        };
        let kind = match (before, after) {
            // A submodule that is removed or moved cannot be checked either.
            ("160000", _) | (_, "160000") => DiffKind::Submodule,
            (_, "120000") => DiffKind::SymbolicLink,
            (_, "000000") => DiffKind::Removed,
            (_, _) => DiffKind::File,
        };
        entries.push(DiffEntry {
            kind,
            object: object.to_owned(),
            path: parts.next()?.to_vec(),
        });
    }
    Some(entries)
}

/// Whether a symbolic link at `link` stays in the worktree, wherever other links on its way lead.
///
/// Only a `..` at the start of the target is allowed. The directories above a path in a commit are
/// real directories, but after a name that is itself a link, `..` may lead anywhere. Links to links
/// are safe, because each link was checked in the same way.
pub(super) fn stays_inside(link: &Path, target: &Path) -> bool {
    let depth = link.components().count().saturating_sub(1);
    let ups = target
        .components()
        .take_while(|part| *part == Component::ParentDir)
        .count();
    let rest_is_plain = target
        .components()
        .skip(ups)
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    ups <= depth && rest_is_plain
}

/// Whether the target of a link leads out of the worktree if no other link is on its way.
pub(super) fn lexically_outside(link: &Path, target: &Path) -> bool {
    let mut depth = link.components().count() as i64 - 1;
    for part in target.components() {
        depth += match part {
            Component::ParentDir => -1,
            Component::Normal(_) => 1,
            Component::CurDir | Component::RootDir | Component::Prefix(_) => 0,
        };
        if depth < 0 {
            return true;
        }
    }
    false
}

/// The paths in the output of `git ls-files -z`, each once.
pub(super) fn split_paths(listing: &[u8]) -> Vec<Vec<u8>> {
    let paths: std::collections::BTreeSet<&[u8]> = listing
        .split(|byte| *byte == 0)
        .filter(|path| !path.is_empty())
        .collect();
    paths.into_iter().map(<[u8]>::to_vec).collect()
}

pub(super) fn display(path: &[u8]) -> String {
    path_of(path).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_could_leave_the_worktree_are_told_from_those_that_cannot() {
        for (link, target) in [
            ("a", "b"),
            ("a", "d/b"),
            ("d/a", "../b"),
            ("d/e/a", "../../b"),
            ("a", "./b"),
        ] {
            assert!(
                stays_inside(Path::new(link), Path::new(target)),
                "{link} -> {target} stays inside"
            );
        }
        for (link, target) in [
            ("a", "/etc/passwd"),
            ("a", ".."),
            ("a", "../b"),
            ("d/a", "../../b"),
            ("a", "d/../../b"),
            ("a", "d/.."),
        ] {
            assert!(
                !stays_inside(Path::new(link), Path::new(target)),
                "{link} -> {target} could lead outside"
            );
        }
    }

    #[test]
    fn raw_differences_are_read_by_kind() {
        let raw = b":100644 100644 a1 b1 M\0x y\0:000000 120000 00 b2 A\0link\0:100644 000000 a3 00 D\0gone\0\
                    :000000 160000 00 b4 A\0sub\0";
        let entries = parse_raw(raw).expect("what git prints");
        let kinds: Vec<DiffKind> = entries.iter().map(|entry| entry.kind).collect();
        assert_eq!(
            kinds,
            [
                DiffKind::File,
                DiffKind::SymbolicLink,
                DiffKind::Removed,
                DiffKind::Submodule
            ],
            "one entry of each kind"
        );
        assert_eq!(
            (entries[0].path.as_slice(), entries[1].object.as_str()),
            (&b"x y"[..], "b2"),
            "path and object"
        );
        assert_eq!(parse_raw(b""), Some(Vec::new()), "no difference");
        assert_eq!(parse_raw(b"garbage\0x\0"), None, "anything else is refused");
    }
}
