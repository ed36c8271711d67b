//! Makes a patch from a worktree.

use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};

use pool_core::result::{ErrorKind, TaskFailure};

use super::changes::{
    DiffEntry, DiffKind, WorktreeChanges, display, parse_raw, split_paths, stays_inside,
};
use super::directory::Directory;
use super::disk::{failure, off_the_runtime};
use super::git::{GitError, path_of};
use super::survey::{Special, is_gits, replaced_by, special_files};
use super::worktree::Worktree;

/// Why a change is refused.
#[derive(Debug, thiserror::Error)]
enum CollectError {
    /// A problem of the machine: another attempt may not have it.
    #[error("{0}")]
    Git(#[from] GitError),
    /// A problem of the change. The text names the path and the next step.
    #[error("{0}")]
    Refused(String),
    /// The changed files have more bytes than the pool file allows.
    #[error("{0}")]
    TooLarge(String),
}

impl From<io::Error> for CollectError {
    fn from(error: io::Error) -> Self {
        Self::Git(error.into())
    }
}

impl Worktree {
    /// Collects all changes since the base commit, except in files that the repository ignores.
    /// After a refusal the worktree can only be reset or removed.
    ///
    /// # Errors
    /// [`ErrorKind::Workspace`] if git fails. [`ErrorKind::ChangeRefused`] if the change contains
    /// something that cannot be kept: a repository, a pipe, a file that git cannot store. A
    /// symbolic link that could lead out of the worktree is refused, too.
    pub async fn collect(&self) -> Result<WorktreeChanges, TaskFailure> {
        self.collect_at_most(u64::MAX).await
    }

    /// The same for changed files of at most `max_bytes` together. Larger ones do not even get into
    /// the repository's objects.
    ///
    /// # Errors
    /// Those of [`Self::collect`]. [`ErrorKind::Policy`] if the files are larger.
    pub async fn collect_at_most(&self, max_bytes: u64) -> Result<WorktreeChanges, TaskFailure> {
        let collected = self.try_collect(max_bytes).await;
        collected.map_err(|problem| match problem {
            CollectError::Git(error) => failure("cannot collect the changes", error),
            CollectError::Refused(why) => TaskFailure::new(
                ErrorKind::ChangeRefused,
                format!("the change is refused: {why}"),
            ),
            CollectError::TooLarge(why) => TaskFailure::new(ErrorKind::Policy, why),
        })
    }

    async fn try_collect(&self, max_bytes: u64) -> Result<WorktreeChanges, CollectError> {
        self.survey().await?;
        self.stage(max_bytes).await?;
        let args = [
            "diff-index",
            "--cached",
            "--raw",
            "-z",
            "--no-renames",
            "--no-abbrev",
            self.base(),
            "--",
        ];
        let raw = self.git().run(&args).await?;
        let entries = parse_raw(&raw)
            .ok_or_else(|| io::Error::other("git printed output that the worker cannot read"))?;
        for entry in &entries {
            self.check(entry).await?;
        }
        if entries.is_empty() {
            return Ok(WorktreeChanges::default());
        }
        // An earlier run may have changed a part of them.
        let changed = entries.iter().map(|entry| entry.path.clone()).collect();
        self.limit_size(changed, max_bytes).await?;
        Ok(WorktreeChanges {
            files: entries.iter().map(|entry| display(&entry.path)).collect(),
            patch: self.patch(&entries).await?,
        })
    }

    /// Refuses special files before git sees them. Git would block on some and skip the others. An
    /// ignored path may be anything.
    async fn survey(&self) -> Result<(), CollectError> {
        let tree = self.path();
        if let Some(what) = replaced_by(&tree)? {
            return refused(format!(
                "the agent put {what} in the place of its worktree: it must leave its directory there"
            ));
        }
        let special = off_the_runtime(move || special_files(&tree, is_gits)).await?;
        let opened = special.iter().find(|special| special.is_opened_by_git());
        let special = match opened {
            None if special.is_empty() => None,
            None => self.first_not_ignored(&special).await?,
            Some(opened) => Some(opened),
        };
        special.map_or(Ok(()), |Special { path, what }| {
            let path = path.display();
            refused(format!(
                "{path} is {what}, which git cannot keep: remove it, or ignore it in .gitignore"
            ))
        })
    }

    async fn first_not_ignored<'a>(
        &self,
        special: &'a [Special],
    ) -> Result<Option<&'a Special>, GitError> {
        let mut input = Vec::new();
        for special in special {
            input.extend_from_slice(special.path.as_os_str().as_encoded_bytes());
            input.push(0);
        }
        let ignored = match self
            .git()
            .input(input)
            .run(&["check-ignore", "-z", "--stdin"])
            .await
        {
            Ok(ignored) => split_paths(&ignored),
            // Status 1 means that none is ignored. With any other status the file is inside a
            // submodule, where git does not look.
            Err(GitError::Failed { .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        let is_ignored =
            |special: &&Special| ignored.iter().any(|path| path_of(path) == special.path);
        Ok(special.iter().find(|special| !is_ignored(special)))
    }

    /// Puts everything that differs from the index into it. Only commands that run no git inside
    /// submodules are used, because an agent can make a submodule with its own configuration.
    async fn stage(&self, max_bytes: u64) -> Result<(), CollectError> {
        let args = [
            "ls-files",
            "-z",
            "--modified",
            "--others",
            "--exclude-standard",
        ];
        let paths = split_paths(&self.git().run(&args).await?);
        if let Some(inner) = paths.iter().find(|path| path.ends_with(b"/")) {
            let inner = display(inner);
            return refused(format!(
                "{inner} is a git repository of its own, but only files can be kept: remove {inner}.git, or ignore the \
                 directory in .gitignore"
            ));
        }
        if paths.is_empty() {
            return Ok(());
        }
        self.limit_size(paths.clone(), max_bytes).await?;
        let mut input = paths.join(&0);
        input.push(0);
        let tree = self.path();
        let open = move || make_all_readable(&Directory::open(&tree)?, &paths);
        off_the_runtime(open).await?;
        let update = self.git().input(input).run(&[
            "update-index",
            "-z",
            "--add",
            "--remove",
            "--replace",
            "--stdin",
        ]);
        match update.await {
            Ok(_) => Ok(()),
            Err(GitError::Failed { said, .. }) if is_of_the_change(&said) => Err(
                CollectError::Refused(format!("git cannot keep a file as it is: {said}")),
            ),
            Err(error) => Err(error.into()),
        }
    }

    /// Refuses files that are too large together.
    async fn limit_size(&self, paths: Vec<Vec<u8>>, max_bytes: u64) -> Result<(), CollectError> {
        let tree = self.path();
        let measure = move || {
            let mut sizes: Vec<(u64, String)> = Vec::new();
            for path in paths {
                let found = tree.join(path_of(&path)).symlink_metadata();
                let size = found.ok().filter(Metadata::is_file).map(|file| file.len());
                sizes.extend(size.map(|size| (size, display(&path))));
            }
            let all = sizes
                .iter()
                .fold(0, |all: u64, (size, _)| all.saturating_add(*size));
            Ok((all, sizes.into_iter().max().unwrap_or_default()))
        };
        let (all, (largest, path)) = off_the_runtime(measure).await?;
        if all <= max_bytes {
            return Ok(());
        }
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        Err(CollectError::TooLarge(format!(
            "the changed files have {} MiB together, and `patch.max_mib` of the pool file allows {} MiB; the largest is \
             {path} ({} MiB): leave it out, ignore it in .gitignore, or raise `patch.max_mib`",
            mib(all),
            mib(max_bytes),
            mib(largest)
        )))
    }

    async fn check(&self, entry: &DiffEntry) -> Result<(), CollectError> {
        let path = display(&entry.path);
        match entry.kind {
            DiffKind::File | DiffKind::Removed => Ok(()),
            DiffKind::Submodule => refused(format!(
                "{path} is a submodule, but only files can be changed: leave it unchanged"
            )),
            DiffKind::SymbolicLink => {
                let target = self.git().run(&["cat-file", "blob", &entry.object]).await?;
                if stays_inside(&path_of(&entry.path), &path_of(&target)) {
                    return Ok(());
                }
                let target = display(&target);
                refused(format!(
                    "the link {path} -> {target} could lead out of the repository: make it a relative one to a path inside"
                ))
            }
        }
    }
}

/// Git does not read a file whose owner may not. `paths` are sorted, so those in the same directory
/// follow each other.
fn make_all_readable(tree: &Directory, paths: &[Vec<u8>]) -> io::Result<()> {
    let mut open: Option<(PathBuf, Option<Directory>)> = None;
    for path in paths.iter().map(|path| path_of(path)) {
        let above = path.parent().unwrap_or(Path::new(""));
        if open.as_ref().is_none_or(|(known, _)| known != above) {
            let found = tree.find(&path)?.map(|(directory, _)| directory);
            open = Some((above.to_owned(), found));
        }
        if let (Some((_, Some(directory))), Some(name)) = (&open, path.file_name()) {
            directory.make_readable(name)?;
        }
    }
    Ok(())
}

fn refused<T>(why: String) -> Result<T, CollectError> {
    Err(CollectError::Refused(why))
}

/// Whether git refused a file because of its name or encoding, and not because of the machine.
fn is_of_the_change(said: &str) -> bool {
    const OF_THE_MACHINE: [&str; 4] = [
        "failed to insert into database",
        "No space left",
        "Input/output error",
        ".lock",
    ];
    const OF_THE_CHANGE: [&str; 4] = [
        "Unable to process path",
        "failed to encode",
        "BOM is",
        "Invalid path",
    ];
    let says = |words: &[&str]| words.iter().any(|words| said.contains(words));
    says(&OF_THE_CHANGE) && !says(&OF_THE_MACHINE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_no_fault_of_the_change() {
        for said in [
            "error: .GIT/config: cannot add to the index; fatal: Unable to process path .GIT/config",
            "fatal: failed to encode 'wrong.txt' from UTF-16 to UTF-8",
        ] {
            assert!(is_of_the_change(said), "{said}");
        }
        for said in [
            "error: unable to create temporary file: No space left on device; error: a: failed to insert into database; \
             fatal: Unable to process path a",
            "fatal: Unable to create '/w/git/index.lock': File exists.",
            "it said nothing",
        ] {
            assert!(!is_of_the_change(said), "{said}");
        }
    }
}
