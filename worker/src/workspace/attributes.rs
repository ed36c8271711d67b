//! Changes that reach files through git attributes.
//!
//! Attributes decide about line ends, encodings and keywords in a checkout. So with a change of
//! `.gitattributes` an agent also changes what a check reads in other files, without touching them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use pool_core::result::TaskFailure;

use super::WorktreeChanges;
use super::changes::{display, split_paths};
use super::disk::failure;
use super::git::{GitCommand, GitError};
use super::worktree::Worktree;

/// The name of the files in which git finds attributes.
pub(super) const ATTRIBUTES: &str = ".gitattributes";

/// The first file that gets other attributes from a changed file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttributeChange {
    pub path: String,
    /// The first attribute that differs.
    pub attribute: String,
    /// The changed file that sets the attributes.
    pub source: String,
}

/// The attributes of files, by path and name.
type Attributes = BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>>;

impl Worktree {
    /// For each changed file with attributes: the first file that it gives other attributes, of those for
    /// which `matters` returns true. Attributes come from the index, as in a new checkout.
    ///
    /// # Errors
    /// [`ErrorKind::Workspace`](pool_core::result::ErrorKind::Workspace) if git fails.
    pub async fn attribute_changes(
        &self,
        changes: &WorktreeChanges,
        matters: impl Fn(&str) -> bool,
    ) -> Result<Vec<AttributeChange>, TaskFailure> {
        let files = changes.files.iter();
        let sources: Vec<&str> = files.map(String::as_str).filter(is_source).collect();
        if sources.is_empty() {
            return Ok(Vec::new());
        }
        let compared = self.compare_attributes(matters).await;
        let (before, after) =
            compared.map_err(|error| failure("cannot compare the git attributes", error))?;
        Ok(differences(&before, &after, &sources))
    }

    async fn compare_attributes(
        &self,
        matters: impl Fn(&str) -> bool,
    ) -> Result<(Attributes, Attributes), GitError> {
        let mut paths = split_paths(&self.git().run(&["ls-files", "-z"]).await?);
        paths.retain(|path| matters(&display(path)));
        let mut input = paths.join(&0);
        if input.is_empty() {
            return Ok(Default::default());
        }
        input.push(0);
        let index = self.git_dir().join("index-of-base");
        let on_base = || self.git().env("GIT_INDEX_FILE", &index);
        on_base().run(&["read-tree", self.base()]).await?;
        let of = async |git: GitCommand<'_>| {
            let args = ["check-attr", "--cached", "--stdin", "-z", "--all"];
            git.input(input.clone()).run(&args).await
        };
        let (before, after) = (of(on_base()).await?, of(self.git()).await?);
        Ok((parse(&before), parse(&after)))
    }
}

fn is_source(path: &&str) -> bool {
    Path::new(path)
        .file_name()
        .is_some_and(|name| name == ATTRIBUTES)
}

/// Reads the output of `git check-attr -z`: path, attribute and value, each with a closing zero.
fn parse(output: &[u8]) -> Attributes {
    let mut attributes = Attributes::new();
    let fields: Vec<&[u8]> = output.split(|byte| *byte == 0).collect();
    for field in fields.chunks_exact(3) {
        if let [path, name, value] = field {
            let of_path = attributes.entry(path.to_vec()).or_default();
            of_path.insert(name.to_vec(), value.to_vec());
        }
    }
    attributes
}

fn differences(before: &Attributes, after: &Attributes, sources: &[&str]) -> Vec<AttributeChange> {
    let none = BTreeMap::new();
    let paths: BTreeSet<&Vec<u8>> = before.keys().chain(after.keys()).collect();
    let mut found: Vec<AttributeChange> = Vec::new();
    for path in paths {
        let [before, after] = [before, after].map(|all| all.get(path).unwrap_or(&none));
        let mut names = before.keys().chain(after.keys());
        let Some(name) = names.find(|name| before.get(*name) != after.get(*name)) else {
            continue;
        };
        let path = display(path);
        match nearest(&path, sources) {
            Some(source) if found.iter().all(|known| known.source != source) => {
                found.push(AttributeChange {
                    attribute: display(name),
                    source: source.to_owned(),
                    path,
                });
            }
            Some(_) | None => {}
        }
    }
    found
}

/// The source that is the nearest above a path.
fn nearest<'a>(path: &str, sources: &[&'a str]) -> Option<&'a str> {
    let mut above = Path::new(path).ancestors().skip(1);
    let own = above.find_map(|directory| {
        let of_directory = |source: &&&str| Path::new(source).parent() == Some(directory);
        sources.iter().find(of_directory)
    });
    own.or(sources.first()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_the_attribute_and_the_nearest_source() {
        let sources = [".gitattributes", "a/.gitattributes", "b/.gitattributes"];
        let before =
            parse(b"a/x\0eol\0lf\0b/x\0eol\0lf\0b/x\0text\0set\0c\0text\0set\0same\0text\0auto\0");
        let after = parse(
            b"a/x\0eol\0crlf\0b/x\0eol\0crlf\0b/x\0text\0set\0a/b/new\0ident\0set\0same\0text\0auto\0",
        );
        let found = differences(&before, &after, &sources);
        let found: Vec<[&str; 3]> = found
            .iter()
            .map(|change| [&change.path, &change.attribute, &change.source].map(String::as_str))
            .collect();
        assert_eq!(
            found,
            [
                ["a/b/new", "ident", "a/.gitattributes"],
                ["b/x", "eol", "b/.gitattributes"],
                ["c", "text", ".gitattributes"],
            ],
            "new, changed and removed attributes"
        );
        assert_eq!(parse(b""), Attributes::new(), "no file has attributes");
    }

    #[test]
    fn only_the_exact_name_is_a_source() {
        for (path, expected) in [
            (".gitattributes", true),
            ("a/b/.gitattributes", true),
            ("a.gitattributes", false),
            (".gitattributes/a", false),
            (".GITATTRIBUTES", false),
        ] {
            assert_eq!(is_source(&path), expected, "{path}");
        }
    }
}
