//! Where a command finds the dispatcher and the token: its flag, the environment, or the user's
//! file `$XDG_CONFIG_HOME/pool/config.yaml`, in this order.

use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use pool_api::TOKEN_VARIABLE;
use pool_config::Env;
use reqwest::Url;
use serde::Deserialize;

const URL_VARIABLE: &str = "POOL_URL";
const DEFAULT_URL: &str = "http://127.0.0.1:6141";

/// The user's file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct UserFile {
    /// The URL of a dispatcher's API.
    url: Option<String>,
    /// A file that holds the token of that dispatcher; relative to the directory of this file.
    token_file: Option<PathBuf>,
}

/// Where the URL comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum UrlSource {
    Flag,
    Environment,
    File(PathBuf),
    Default,
}

impl fmt::Display for UrlSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("--url"),
            Self::Environment => f.write_str(URL_VARIABLE),
            Self::File(file) => write!(f, "{}", file.display()),
            Self::Default => f.write_str("the default"),
        }
    }
}

/// A dispatcher, and the token for it. It has no Debug, because it contains the token.
pub(crate) struct Dispatcher {
    pub(crate) url: Url,
    pub(crate) source: UrlSource,
    pub(crate) token: Option<String>,
    /// A warning for the user.
    pub(crate) warning: Option<String>,
}

pub(crate) fn http_url(text: &str) -> Result<Url, String> {
    let url = text
        .parse::<Url>()
        .map_err(|error| format!("{error}; expected http://HOST:PORT"))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        _ => Err("the URL of a dispatcher begins with http:// or https://".to_owned()),
    }
}

/// The user's file; None without a home.
fn user_file(env: &Env) -> Option<PathBuf> {
    let below = match (env.get("XDG_CONFIG_HOME"), env.get("HOME")) {
        (Some(directory), _) => PathBuf::from(directory),
        (None, Some(home)) => Path::new(home).join(".config"),
        (None, None) => return None,
    };
    Some(below.join("pool/config.yaml"))
}

/// Finds the dispatcher and the token. `given` is the URL of the command line, from the flag or the
/// environment.
///
/// # Errors
/// When the user's file or a file with a token cannot be read, or is wrong.
pub(crate) fn dispatcher(given: Option<&Url>, env: &Env) -> anyhow::Result<Dispatcher> {
    let place = user_file(env).filter(|file| file.exists());
    let file = match &place {
        Some(place) => read(place)?,
        None => UserFile::default(),
    };
    let (place, of_file) = match (place, &file.url) {
        (Some(place), Some(url)) => {
            let url =
                http_url(url).map_err(|problem| anyhow!("{}: url: {problem}", place.display()))?;
            (Some(place), Some(url))
        }
        (place, _) => (place, None),
    };
    let is_of_environment = |url: &Url| {
        let variable = env.get(URL_VARIABLE);
        variable.and_then(|text| http_url(text).ok()).as_ref() == Some(url)
    };
    let (url, source) = match (given, &of_file, &place) {
        (Some(url), _, _) if is_of_environment(url) => (url.clone(), UrlSource::Environment),
        (Some(url), _, _) => (url.clone(), UrlSource::Flag),
        (None, Some(url), Some(place)) => (url.clone(), UrlSource::File(place.clone())),
        (None, _, _) => (
            http_url(DEFAULT_URL).map_err(|e| anyhow!(e))?,
            UrlSource::Default,
        ),
    };
    let mut found = Dispatcher {
        url,
        source,
        token: env
            .secret(TOKEN_VARIABLE)
            .map_err(|problem| anyhow!("{TOKEN_VARIABLE}_FILE {problem}"))?,
        warning: None,
    };
    // The token is for the file's dispatcher: no other server may learn it.
    let of_file = match of_file {
        Some(url) => url,
        None => http_url(DEFAULT_URL).map_err(|e| anyhow!(e))?,
    };
    let is_for_it = of_file == found.url;
    if let (None, Some(token_file), Some(place), true) =
        (&found.token, &file.token_file, &place, is_for_it)
    {
        let token_file = place.with_file_name("").join(token_file);
        found.token = Some(token(&token_file, place)?);
        found.warning = readable_by_others(&token_file);
    }
    Ok(found)
}

fn read(file: &Path) -> anyhow::Result<UserFile> {
    let name = file.display();
    let text = std::fs::read_to_string(file).with_context(|| format!("failed to read {name}"))?;
    if text.trim().is_empty() {
        return Ok(UserFile::default());
    }
    serde_yaml::from_str(&text)
        .with_context(|| format!("{name} is wrong; it may have `url` and `token_file`"))
}

fn token(file: &Path, named_by: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| {
        let (file, named_by) = (file.display(), named_by.display());
        format!("failed to read {file}, the token_file of {named_by}")
    })?;
    Ok(text.trim().to_owned())
}

fn readable_by_others(file: &Path) -> Option<String> {
    let mode = std::fs::metadata(file).ok()?.permissions().mode();
    let name = file.display();
    (mode & 0o077 != 0)
        .then(|| format!("other users of this machine can read the token; run `chmod 600 {name}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Home(tempfile::TempDir);

    impl Home {
        fn with(config: &str) -> Self {
            let home = Self(tempfile::TempDir::new().expect("a directory"));
            home.write("config.yaml", config, 0o600);
            home
        }

        fn write(&self, name: &str, text: &str, mode: u32) {
            let directory = self.0.path().join("pool");
            std::fs::create_dir_all(&directory).expect("a directory");
            let file = directory.join(name);
            std::fs::write(&file, text).expect("a file");
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&file, mode).expect("its mode");
        }

        fn env(&self, more: &[(&str, &str)]) -> Env {
            let home = self.0.path().display().to_string();
            let own = [("XDG_CONFIG_HOME", home.as_str())];
            own.iter().chain(more).copied().collect()
        }
    }

    fn url(text: &str) -> Url {
        http_url(text).expect("a URL")
    }

    fn error(result: anyhow::Result<Dispatcher>) -> String {
        result
            .err()
            .map(|error| format!("{error:#}"))
            .unwrap_or_default()
    }

    #[test]
    fn a_flag_wins_over_the_environment_and_that_over_the_file() {
        let home = Home::with("url: http://file:1\n");
        let (flag, variable) = (url("http://flag:1"), url("http://variable:1"));
        let env = home.env(&[(URL_VARIABLE, "http://variable:1")]);
        let of = |given: Option<&Url>, env: &Env| {
            let access = dispatcher(given, env).expect("a dispatcher");
            (access.url.to_string(), access.source.to_string())
        };
        assert_eq!(
            of(Some(&flag), &env),
            ("http://flag:1/".to_owned(), "--url".to_owned()),
            "the flag"
        );
        assert_eq!(
            of(Some(&variable), &env).1,
            "POOL_URL",
            "clap gives the value of the variable"
        );
        let (found, source) = of(None, &home.env(&[]));
        assert_eq!(found, "http://file:1/", "the file");
        assert!(source.ends_with("pool/config.yaml"), "{source}");
        let nothing = (
            "http://127.0.0.1:6141/".to_owned(),
            "the default".to_owned(),
        );
        assert_eq!(of(None, &Env::empty()), nothing, "without a home");
    }

    #[test]
    fn the_token_of_the_file_is_for_its_dispatcher_only() {
        let home = Home::with("url: http://file:1\ntoken_file: token\n");
        home.write("token", "of-the-file\n", 0o600);
        let token =
            |given: Option<&Url>, env: &Env| dispatcher(given, env).expect("a dispatcher").token;
        let own = home.env(&[]);
        assert_eq!(
            token(None, &own).as_deref(),
            Some("of-the-file"),
            "the file's dispatcher"
        );
        assert_eq!(
            token(Some(&url("http://file:1/")), &own).as_deref(),
            Some("of-the-file"),
            "named by a flag"
        );
        assert_eq!(
            token(Some(&url("http://other:1")), &own),
            None,
            "another server"
        );
        let env = home.env(&[(TOKEN_VARIABLE, "of-the-environment")]);
        assert_eq!(
            token(None, &env).as_deref(),
            Some("of-the-environment"),
            "the environment wins"
        );
        let home = Home::with("token_file: token\n");
        home.write("token", "of-the-file\n", 0o600);
        let own = home.env(&[]);
        assert_eq!(
            token(Some(&url("http://other:1")), &own),
            None,
            "without a url it is for the usual dispatcher"
        );
    }

    #[test]
    fn a_token_that_others_can_read_is_warned_of() {
        let home = Home::with("token_file: token\n");
        for (mode, warned) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true)] {
            home.write("token", "a-token", mode);
            let warning = dispatcher(None, &home.env(&[]))
                .expect("a dispatcher")
                .warning;
            assert_eq!(warning.is_some(), warned, "{mode:o}: {warning:?}");
            assert!(
                !warned || warning.is_some_and(|words| words.contains("chmod 600")),
                "it says what to do"
            );
        }
    }

    #[test]
    fn a_mistake_in_the_file_is_named() {
        for (config, parts) in [
            (
                "ulr: http://file:1\n",
                &["config.yaml", "ulr", "token_file"][..],
            ),
            ("url: file:1\n", &["config.yaml", "url", "http://"]),
            ("token_file: nowhere\n", &["nowhere", "config.yaml"]),
        ] {
            let words = error(dispatcher(None, &Home::with(config).env(&[])));
            for part in parts {
                assert!(words.contains(part), "{config:?} says {part:?}: {words}");
            }
        }
        let empty = dispatcher(None, &Home::with("").env(&[])).expect("an empty file");
        assert_eq!(
            empty.source,
            UrlSource::Default,
            "an empty file says nothing"
        );
    }
}
