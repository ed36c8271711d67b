use std::fs;
use std::os::unix::fs::symlink;

use super::*;

fn overlay(files: &[&str]) -> Overlay {
    let file = |path: &&str| {
        let path = RelativePath::new(*path).expect("a path");
        (path, "hidden".to_owned())
    };
    files.iter().map(file).collect()
}

/// The names in a directory, sorted.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory");
    let mut names: Vec<String> = entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(dir.path().join("tree/src")).expect("a directory");
        fs::create_dir(dir.path().join("other")).expect("a directory");
        fs::write(dir.path().join("other/precious"), "x").expect("a file");
        Self { dir }
    }

    fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    fn other(&self) -> PathBuf {
        self.dir.path().join("other")
    }
}

#[test]
fn what_is_laid_over_is_there_and_then_gone() {
    let place = Place::new();
    let files = overlay(&["top", "src/in.py", "new/deep/a", "new/deep/b", "new/c"]);
    let laid = lay_over(&place.tree(), &files).expect("it is written");
    assert_eq!(
        names(&place.tree().join("new/deep")),
        ["a", "b"],
        "new directories"
    );
    assert_eq!(
        names(&place.tree().join("src")),
        ["in.py"],
        "in a directory of the commit"
    );
    fs::write(place.tree().join("new/built"), "x").expect("a file of the check");
    laid.take_back(&place.tree()).expect("it is removed");
    assert_eq!(
        names(&place.tree()),
        ["src"],
        "and what lay in its directories"
    );
    assert!(
        names(&place.tree().join("src")).is_empty(),
        "nothing is left"
    );
}

#[test]
fn a_script_can_be_run() {
    let place = Place::new();
    let path = RelativePath::new("run.sh").expect("a path");
    let files = Overlay::from([(path, "#!/bin/sh\n".to_owned())]);
    let laid = lay_over(&place.tree(), &files).expect("it is written");
    let mode = fs::metadata(place.tree().join("run.sh"))
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o111, 0o111, "it begins with #!");
    laid.take_back(&place.tree()).expect("it is removed");
}

#[test]
fn no_link_in_the_way_is_followed() {
    for (link, file) in [
        ("src/link", "src/link/a"),
        ("precious", "precious"),
        ("l", "l/b/c"),
    ] {
        let place = Place::new();
        let target = if file.contains('/') {
            place.other()
        } else {
            place.other().join(link)
        };
        symlink(target, place.tree().join(link)).expect("a link");
        let laid = lay_over(&place.tree(), &overlay(&[file])).expect("it is written");
        let found = fs::read_to_string(place.tree().join(file)).expect("the file");
        assert_eq!(found, "hidden", "{file} is in the checkout");
        let precious = fs::read_to_string(place.other().join("precious")).expect("the file");
        assert_eq!(
            (names(&place.other()).len(), precious.as_str()),
            (1, "x"),
            "{link} led there"
        );
        laid.take_back(&place.tree()).expect("it is removed");
        assert!(
            place.tree().join(link).symlink_metadata().is_err(),
            "nothing is left of {file}"
        );
    }
}

#[test]
fn a_directory_that_a_check_replaced_is_not_emptied_elsewhere() {
    for replaced in ["src", ""] {
        let place = Place::new();
        let laid = lay_over(&place.tree(), &overlay(&["src/precious"])).expect("it is written");
        let directory = place.tree().join(replaced);
        fs::rename(&directory, place.dir.path().join("moved")).expect("it is moved");
        fs::create_dir(place.other().join("src")).expect("a directory");
        fs::write(place.other().join("src/precious"), "x").expect("a file");
        let target = if replaced.is_empty() {
            place.other()
        } else {
            place.other().join("src")
        };
        let link = directory.to_string_lossy().trim_end_matches('/').to_owned();
        symlink(target, link).expect("a link");
        laid.take_back(&place.tree()).expect("it is left alone");
        assert!(
            place.other().join("src/precious").exists(),
            "the file of others is there"
        );
    }
}
