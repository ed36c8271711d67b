//! Where toolchains keep their files: parts of the home directory that programs need, and prefixes
//! of programs. Pure, except for what the caller's lookup does.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

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

const TOOLCHAINS: [Toolchain; 14] = [
    Toolchain {
        variable: "CARGO_HOME",
        usual: ".cargo",
        parts: &["bin", "registry", "git", "config", "config.toml"],
        export: true,
    },
    whole("RUSTUP_HOME", ".rustup"),
    whole("PYENV_ROOT", ".pyenv"),
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
    fn is_directory(&self, path: &Path) -> bool;
    fn read_link(&self, path: &Path) -> Option<PathBuf>;
    fn read_text(&self, path: &Path) -> Option<String>;
}

/// This machine.
#[derive(Debug, Clone, Copy)]
pub struct ThisMachine;

impl ToolchainLookup for ThisMachine {
    fn variable(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    fn is_directory(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn read_link(&self, path: &Path) -> Option<PathBuf> {
        path.read_link().ok()
    }

    fn read_text(&self, path: &Path) -> Option<String> {
        std::fs::read_to_string(path).ok()
    }
}

/// The toolchains in the home directory of the worker's user.
pub fn find(machine: &impl ToolchainLookup) -> FoundToolchains {
    let mut found = FoundToolchains::default();
    let home = machine.variable("HOME").map(PathBuf::from);
    for toolchain in &TOOLCHAINS {
        let own = machine.variable(toolchain.variable).map(PathBuf::from);
        let usual = home.as_ref().map(|home| home.join(toolchain.usual));
        let directory = own.or(usual).filter(|path| path.is_absolute());
        let Some(directory) = directory.filter(|path| machine.is_directory(path)) else {
            continue;
        };
        if toolchain.parts.is_empty() {
            found.read.push(directory.clone());
        } else {
            found.guarded.push(directory.clone());
        }
        let parts = toolchain.parts.iter().map(|part| directory.join(part));
        found.read.extend(parts);
        if toolchain.export {
            let variable = (toolchain.variable.into(), directory.into());
            found.variables.push(variable);
        }
    }
    if let Some(java) = machine.variable("JAVA_HOME") {
        found.read.push(PathBuf::from(&java));
        found.variables.push(("JAVA_HOME".into(), java));
    }
    found
}

/// The paths that a program needs to run: its installation, and those that it leads to by links and virtual
/// environments. A directory with a guarded one in it is never an installation.
pub fn of_program(
    machine: &impl ToolchainLookup,
    program: &Path,
    guarded: &[PathBuf],
) -> Vec<PathBuf> {
    /// Each link and each virtual environment is a step.
    const MOST_STEPS: usize = 20;
    let mut found = Vec::new();
    let mut file = program.to_owned();
    for _ in 0..MOST_STEPS {
        let installation = installation(&file, guarded);
        let base = installation
            .as_deref()
            .and_then(|root| machine.read_text(&root.join("pyvenv.cfg")))
            .and_then(|text| home_of(&text));
        found.push(installation.unwrap_or_else(|| file.clone()));
        if let Some(base) = base {
            found.extend(installation_of_directory(&base, guarded));
        }
        let Some(target) = machine.read_link(&file) else {
            break;
        };
        file = lexically(&file.parent().unwrap_or(Path::new("/")).join(target));
    }
    found.dedup();
    found
}

/// The paths that the programs of a directory of `PATH` need: its installation, or the directory alone.
pub fn of_directory(directory: &Path, guarded: &[PathBuf]) -> PathBuf {
    installation_of_directory(directory, guarded).unwrap_or_else(|| directory.to_owned())
}

/// The root of the installation that a program belongs to, if its path shows one: what is above
/// `bin`, or the first `node_modules`.
fn installation(file: &Path, guarded: &[PathBuf]) -> Option<PathBuf> {
    let packages = file
        .ancestors()
        .filter(|path| path.ends_with("node_modules"))
        .last();
    match packages {
        Some(packages) => Some(packages.to_owned()),
        None => installation_of_directory(file.parent()?, guarded),
    }
}

fn installation_of_directory(directory: &Path, guarded: &[PathBuf]) -> Option<PathBuf> {
    let is_bin = directory.ends_with("bin") || directory.ends_with("shims");
    let root = directory.parent().filter(|_| is_bin)?;
    let holds_guarded = guarded.iter().any(|path| path.starts_with(root));
    let too_much = holds_guarded || root.parent().is_none();
    (!too_much).then(|| root.to_owned())
}

/// The directory of the Python that a virtual environment was made from.
fn home_of(configuration: &str) -> Option<PathBuf> {
    let entry = |line: &str| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "home").then(|| PathBuf::from(value.trim()))
    };
    configuration.lines().find_map(entry)
}

/// A path without `.` and `..`.
fn lexically(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => plain.push(part),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine made of a table: variables (`=NAME`), links, and texts of files.
    struct Table(&'static [(&'static str, &'static str)]);

    impl Table {
        fn get(&self, key: &str) -> Option<&'static str> {
            self.0
                .iter()
                .find(|(known, _)| *known == key)
                .map(|(_, value)| *value)
        }
    }

    impl ToolchainLookup for Table {
        fn variable(&self, name: &str) -> Option<OsString> {
            self.get(&format!("={name}")).map(OsString::from)
        }

        fn is_directory(&self, path: &Path) -> bool {
            path.to_str().is_some_and(|path| self.get(path).is_some())
        }

        fn read_link(&self, path: &Path) -> Option<PathBuf> {
            self.get(path.to_str()?).map(PathBuf::from)
        }

        fn read_text(&self, path: &Path) -> Option<String> {
            self.get(path.to_str()?).map(str::to_owned)
        }
    }

    #[test]
    fn a_toolchain_is_shown_without_its_credentials_and_found_by_its_variable() {
        let found = find(&Table(&[
            ("=HOME", "/home/u"),
            ("/home/u/.cargo", ""),
            ("=RUSTUP_HOME", "/data/rustup"),
            ("/data/rustup", ""),
        ]));
        assert!(
            found.read.contains(&"/home/u/.cargo/registry".into()),
            "{found:?}"
        );
        assert!(
            found.read.contains(&"/data/rustup".into()),
            "the variable decides: {found:?}"
        );
        let shows = |path: &str| {
            found
                .read
                .iter()
                .any(|shown| Path::new(path).starts_with(shown))
        };
        assert!(!shows("/home/u/.cargo/credentials.toml"), "{found:?}");
        let names: Vec<_> = found
            .variables
            .iter()
            .map(|(name, _)| name.clone())
            .collect();
        assert_eq!(names, ["CARGO_HOME", "RUSTUP_HOME"], "only what exists");
    }

    #[test]
    fn a_program_brings_its_installation_and_those_that_it_leads_to() {
        let machine = Table(&[
            ("=HOME", "/home/u"),
            ("/srv/venv/bin/aider", "../lib/aider"),
            (
                "/srv/venv/pyvenv.cfg",
                "version = 3\nhome = /home/u/.pyenv/versions/3.12/bin\n",
            ),
        ]);
        assert_eq!(
            of_program(&machine, Path::new("/srv/venv/bin/aider"), &[]),
            [
                "/srv/venv",
                "/home/u/.pyenv/versions/3.12",
                "/srv/venv/lib/aider"
            ]
            .map(PathBuf::from),
            "the virtual environment, its Python, and the link's target"
        );
        assert_eq!(
            of_program(
                &machine,
                Path::new("/srv/app/node_modules/x/node_modules/y/cli.js"),
                &[]
            ),
            [PathBuf::from("/srv/app/node_modules")],
            "the first node_modules"
        );
    }

    #[test]
    fn a_directory_with_a_guarded_one_is_no_installation() {
        let guarded = ["/home/u".into()];
        assert_eq!(
            of_program(&Table(&[]), Path::new("/home/u/bin/tool"), &guarded),
            [PathBuf::from("/home/u/bin/tool")],
            "the file alone"
        );
        assert_eq!(
            of_directory(Path::new("/home/u/bin"), &guarded),
            Path::new("/home/u/bin")
        );
        assert_eq!(
            of_directory(Path::new("/bin"), &guarded),
            Path::new("/bin"),
            "nor is the root"
        );
        assert_eq!(
            of_directory(Path::new("/data/go/bin"), &guarded),
            Path::new("/data/go")
        );
    }
}
