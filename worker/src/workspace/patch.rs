//! The patch of a change, as a result carries it: text in UTF-8, or None if it is too large.

use std::collections::HashMap;
use std::fs;

use pool_core::result::MAX_PATCH_BYTES;

use super::changes::DiffEntry;
use super::disk::private_directory;
use super::git::GitError;
use super::quote::{attribute_pattern, shown};
use super::worktree::Worktree;

/// The line with which git begins the patch of a file. Lines of a file begin with another
/// character.
const BEGIN: &[u8] = b"diff --git ";

impl Worktree {
    /// The patch. None if it is larger than a result may carry.
    pub(super) async fn patch(&self, entries: &[DiffEntry]) -> Result<Option<String>, GitError> {
        let Some(bytes) = self.diff().await? else {
            return Ok(None);
        };
        let bytes = match String::from_utf8(bytes) {
            Ok(text) => return Ok(Some(text)),
            Err(error) => error.into_bytes(),
        };
        // A file in another encoding counts as binary, so that its patch is ASCII. If its part is
        // not found, all files do.
        let binary = in_other_encodings(&bytes, entries);
        for attributes in [binary, "* -diff\n".to_owned()] {
            if let Some(text) = self.diff_with(&attributes).await? {
                return Ok(Some(text));
            }
        }
        Ok(None)
    }

    /// The patch under these attributes. None if it is too large or no text in UTF-8.
    async fn diff_with(&self, attributes: &str) -> Result<Option<String>, GitError> {
        let info = self.git_dir().join("info");
        private_directory(&info)?;
        fs::write(info.join("attributes"), attributes)?;
        let bytes = self.diff().await;
        fs::remove_file(info.join("attributes"))?;
        Ok(bytes?.and_then(|bytes| String::from_utf8(bytes).ok()))
    }

    async fn diff(&self) -> Result<Option<Vec<u8>>, GitError> {
        let args = [
            "diff-index",
            "--cached",
            "--patch",
            "--binary",
            "--full-index",
            // A file that was only moved does not count with its size.
            "--find-renames",
            "--no-ext-diff",
            "--no-textconv",
            "--no-color",
            self.base(),
            "--",
        ];
        match self.git().output_limit(MAX_PATCH_BYTES).run(&args).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(GitError::TooMuch { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Attributes that make each file binary whose part of the patch is no text in UTF-8.
fn in_other_encodings(patch: &[u8], entries: &[DiffEntry]) -> String {
    let known: HashMap<String, &[u8]> = entries
        .iter()
        .flat_map(|entry| {
            let name = |side: &str| shown(&[side.as_bytes(), entry.path.as_slice()].concat());
            [(name("a/"), &entry.path[..]), (name("b/"), &entry.path[..])]
        })
        .collect();
    let paths = parts(patch)
        .into_iter()
        .filter(|part| std::str::from_utf8(part).is_err())
        .flat_map(named_in)
        .filter_map(|name| known.get(name));
    paths
        .map(|path| format!("{} -diff\n", attribute_pattern(path)))
        .collect()
}

/// The parts of a patch, one for each file.
fn parts(patch: &[u8]) -> Vec<&[u8]> {
    let (mut begins, mut at) = (Vec::new(), 0);
    for line in patch.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(BEGIN) {
            begins.push(at);
        }
        at += line.len();
    }
    let ends = begins.iter().copied().skip(1).chain([patch.len()]);
    begins
        .iter()
        .zip(ends)
        .map(|(begin, end)| &patch[*begin..end])
        .collect()
}

/// The names in the lines `--- a/name` and `+++ b/name` of a part, as git shows them.
fn named_in(part: &[u8]) -> Vec<&str> {
    let header = part
        .split(|byte| *byte == b'\n')
        .take_while(|line| !line.starts_with(b"@@"));
    let names = header.filter_map(|line| {
        let name = line
            .strip_prefix(b"--- ")
            .or_else(|| line.strip_prefix(b"+++ "))?;
        // Git ends a name that contains a space with a tab.
        std::str::from_utf8(name.strip_suffix(b"\t").unwrap_or(name)).ok()
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::super::changes::DiffKind;
    use super::*;

    #[test]
    fn only_the_files_in_other_encodings_become_binary() {
        let entry = |path: &[u8]| DiffEntry {
            kind: DiffKind::File,
            object: String::new(),
            path: path.to_vec(),
        };
        let entries = [
            entry(b"good"),
            entry(b"a b*"),
            entry(b"caf\xc3\xa9"),
            entry(b"gone"),
        ];
        let patch = b"diff --git a/good b/good\n--- a/good\n+++ b/good\n@@ -1 +1 @@\n-x\n+caf\xc3\xa9\n\
            diff --git a/a b* b/a b*\n--- a/a b*\t\n+++ b/a b*\t\n@@ -1 +1 @@\n-diff --git a/good b/good\n+\xe9\n\
            diff --git \"a/caf\\303\\251\" \"b/caf\\303\\251\"\n--- /dev/null\n+++ \"b/caf\\303\\251\"\n@@ -0,0 +1 @@\n+\xe9\n\
            diff --git a/gone b/gone\n--- a/gone\n+++ /dev/null\n@@ -1 +0,0 @@\n-\xe9\n";
        let attributes = in_other_encodings(patch, &entries);
        let lines: std::collections::BTreeSet<&str> = attributes.lines().collect();
        let expected = [
            r#""/a b\\*" -diff"#,
            r#""/caf\303\251" -diff"#,
            r#""/gone" -diff"#,
        ];
        assert_eq!(lines, expected.into(), "each by a pattern of its own");
    }
}
