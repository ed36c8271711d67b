//! Git in the user's repository.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// The output of a git command that ran.
pub(super) struct Ended {
    pub(super) good: bool,
    pub(super) printed: String,
    pub(super) said: String,
}

/// A repository with a working tree.
pub(super) struct UserGit {
    pub(super) top: PathBuf,
}

impl UserGit {
    /// The repository that a directory is in.
    ///
    /// # Errors
    /// When it is in none, or git cannot be started.
    pub(super) fn of(directory: &Path) -> anyhow::Result<Self> {
        let at = |top: &Path| Self {
            top: top.to_owned(),
        };
        let ended = at(directory).run(["rev-parse", "--show-toplevel"], "")?;
        if !ended.good {
            bail!(
                "{} is not in the working tree of a git repository ({}); go to a clone of the task's repository, or name one with -C",
                directory.display(),
                ended.said
            );
        }
        Ok(at(Path::new(ended.printed.trim_end_matches('\n'))))
    }

    /// # Errors
    /// When git cannot be started.
    pub(super) fn run<const N: usize>(
        &self,
        arguments: [&str; N],
        input: &str,
    ) -> anyhow::Result<Ended> {
        self.start(self.command().args(arguments), input)
    }

    /// Runs a command with another index.
    ///
    /// # Errors
    /// When git cannot be started.
    pub(super) fn with_index<const N: usize>(
        &self,
        index: &Path,
        arguments: [&str; N],
        input: &str,
    ) -> anyhow::Result<Ended> {
        let mut command = self.command();
        self.start(command.args(arguments).env("GIT_INDEX_FILE", index), input)
    }

    /// Without hooks: one that the patch has changed must not run before somebody has read the change.
    fn command(&self) -> Command {
        let mut command = Command::new("git");
        command.arg("-C").arg(&self.top).env("LC_ALL", "C");
        command.args(["-c", "core.hooksPath=/dev/null"]);
        for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
            command.env_remove(name);
        }
        command
    }

    fn start(&self, command: &mut Command, input: &str) -> anyhow::Result<Ended> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("failed to start git; install it, or look at PATH")?;
        let stdin = child.stdin.take();
        let output = std::thread::scope(|threads| {
            // Git may end without reading everything, and says why on its standard error.
            threads.spawn(move || stdin.map(|mut stdin| stdin.write_all(input.as_bytes())));
            child.wait_with_output()
        })
        .context("failed to wait for git")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Ended {
            good: output.status.success(),
            printed: text(&output.stdout),
            said: text(&output.stderr).trim_end().to_owned(),
        })
    }

    /// The output of a command that must succeed.
    ///
    /// # Errors
    /// When it fails: git's own words.
    pub(super) fn output<const N: usize>(
        &self,
        arguments: [&str; N],
        input: &str,
    ) -> anyhow::Result<String> {
        let ended = self.run(arguments, input)?;
        if !ended.good {
            bail!("git {} failed: {}", arguments.join(" "), ended.said);
        }
        Ok(ended.printed)
    }
}
