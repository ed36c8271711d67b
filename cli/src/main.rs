//! `pool`, the operator's command, a file for each subcommand. `check`, `schema` and `completions` work by themselves; the others ask
//! a dispatcher over its HTTP API.

mod again;
mod budget;
mod check;
mod client;
mod completions;
mod control;
mod dead;
mod full;
mod health;
mod llm_probe;
mod report;
mod show;
mod shown;
mod status;
mod submit;
mod tables;
mod tasks;
mod watch;
mod why;

use std::process::ExitCode;

use anyhow::bail;
use clap::builder::Resettable;
use clap::{ColorChoice, CommandFactory as _, Parser as _};
use pool_config::schema_text;

use client::Client;
use shown::{Format, PoolUrl, Shown, complain, print};

/// The document of the HTTP API. A test of the dispatcher holds the file to its routes.
const OPENAPI: &str = include_str!("../../config/schema/openapi.json");

/// Submit coding tasks to a pool of programmers, follow them, and operate the pool
///
/// The daemons are `dispatcher` and `worker`; this command asks a dispatcher over HTTP.
#[derive(Debug, clap::Parser)]
#[command(
    name = "pool",
    version,
    arg_required_else_help = true,
    after_help = "Exit status: 0 done; 1 it failed, was refused, or a task did not succeed; 2 the command line or a file is wrong.\n\n\
    Environment: POOL_URL where a dispatcher serves its API, POOL_API_TOKEN (or POOL_API_TOKEN_FILE) its token, POOL_FILE the pool file, \
    NO_COLOR for no colors.\n\nExamples:\n  \
    pool check --pool config/pool.yaml\n  \
    pool submit tasks.yaml --wait\n  \
    pool watch"
)]
struct Arguments {
    /// Colors: auto is on a terminal only, and not with NO_COLOR
    #[arg(long, value_name = "WHEN", global = true, value_enum, default_value_t)]
    color: ColorChoice,
    #[command(subcommand)]
    command: Command,
}

/// The usage that an error shows names what the environment gives as if it had to be written.
fn without_environment(command: clap::Command) -> clap::Command {
    command
        .mut_args(|argument| argument.env(Resettable::Reset))
        .mut_subcommands(without_environment)
}

impl Arguments {
    /// What this process was started with; what is wrong with it ends the process.
    fn of_process() -> Self {
        Self::try_parse().unwrap_or_else(|error| {
            let again = without_environment(Self::command()).try_get_matches().err();
            again
                .filter(|again| error.use_stderr() && again.kind() == error.kind())
                .unwrap_or(error)
                .exit()
        })
    }

    /// Runs what the command line says.
    ///
    /// # Errors
    /// What went wrong, for people; exit status 1.
    async fn run(self) -> anyhow::Result<ExitCode> {
        match self.color {
            ColorChoice::Auto => anstream::ColorChoice::Auto,
            ColorChoice::Always => anstream::ColorChoice::Always,
            ColorChoice::Never => anstream::ColorChoice::Never,
        }
        .write_global();
        self.command.run().await
    }
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Say what is wrong with the pool file, or show the pool and its routes
    Check(check::CheckArgs),
    /// Submit tasks from files (YAML or JSON, one or many), or one from flags
    Submit(Box<submit::SubmitArgs>),
    /// Show the programmers and what they do
    Status(status::StatusArgs),
    /// Follow programmers and tasks live; with --task or --label until those tasks have ended
    Watch(watch::WatchArgs),
    /// Ask a dispatcher whether it can do its work; exit status 1 when it cannot
    #[command(after_help = "Example:\n  pool health --url http://127.0.0.1:6141")]
    Health(Shown),
    /// Show what was spent today and what is left; `budget set` changes the limit of today
    Budget(budget::BudgetArgs),
    /// Cancel tasks: a waiting one never starts, a running one is stopped
    Cancel(control::CancelArgs),
    /// Let a programmer, a route or the whole pool take no more tasks; what runs goes on
    #[command(
        after_help = "Examples:\n  pool pause --programmer 003\n  pool pause --route fast\n  pool pause --all"
    )]
    Pause(control::PauseArgs),
    /// End such a pause, or a drain
    #[command(after_help = "Example:\n  pool resume --programmer 003")]
    Resume(control::PauseArgs),
    /// Let a programmer take no more tasks, and wait until it has nothing in hand
    Drain(control::DrainArgs),
    /// Show what is paused
    #[command(after_help = "Example:\n  pool pauses")]
    Pauses(Shown),
    /// List tasks, the newest first: all, or those with a status, a label, a programmer, some words
    Tasks(tasks::TasksArgs),
    /// Show one task and its result
    Show(show::ShowArgs),
    /// Print the patch of one task, as `git apply` takes it
    Patch(show::PatchArgs),
    /// Submit finished tasks again, as new ones
    Retry(again::RetryArgs),
    /// Put an unfinished task into its queue again
    Requeue(again::RequeueArgs),
    /// Show what could not be handled; take it up again or throw it away
    Dead(dead::DeadArgs),
    /// Say why a task waits
    Why(why::WhyArgs),
    /// Report what the tasks of some days came to, by LLM, programmer, route or label
    Report(report::ReportArgs),
    /// Print a JSON Schema: of a task, a result or the pool file; or the OpenAPI document of the HTTP API
    #[command(after_help = "Examples:\n  pool schema task\n  pool schema openapi")]
    Schema {
        #[arg(value_parser = ["task", "result", "pool", "openapi"])]
        name: String,
    },
    /// Print what makes a shell complete the words of this program
    Completions(completions::CompletionsArgs),
}

impl Command {
    async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Check(args) => Ok(check::run(args).await),
            Self::Submit(args) => submit::run(*args).await,
            Self::Status(args) => status::run(args).await,
            Self::Watch(args) => watch::run(args).await,
            Self::Health(shown) => health::run(&shown).await,
            Self::Budget(args) => budget::run(args).await,
            Self::Cancel(args) => control::cancel(args).await,
            Self::Pause(args) => control::pause(args).await,
            Self::Resume(args) => control::resume(args).await,
            Self::Drain(args) => control::drain(args).await,
            Self::Pauses(shown) => control::pauses(&shown).await,
            Self::Tasks(args) => tasks::run(args).await,
            Self::Show(args) => show::run(args).await,
            Self::Patch(args) => show::patch(args).await,
            Self::Retry(args) => again::retry(args).await,
            Self::Requeue(args) => again::requeue(args).await,
            Self::Dead(args) => dead::run(args).await,
            Self::Why(args) => why::run(args).await,
            Self::Report(args) => report::run(args).await,
            Self::Schema { name } if name == "openapi" => Ok(print(OPENAPI)),
            Self::Schema { name } => match pool_config::schema_named(&name) {
                Some(schema) => Ok(print(&schema_text(&schema))),
                None => bail!("there is no schema named {name:?}"),
            },
            Self::Completions(args) => Ok(completions::run(&args)),
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match Arguments::of_process().run().await {
        Ok(code) => code,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests;
