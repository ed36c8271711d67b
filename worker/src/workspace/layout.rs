//! The worker's git directory of one worktree: what is taken over from the repository, and what is not.

use std::fs;
use std::io;
use std::path::Path;

use super::disk::private_directory;
use super::git::GitError;
use super::worktree::Origin;

/// The settings of the repository that its objects depend on, as lines of a configuration file.
pub(super) async fn repository_settings(origin: &Origin) -> Result<String, GitError> {
    let listed = origin.git.at(&origin.repository).run(&["config", "--local", "--list", "-z"]).await?;
    let listed = String::from_utf8_lossy(&listed).to_lowercase();
    let mut lines = "[core]\n\tbare = false\n\tfilemode = true\n".to_owned();
    let mut version = 0;
    for entry in listed.split('\0') {
        match entry.split_once('\n') {
            Some(("extensions.objectformat", "sha256")) => {
                version = 1;
                lines.push_str("[extensions]\n\tobjectformat = sha256\n");
            }
            Some(("core.sharedrepository", value)) if value.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                lines.push_str(&format!("[core]\n\tsharedRepository = {value}\n"));
            }
            Some(_) | None => {}
        }
    }
    Ok(format!("{lines}[core]\n\trepositoryformatversion = {version}\n"))
}

/// Makes the git directory without `git init`, which would take over templates.
pub(super) fn write_git_dir(git_dir: &Path, origin: &Origin, settings: &str) -> io::Result<()> {
    private_directory(&git_dir.join("refs"))?;
    fs::write(git_dir.join("HEAD"), format!("{}\n", origin.base))?;
    let identity =
        format!("[user]\n\tname = {:?}\n\temail = {:?}\n", origin.author.author_name, origin.author.author_email);
    fs::write(git_dir.join("config"), format!("{settings}{identity}"))?;
    match fs::copy(origin.repository.join("shallow"), git_dir.join("shallow")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}
