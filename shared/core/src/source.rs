//! Where the code of a task comes from, in texts that are safe to pass to git and the file system.

use crate::id::name;

name!(
    /// The place of the code: an `https://` or `ssh://` URL, or a path (absolute, or relative to a
    /// root). The worker checks a path against its configured roots.
    ///
    /// ```
    /// use pool_core::source::Repository;
    ///
    /// assert!(Repository::new("team/app").is_ok());
    /// assert!(Repository::new("ssh://git@example.org/app").is_ok());
    /// assert!(Repository::new("https://me:secret@example.org/app").is_err(), "a password");
    /// assert!(Repository::new("ext::sh -c id").is_err(), "git would run a command");
    /// ```
    Repository,
    "repository",
    r"^[^-\s][^\s]*$",
    "a path below a configured root, or an https:// or ssh:// URL without a password",
    is_repository
);

name!(
    /// A branch, tag or commit that git accepts. No program can take it for an option.
    GitRef,
    "ref",
    r"^[A-Za-z0-9_][A-Za-z0-9_./+-]*$",
    "a branch, tag or commit: letters, digits and _ . / + -, beginning with a letter, digit or _",
    is_ref
);

name!(
    /// A path inside a repository: relative, without `..`, not into `.git`.
    RelativePath,
    "file",
    r"^[^/-].*$",
    "a relative path inside the repository, without `..`, not beginning with `-`, not in .git",
    is_relative
);

fn is_repository(text: &str) -> bool {
    let plain = !text.is_empty() && text.len() <= 1024 && !text.starts_with('-');
    if !plain || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return false;
    }
    match text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("ssh://"))
    {
        Some(rest) => is_safe_authority(rest.split('/').next().unwrap_or_default()),
        // Git could take `ext::sh -c …`, `file://…` and `user@host:path` for a transport.
        None => !text.contains(':') && !text.split('/').any(|part| part == ".."),
    }
}

/// True for `host`, `host:port` and `user@host`: without a password, and not like an option.
fn is_safe_authority(authority: &str) -> bool {
    let host = authority.rsplit('@').next().unwrap_or_default();
    let has_password = authority
        .rsplit_once('@')
        .is_some_and(|(user, _)| user.contains(':'));
    host.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[')
        && !authority.starts_with('-')
        && !has_password
}

fn is_ref(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_./+-".contains(&b);
    let shaped = (1..=200).contains(&text.len())
        && text.bytes().all(allowed)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    let refused_by_git = text.contains("..")
        || text.contains("//")
        || text.contains("/.")
        || text.ends_with(['/', '.']);
    shaped && !refused_by_git && !text.ends_with(".lock")
}

fn is_relative(text: &str) -> bool {
    let plain = (1..=1024).contains(&text.len())
        && !text.starts_with(['-', '/'])
        && !text.contains(['\0', '\n', '\\']);
    let inside = text
        .split('/')
        .all(|part| !part.is_empty() && part != "." && part != "..");
    let in_git = text
        .split('/')
        .any(|part| part.eq_ignore_ascii_case(".git"));
    plain && inside && !in_git
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_repositories_and_refs_are_accepted() {
        for repository in [
            "app",
            "team/app.git",
            "/srv/git/app",
            "https://example.org/a/b.git",
            "ssh://git@host:22/a",
        ] {
            assert!(
                Repository::new(repository).is_ok(),
                "{repository} is ordinary"
            );
        }
        for base in ["main", "release/1.2", "v1.0+x", "0a1b2c3"] {
            assert!(GitRef::new(base).is_ok(), "{base} is ordinary");
        }
    }
}
