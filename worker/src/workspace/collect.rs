//! From a worktree to a patch.

use std::fs;
use std::io;

use pool_shared::result::{MAX_PATCH_BYTES, TaskFailure};

use super::changes::{Changes, Entry, Kind, display, parse_raw, split_paths, stays_inside};
use super::disk::private_directory;
use super::git::{GitError, path_of};
use super::worktree::{Worktree, failure};

impl Worktree {
    /// Takes in what has changed since the base commit, as far as the repository does not ignore it. After a refusal the
    /// worktree can only be reset or removed.
    ///
    /// # Errors
    /// [`ErrorKind::Workspace`] when git fails, or when a change must not be kept: a symbolic link that could lead out of
    /// the worktree, or a repository inside it.
    pub async fn collect(&self) -> Result<Changes, TaskFailure> {
        self.stage().await.map_err(|error| failure("cannot collect the changes", error))?;
        let args = ["diff-index", "--cached", "--raw", "-z", "--no-renames", "--no-abbrev", self.base(), "--"];
        let raw = self.git().run(&args).await.map_err(|error| failure("cannot collect the changes", error))?;
        let entries = parse_raw(&raw).ok_or_else(|| failure("cannot collect the changes", "git printed nonsense"))?;
        for entry in &entries {
            self.check(entry).await.map_err(|problem| failure("the change is refused", problem))?;
        }
        if entries.is_empty() {
            return Ok(Changes::default());
        }
        let patch = self.patch().await.map_err(|error| failure("cannot make the patch", error))?;
        Ok(Changes { files: entries.iter().map(|entry| display(&entry.path)).collect(), patch })
    }

    /// Puts everything that differs from the index into it. Only commands that run no git inside of submodules are used,
    /// because an agent can make one with a configuration of its own.
    async fn stage(&self) -> Result<(), GitError> {
        let args = ["ls-files", "-z", "--modified", "--others", "--exclude-standard"];
        let paths = split_paths(&self.git().run(&args).await?);
        if let Some(inner) = paths.iter().find(|path| path.ends_with(b"/")) {
            let problem = format!("{} is a git repository of its own, and only files can be kept", display(inner));
            return Err(io::Error::other(problem).into());
        }
        if paths.is_empty() {
            return Ok(());
        }
        let mut input = paths.join(&0);
        input.push(0);
        self.git().input(input).run(&["update-index", "-z", "--add", "--remove", "--replace", "--stdin"]).await?;
        Ok(())
    }

    async fn check(&self, entry: &Entry) -> Result<(), String> {
        match entry.kind {
            Kind::File | Kind::Removed => Ok(()),
            Kind::Submodule => Err(format!("{} is a submodule, and only files can be changed", display(&entry.path))),
            Kind::SymbolicLink => {
                let target = self.git().run(&["cat-file", "blob", &entry.object]).await.map_err(|e| e.to_string())?;
                if stays_inside(&path_of(&entry.path), &path_of(&target)) {
                    return Ok(());
                }
                Err(format!(
                    "the link {} -> {} could lead out of the repository",
                    display(&entry.path),
                    display(&target)
                ))
            }
        }
    }

    /// None when it is larger than a result may carry.
    async fn patch(&self) -> Result<Option<String>, GitError> {
        if let Some(bytes) = self.diff().await? {
            if let Ok(text) = String::from_utf8(bytes) {
                return Ok(Some(text));
            }
        } else {
            return Ok(None);
        }
        // A file in another encoding: as binary, its patch is ASCII.
        let info = self.git_dir().join("info");
        private_directory(&info)?;
        fs::write(info.join("attributes"), "* -diff\n")?;
        let bytes = self.diff().await;
        fs::remove_file(info.join("attributes"))?;
        Ok(bytes?.and_then(|bytes| String::from_utf8(bytes).ok()))
    }

    async fn diff(&self) -> Result<Option<Vec<u8>>, GitError> {
        let args = ["diff-index", "--cached", "--patch", "--binary", "--full-index", "--no-renames", "--no-ext-diff"];
        let args: Vec<&str> = args.into_iter().chain(["--no-textconv", "--no-color", self.base(), "--"]).collect();
        match self.git().output_limit(MAX_PATCH_BYTES).run(&args).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(GitError::TooMuch { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
