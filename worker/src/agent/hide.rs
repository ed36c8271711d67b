//! Hides an agent's own configuration files, which a repository may contain, from the agent.
//!
//! They could redirect its calls, run commands, or stop every run. While the agent runs they are in
//! a directory of the attempt that it is not shown. Afterwards they are put back unchanged, and the
//! agent's files under those names are removed.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::workspace::Directory;

/// The hidden files, from [`Hidden::take`] to [`Hidden::put_back`].
#[derive(Debug)]
pub(super) struct Hidden {
    worktree: PathBuf,
    refuge: Directory,
    names: Vec<OsString>,
}

/// Aider reads these from the top of the repository, where it is also started.
pub(super) fn is_configuration(name: &[u8]) -> bool {
    name.starts_with(b".aider") || name == b".env"
}

impl Hidden {
    /// Moves the files to the directory `refuge`, which is emptied before.
    pub(super) fn take(worktree: &Path, refuge: &Path) -> io::Result<Self> {
        let refuge = Directory::open(refuge)?;
        refuge.empty()?;
        let tree = Directory::open(worktree)?;
        let mut names = Vec::new();
        for entry in tree.entries()? {
            if is_configuration(entry.name.as_encoded_bytes()) {
                tree.rename(&entry.name, &refuge)?;
                names.push(entry.name);
            }
        }
        Ok(Self {
            worktree: worktree.to_owned(),
            refuge,
            names,
        })
    }

    /// Puts the hidden files back. A new `.env` where no file was hidden is a normal change and
    /// stays. If the agent has replaced its worktree, nothing happens: the change will be refused.
    pub(super) fn put_back(self) -> io::Result<()> {
        let tree = match Directory::open(&self.worktree) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotADirectory
                        | io::ErrorKind::CrossesDevices
                        | io::ErrorKind::NotFound
                ) =>
            {
                return Ok(());
            }
            tree => tree?,
        };
        for entry in tree.entries()? {
            let name = entry.name;
            if name.as_encoded_bytes().starts_with(b".aider") || self.names.contains(&name) {
                tree.remove(&name)?;
            }
        }
        for name in &self.names {
            self.refuge.rename(name, &tree)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn hidden_files_come_back_as_they_were_and_new_ones_are_dropped() {
        let dir = tempfile::tempdir().expect("a directory");
        let (worktree, refuge) = (dir.path().join("tree"), dir.path().join("hidden"));
        fs::create_dir(&refuge).expect("a directory");
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
        let hidden = Hidden::take(&worktree, &refuge).expect("they are hidden");
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
        let (worktree, refuge) = (dir.path().join("tree"), dir.path().join("hidden"));
        for part in [&worktree, &refuge] {
            fs::create_dir(part).expect("a directory");
        }
        let hidden = Hidden::take(&worktree, &refuge).expect("nothing to hide");
        fs::write(worktree.join(".env"), "A=1").expect("a file");
        hidden.put_back().expect("nothing to put back");
        assert!(worktree.join(".env").exists(), "it stays");
    }
}
