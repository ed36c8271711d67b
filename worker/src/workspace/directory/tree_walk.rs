//! Looks at everything in a tree of any depth.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::{Directory, Entry, OPEN_AT_ONCE};

/// Looks at an entry, and says whether to look into it.
pub(crate) type Visit<'a> = dyn FnMut(&Directory, &Path, &Entry) -> io::Result<bool> + 'a;

/// The directories that a walk has not entered.
struct TreeWalk<'a> {
    /// They are too deep for now.
    later: &'a mut Vec<PathBuf>,
    mounted: &'a mut Vec<PathBuf>,
}

impl Directory {
    /// Calls `visit` with everything below, and the path from here. A directory comes before its
    /// contents; they are left out if `visit` returns false. Returns the directories where
    /// something is mounted, which are left out, too.
    ///
    /// # Errors
    /// Those of `visit` and of [`Self::enter`].
    pub(crate) fn walk(&self, visit: &mut Visit<'_>) -> io::Result<Vec<PathBuf>> {
        let (mut starts, mut mounted) = (vec![PathBuf::new()], Vec::new());
        while let Some(start) = starts.pop() {
            let (later, mounted) = (&mut starts, &mut mounted);
            match self.descend(&start) {
                Ok(directory) => {
                    let mut found = TreeWalk { later, mounted };
                    directory.walk_from(&start, OPEN_AT_ONCE, visit, &mut found)?;
                }
                Err(error) if error.kind() == io::ErrorKind::CrossesDevices => mounted.push(start),
                Err(error) => return Err(error),
            }
        }
        Ok(mounted)
    }

    fn walk_from(
        &self,
        start: &Path,
        levels: u32,
        visit: &mut Visit<'_>,
        found: &mut TreeWalk<'_>,
    ) -> io::Result<()> {
        for entry in self.entries()? {
            let path = start.join(&entry.name);
            if !visit(self, &path, &entry)? || entry.kind != FileType::Directory {
                continue;
            }
            if levels == 0 {
                found.later.push(path);
                continue;
            }
            match self.enter(&entry.name) {
                Ok(inner) => inner.walk_from(&path, levels - 1, visit, found)?,
                Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                    found.mounted.push(path);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
