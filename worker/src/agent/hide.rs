//! Hides an agent's own configuration files, which a repository may contain, from the agent.
//!
//! They could redirect its calls, run commands, or stop every run. While the agent runs they are in
//! the scratch directory. Afterwards they are put back unchanged, and the agent's files under those
//! names are removed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::workspace::remove_any;

/// The hidden files, from [`Hidden::take`] to [`Hidden::put_back`].
#[derive(Debug)]
pub(super) struct Hidden {
    worktree: PathBuf,
    refuge: PathBuf,
    names: Vec<std::ffi::OsString>,
}

/// Aider reads these from the top of the repository, where it is also started.
pub(super) fn is_configuration(name: &[u8]) -> bool {
    name.starts_with(b".aider") || name == b".env"
}

impl Hidden {
    pub(super) fn take(worktree: &Path, scratch: &Path) -> io::Result<Self> {
        let refuge = scratch.join("hidden");
        fs::create_dir_all(&refuge)?;
        let mut hidden = Self {
            worktree: worktree.to_owned(),
            refuge,
            names: Vec::new(),
        };
        for entry in fs::read_dir(worktree)? {
            let name = entry?.file_name();
            if is_configuration(name.as_encoded_bytes()) {
                fs::rename(worktree.join(&name), hidden.refuge.join(&name))?;
                hidden.names.push(name);
            }
        }
        Ok(hidden)
    }

    /// Puts the hidden files back. A new `.env` where no file was hidden is a normal change and
    /// stays.
    pub(super) fn put_back(self) -> io::Result<()> {
        for entry in fs::read_dir(&self.worktree)? {
            let name = entry?.file_name();
            if name.as_encoded_bytes().starts_with(b".aider") || self.names.contains(&name) {
                remove_any(&self.worktree.join(&name))?;
            }
        }
        for name in &self.names {
            fs::rename(self.refuge.join(name), self.worktree.join(name))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_files_come_back_as_they_were_and_new_ones_are_dropped() {
        let dir = tempfile::tempdir().expect("a directory");
        let (worktree, scratch) = (dir.path().join("tree"), dir.path().join("scratch"));
        fs::create_dir_all(worktree.join(".aider.tags.cache.v4")).expect("a directory");
        for (name, text) in [
            (".env", "A=1"),
            (".aider.conf.yml", "old"),
            ("main.py", "x"),
            (".aider.tags.cache.v4/c", ""),
        ] {
            fs::write(worktree.join(name), text).expect("a file");
        }
        std::os::unix::fs::symlink("/etc/passwd", worktree.join(".aider.chat.history.md"))
            .expect("a link");
        let hidden = Hidden::take(&worktree, &scratch).expect("they are hidden");
        let names = |dir: &Path| {
            let mut names: Vec<_> = fs::read_dir(dir)
                .expect("entries")
                .map(|e| e.expect("an entry").file_name())
                .collect();
            names.sort();
            names
        };
        assert_eq!(
            names(&worktree),
            ["main.py"],
            "the agent sees no configuration"
        );
        fs::write(worktree.join(".aider.conf.yml"), "new").expect("a file");
        fs::create_dir(worktree.join(".env")).expect("a directory");
        fs::write(worktree.join(".aider.input.history"), "new").expect("a file");
        hidden.put_back().expect("they are back");
        let expected = [
            ".aider.chat.history.md",
            ".aider.conf.yml",
            ".aider.tags.cache.v4",
            ".env",
            "main.py",
        ];
        assert_eq!(names(&worktree), expected, "the old names and no new one");
        assert_eq!(
            fs::read_to_string(worktree.join(".aider.conf.yml")).expect("a file"),
            "old",
            "unchanged"
        );
        assert_eq!(
            fs::read_to_string(worktree.join(".env")).expect("a file"),
            "A=1",
            "unchanged"
        );
        assert!(
            worktree.join(".aider.chat.history.md").is_symlink(),
            "still a link"
        );
    }

    #[test]
    fn a_new_env_file_is_a_change_like_any_other() {
        let dir = tempfile::tempdir().expect("a directory");
        let hidden =
            Hidden::take(dir.path(), &dir.path().join("scratch")).expect("nothing to hide");
        fs::write(dir.path().join(".env"), "A=1").expect("a file");
        hidden.put_back().expect("nothing to put back");
        assert!(dir.path().join(".env").exists(), "it stays");
    }
}
