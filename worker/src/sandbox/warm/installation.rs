//! The installation of a program in Python: its interpreter, and a stamp that changes when
//! somebody installs something else in its place.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

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
    let is_python = path.file_name()?.to_str()?.starts_with("python");
    (path.is_absolute() && is_plain && is_python).then(|| path.to_owned())
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
}
