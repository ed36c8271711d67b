//! The command line, a file a command. `serve`, `topology` and `check` work by themselves; the others ask the HTTP API.
//!
//! Exit statuses: 0 done; 1 it failed, or a task of the batch did not succeed; 2 the input is wrong.

mod again;
mod budget;
mod client;
mod control;
mod dead;
mod health;
mod report;
mod serve;
mod show;
mod status;
mod submit;
mod why;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;
use pool_shared::config::{Env, Pool, load, schema_text};

use crate::api::routes::document;
use crate::check;
pub use client::Client;

/// How answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    #[default]
    Table,
    Json,
}

#[derive(Debug, Clone, clap::Args)]
pub struct PoolFile {
    /// The pool file
    #[arg(long, env = "POOL_FILE", default_value = "config/pool.yaml")]
    pool: PathBuf,
}

#[derive(Debug, Clone, clap::Args)]
pub struct PoolUrl {
    /// Where a dispatcher serves its API
    #[arg(long, env = "POOL_URL", default_value = "http://127.0.0.1:6141")]
    url: String,
}

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Run the manager: take tasks in, bring results back, serve the HTTP API
    Serve(serve::ServeArgs),
    /// Declare the exchanges, queues and streams, bind the routes of the pool file, and end
    Topology(PoolFile),
    /// Say what is wrong with the pool file, or show the pool and its routes
    Check(check::CheckArgs),
    /// Submit tasks from files (YAML or JSON, one or many), or one from flags
    Submit(Box<submit::SubmitArgs>),
    /// Show the programmers and what they do
    Status(status::StatusArgs),
    /// Ask a dispatcher whether it can do its work; exit status 1 when it cannot
    Health(PoolUrl),
    /// Show what was spent today and what is left; `budget set` changes the limit of today
    Budget(budget::BudgetArgs),
    /// Cancel tasks: a waiting one never starts, a running one is stopped
    Cancel(control::CancelArgs),
    /// Let a programmer, a route or the whole pool take no more tasks; what runs goes on
    Pause(control::PauseArgs),
    /// End such a pause, or a drain
    Resume(control::PauseArgs),
    /// Let a programmer take no more tasks, and wait until it has nothing in hand
    Drain(control::DrainArgs),
    /// Show what is paused
    Pauses(control::Shown),
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
    Schema {
        #[arg(value_parser = ["task", "result", "pool", "openapi"])]
        name: String,
    },
}

impl Command {
    /// Runs the command.
    ///
    /// # Errors
    /// What went wrong, for people; exit status 1.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Serve(args) => serve::run(args).await,
            Self::Topology(file) => serve::topology(file).await,
            Self::Check(args) => Ok(check::run(args).await),
            Self::Submit(args) => submit::run(*args).await,
            Self::Status(args) => status::run(args).await,
            Self::Health(url) => health::run(&url).await,
            Self::Budget(args) => budget::run(args).await,
            Self::Cancel(args) => control::cancel(args).await,
            Self::Pause(args) => control::pause(args).await,
            Self::Resume(args) => control::resume(args).await,
            Self::Drain(args) => control::drain(args).await,
            Self::Pauses(shown) => control::pauses(shown).await,
            Self::Show(args) => show::run(args).await,
            Self::Patch(args) => show::patch(args).await,
            Self::Retry(args) => again::retry(args).await,
            Self::Requeue(args) => again::requeue(args).await,
            Self::Dead(args) => dead::run(args).await,
            Self::Why(args) => why::run(args).await,
            Self::Report(args) => report::run(args).await,
            Self::Schema { name } if name == "openapi" => Ok(check::print(&schema_text(&document()))),
            Self::Schema { name } => match pool_shared::config::schema_named(&name) {
                Some(schema) => Ok(check::print(&schema_text(&schema))),
                None => bail!("there is no schema named {name:?}"),
            },
        }
    }
}

/// Reads the pool file; its mistakes go to standard error, and the exit status is 2.
fn pool(file: &Path) -> Result<Pool, ExitCode> {
    load(file, &Env::of_process()).map_err(|mistakes| {
        eprintln!("{mistakes}");
        ExitCode::from(2)
    })
}
