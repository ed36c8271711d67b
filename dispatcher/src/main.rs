//! The binary `dispatcher`: the daemon `dispatcher serve`, and commands to set it up.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};
use dispatcher::api::routes::document;
use dispatcher::serve::{self, PoolFile, ServeArgs};
use pool_config::schema_text;

/// Subcommands of `pool`; `dispatcher` names the replacement.
const MOVED: [&str; 21] = [
    "budget",
    "cancel",
    "check",
    "completions",
    "dead",
    "drain",
    "health",
    "patch",
    "pause",
    "pauses",
    "report",
    "requeue",
    "resume",
    "retry",
    "schema",
    "show",
    "status",
    "submit",
    "tasks",
    "watch",
    "why",
];

/// Programmer Pool dispatcher: accepts coding tasks, hands them out over RabbitMQ, delivers the
/// results, and serves the HTTP API and the dashboard
#[derive(Debug, clap::Parser)]
#[command(
    name = "dispatcher",
    version,
    arg_required_else_help = true,
    after_help = "Exit status: 0 success; 1 the command failed; 2 the command line or a file is wrong.\n\n\
    Environment: POOL_FILE is the pool file, AMQP_URL the broker's URL, POOL_API_TOKEN (or POOL_API_TOKEN_FILE) the API's token.\n\n\
    `pool` submits tasks and operates the pool.\n\nExample:\n  \
    dispatcher serve --pool config/pool.yaml"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Run the dispatcher: accept tasks, deliver results, serve the HTTP API
    Serve(ServeArgs),
    /// Declare exchanges, queues and streams, bind the routes of the pool file, and exit
    #[command(after_help = "Example:\n  dispatcher topology --pool config/pool.yaml")]
    Topology(PoolFile),
    /// Print the OpenAPI document of the HTTP API
    #[command(after_help = "Example:\n  dispatcher openapi")]
    Openapi,
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

#[tokio::main]
async fn main() -> ExitCode {
    let ended = match Arguments::parse().command {
        Command::Serve(args) => serve::run(args).await,
        Command::Topology(file) => serve::topology(file).await,
        Command::Openapi => {
            let written = std::io::stdout().write_all(schema_text(&document()).as_bytes());
            // A reader that closed the pipe is not an error.
            Ok(if written.is_ok() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
        Command::Other(words) => unknown(&words),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// Names the `pool` command with this subcommand, or refuses an unknown one.
fn unknown(words: &[OsString]) -> ! {
    let name = words
        .first()
        .map(|word| word.to_string_lossy())
        .unwrap_or_default();
    let text = if MOVED.contains(&name.as_ref()) {
        format!("`dispatcher {name}` is now `pool {name}`, with the same options")
    } else {
        format!("unknown subcommand '{name}'; see `dispatcher --help` and `pool --help`")
    };
    Arguments::command()
        .error(ErrorKind::InvalidSubcommand, text)
        .exit()
}
