//! A separate checkout with the scripts and samples of this one and the programs of this build, and
//! nothing else.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::unistd::Pid;
use tempfile::TempDir;

use super::machine::{Cores, aider, checkout, program, share_cores};

/// The parts of a checkout that scripts and documents need.
const PARTS: [&str; 3] = ["scripts", "config", "docker-compose.yml"];

/// Dropping it stops the pool that its scripts have started.
pub(crate) struct Checkout {
    directory: TempDir,
    _cores: Cores,
}

impl Checkout {
    pub(crate) async fn make() -> Self {
        let cores = share_cores().await;
        let directory = TempDir::with_prefix("pool-checkout-").expect("a directory");
        let root = directory.path();
        for part in PARTS {
            let copied = Command::new("cp")
                .arg("-r")
                .arg(checkout().join(part))
                .arg(root)
                .status();
            assert!(copied.expect("cp runs").success(), "{part} is copied");
        }
        Self {
            directory,
            _cores: cores,
        }
    }

    /// A checkout with the programs where a build puts them, and with the aider that is installed
    /// here, because a new one takes half a minute and 570 MB.
    pub(crate) async fn with_programs() -> Self {
        let made = Self::make().await;
        let link = |to: &Path, name: &str| {
            let name = made.path().join(name);
            std::fs::create_dir_all(name.parent().expect("a directory")).expect("a directory");
            std::os::unix::fs::symlink(to, name).expect("a link");
        };
        let aider = aider();
        link(
            aider.ancestors().nth(2).expect("aider/bin/aider"),
            ".pool/aider",
        );
        let programs = program("dispatcher");
        // A newcomer builds in release mode.
        for profile in ["debug", "release"] {
            link(
                programs.parent().expect("a directory"),
                &format!("target/{profile}"),
            );
        }
        made
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A command in the checkout. It does not build the programs again.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env("CARGO_TARGET_DIR", target())
            .env("POOL_PROFILE", profile())
            .env("POOL_BUILD", "no");
        for variable in ["AMQP_URL", "POOL_API_TOKEN", "POOL_FILE", "PROGRAMMER_ID"] {
            command.env_remove(variable);
        }
        command
            .env("POOL_URL", self.value("POOL_URL").unwrap_or_default())
            .current_dir(self.path());
        command
    }

    pub(crate) fn run(&self, program: &Path, arguments: &[&str]) -> Output {
        self.command(program)
            .args(arguments)
            .output()
            .expect("it runs")
    }

    /// Runs a script; gives its exit status and its output.
    pub(crate) fn script(&self, name: &str, arguments: &[&str]) -> (Option<i32>, String) {
        let done = self.run(&self.path().join("scripts").join(name), arguments);
        let said = [&done.stdout[..], &done.stderr]
            .map(String::from_utf8_lossy)
            .concat();
        (done.status.code(), said)
    }

    /// Runs `scripts/local-pool …`.
    pub(crate) fn pool(&self, arguments: &[&str]) -> (Option<i32>, String) {
        self.script("local-pool", arguments)
    }

    /// A value of `scripts/local-pool env`, read from its file.
    pub(crate) fn value(&self, name: &str) -> Option<String> {
        let values = std::fs::read_to_string(self.path().join(".pool/run/env")).ok()?;
        values
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .map(str::to_owned)
    }

    pub(crate) fn pid(&self, name: &str) -> Pid {
        let file = self.path().join(format!(".pool/run/{name}.pid"));
        let text = std::fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let pid = text
            .split_whitespace()
            .next()
            .and_then(|pid| pid.parse().ok());
        Pid::from_raw(
            pid.unwrap_or_else(|| panic!("{} begins with a pid: {text:?}", file.display())),
        )
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        let (status, said) = self.pool(&["stop", "--now"]);
        if status != Some(0) {
            eprintln!("scripts/local-pool stop --now: {said}");
        }
    }
}

/// The place where `program` finds them.
fn target() -> PathBuf {
    program("dispatcher")
        .ancestors()
        .nth(2)
        .expect("target/<profile>/dispatcher")
        .to_owned()
}

fn profile() -> String {
    let directory = program("dispatcher")
        .parent()
        .expect("a directory")
        .to_owned();
    directory
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned()
}
