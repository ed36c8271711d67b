//! For every script: `--help` only prints help, and an unknown option is refused before anything is
//! done.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::SystemTime;

use tempfile::TempDir;

use crate::support::machine::checkout;

/// Programs that every system has. None of them installs, builds or reaches a network.
const COREUTILS: [&str; 15] = [
    "env", "bash", "cat", "cut", "date", "dirname", "basename", "head", "mkdir", "mktemp",
    "readlink", "realpath", "rm", "touch", "uname",
];

/// A copy of the scripts in a checkout without builds and installed programs.
struct Bare {
    directory: TempDir,
}

/// Every file with its modification time, to detect new and changed files.
type Files = BTreeMap<PathBuf, SystemTime>;

impl Bare {
    fn make() -> Self {
        let directory = TempDir::with_prefix("pool-bare-").expect("a directory");
        let root = directory.path();
        for part in ["checkout", "home", "bin"] {
            std::fs::create_dir(root.join(part)).expect("a directory");
        }
        for part in ["scripts", ".ci", "config", "Cargo.toml"] {
            let copied = Command::new("cp")
                .arg("-r")
                .arg(checkout().join(part))
                .arg(root.join("checkout"))
                .status();
            assert!(copied.expect("cp runs").success(), "{part} is copied");
        }
        for name in COREUTILS {
            let found = ["/usr/bin", "/bin"]
                .map(|place| Path::new(place).join(name))
                .into_iter()
                .find(|p| p.exists());
            let found = found.unwrap_or_else(|| panic!("this system has {name}"));
            std::os::unix::fs::symlink(found, root.join("bin").join(name)).expect("a link");
        }
        Self { directory }
    }

    fn scripts(&self) -> Vec<PathBuf> {
        let places =
            ["checkout/scripts", "checkout/.ci"].map(|place| self.directory.path().join(place));
        let files = places
            .iter()
            .flat_map(|place| std::fs::read_dir(place).expect("scripts"))
            .flatten();
        let is_script = |path: &PathBuf| {
            let metadata = path.metadata().expect("a file");
            metadata.is_file() && metadata.permissions().mode() & 0o111 != 0
        };
        let mut scripts: Vec<PathBuf> = files.map(|file| file.path()).filter(is_script).collect();
        scripts.sort();
        scripts
    }

    fn run(&self, script: &Path, arguments: &[&str]) -> Output {
        let root = self.directory.path();
        let mut command = Command::new(script);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", root.join("bin"))
            .env("HOME", root.join("home"));
        command.current_dir(root).stdin(Stdio::null());
        command
            .output()
            .unwrap_or_else(|error| panic!("{} runs: {error}", script.display()))
    }

    fn files(&self) -> Files {
        let mut files = Files::new();
        let mut left = vec![self.directory.path().to_owned()];
        while let Some(directory) = left.pop() {
            for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
                let metadata = entry.metadata().expect("a file");
                files.insert(entry.path(), metadata.modified().expect("a time"));
                if metadata.is_dir() {
                    left.push(entry.path());
                }
            }
        }
        files
    }
}

#[test]
fn help_of_every_script_prints_how_it_is_used_and_does_nothing_else() {
    let bare = Bare::make();
    let (before, scripts) = (bare.files(), bare.scripts());
    assert!(scripts.len() > 10, "the scripts are found: {scripts:?}");
    for script in &scripts {
        let name = script.file_name().expect("a name").to_string_lossy();
        for arguments in [
            &["--help"][..],
            &["-h"],
            &["start", "--help"],
            &["--check", "-h"],
            &["--data", "x", "--help"],
        ] {
            let done = bare.run(script, arguments);
            let (said, error) = (
                String::from_utf8_lossy(&done.stdout),
                String::from_utf8_lossy(&done.stderr),
            );
            assert!(done.status.success(), "{name} {arguments:?}: {said}{error}");
            assert!(
                said.contains(&*name) && said.lines().count() > 2,
                "{name} {arguments:?} prints its use: {said}"
            );
            assert_eq!(error, "", "{name} {arguments:?} prints no error");
            assert!(
                !said.contains("set -euo"),
                "{name}: the help is the head comment without code: {said}"
            );
            assert_eq!(bare.files(), before, "{name} {arguments:?} changes no file");
        }
    }
}

#[test]
fn an_option_that_a_script_does_not_know_is_refused_before_anything_is_done() {
    let bare = Bare::make();
    let before = bare.files();
    for script in bare.scripts() {
        let name = script
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        for arguments in [&["--no-such-option"][..], &["--no-such-option", "x"]] {
            let done = bare.run(&script, arguments);
            let error = String::from_utf8_lossy(&done.stderr);
            assert_eq!(done.status.code(), Some(2), "{name} {arguments:?}: {error}");
            assert!(
                error.contains("--help") || error.contains(&name),
                "{name} names its help: {error}"
            );
            assert_eq!(bare.files(), before, "{name} {arguments:?} changes no file");
        }
    }
}

#[test]
fn an_option_of_a_command_that_is_not_known_is_refused_too() {
    let bare = Bare::make();
    let before = bare.files();
    for (script, arguments) in [
        ("local-pool", &["start", "--pol", "x"][..]),
        ("local-pool", &["start", "--pool"]),
        ("broker", &["start", "--dat", "x"]),
        ("docs", &["--check", "--program", "x"]),
        ("quickstart", &["--chaos", "--onc"]),
        ("quickstart", &["--broker"]),
        ("bench", &["--task", "5"]),
        ("soak", &["--minute", "1"]),
        ("test", &["--broker-root"]),
        ("test", &["--shard", "5/4"]),
        ("lint", &["format", "everything"]),
        ("release", &["--target"]),
        ("test", &["-p", "pool-core", "--librarian"]),
        ("make-sample-repo", &["one", "two"]),
        ("check-trial", &["everything"]),
        ("check-monitoring", &["everything"]),
        ("broker-root", &["trixie"]),
        ("compose-passwords", &["tell"]),
        ("test-compose", &["v2"]),
    ] {
        let done = bare.run(
            &bare.directory.path().join("checkout/scripts").join(script),
            arguments,
        );
        let error = String::from_utf8_lossy(&done.stderr);
        assert_eq!(
            done.status.code(),
            Some(2),
            "{script} {arguments:?}: {error}"
        );
        assert_eq!(
            bare.files(),
            before,
            "{script} {arguments:?} changes no file"
        );
    }
}
