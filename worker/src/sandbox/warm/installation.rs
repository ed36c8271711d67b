//! The installation of a program in Python: its interpreter, a stamp that changes when somebody
//! installs something else in its place, and the files that a server has loaded.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{Modules, WarmStart};

/// The first bytes of a program, in which its interpreter is named.
const FIRST_LINE: u64 = 4096;

/// The interpreter that the first line of a program names, if that is a Python without options.
pub fn python_of(program: &Path) -> Option<PathBuf> {
    let mut bytes = Vec::new();
    let file = File::open(program).ok()?;
    file.take(FIRST_LINE).read_to_end(&mut bytes).ok()?;
    let line = bytes.split(|byte| *byte == b'\n').next()?;
    named_python(str::from_utf8(line).ok()?)
}

fn named_python(line: &str) -> Option<PathBuf> {
    let path = Path::new(line.strip_prefix("#!")?.trim());
    let is_plain = !path.to_str()?.contains(char::is_whitespace);
    (path.is_absolute() && is_plain && is_python(path)).then(|| path.to_owned())
}

/// Whether this is the name of an interpreter: `python`, `python3`, `python3.12`.
pub fn is_python(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let version = name.and_then(|name| name.strip_prefix("python"));
    version.is_some_and(|version| {
        version
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.')
    })
}

/// A hash over everything that a server is made from. None: a file is missing.
pub(super) fn stamp(start: &WarmStart) -> Option<String> {
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    add(env!("CARGO_PKG_VERSION").as_bytes());
    add(super::server::SOURCE.as_bytes());
    add(super::server::RECORDER.as_bytes());
    for (name, value) in &start.env {
        add(name.as_bytes());
        add(value.as_bytes());
    }
    if let Modules::Named(names) = &start.modules {
        names.iter().for_each(|name| add(name.as_bytes()));
    }
    let mut files = vec![start.program.clone(), start.interpreter.clone()];
    files.extend(packages(&start.interpreter));
    for file in files {
        let real = file.canonicalize().ok()?;
        let meta = real.metadata().ok()?;
        add(real.as_os_str().as_bytes());
        for number in [meta.mtime(), meta.mtime_nsec(), meta.ino().cast_signed()] {
            add(&number.to_le_bytes());
        }
    }
    let digest = hash.finalize();
    Some(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The directories whose entries change when a package is installed, upgraded or removed.
fn packages(interpreter: &Path) -> Vec<PathBuf> {
    let prefix = interpreter.parent().and_then(Path::parent);
    let library = prefix.map(|prefix| prefix.join("lib"));
    let entries = library.and_then(|library| fs::read_dir(library).ok());
    let mut found: Vec<PathBuf> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().as_bytes().starts_with(b"python"))
        .flat_map(|entry| ["site-packages", "dist-packages"].map(|name| entry.path().join(name)))
        .filter(|directory| directory.is_dir())
        .collect();
    found.sort();
    found
}

/// The files that a server has read, as they were then. A look at 3,500 takes about 5 ms.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub(super) struct LoadedFiles(Vec<LoadedFile>);

/// Path, inode, size, and time of the last change in ns.
#[derive(Debug, Deserialize)]
struct LoadedFile(PathBuf, u64, u64, i64);

impl LoadedFiles {
    /// A file that is not as it was.
    pub(super) fn changed(&self) -> Option<&Path> {
        let changed = self.0.iter().find(|file| !file.is_as_it_was());
        changed.map(|file| file.0.as_path())
    }
}

impl LoadedFile {
    fn is_as_it_was(&self) -> bool {
        let Self(path, inode, size, changed_ns) = self;
        path.metadata().is_ok_and(|now| {
            let now_ns = now.mtime() * 1_000_000_000 + now.mtime_nsec();
            (now.ino(), now.size(), now_ns) == (*inode, *size, *changed_ns)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_python_without_options_is_an_interpreter() {
        for (line, expected) in [
            ("#!/venv/bin/python", Some("/venv/bin/python")),
            ("#!/venv/bin/python3.12\r", Some("/venv/bin/python3.12")),
            ("#!/usr/bin/env python3", None),
            ("#!/venv/bin/python -I", None),
            ("#!python", None),
            ("#!/venv/bin/python_agent.py", None),
            ("#!/bin/sh", None),
            ("import sys", None),
        ] {
            assert_eq!(named_python(line), expected.map(PathBuf::from), "{line}");
        }
    }

    #[test]
    fn a_stamp_changes_with_every_package_and_every_variable() {
        let dir = tempfile::tempdir().expect("a directory");
        let packages = dir.path().join("lib/python3.11/site-packages");
        fs::create_dir_all(&packages).expect("packages");
        fs::create_dir(dir.path().join("bin")).expect("bin");
        let [interpreter, program] =
            ["python", "agent"].map(|name| dir.path().join("bin").join(name));
        fs::write(&interpreter, "").expect("an interpreter");
        fs::write(&program, "").expect("a program");
        let mut start = WarmStart {
            interpreter,
            program,
            env: Vec::new(),
            modules: Modules::Named(Vec::new()),
        };
        let first = stamp(&start).expect("a stamp");
        assert_eq!(stamp(&start).as_ref(), Some(&first), "it stays the same");
        fs::create_dir(packages.join("agent-2.dist-info")).expect("another package");
        let second = stamp(&start).expect("a stamp");
        assert_ne!(first, second, "a package was installed");
        start.env.push(("A".into(), "1".into()));
        let third = stamp(&start).expect("a stamp");
        assert_ne!(second, third, "a variable");
        start.modules = Modules::Named(vec!["json".to_owned()]);
        assert_ne!(Some(third), stamp(&start), "a module");
        fs::remove_file(&start.program).expect("it is removed");
        assert_eq!(stamp(&start), None, "nothing to start");
    }

    #[test]
    fn a_file_that_was_edited_replaced_or_removed_has_changed() {
        let dir = tempfile::tempdir().expect("a directory");
        let [quiet, file] = ["quiet.py", "module.py"].map(|name| dir.path().join(name));
        let loaded = || {
            let facts = [&quiet, &file].map(|path| {
                let meta = path.metadata().expect("a file");
                let changed = meta.mtime() * 1_000_000_000 + meta.mtime_nsec();
                serde_json::json!([path, meta.ino(), meta.size(), changed])
            });
            serde_json::from_value::<LoadedFiles>(facts.into_iter().collect()).expect("a list")
        };
        fs::write(&quiet, "x = 1").expect("a file");
        let write = |text: &str, seconds: i64| {
            let mut open = File::options();
            let made = open.write(true).create(true).truncate(true).open(&file);
            let mut made = made.expect("a file");
            std::io::Write::write_all(&mut made, text.as_bytes()).expect("its text");
            let time =
                std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds.unsigned_abs());
            made.set_modified(time).expect("a time");
        };
        let edits: [(&str, &dyn Fn()); 4] = [
            ("another size", &|| write("x = 10", 1000)),
            ("another time", &|| write("x = 2", 1001)),
            ("another file", &|| {
                fs::rename(&file, dir.path().join("old.py")).expect("it is moved");
                write("x = 1", 1000);
            }),
            ("no file", &|| {
                fs::remove_file(&file).expect("it is removed")
            }),
        ];
        for (name, edit) in edits {
            write("x = 1", 1000);
            let files = loaded();
            assert_eq!(files.changed(), None, "{name}: nothing has happened");
            edit();
            assert_eq!(files.changed(), Some(file.as_path()), "{name}");
        }
    }
}
