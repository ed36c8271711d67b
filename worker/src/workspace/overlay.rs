//! Files that are laid over a checkout for one acceptance check.
//!
//! The checkout may contain whatever the agent and earlier checks left there. So no link is followed: a link or a file in
//! the place of a directory is replaced. The next [`Worktree::renew`](super::Worktree::renew) restores files of the
//! commit. No process of a check is alive meanwhile.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pool_core::source::RelativePath;

use super::directory::Directory;

/// The files of an overlay: path in the repository, and content.
pub type Overlay = BTreeMap<RelativePath, String>;

/// The files that [`lay_over`] has made in a checkout. They stay there until [`Self::take_back`].
#[derive(Debug, Default)]
#[must_use = "the files stay in the checkout"]
pub struct LaidOver {
    /// Files, and the topmost new directories. In the order in which they were made.
    made: Vec<PathBuf>,
}

/// Writes the files into the checkout `tree`. Anything in the way is removed.
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
    /// Removes everything that was made, except for files that the check has moved.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub fn take_back(self, tree: &Path) -> io::Result<()> {
        let tree = match Directory::open(tree) {
            Err(error) if is_gone(&error) => return Ok(()),
            tree => tree?,
        };
        let mut made = self.made.into_iter().rev();
        made.try_for_each(|path| match tree.find(&path)? {
            Some((directory, name)) => directory.remove(name),
            None => Ok(()),
        })
    }

    fn add(&mut self, tree: &Path, path: &Path, text: &str) -> io::Result<()> {
        let mut here = Directory::open(tree)?;
        let mut directory = PathBuf::new();
        for name in path.parent().unwrap_or(Path::new("")) {
            directory.push(name);
            here = match here.enter(name) {
                Err(error) if is_gone(&error) => {
                    self.note(&directory);
                    here.ensure(name)?;
                    here.enter(name)?
                }
                inner => inner?,
            };
        }
        self.note(path);
        let mut file = here.create(path.file_name().unwrap_or_default())?;
        file.write_all(text.as_bytes())?;
        if text.starts_with("#!") {
            file.set_permissions(Permissions::from_mode(0o755))?;
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

/// Whether there is no directory: nothing, or something else.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

#[cfg(test)]
#[path = "overlay_tests.rs"]
mod tests;
