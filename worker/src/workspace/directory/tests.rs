//! Trees in which an agent has put traps.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::workspace::survey::{replaced_by, special_files};

/// A directory `tree` to empty, and a directory `victim` whose file must stay.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self {
            dir: tempfile::tempdir().expect("a directory"),
        };
        for part in ["tree", "victim/inner"] {
            fs::create_dir_all(place.at(part)).expect("a directory");
        }
        fs::write(place.at("victim/inner/precious"), "x").expect("a file");
        place
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn tree(&self) -> Directory {
        Directory::open(&self.at("tree")).expect("a directory")
    }

    fn victim_is_whole(&self, why: &str) {
        assert!(self.at("victim/inner/precious").exists(), "{why}");
    }
}

#[test]
fn links_are_removed_and_not_followed() {
    let place = Place::new();
    for link in ["tree/link", "tree/deep/link"] {
        fs::create_dir_all(place.at("tree/deep")).expect("a directory");
        symlink(place.at("victim"), place.at(link)).expect("a link");
    }
    place.tree().empty().expect("it becomes empty");
    assert!(
        place.tree().entries().expect("entries").is_empty(),
        "no link is left"
    );
    fs::remove_dir(place.at("tree")).expect("it is empty");
    symlink(place.at("victim"), place.at("tree")).expect("a link");
    let error = Directory::open(&place.at("tree")).expect_err("a link is no directory");
    assert_eq!(error.kind(), io::ErrorKind::NotADirectory, "{error}");
    assert_eq!(
        replaced_by(&place.at("tree")).expect("it can be seen"),
        Some("a link"),
        "what an agent put there"
    );
    place.victim_is_whole("no link was followed");
}

#[test]
fn a_tree_may_be_deeper_than_a_process_may_have_open_files() {
    let place = Place::new();
    let mut here = place.tree();
    for level in 0..3000 {
        here = here.make("d").expect("a directory");
        if level % 500 == 0 {
            here.write("file", b"x").expect("a file");
        }
    }
    let mut directories = 0;
    let mounted = place
        .tree()
        .walk(&mut |_, _, entry| {
            directories += u32::from(entry.kind == FileType::Directory);
            Ok(true)
        })
        .expect("it can be walked");
    assert_eq!((directories, mounted), (3000, Vec::new()), "every level");
    place.tree().empty().expect("it becomes empty");
    assert!(
        place.tree().entries().expect("entries").is_empty(),
        "nothing is left"
    );
}

#[test]
fn a_directory_without_rights_is_opened_and_a_link_to_one_is_not() {
    let place = Place::new();
    fs::create_dir_all(place.at("tree/locked/inner")).expect("a directory");
    let (locked, victim) = (place.at("tree/locked"), place.at("victim"));
    for closed in [&locked, &victim] {
        fs::set_permissions(closed, fs::Permissions::from_mode(0o000)).expect("closed");
    }
    symlink(&victim, place.at("tree/link")).expect("a link");
    assert!(
        special_files(&place.at("tree"), |_| true)
            .expect("it can be read")
            .is_empty(),
        "nothing special"
    );
    let mode = |path: &Path| path.metadata().expect("it exists").permissions().mode() & 0o777;
    assert_eq!(
        (mode(&locked), mode(&victim)),
        (0o700, 0o000),
        "only the directory of the tree has new rights"
    );
    place.tree().empty().expect("it becomes empty");
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o700)).expect("open again");
    place.victim_is_whole("it is not in the tree");
}

#[test]
fn a_process_that_swaps_a_directory_for_a_link_leads_nobody_astray() {
    let place = Place::new();
    let (inside, link, aside) = (
        place.at("tree/inside"),
        place.at("tree/link"),
        place.at("tree/aside"),
    );
    symlink(place.at("victim"), &link).expect("a link");
    let over = AtomicBool::new(false);
    let mut astray = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                // Any of these may fail, because the other thread removes them.
                let _ = fs::create_dir_all(inside.join("inner"));
                let _ = fs::File::create(inside.join("inner/file"));
                let _ = fs::rename(&inside, &aside);
                let _ = symlink(place.at("victim"), &inside);
                let _ = fs::remove_file(&inside);
                let _ = fs::rename(&aside, &inside);
            }
        });
        let mut rounds = 0;
        while rounds < 3000 || (astray == 0 && rounds < 1_000_000) {
            rounds += 1;
            // It may fail as well, when something new comes while it works.
            let _ = place.tree().remove("inside".as_ref());
            // A path leads to the link at such a moment, and a worker that goes by paths follows it.
            astray += u32::from(inside.join("inner/precious").exists());
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(astray > 0, "the swap happened while the worker was busy");
    place.victim_is_whole("the other thread could not redirect a removal");
}

/// Runs a test in a mount namespace of its own. Only root can make one, so an ordinary user skips
/// the test.
fn with_own_mounts(test: impl FnOnce() + Send) {
    use nix::sched::{CloneFlags, unshare};
    use rustix::mount::{MountPropagationFlags, mount_change};

    if !nix::unistd::getuid().is_root() {
        eprintln!("skipped: only root can mount");
        return;
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", private).expect("mounts stay in it");
            test();
        });
        thread.join().expect("the test passes");
    });
}

#[test]
fn what_is_mounted_in_a_tree_is_neither_emptied_nor_changed() {
    with_own_mounts(|| {
        let place = Place::new();
        fs::create_dir_all(place.at("tree/docs/mounted")).expect("a directory");
        // The same file system, so that only the mount tells.
        rustix::mount::mount_bind(place.at("victim"), place.at("tree/docs/mounted"))
            .expect("it is mounted");
        fs::set_permissions(place.at("victim"), fs::Permissions::from_mode(0o500)).expect("a mode");
        let error = place.tree().empty().expect_err("a mount is in the way");
        assert_eq!(error.kind(), io::ErrorKind::CrossesDevices, "{error}");
        assert!(
            error.to_string().contains("tree/docs/mounted"),
            "the message names the place: {error}"
        );
        let special = special_files(&place.at("tree"), |_| true).expect("it can be read");
        let found: Vec<_> = special
            .iter()
            .map(|special| (special.path.to_str(), special.is_opened_by_git()))
            .collect();
        assert_eq!(
            found,
            [(Some("docs/mounted"), true)],
            "it is refused before git enters it"
        );
        place.victim_is_whole("it is somebody else's");
        let mode = place.at("victim").metadata().expect("it exists");
        assert_eq!(mode.permissions().mode() & 0o777, 0o500, "its mode, too");

        rustix::mount::mount_bind(place.at("victim"), place.at("tree")).expect("it is mounted");
        Directory::open(&place.at("tree")).expect_err("the tree itself is another one");
        assert_eq!(
            replaced_by(&place.at("tree")).expect("it can be seen"),
            Some("a mounted file system"),
            "what an agent put there"
        );
        for mounted in ["tree", "tree/docs/mounted"] {
            let lazily = rustix::mount::UnmountFlags::DETACH;
            rustix::mount::unmount(place.at(mounted), lazily).expect("it is unmounted");
        }
    });
}
