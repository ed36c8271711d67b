//! `pool`, the operator's command, one file per subcommand. `check`, `schema` and `completions` and `man` need
//! no dispatcher; the other commands use a dispatcher's HTTP API.

mod apply_patch;
mod budget;
mod check;
mod client;
mod completions;
mod config;
mod control;
mod dead;
mod health;
mod llm_probe;
mod logs;
mod man;
mod output;
mod prices;
mod queue_full;
mod report;
mod resubmit;
mod show;
mod status;
mod submit;
mod table;
mod tasks;
mod watch;
mod why;

use std::process::ExitCode;

use anyhow::bail;
use clap::builder::Resettable;
use clap::{ColorChoice, CommandFactory as _, Parser as _};
use pool_config::schema_text;

use output::{OutputArgs, complain, print};

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
    after_help = "Exit status: 0 success; 1 the command failed or was refused, or a task did not succeed; 2 the command line or a file is wrong.\n\n\
    Environment: POOL_URL is the URL of a dispatcher's API, POOL_API_TOKEN (or POOL_API_TOKEN_FILE) its token, POOL_FILE the pool file; \
    NO_COLOR turns colors off. Without POOL_URL and a token, `url` and `token_file` of ~/.config/pool/config.yaml count.\n\nExamples:\n  \
    pool check --pool config/pool.yaml\n  \
    pool submit tasks.yaml --wait\n  \
    pool watch"
)]
struct Arguments {
    /// Colors: auto means on a terminal only, and not with NO_COLOR
    #[arg(long, value_name = "WHEN", global = true, value_enum, default_value_t)]
    color: ColorChoice,
    #[command(subcommand)]
    command: Command,
}

/// Hides environment variables from clap, for rendering usage: otherwise the usage in an error
/// lists options that the environment gives as if they had to be written.
fn without_environment(command: clap::Command) -> clap::Command {
    command
        .mut_args(|argument| argument.env(Resettable::Reset))
        .mut_subcommands(without_environment)
}

impl Arguments {
    /// Parses the command line of this process; on a mistake, ends the process.
    fn of_process() -> Self {
        Self::try_parse().unwrap_or_else(|error| {
            let again = without_environment(Self::command()).try_get_matches().err();
            again
                .filter(|again| error.use_stderr() && again.kind() == error.kind())
                .unwrap_or(error)
                .exit()
        })
    }

    /// Runs the command.
    ///
    /// # Errors
    /// A message for people; the exit status is then 1.
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
    /// Check the pool file, or show the pool and its routes
    Check(check::CheckArgs),
    /// Submit tasks from files (YAML or JSON, one or many), or one task from flags
    Submit(Box<submit::SubmitArgs>),
    /// Show the programmers and their tasks, queues, breakers and the budget
    Status(status::StatusArgs),
    /// Follow programmers and tasks live; with --task or --label until those tasks have ended
    Watch(watch::WatchArgs),
    /// Ask a dispatcher whether it can do its work; exit status 1 if it cannot
    #[command(after_help = "Example:\n  pool health --url http://127.0.0.1:6141")]
    Health(OutputArgs),
    /// Show today's spending and what is left; `budget set` changes today's limit
    Budget(budget::BudgetArgs),
    /// Cancel tasks: a waiting task never starts, a running one is stopped
    Cancel(control::CancelArgs),
    /// Let a programmer, a route or the whole pool take no more tasks; running tasks continue
    #[command(
        after_help = "Examples:\n  pool pause --programmer 003\n  pool pause --route fast\n  pool pause --all"
    )]
    Pause(control::PauseArgs),
    /// End a pause or a drain
    #[command(after_help = "Example:\n  pool resume --programmer 003")]
    Resume(control::PauseArgs),
    /// Let a programmer take no more tasks, and wait until its task has ended
    Drain(control::DrainArgs),
    /// Probe an LLM behind an open breaker now, or close the breaker
    #[command(
        after_help = "Examples:\n  pool breaker probe openai/gpt-4o\n  pool breaker close openai/gpt-4o"
    )]
    Breaker(control::BreakerArgs),
    /// List pauses and drains
    #[command(after_help = "Example:\n  pool pauses")]
    Pauses(OutputArgs),
    /// List tasks, newest first; filter by status, label, programmer or text
    Tasks(tasks::TasksArgs),
    /// Show one task and its result
    Show(show::ShowArgs),
    /// Print the patch of one task, for `git apply`
    Patch(show::PatchArgs),
    /// Apply the patch of one task to the repository of the current directory
    ApplyPatch(apply_patch::ApplyPatchArgs),
    /// Print the output of a task's agent and checks; with --follow until the task has ended
    Logs(logs::LogsArgs),
    /// Submit finished tasks again as new ones
    Retry(resubmit::RetryArgs),
    /// Put an unfinished task back into its queue
    Requeue(resubmit::RequeueArgs),
    /// List, show, retry or drop dead letters, the messages that could not be handled
    Dead(dead::DeadArgs),
    /// Explain why a task waits
    Why(why::WhyArgs),
    /// Report results and costs of the tasks of a period, by LLM, programmer, route or label
    Report(report::ReportArgs),
    /// List the prices of the pool's LLMs; --diff compares the pool file with the catalogue
    Prices(prices::PricesArgs),
    /// Print the JSON Schema of a task, a result or the pool file, or the OpenAPI document of the
    /// HTTP API
    #[command(after_help = "Examples:\n  pool schema task\n  pool schema openapi")]
    Schema {
        #[arg(value_parser = ["task", "result", "pool", "openapi"])]
        name: String,
    },
    /// Write the manual pages, one for each command
    Man(man::ManArgs),
    /// Print a shell completion script
    Completions(completions::CompletionsArgs),
}

impl Command {
    async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Check(args) => Ok(check::run(args).await),
            Self::Submit(args) => submit::run(*args).await,
            Self::Status(args) => status::run(args).await,
            Self::Watch(args) => watch::run(args).await,
            Self::Health(output) => health::run(&output).await,
            Self::Budget(args) => budget::run(args).await,
            Self::Cancel(args) => control::cancel(args).await,
            Self::Pause(args) => control::pause(args).await,
            Self::Resume(args) => control::resume(args).await,
            Self::Drain(args) => control::drain(args).await,
            Self::Breaker(args) => control::breaker(args).await,
            Self::Pauses(output) => control::pauses(&output).await,
            Self::Tasks(args) => tasks::run(args).await,
            Self::Show(args) => show::run(args).await,
            Self::Patch(args) => show::patch(args).await,
            Self::ApplyPatch(args) => apply_patch::run(args).await,
            Self::Logs(args) => logs::run(args).await,
            Self::Retry(args) => resubmit::retry(args).await,
            Self::Requeue(args) => resubmit::requeue(args).await,
            Self::Dead(args) => dead::run(args).await,
            Self::Why(args) => why::run(args).await,
            Self::Report(args) => report::run(args).await,
            Self::Prices(args) => prices::run(&args),
            Self::Schema { name } if name == "openapi" => Ok(print(OPENAPI)),
            Self::Schema { name } => match pool_config::schema_named(&name) {
                Some(schema) => Ok(print(&schema_text(&schema))),
                None => bail!("no schema named {name:?}"),
            },
            Self::Man(args) => man::run(&args),
            Self::Completions(args) => completions::run(&args),
        }
    }
}

fn main() -> ExitCode {
    completions::answer_shell();
    run()
}

#[tokio::main]
async fn run() -> ExitCode {
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
