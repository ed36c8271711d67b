//! The command line of a worker: `worker run`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use pool_shared::config::{Env, Pool, load};
use pool_shared::id::ProgrammerId;
use pool_shared::telemetry::{LogFormat, init_logs, init_metrics};
use tokio::signal::unix::{SignalKind, signal};
use worker::host::{self, Choice};
use worker::programmer::Ending;

/// A process that hosts programmers: each takes one coding task at a time and works on it with its agent.
#[derive(Parser)]
#[command(name = "worker", version, arg_required_else_help = true)]
enum Command {
    /// Work until SIGTERM; then finish what is running. A second signal does not wait
    Run(RunArgs),
    /// What an agent is started through; not for people
    #[command(name = worker::sandbox::HELPER_COMMAND, hide = true)]
    SandboxExec,
}

#[derive(clap::Args)]
struct RunArgs {
    /// The pool file
    #[arg(long, env = "POOL_FILE", default_value = "config/pool.yaml")]
    pool: PathBuf,
    #[command(flatten)]
    which: Which,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// Host these programmers
    #[arg(long, env = "PROGRAMMER_ID", value_delimiter = ',', value_name = "ID,…")]
    programmers: Option<Vec<ProgrammerId>>,
    /// Host every programmer of the pool file
    #[arg(long)]
    all: bool,
    /// Host so many programmers that no other process holds
    #[arg(long, value_name = "N")]
    any: Option<usize>,
}

impl Which {
    fn choice(self) -> Choice {
        match (self.all, self.any, self.programmers) {
            (true, _, _) => Choice::All,
            (false, Some(count), _) => Choice::Any(count),
            (false, None, ids) => Choice::These(BTreeSet::from_iter(ids.unwrap_or_default())),
        }
    }
}

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    // The helper must stay free of threads, so it comes before the runtime.
    if args.next().is_some_and(|word| word == worker::sandbox::HELPER_COMMAND) {
        worker::sandbox::exec::main(args);
    }
    let Command::Run(args) = Command::parse() else { return ExitCode::FAILURE };
    let pool = match load(&args.pool, &Env::of_process()) {
        Ok(pool) => pool,
        Err(mistakes) => {
            eprintln!("{mistakes}");
            return ExitCode::from(2);
        }
    };
    let choice = args.which.choice();
    match runtime(&pool, &choice).and_then(|runtime| runtime.block_on(run(pool, choice))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One thread for each programmer, as far as there are processors: more would only hand work to each other. What blocks
/// (files, git) has threads of its own.
fn runtime(pool: &Pool, choice: &Choice) -> anyhow::Result<tokio::runtime::Runtime> {
    let programmers = match choice {
        Choice::All => pool.programmers.len(),
        Choice::These(ids) => ids.len(),
        Choice::Any(count) => *count,
    };
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(programmers.clamp(1, processors)).enable_all();
    builder.build().context("failed to start the runtime")
}

async fn run(pool: Pool, choice: Choice) -> anyhow::Result<()> {
    let format = if std::env::var("POOL_LOG").is_ok_and(|f| f == "json") { LogFormat::Json } else { LogFormat::Text };
    init_logs(std::env::var("RUST_LOG").ok().as_deref(), format);
    let metrics = init_metrics().context("failed to set up metrics")?;
    let ending = Ending::default();
    end_on_signals(ending.clone())?;
    host::run(pool, choice, metrics, ending).await
}

/// The first SIGTERM or SIGINT drains, the second gives the running tasks back at once, the third does not wait.
fn end_on_signals(ending: Ending) -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?;
    tokio::spawn(async move {
        for end in [&ending.drain, &ending.kill] {
            tokio::select! { _ = term.recv() => {} _ = interrupt.recv() => {} }
            end.cancel();
        }
        tokio::select! { _ = term.recv() => {} _ = interrupt.recv() => {} }
        std::process::exit(1);
    });
    Ok(())
}
