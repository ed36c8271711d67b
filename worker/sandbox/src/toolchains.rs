//! Where toolchains keep their files: parts of the home directory that programs need. Pure, except
//! for what the caller's lookup does.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::path_walk::{PathKind, kind_of, walk};

/// A toolchain that lives in the home directory.
struct Toolchain {
    /// The variable that names its directory.
    variable: &'static str,
    /// Its directory below the home directory, without the variable.
    usual: &'static str,
    /// The parts of it that are shown; empty: all of it. Credentials are never among them.
    parts: &'static [&'static str],
    /// Programs find it by the variable when their home is another directory.
    export: bool,
}

const fn whole(variable: &'static str, usual: &'static str) -> Toolchain {
    Toolchain {
        variable,
        usual,
        parts: &[],
        export: true,
    }
}

const TOOLCHAINS: [Toolchain; 18] = [
    Toolchain {
        variable: "CARGO_HOME",
        usual: ".cargo",
        parts: &["bin", "registry", "git", "config", "config.toml"],
        export: true,
    },
    whole("RUSTUP_HOME", ".rustup"),
    whole("PYENV_ROOT", ".pyenv"),
    whole("RBENV_ROOT", ".rbenv"),
    whole("NODENV_ROOT", ".nodenv"),
    whole("GOENV_ROOT", ".goenv"),
    whole("JENV_ROOT", ".jenv"),
    Toolchain {
        variable: "NVM_DIR",
        usual: ".nvm",
        parts: &["versions", "nvm.sh", "alias"],
        export: true,
    },
    Toolchain {
        variable: "VOLTA_HOME",
        usual: ".volta",
        parts: &["bin", "tools"],
        export: true,
    },
    whole("FNM_DIR", ".local/share/fnm"),
    whole("GOMODCACHE", "go/pkg/mod"),
    Toolchain {
        variable: "GOBIN",
        usual: "go/bin",
        parts: &[],
        export: false,
    },
    Toolchain {
        variable: "SDKMAN_DIR",
        usual: ".sdkman",
        parts: &["candidates", "bin"],
        export: true,
    },
    Toolchain {
        variable: "UV_PYTHON_INSTALL_DIR",
        usual: ".local/share/uv/python",
        parts: &[],
        export: true,
    },
    Toolchain {
        variable: "UV_TOOL_DIR",
        usual: ".local/share/uv/tools",
        parts: &[],
        export: false,
    },
    Toolchain {
        variable: "PIPX_HOME",
        usual: ".local/share/pipx",
        parts: &["venvs", "py"],
        export: false,
    },
    whole("MISE_DATA_DIR", ".local/share/mise"),
    Toolchain {
        variable: "ASDF_DATA_DIR",
        usual: ".asdf",
        parts: &["installs", "shims", "plugins", "bin", "lib", "asdf.sh"],
        export: true,
    },
];

/// The toolchains of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FoundToolchains {
    pub read: Vec<PathBuf>,
    /// Directories of which only parts are shown.
    pub guarded: Vec<PathBuf>,
    /// The variables by which programs find them.
    pub variables: Vec<(OsString, OsString)>,
}

/// The machine, as far as toolchains are looked up on it.
pub trait ToolchainLookup {
    fn variable(&self, name: &str) -> Option<OsString>;
    fn kind(&self, path: &Path) -> Option<PathKind>;
    fn read_text(&self, path: &Path) -> Option<String>;
    /// The names in a directory; none if there is no directory.
    fn names(&self, directory: &Path) -> Vec<OsString>;
}

/// This machine.
#[derive(Debug, Clone, Copy)]
pub struct ThisMachine;

impl ToolchainLookup for ThisMachine {
    fn variable(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    fn kind(&self, path: &Path) -> Option<PathKind> {
        kind_of(path)
    }

    fn read_text(&self, path: &Path) -> Option<String> {
        /// More than any file that describes an installation.
        const MOST_BYTES: u64 = 64 * 1024;
        let mut text = String::new();
        // A pipe in the place of a file must not hold the worker up.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
        file.take(MOST_BYTES).read_to_string(&mut text).ok()?;
        Some(text)
    }

    fn names(&self, directory: &Path) -> Vec<OsString> {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name()).collect()
    }
}

/// The toolchains in the home directory of the worker's user. A variable that names the home
/// directory itself, or one above it, counts for nothing.
pub fn find(machine: &impl ToolchainLookup) -> FoundToolchains {
    let mut found = FoundToolchains::default();
    let home = machine.variable("HOME").map(PathBuf::from);
    let end_of = |path: &Path| walk(path, |path| machine.kind(path)).map(|walk| walk.end);
    let real_home = home.as_deref().and_then(end_of);
    let can_be_shown = |path: &PathBuf| {
        let holds_home =
            |end: PathBuf| real_home.as_ref().is_some_and(|home| home.starts_with(end));
        path.is_absolute() && end_of(path).is_some_and(|end| !holds_home(end))
    };
    for toolchain in &TOOLCHAINS {
        let own = machine.variable(toolchain.variable).map(PathBuf::from);
        let usual = home.as_ref().map(|home| home.join(toolchain.usual));
        let Some(directory) = own.or(usual).filter(can_be_shown) else {
            continue;
        };
        if toolchain.parts.is_empty() {
            found.read.push(directory.clone());
        } else {
            found.guarded.push(directory.clone());
        }
        let parts = toolchain.parts.iter().map(|part| directory.join(part));
        found
            .read
            .extend(parts.filter(|part| !holds_password(machine, part)));
        if toolchain.export {
            let variable = (toolchain.variable.into(), directory.into());
            found.variables.push(variable);
        }
    }
    let java = machine.variable("JAVA_HOME").map(PathBuf::from);
    if let Some(java) = java.filter(can_be_shown) {
        found.read.push(java.clone());
        found.variables.push(("JAVA_HOME".into(), java.into()));
    }
    found
}

/// Whether a file is a configuration of cargo with the token of a registry or a password in a URL.
fn holds_password(machine: &impl ToolchainLookup, file: &Path) -> bool {
    let is_configuration = ["config", "config.toml"]
        .iter()
        .any(|name| file.ends_with(name));
    let unreadable_or_secret = || {
        let text = machine.read_text(file);
        text.is_none_or(|text| text.lines().any(is_password))
    };
    is_configuration && machine.kind(file).is_some() && unreadable_or_secret()
}

fn is_password(line: &str) -> bool {
    let line = &line.to_lowercase();
    let mut keys: Vec<&str> = line.split('=').collect();
    keys.pop();
    let is_key = |text: &str| {
        let text = text.trim_end_matches([' ', '\t', '"', '\'']);
        ["token", "secret", "-key", "_key", "password", "passwd"]
            .iter()
            .any(|key| text.ends_with(key))
    };
    // A user and a password in an address, which need not have a scheme.
    let mut users = line.split(['/', '"', '\'', ' ']).filter_map(|part| {
        let (user, _host) = part.rsplit_once('@')?;
        Some(user)
    });
    keys.into_iter().any(is_key) || users.any(|user| user != "git")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A machine made of a table: variables (`=NAME`), links (`-> target`), and files with their
    /// texts. The directories above its files exist.
    pub(crate) struct Table(pub(crate) &'static [(&'static str, &'static str)]);

    impl Table {
        fn get(&self, key: &str) -> Option<&'static str> {
            let entry = self.0.iter().find(|(known, _)| *known == key);
            entry.map(|(_, value)| *value)
        }
    }

    impl ToolchainLookup for Table {
        fn variable(&self, name: &str) -> Option<OsString> {
            self.get(&format!("={name}")).map(OsString::from)
        }

        fn kind(&self, path: &Path) -> Option<PathKind> {
            if let Some(value) = self.get(path.to_str()?) {
                let target = value.strip_prefix("-> ").map(PathBuf::from);
                return Some(target.map_or(PathKind::Other, PathKind::Link));
            }
            let is_above = |(file, _): &&(&str, &str)| Path::new(file).starts_with(path);
            self.0.iter().find(is_above).map(|_| PathKind::Other)
        }

        fn read_text(&self, path: &Path) -> Option<String> {
            let end = walk(path, |path| self.kind(path))?.end;
            self.get(end.to_str()?).map(str::to_owned)
        }

        fn names(&self, directory: &Path) -> Vec<OsString> {
            let below = |(file, _): &(&str, &str)| {
                let below = Path::new(file).strip_prefix(directory).ok()?;
                below.iter().next().map(OsString::from)
            };
            self.0.iter().filter_map(below).collect()
        }
    }

    fn shows(found: &FoundToolchains, path: &str) -> bool {
        let path = Path::new(path);
        found.read.iter().any(|shown| path.starts_with(shown))
    }

    #[test]
    fn a_toolchain_is_shown_without_its_credentials_and_found_by_its_variable() {
        let found = find(&Table(&[
            ("=HOME", "/home/u"),
            ("/home/u/.cargo/bin/cargo", ""),
            ("/home/u/.cargo/config.toml", "[build]\njobs = 2\n"),
            ("=RUSTUP_HOME", "/data/rustup"),
            ("/data/rustup/toolchains", ""),
        ]));
        assert!(shows(&found, "/home/u/.cargo/registry"), "{found:?}");
        assert!(shows(&found, "/home/u/.cargo/config.toml"), "{found:?}");
        assert!(
            shows(&found, "/data/rustup"),
            "the variable decides: {found:?}"
        );
        assert!(
            !shows(&found, "/home/u/.cargo/credentials.toml"),
            "{found:?}"
        );
        let names: Vec<_> = found.variables.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["CARGO_HOME", "RUSTUP_HOME"], "only what exists");
    }

    #[test]
    fn a_configuration_of_cargo_with_a_password_is_not_shown() {
        for (text, is_secret) in [
            ("[registries.ours]\ntoken = \"x\"", true),
            ("registries.ours.token=\"x\"", true),
            ("ours = { index = \"https://a/b\", token = \"x\" }", true),
            ("[http]\nproxy = \"http://me:secret@proxy:80\"", true),
            ("[source.ours]\nregistry = \"https://x:y@ours/index\"", true),
            ("[env]\nGITHUB_TOKEN = \"x\"", true),
            ("[env]\nAPI_KEY = { value = \"x\" }", true),
            ("[http]\nproxy = \"me:secret@proxy:80\"", true),
            ("[source.ours]\nregistry = \"ssh://git@ours/index\"", false),
            ("[build]\njobs = 2", false),
        ] {
            let found = text.lines().any(is_password);
            assert_eq!(found, is_secret, "{text}");
        }
        let found = find(&Table(&[
            ("=HOME", "/home/u"),
            ("/home/u/.cargo/config.toml", "[registry]\ntoken = \"x\"\n"),
        ]));
        assert!(!shows(&found, "/home/u/.cargo/config.toml"), "{found:?}");
    }

    #[test]
    fn a_variable_that_names_the_home_directory_shows_nothing() {
        for variable in ["=PYENV_ROOT", "=GOMODCACHE", "=JAVA_HOME", "=CARGO_HOME"] {
            for named in ["/home/u", "/home", "/", "/elsewhere"] {
                let table: &[(&str, &str)] = &[
                    ("=HOME", "/home/u"),
                    ("/home/u/.ssh/id_rsa", ""),
                    ("/elsewhere", "-> /home/u"),
                    (variable, named),
                ];
                let found = find(&Table(Box::leak(table.into())));
                assert_eq!(found.read, Vec::<PathBuf>::new(), "{variable}{named}");
            }
        }
    }
}
