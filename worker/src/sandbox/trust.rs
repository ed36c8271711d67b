//! The places that programs must not see, and those that agents and repositories fill.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use pool_core::pool::{self, Pool};

use super::access::SettleError;

/// Places that are never shown as a part of something else, and those that others than the operator
/// fill.
#[derive(Debug, Clone, Default)]
pub(crate) struct Guarded {
    pub(crate) places: Vec<PathBuf>,
    /// Agents write below the workspace directory.
    pub(super) workspace: Vec<PathBuf>,
    pub(super) repositories: Vec<PathBuf>,
}

/// Files and directories that programs must not see: the home directory, the workspace, the
/// repositories, the pool file, and the files with keys that the environment names.
pub(crate) fn guarded(pool: &Pool) -> Guarded {
    let mut places = named_by(std::env::vars_os());
    places.push(pool.workspace.dir.clone());
    places.extend(pool.workspace.roots.iter().cloned());
    // Keys and certificates lie beside the pool file.
    let directory = pool.file.parent().filter(|path| can_be_hidden(path));
    places.push(directory.unwrap_or(&pool.file).to_owned());
    places.retain(|path| path.is_absolute());
    Guarded {
        places,
        workspace: vec![pool.workspace.dir.clone()],
        repositories: pool.workspace.roots.clone(),
    }
}

/// The home directory and the files with keys that an environment names. Certificates, as in
/// `SSL_CERT_FILE`, are no secrets, and programs need them.
pub(crate) fn named_by(env: impl IntoIterator<Item = (OsString, OsString)>) -> Vec<PathBuf> {
    let is_secret = |name: &OsString| {
        let name = name.as_encoded_bytes();
        name == b"HOME" || (name.ends_with(b"_FILE") && !name.ends_with(b"CERT_FILE"))
    };
    env.into_iter()
        .filter(|(name, _)| is_secret(name))
        .map(|(_, value)| PathBuf::from(value))
        .filter(|path| path.is_absolute())
        .collect()
}

/// False for directories that programs need: some users have one of them as their home.
pub(super) fn can_be_hidden(path: &Path) -> bool {
    const NEEDED: [&str; 7] = [
        "/usr/bin",
        "/usr/sbin",
        "/usr/lib",
        "/bin",
        "/sbin",
        "/lib",
        "/etc",
    ];
    let depth = path.components().count();
    depth > 2
        && !NEEDED
            .iter()
            .any(|needed| Path::new(needed).starts_with(path))
}

/// Refuses paths of the pool file that would show a guarded place.
pub(super) fn refuse_too_much(
    limits: &pool::Sandbox,
    guarded: &[PathBuf],
) -> Result<(), SettleError> {
    for (key, paths) in [("read", &limits.read), ("write", &limits.write)] {
        for path in paths {
            if let Some(shown) = shows(path, guarded) {
                return Err(SettleError::ShowsTooMuch {
                    key,
                    path: path.clone(),
                    shown,
                });
            }
        }
    }
    Ok(())
}

/// The guarded place that a path would show, wherever its links lead.
pub(super) fn shows(path: &Path, guarded: &[PathBuf]) -> Option<PathBuf> {
    let path = real(path);
    let is_shown = |guarded: &&PathBuf| real(guarded).starts_with(&path);
    guarded.iter().find(is_shown).cloned()
}

/// The path without links and `..`. The part that does not exist yet stays as it is written.
pub(crate) fn real(path: &Path) -> PathBuf {
    let known = path
        .ancestors()
        .find_map(|above| Some((above, above.canonicalize().ok()?)));
    let Some((above, mut real)) = known else {
        return path.to_owned();
    };
    let rest = path.strip_prefix(above).unwrap_or(Path::new(""));
    for part in rest.components() {
        match part {
            Component::ParentDir => drop(real.pop()),
            Component::Normal(name) => real.push(name),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    real
}

pub(super) fn all_real<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Vec<PathBuf> {
    paths.into_iter().map(|path| real(path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_with_keys_are_guarded_and_certificates_are_not() {
        let env = [
            ("HOME", "/home/u"),
            ("AMQP_URL_FILE", "/run/secrets/amqp"),
            ("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"),
            ("PATH", "/usr/bin"),
            ("RELATIVE_FILE", "key"),
        ];
        let env = env.map(|(name, value)| (name.into(), value.into()));
        let expected = ["/home/u", "/run/secrets/amqp"].map(PathBuf::from);
        assert_eq!(named_by(env), expected, "absolute paths of secrets");
    }

    #[test]
    fn a_path_that_leads_to_a_guarded_place_shows_it_however_it_is_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("home/u/tools")).expect("a directory");
        std::os::unix::fs::symlink("home", at("link")).expect("a link");
        std::os::unix::fs::symlink(at("link/u"), at("again")).expect("a link");
        let guarded = [at("link/u"), at("not/there")];
        for (path, is_shown) in [
            ("home", true),
            ("home/u", true),
            ("link", true),
            ("again", true),
            ("home/u/tools/..", true),
            ("home/u/tools/missing/../..", true),
            ("not", true),
            ("home/u/tools", false),
            ("again/tools", false),
            ("home/other", false),
        ] {
            let shown = shows(&at(path), &guarded);
            assert_eq!(shown.is_some(), is_shown, "{path}: {shown:?}");
        }
    }
}
