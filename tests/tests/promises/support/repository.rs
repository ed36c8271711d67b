//! A git repository for a test, made and read with this machine's git.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::machine::checkout;

#[derive(Debug, Clone)]
pub(crate) struct Repository {
    path: PathBuf,
}

impl Repository {
    /// A repository with one commit of these files.
    pub(crate) fn create(path: &Path, files: &[(&str, &str)]) -> Self {
        std::fs::create_dir_all(path).expect("a directory for a repository");
        let repository = Self {
            path: path.to_owned(),
        };
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        for (name, text) in files {
            let file = path.join(name);
            std::fs::create_dir_all(file.parent().expect("a parent")).expect("a directory");
            std::fs::write(file, text).expect("a file");
        }
        repository.git(&["add", "--all"]);
        repository.git(&["commit", "--quiet", "-m", "first"]);
        repository
    }

    /// An existing repository.
    pub(crate) fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// The commit of a branch, if there is one.
    pub(crate) fn commit_of(&self, branch: &str) -> Option<String> {
        let done = self.try_git(
            &[
                "rev-parse",
                "--verify",
                "--quiet",
                &format!("refs/heads/{branch}"),
            ],
            "",
        );
        done.status
            .success()
            .then(|| String::from_utf8_lossy(&done.stdout).trim_end().to_owned())
    }

    /// The sample project of the trial.
    pub(crate) fn sample(path: &Path) -> Self {
        let script = checkout().join("scripts/make-sample-repo");
        let made = Command::new(script)
            .arg(path)
            .output()
            .expect("scripts/make-sample-repo runs");
        assert!(
            made.status.success(),
            "no sample repository: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        Self {
            path: path.to_owned(),
        }
    }

    /// Clones it, as another person would.
    pub(crate) fn fresh_clone(&self, to: &Path) -> Self {
        let to = to.to_str().expect("a path in UTF-8");
        self.git(&["clone", "--quiet", "--no-local", ".", to]);
        Self { path: to.into() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs git in it; gives its output without the last line break.
    pub(crate) fn git(&self, args: &[&str]) -> String {
        let done = self.try_git(args, "");
        assert!(
            done.status.success(),
            "git {args:?} failed: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        String::from_utf8_lossy(&done.stdout).trim_end().to_owned()
    }

    /// Applies a patch, after a check that it applies.
    pub(crate) fn apply(&self, patch: &str) -> Result<(), String> {
        for args in [&["apply", "--check", "-"][..], &["apply", "-"]] {
            let done = self.try_git(args, patch);
            if !done.status.success() {
                return Err(String::from_utf8_lossy(&done.stderr).into_owned());
            }
        }
        Ok(())
    }

    fn try_git(&self, args: &[&str], input: &str) -> Output {
        use std::io::Write;
        let mut git = Command::new("git");
        git.args(["-c", "user.name=Owner", "-c", "user.email=owner@localhost"])
            .args(args)
            .current_dir(&self.path);
        git.env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null");
        git.stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped());
        let mut child = git
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("git runs");
        let mut stdin = child.stdin.take().expect("its input");
        // Git may end without reading its input; its status then says why.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        child.wait_with_output().expect("git ends")
    }
}
