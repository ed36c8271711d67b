//! Hides links that lead out of a checkout.

use std::path::Path;

use rustix::fs::FileType;

use super::changes::lexically_outside;
use super::directory::Directory;
use super::git::{GitCommand, GitError, path_of};

/// Removes links that lead out of the checkout, because an edit would change other files through
/// them. Makes git skip them, and returns their paths. `git` returns a command on the checkout and
/// its index.
pub(super) async fn hide_links_that_lead_outside<'a>(
    checkout: &Path,
    git: impl Fn() -> GitCommand<'a>,
) -> Result<Vec<Vec<u8>>, GitError> {
    let (tree, opened) = (checkout.canonicalize()?, Directory::open(checkout)?);
    let mut hidden = Vec::new();
    for entry in git()
        .run(&["ls-files", "-t", "--stage", "-z"])
        .await?
        .split(|byte| *byte == 0)
    {
        let (hidden_before, entry) = (entry.starts_with(b"S "), entry.get(2..).unwrap_or_default());
        let Some(path) = entry
            .strip_prefix(b"120000 ")
            .and_then(|rest| rest.splitn(2, |byte| *byte == b'\t').nth(1))
        else {
            continue;
        };
        let link = path_of(path);
        let Some((above, name)) = opened.find(&link)? else {
            continue;
        };
        if hidden_before {
            // Git before 2.36 has restored it, or a check has made it.
            above.remove(name)?;
        }
        if above.kind(name)? != Some(FileType::Symlink) {
            continue;
        }
        let target = above.read_link(name)?.unwrap_or_default();
        let resolved_outside = tree
            .join(&link)
            .canonicalize()
            .is_ok_and(|target| !target.starts_with(&tree));
        if target.is_absolute() || resolved_outside || lexically_outside(&link, &target) {
            above.remove(name)?;
            hidden.push(path.to_vec());
        }
    }
    if !hidden.is_empty() {
        let mut input = hidden.join(&0);
        input.push(0);
        git()
            .input(input)
            .run(&["update-index", "-z", "--skip-worktree", "--stdin"])
            .await?;
    }
    Ok(hidden)
}
