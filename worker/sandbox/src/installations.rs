//! The paths that programs need besides their own file: the installation around a directory of programs, and
//! the places that links and virtual environments lead to.
//!
//! Only an operator's word opens files: `PATH`, the pool file, the table of toolchains. Files that
//! an agent can write are never evidence, and files of repositories lead nowhere else. A directory
//! is a part of an installation only if a file shows it: many programs share `~/.local`.

use std::path::{Path, PathBuf};

use crate::path_walk::{PathKind, Walk, walk};
use crate::system;
use crate::toolchains::ToolchainLookup;

/// Each link and each virtual environment is a step.
const MOST_STEPS: usize = 20;

/// A file that only one kind of installation has.
enum Marker {
    Directory(&'static str),
    /// A text file with a line that begins like this.
    Line(&'static str, &'static str),
    /// A directory, and the beginning of a name in it. If that is a directory, it holds this file.
    Listed(&'static str, &'static str, &'static str),
}

/// A kind of installation, and the parts of it that programs need; none: all of it.
struct InstallationKind {
    marker: Marker,
    parts: &'static [&'static str],
}

const PYTHON: &[&str] = &["bin", "lib", "lib64", "include"];

/// Others may share a prefix with Python, Node, Rust or Ruby, so only these parts are shown.
const KINDS: [InstallationKind; 12] = [
    InstallationKind {
        marker: Marker::Line(VIRTUAL_ENVIRONMENT, "home"),
        // Not pip.conf, which may hold a password.
        parts: &[
            VIRTUAL_ENVIRONMENT,
            "bin",
            "lib",
            "lib64",
            "include",
            "share",
            "etc",
        ],
    },
    InstallationKind {
        marker: Marker::Directory("conda-meta"),
        parts: &[],
    },
    InstallationKind {
        marker: Marker::Line("release", "JAVA_VERSION="),
        parts: &[],
    },
    InstallationKind {
        marker: Marker::Line("VERSION", "go1"),
        parts: &["bin", "pkg", "src", "lib", "misc", "VERSION", "go.env"],
    },
    InstallationKind {
        marker: Marker::Directory("lib/node_modules"),
        parts: &["bin", "lib/node_modules", "include/node"],
    },
    InstallationKind {
        marker: Marker::Directory("lib/rustlib"),
        parts: &["bin", "lib", "libexec"],
    },
    InstallationKind {
        marker: Marker::Directory("lib/ruby"),
        parts: &["bin", "lib", "include"],
    },
    InstallationKind {
        marker: Marker::Listed("lib", "python3", "os.py"),
        parts: PYTHON,
    },
    InstallationKind {
        marker: Marker::Listed("lib64", "python3", "os.py"),
        parts: PYTHON,
    },
    InstallationKind {
        marker: Marker::Listed("lib", "pypy3", "os.py"),
        parts: PYTHON,
    },
    InstallationKind {
        marker: Marker::Line("bin/m2.conf", "main is"),
        parts: &["bin", "boot", "lib", "conf/logging"],
    },
    InstallationKind {
        marker: Marker::Listed("lib", "gradle-launcher", ""),
        parts: &["bin", "lib", "init.d"],
    },
];

const VIRTUAL_ENVIRONMENT: &str = "pyvenv.cfg";

/// Files that may hold passwords, in an installation that is shown as a whole.
const SECRETS: [&str; 4] = [".condarc", "condarc", "pip.conf", "conda-meta/state"];

/// The paths that programs need.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShownPaths {
    pub read: Vec<PathBuf>,
    pub hide: Vec<PathBuf>,
}

/// The places of a machine by the one who fills them. All paths are resolved: they contain no links.
#[derive(Debug, Clone, Default)]
pub struct TrustMap {
    /// Never shown as a part of something else.
    pub guarded: Vec<PathBuf>,
    /// Agents write here.
    pub written: Vec<PathBuf>,
    /// Repositories lie here.
    pub repositories: Vec<PathBuf>,
}

/// The one who fills a place, if it is not an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Operator,
    Repository,
}

impl TrustMap {
    fn source(&self, resolved: &Path) -> Option<Source> {
        // The root itself is never shown as a whole, so nobody writes to it.
        let below = |list: &[PathBuf]| {
            let mut tops = list.iter().filter(|top| top.parent().is_some());
            tops.any(|top| resolved.starts_with(top))
        };
        if below(&self.written) {
            return None;
        }
        Some(if below(&self.repositories) {
            Source::Repository
        } else {
            Source::Operator
        })
    }

    /// Whether a directory would show a guarded one, or everything.
    pub fn holds_guarded(&self, resolved: &Path) -> bool {
        resolved.parent().is_none() || self.guarded.iter().any(|path| path.starts_with(resolved))
    }
}

/// Looks programs up for one run.
pub struct ProgramLookup<'a, Machine> {
    pub machine: &'a Machine,
    pub trust: &'a TrustMap,
    pub shown: ShownPaths,
}

impl<Machine: ToolchainLookup> ProgramLookup<'_, Machine> {
    /// Shows a directory of programs, for example one of `PATH`, with the installation that it
    /// belongs to and the Python of a virtual environment.
    pub fn show_directory(&mut self, directory: &Path) {
        let mut directory = directory.to_owned();
        for _ in 0..MOST_STEPS {
            let Some(source) = self.show(&directory) else {
                return;
            };
            let base = self
                .show_installation(&directory)
                .and_then(|root| self.base_of(&root));
            match (base, source) {
                (Some(base), Source::Operator) => directory = base,
                (Some(_), Source::Repository) | (None, _) => return,
            }
        }
    }

    /// Shows a program that the operator has named, and the places that its links lead to.
    pub fn show_program(&mut self, program: &Path) {
        let mut file = program.to_owned();
        for _ in 0..MOST_STEPS {
            let Some(directory) = file.parent() else {
                return;
            };
            let Some(source) = self.source(directory) else {
                return;
            };
            match packages_of(&file) {
                Some(packages) => drop(self.show(packages)),
                None if is_for_programs(directory) => self.show_directory(directory),
                None => {}
            }
            self.show(&file);
            match (self.machine.kind(&file), source) {
                (Some(PathKind::Link(target)), Source::Operator) => file = directory.join(target),
                (_, Source::Repository) | (Some(PathKind::Other) | None, _) => return,
            }
        }
    }

    /// Whether a program lies below one of these paths, one that is shown already, or one of the
    /// system.
    pub fn is_in_sight(&self, program: &Path, more: &[PathBuf]) -> bool {
        let Some(directory) = program.parent().and_then(|directory| self.walk(directory)) else {
            return false;
        };
        let place = directory.end.join(program.file_name().unwrap_or_default());
        let of_system = system::DIRECTORIES.iter().map(Path::new);
        let shown = self.shown.read.iter().chain(more).map(PathBuf::as_path);
        let is_above = |path: &Path| {
            self.walk(path)
                .is_some_and(|walk| place.starts_with(walk.end))
        };
        of_system.chain(shown).any(is_above)
    }

    fn walk(&self, path: &Path) -> Option<Walk> {
        walk(path, |path| self.machine.kind(path))
    }

    /// Shows a path, unless it shows too much or an agent decides where it leads.
    fn show(&mut self, path: &Path) -> Option<Source> {
        let source = self.source(path)?;
        if self.trust.holds_guarded(&self.walk(path)?.end) {
            return None;
        }
        if !self.shown.read.iter().any(|shown| shown == path) {
            self.shown.read.push(path.to_owned());
        }
        Some(source)
    }

    /// The one who fills a path. None: an agent, or there is nothing. A link in a repository
    /// leads anywhere, so it counts as an agent's.
    fn source(&self, path: &Path) -> Option<Source> {
        let Walk { links, end, .. } = self.walk(path)?;
        let decided_by_operator = |place: &Path| self.trust.source(place) == Some(Source::Operator);
        let trusted = links.iter().all(|link| decided_by_operator(&link.at));
        self.trust.source(&end).filter(|_| trusted)
    }

    /// Shows the parts of the installation that a directory of programs belongs to, and returns its
    /// root.
    fn show_installation(&mut self, directory: &Path) -> Option<PathBuf> {
        let root = directory.parent().filter(|_| is_for_programs(directory))?;
        if self.trust.holds_guarded(&self.walk(root)?.end) {
            return None;
        }
        let kinds = KINDS.iter().filter(|kind| self.proves(root, &kind.marker));
        let kinds: Vec<&InstallationKind> = kinds.collect();
        for kind in &kinds {
            if kind.parts.is_empty() {
                self.show(root);
                let secrets = SECRETS.iter().map(|name| root.join(name));
                self.shown.hide.extend(secrets);
            }
            for part in kind.parts {
                self.show(&root.join(part));
            }
        }
        (!kinds.is_empty()).then(|| root.to_owned())
    }

    fn proves(&self, root: &Path, marker: &Marker) -> bool {
        let exists = |path: &Path| self.source(path).is_some();
        match marker {
            Marker::Directory(name) => exists(&root.join(name)),
            Marker::Line(name, begin) => self
                .read_text(&root.join(name))
                .is_some_and(|text| text.lines().any(|line| line.trim().starts_with(begin))),
            Marker::Listed(directory, begin, file) => {
                let directory = root.join(directory);
                let names = self.machine.names(&directory);
                let mut names = names
                    .iter()
                    .filter(|name| name.as_encoded_bytes().starts_with(begin.as_bytes()));
                names.any(|name| exists(&directory.join(name).join(file)))
            }
        }
    }

    fn read_text(&self, path: &Path) -> Option<String> {
        self.source(path)?;
        self.machine.read_text(path)
    }

    /// The directory of the Python that a virtual environment was made from.
    fn base_of(&self, root: &Path) -> Option<PathBuf> {
        let text = self.read_text(&root.join(VIRTUAL_ENVIRONMENT))?;
        let entry = |line: &str| {
            let (key, value) = line.split_once('=')?;
            (key.trim() == "home").then(|| PathBuf::from(value.trim()))
        };
        let base = text.lines().find_map(entry);
        base.filter(|path| path.is_absolute())
    }
}

fn is_for_programs(directory: &Path) -> bool {
    ["bin", "condabin"]
        .iter()
        .any(|name| directory.ends_with(name))
}

/// The first `node_modules` above a file: packages find each other there.
fn packages_of(file: &Path) -> Option<&Path> {
    file.ancestors()
        .filter(|path| path.ends_with("node_modules"))
        .last()
}

#[cfg(test)]
#[path = "installations_tests.rs"]
mod tests;
