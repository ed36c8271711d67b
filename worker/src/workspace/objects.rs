//! The git objects of an attempt. They are in a directory of the attempt, which borrows from the
//! repository. They go to the repository only with a commit that counts, so an attempt without one
//! leaves nothing there.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use pool_broker::fault::{Point, point};
use pool_core::result::{ErrorKind, TaskFailure};
use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::commit::attempt_ref;
use super::disk::{failure, off_the_runtime, remove_tree};
use super::git::{GitCommand, GitError};
use super::layout::Origin;
use super::quote::quoted;
use super::worktree::Worktree;

/// Git itself keeps a received pack with this number of objects as a pack.
const PACKED_FROM: u32 = 100;
/// How often a commit is handed over when someone removes objects at the same moment.
const TRIES: u32 = 3;

impl Worktree {
    /// The objects that only this attempt has.
    pub(super) fn own_objects(&self) -> PathBuf {
        self.git_dir().join("objects")
    }

    /// Keeps the base commit from garbage collection during the attempt, even if its branch is
    /// removed. With this the worker finds out whether it can write to the repository.
    ///
    /// # Errors
    /// [`ErrorKind::Repository`] if the worker may not write there, [`ErrorKind::Workspace`] if git
    /// fails.
    pub async fn keep_base(&self) -> Result<(), TaskFailure> {
        let objects = self.origin().repository.join("objects");
        if let Some(closed) = off_the_runtime(move || first_closed(&objects))
            .await
            .map_err(|error| failure("cannot look at the objects of the repository", error))?
        {
            return Err(self.not_writable(&closed.display().to_string()));
        }
        match self.set_attempt_ref(self.base()).await {
            Ok(()) => {
                self.keep_base_until_removal(true);
                Ok(())
            }
            Err(GitError::Failed { said, .. }) if is_closed(&said) => Err(self.not_writable(&said)),
            Err(error) => Err(failure("cannot keep the base commit", error)),
        }
    }

    fn not_writable(&self, what: &str) -> TaskFailure {
        let message = format!(
            "the worker cannot write to the repository {} ({what}): give the worker's user access, or set `auto_commit: \
             false`, which needs none",
            self.origin().repository.display()
        );
        TaskFailure::new(ErrorKind::Repository, message)
    }

    /// Copies the commit and its new objects to the repository and sets the attempt's ref there.
    pub(super) async fn hand_over(&self, commit: &str) -> Result<(), GitError> {
        let range = format!("{commit}\n^{}\n", self.base());
        let prefix = self.git_dir().join("change");
        let args = ["pack-objects", "--revs", "--quiet"].map(OsString::from);
        let args: Vec<OsString> = args.into_iter().chain([prefix.clone().into()]).collect();
        let name = self.git().input(range.clone().into_bytes()).line(&args);
        let mut pack = prefix.into_os_string();
        pack.push(format!("-{}.pack", name.await?));
        let pack = PathBuf::from(pack);
        for _ in 1..TRIES {
            self.hand_over_once(&pack, commit).await?;
            if self.is_complete(&range).await {
                return Ok(());
            }
        }
        // Now the ref keeps what the attempts before may have lost.
        self.hand_over_once(&pack, commit).await
    }

    async fn hand_over_once(&self, pack: &Path, commit: &str) -> Result<(), GitError> {
        let args: &[&str] = if object_count(pack)? < PACKED_FROM {
            &["unpack-objects", "-q"]
        } else {
            &["index-pack", "--stdin"]
        };
        let repository = self.origin().git.at(&self.origin().repository);
        repository.input_file(File::open(pack)?).run(args).await?;
        point(Point::ObjectsMoved);
        self.set_attempt_ref(commit).await
    }

    /// Whether the repository has everything between the base and the commit. A `git gc
    /// --prune=now` at the wrong moment removes what the ref did not protect yet.
    async fn is_complete(&self, range: &str) -> bool {
        let repository = self.origin().git.at(&self.origin().repository);
        let args = ["rev-list", "--objects", "--quiet", "--stdin"];
        let looked = repository.input(range.into()).run(&args).await;
        looked.is_ok()
    }

    async fn set_attempt_ref(&self, commit: &str) -> Result<(), GitError> {
        let name = attempt_ref(self.attempt());
        let repository = self.origin().git.at(&self.origin().repository);
        let args = ["update-ref", "--no-deref", &name, commit];
        repository.run(&args).await.map(drop)
    }

    /// Removes the objects that earlier runs have made.
    pub(super) async fn drop_own_objects(&self) -> io::Result<()> {
        let objects = self.own_objects();
        off_the_runtime(move || {
            remove_tree(&objects)?;
            super::disk::private_directory(&objects)
        })
        .await
    }
}

/// Lets git read the repository's objects, besides those of its own git directory.
pub(super) fn borrowing<'a>(git: GitCommand<'a>, origin: &Origin) -> GitCommand<'a> {
    let objects = origin.repository.join("objects");
    let quoted = quoted(objects.as_os_str().as_encoded_bytes());
    git.env("GIT_ALTERNATE_OBJECT_DIRECTORIES", OsString::from(quoted))
}

/// The number of objects in a pack: the third number of its header, after `PACK` and the version.
fn object_count(pack: &Path) -> io::Result<u32> {
    let mut header = [0; 12];
    File::open(pack)?.read_exact(&mut header)?;
    let [.., a, b, c, d] = header;
    Ok(u32::from_be_bytes([a, b, c, d]))
}

/// The first directory of objects in which the worker may not make files. Some repositories have
/// directories of several users.
fn first_closed(objects: &Path) -> io::Result<Option<PathBuf>> {
    let mut directories = vec![objects.to_owned()];
    for entry in std::fs::read_dir(objects)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == "pack" || name.len() == 2 {
            directories.push(entry.path());
        }
    }
    let rights = Access::WRITE_OK | Access::EXEC_OK;
    let is_closed = |dir: &PathBuf| accessat(CWD, dir, rights, AtFlags::EACCESS).is_err();
    Ok(directories.into_iter().find(is_closed))
}

/// Whether git was not allowed to write.
fn is_closed(said: &str) -> bool {
    ["Permission denied", "Read-only file system"]
        .iter()
        .any(|words| said.contains(words))
}
