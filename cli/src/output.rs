//! Output options: the same options and the same JSON for every command that asks a dispatcher.

use std::io::Write as _;
use std::process::ExitCode;

use serde::Serialize;

use crate::client::{Client, PoolUrl};

/// The output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// The JSON of the HTTP API
    Json,
}

/// The options of every command that prints an answer.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct OutputArgs {
    #[arg(long, value_enum, default_value_t)]
    pub(super) format: Format,
    #[command(flatten)]
    pub(super) url: PoolUrl,
}

impl OutputArgs {
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
    /// Prints the answer as JSON, or as text by this function.
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

/// Writes to stdout. A reader that closed the pipe is not an error.
pub(crate) fn print(text: &str) -> ExitCode {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The exit status of a command that has printed its answer.
pub(crate) fn exit_code(printed: ExitCode, good: bool) -> ExitCode {
    if good { printed } else { ExitCode::FAILURE }
}

/// Prints an error on standard error.
pub(crate) fn complain(error: &anyhow::Error) {
    let red = anstyle::AnsiColor::Red.on_default().bold();
    let words = crate::table::plain(&format!("{error:#}"));
    // If standard error is closed, nobody reads the message.
    let _ = writeln!(anstream::stderr(), "{red}error:{red:#} {words}");
}
