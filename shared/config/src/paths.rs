//! Paths of the pool file.

use std::path::{Component, Path, PathBuf};

/// An absolute path without `.` and `..`; relative ones start from the directory of the pool file.
pub(super) fn resolve(base: &Path, path: &str) -> PathBuf {
    let mut resolved = PathBuf::new();
    for part in base.join(path).components() {
        match part {
            Component::ParentDir => {
                resolved.pop();
            }
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => {
                resolved.push(part);
            }
        }
    }
    resolved
}
