//! Files that are laid over a checkout for one acceptance check.
//!
//! The checkout may contain whatever the agent and earlier checks left there. So no link is followed: a link or a file in
//! the place of a directory is replaced. The next [`Worktree::renew`](super::Worktree::renew) restores files of the
//! commit. No process of a check is alive meanwhile.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pool_core::source::RelativePath;

use super::disk::{private_directory, remove_any, write_new};

/// The files of an overlay: path in the repository, and content.
pub type Overlay = BTreeMap<RelativePath, String>;

/// What [`lay_over`] has made in a checkout. It stays there until [`Self::take_back`].
#[derive(Debug, Default)]
#[must_use = "the files stay in the checkout"]
pub struct LaidOver {
    /// Files, and the topmost new directories. In the order in which they were made.
    made: Vec<PathBuf>,
}

/// Writes the files into the checkout `tree`. What lies in the way is removed.
///
/// # Errors
/// If a file cannot be written, or `tree` is not a directory. Then nothing stays.
pub fn lay_over(tree: &Path, overlay: &Overlay) -> io::Result<LaidOver> {
    let mut laid = LaidOver::default();
    let written = overlay
        .iter()
        .try_for_each(|(path, text)| laid.add(tree, Path::new(path.as_str()), text));
    match written {
        Ok(()) => Ok(laid),
        Err(error) => laid.take_back(tree).and(Err(error)),
    }
}

impl LaidOver {
    /// Removes everything that was made, wherever the check has moved its directory.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub fn take_back(self, tree: &Path) -> io::Result<()> {
        let mut made = self.made.into_iter().rev();
        made.try_for_each(|path| {
            if stands_on_directories(tree, &path) {
                remove_any(&tree.join(path))
            } else {
                Ok(())
            }
        })
    }

    fn add(&mut self, tree: &Path, path: &Path, text: &str) -> io::Result<()> {
        if !is_directory(tree) {
            return Err(io::Error::other(format!(
                "{} is not a directory",
                tree.display()
            )));
        }
        let mut directory = PathBuf::new();
        let above = path.parent().unwrap_or(Path::new(""));
        for name in above {
            directory.push(name);
            if is_directory(&tree.join(&directory)) {
                continue;
            }
            remove_any(&tree.join(&directory))?;
            self.note(&directory);
            private_directory(&tree.join(&directory))?;
        }
        self.note(path);
        let file = tree.join(path);
        write_new(&file, text.as_bytes())?;
        if text.starts_with("#!") {
            fs::set_permissions(&file, Permissions::from_mode(0o755))?;
        }
        Ok(())
    }

    /// Notes a new path, unless it is below another new one.
    fn note(&mut self, path: &Path) {
        if !self.made.iter().any(|made| path.starts_with(made)) {
            self.made.push(path.to_owned());
        }
    }
}

/// Whether no directory above `path` is a link, down from the checkout itself.
fn stands_on_directories(tree: &Path, path: &Path) -> bool {
    let mut above = path
        .ancestors()
        .skip(1)
        .filter(|directory| !directory.as_os_str().is_empty());
    is_directory(tree) && above.all(|directory| is_directory(&tree.join(directory)))
}

fn is_directory(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.is_dir())
}

#[cfg(test)]
#[path = "overlay_tests.rs"]
mod tests;
