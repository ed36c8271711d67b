//! How answers come out: the same options and the same JSON for every command that asks a dispatcher.

use std::io::Write as _;
use std::process::ExitCode;

use reqwest::Url;
use serde::Serialize;

use super::Client;

/// How answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// As the HTTP API answers
    Json,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PoolUrl {
    /// Where a dispatcher serves its API
    #[arg(long, env = "POOL_URL", default_value = "http://127.0.0.1:6141", value_parser = http_url)]
    pub(super) url: Url,
}

fn http_url(text: &str) -> Result<Url, String> {
    let url = text
        .parse::<Url>()
        .map_err(|error| format!("{error}; write http://HOST:PORT"))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        _ => Err("an address of a dispatcher begins with http:// or https://".to_owned()),
    }
}

/// The options of every command that prints an answer.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Shown {
    #[arg(long, value_enum, default_value_t)]
    pub(super) format: Format,
    #[command(flatten)]
    pub(super) url: PoolUrl,
}

impl Shown {
    pub(super) fn client(&self) -> anyhow::Result<Client> {
        Client::new(&self.url)
    }

    pub(super) fn print<T: Serialize>(
        &self,
        answer: &T,
        text: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<ExitCode> {
        self.format.print(answer, text)
    }
}

impl Format {
    /// The answer as it is, or these words.
    pub(super) fn print<T: Serialize>(
        self,
        answer: &T,
        text: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<ExitCode> {
        Ok(print(&match self {
            Self::Json => format!("{:#}\n", serde_json::to_value(answer)?),
            Self::Table => text(answer),
        }))
    }
}

/// Writes to stdout; a reader that has gone away is its own decision.
pub(crate) fn print(text: &str) -> ExitCode {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Says what went wrong, on standard error.
pub(crate) fn complain(error: &anyhow::Error) {
    let red = anstyle::AnsiColor::Red.on_default().bold();
    let words = crate::tables::plain(&format!("{error:#}"));
    // Whoever has closed standard error does not want to know.
    let _ = writeln!(anstream::stderr(), "{red}error:{red:#} {words}");
}
