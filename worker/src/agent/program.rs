//! Finds the file of the program that the pool file names.
//!
//! A bare name is looked up here, in the worker's own `PATH`. The agent's `PATH` might lack it. A
//! relative path would be resolved in the worktree, where anyone can put a file with that name.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pool_core::result::{ErrorKind, TaskFailure};

/// The absolute path of a program.
///
/// # Errors
/// [`ErrorKind::AgentConfig`] if it does not exist or is not executable.
pub(super) fn find(program: &Path, path: Option<OsString>) -> Result<PathBuf, TaskFailure> {
    let missing = |where_: String| {
        let message = format!(
            "the agent's program {} {where_}; see section `agent` of the pool file",
            program.display()
        );
        TaskFailure::new(ErrorKind::AgentConfig, message)
    };
    if program.as_os_str().as_encoded_bytes().contains(&b'/') {
        let absolute = std::path::absolute(program).map_err(|error| missing(error.to_string()))?;
        return if is_program(&absolute) {
            Ok(absolute)
        } else {
            Err(missing("is not an executable file".to_owned()))
        };
    }
    let path = path.unwrap_or_default();
    let found = std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(program));
    found
        .into_iter()
        .find(|file| is_program(file))
        .ok_or_else(|| missing("was not found in PATH".to_owned()))
}

/// Whether this is an executable file.
pub(crate) fn is_program(file: &Path) -> bool {
    file.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The worker's own `PATH`, without directories that are relative.
pub(crate) fn absolute_path_entries(path: &OsStr) -> OsString {
    let entries = std::env::split_paths(path).filter(|dir| dir.is_absolute());
    // Entries of a split `PATH` contain no separator, so joining cannot fail.
    std::env::join_paths(entries).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_looked_up_in_absolute_directories_only() {
        let found = find(Path::new("sh"), Some("relative:/usr/bin:/bin".into()))
            .expect("every machine has sh");
        assert!(found.is_absolute(), "{} is absolute", found.display());
        let error = find(Path::new("sh"), Some("usr/bin:.".into()))
            .expect_err("a relative directory does not count");
        assert!(
            error.message.contains("PATH"),
            "it says where it was looked for: {}",
            error.message
        );
        find(Path::new("/etc/passwd"), None).expect_err("it is not executable");
        assert_eq!(
            absolute_path_entries(OsStr::new("a:/b::./c:/d")),
            "/b:/d",
            "only absolute ones stay"
        );
    }
}
