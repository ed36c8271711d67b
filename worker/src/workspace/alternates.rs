//! The directories from which a repository takes its objects. Clones share them with a repository
//! beside them: `objects/info/alternates` names it.
//!
//! Agents and checks see these directories. A repository must not choose what they see, so each
//! directory is checked.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::disk::open_regular;
use crate::sandbox::PinnedDirectory;

/// Git follows this number of steps.
const MOST_STEPS: usize = 5;
/// The most directories, and bytes of one list of them.
const MOST_DIRECTORIES: usize = 64;
const MOST_BYTES: u64 = 64 * 1024;

/// Where a repository may take objects from. All paths are without links.
#[derive(Debug)]
pub(super) struct ObjectPlaces {
    /// The configured roots and the repository itself.
    pub(super) open: Vec<PathBuf>,
    /// Outside of these, an alternate may lie anywhere.
    pub(super) guarded: Vec<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum AlternatesError {
    #[error("{list} cannot be read: {source}")]
    Unreadable { list: PathBuf, source: io::Error },
    #[error(
        "its objects/info/alternates names {directory}, {why}. Move the repository that it borrows \
         from below one of `workspace.roots`, or copy the objects with `git repack -a -d` and \
         delete objects/info/alternates"
    )]
    Refused {
        directory: PathBuf,
        why: &'static str,
    },
}

/// A directory of objects and all that it borrows objects from. Those that do not exist are left
/// out, as git does.
///
/// # Errors
/// [`AlternatesError`], if the repository names a directory that agents must not see.
pub(super) fn object_directories(
    objects: &Path,
    places: &ObjectPlaces,
) -> Result<Vec<PinnedDirectory>, AlternatesError> {
    let mut found: Vec<(PinnedDirectory, PathBuf)> = Vec::new();
    let mut next = vec![objects.to_owned()];
    for _ in 0..=MOST_STEPS {
        let mut borrowed = Vec::new();
        for directory in std::mem::take(&mut next) {
            // Everything below asks the open directory, and not its path.
            let opened = PinnedDirectory::open(directory.clone());
            let Ok((opened, place)) = opened.and_then(|one| Ok((one.clone(), one.place()?))) else {
                continue;
            };
            if found.iter().any(|(_, known)| *known == place) {
                continue;
            }
            let refuse = |why| AlternatesError::Refused {
                directory: directory.clone(),
                why,
            };
            if let Some(why) = places.objection(&place, &opened.handle()) {
                return Err(refuse(why));
            }
            if found.len() == MOST_DIRECTORIES {
                return Err(refuse("after 64 others, which is the most"));
            }
            borrowed.extend(alternates(&directory, &opened.handle())?);
            found.push((opened, place));
        }
        next = borrowed;
    }
    Ok(found.into_iter().map(|(directory, _)| directory).collect())
}

impl ObjectPlaces {
    /// Why agents must not see a directory. `handle` leads into it.
    fn objection(&self, real: &Path, handle: &Path) -> Option<&'static str> {
        let is_open = self.open.iter().any(|open| real.starts_with(open));
        let is_guarded = |place: &PathBuf| real.starts_with(place) || place.starts_with(real);
        if !is_open && self.guarded.iter().any(is_guarded) {
            return Some("which agents must not see");
        }
        (!holds_objects(handle)).then_some("which is not a directory of git objects")
    }
}

/// The directories that a directory of objects names. `handle` leads into it.
fn alternates(objects: &Path, handle: &Path) -> Result<Vec<PathBuf>, AlternatesError> {
    let list = handle.join("info/alternates");
    let read = || -> io::Result<String> {
        let mut text = Vec::new();
        if let Some(file) = open_regular(&list)? {
            file.take(MOST_BYTES + 1).read_to_end(&mut text)?;
        }
        if text.len() as u64 > MOST_BYTES {
            return Err(io::Error::other("it is longer than 64 KiB"));
        }
        String::from_utf8(text).map_err(io::Error::other)
    };
    let text = read().map_err(|source| AlternatesError::Unreadable {
        list: objects.join("info/alternates"),
        source,
    })?;
    let lines = text.lines();
    let paths = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(paths.map(|path| objects.join(path)).collect())
}

/// Whether a directory has what git makes in a directory of objects, and nothing else.
fn holds_objects(directory: &Path) -> bool {
    let Ok(entries) = fs::read_dir(directory) else {
        return false;
    };
    let (mut has_packs, mut only_objects) = (false, true);
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_prefix = name.len() == 2 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_temporary = ["tmp_", "incoming-", "bulk-fsync-", "tmp-objdir-", ".nfs"]
            .iter()
            .any(|begin| name.starts_with(begin));
        has_packs |= name == "pack" || is_prefix;
        only_objects &= is_prefix
            || is_temporary
            || matches!(&*name, "pack" | "info")
            || name.ends_with(".lock");
    }
    has_packs && only_objects
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::trust::real;

    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Self {
            let machine = Self(tempfile::tempdir().expect("a directory"));
            for objects in ["roots/app", "roots/other", "srv/mirror", "home/private"] {
                for part in ["pack", "info", "3f"] {
                    fs::create_dir_all(machine.at(objects).join(part)).expect("a directory");
                }
            }
            fs::create_dir_all(machine.at("home/.ssh/info")).expect("a directory");
            fs::create_dir_all(machine.at("srv/data/pack")).expect("a directory");
            fs::write(machine.at("srv/data/key"), "").expect("a file");
            machine
        }

        fn at(&self, name: &str) -> PathBuf {
            real(self.0.path()).join(name)
        }

        fn borrow(&self, by: &str, from: &str) {
            fs::write(self.at(by).join("info/alternates"), from).expect("a list");
        }

        fn found(&self) -> Result<Vec<PathBuf>, AlternatesError> {
            let places = ObjectPlaces {
                open: vec![self.at("roots")],
                guarded: vec![self.at("home"), self.at("roots"), self.at("srv/pool/key")],
            };
            let found = object_directories(&self.at("roots/app"), &places)?;
            Ok(found.iter().map(|one| one.path().to_owned()).collect())
        }
    }

    #[test]
    fn directories_of_objects_are_found_step_by_step() {
        let machine = Machine::new();
        machine.borrow("roots/app", "# a comment\n\n../other\n/not/there\n");
        let mirror = format!("{}\n../app\n", machine.at("srv/mirror").display());
        machine.borrow("roots/other", &mirror);
        let found = machine.found().expect("they are all fine");
        let found: Vec<PathBuf> = found.iter().map(|path| real(path)).collect();
        let expected = ["roots/app", "roots/other", "srv/mirror"].map(|name| machine.at(name));
        assert_eq!(found, expected, "relative ones too, and each once");
    }

    #[test]
    fn a_repository_cannot_name_what_agents_must_not_see() {
        let machine = Machine::new();
        std::os::unix::fs::symlink(machine.at("home/private"), machine.at("srv/link"))
            .expect("a link");
        for named in [
            "home/private",
            "home/.ssh",
            "home",
            "srv/link",
            "srv/data",
            "srv/pool/..",
            "srv",
        ] {
            fs::create_dir_all(machine.at("srv/pool")).expect("a directory");
            for path in [
                machine.at(named).display().to_string(),
                format!("../../{named}"),
            ] {
                machine.borrow("roots/app", "../other\n");
                machine.borrow("roots/other", &format!("{path}\n"));
                let error = machine.found().expect_err("it is refused").to_string();
                assert!(error.contains(named), "it names {named}: {error}");
                assert!(error.contains("workspace.roots"), "and the remedy: {error}");
            }
        }
    }

    #[test]
    fn a_list_that_is_no_usual_file_is_an_error() {
        let machine = Machine::new();
        std::os::unix::fs::symlink("/etc/passwd", machine.at("roots/app/info/alternates"))
            .expect("a link");
        let error = machine.found().expect_err("a link").to_string();
        assert!(error.contains("alternates"), "{error}");
    }
}
