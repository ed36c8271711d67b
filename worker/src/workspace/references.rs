//! The refs that agents and checks see: the tags and the base branch, for `git describe` and `git
//! diff main`. They are copies, so nobody changes the repository through them.

use super::git::GitError;
use super::layout::Origin;

/// One line for each ref, and one for the commit of an annotated tag.
const FORMAT: &str =
    "--format=%(objectname) %(refname)%(if)%(*objectname)%(then)%0a^%(*objectname)%(end)";

/// The file `packed-refs` of a checkout.
pub(super) async fn packed_refs(origin: &Origin) -> Result<Vec<u8>, GitError> {
    let tags = origin
        .git
        .at(&origin.repository)
        .run(&["for-each-ref", FORMAT, "refs/tags"])
        .await?;
    let mut text = b"# pack-refs with: peeled fully-peeled sorted \n".to_vec();
    for branch in &origin.branches {
        // The branch may have moved on since the base was read.
        text.extend_from_slice(format!("{} {branch}\n", origin.base).as_bytes());
    }
    text.extend(tags);
    Ok(text)
}
