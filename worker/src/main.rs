//! The command line of a worker: `worker run`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{ColorChoice, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use pool_config::{Env, load};
use pool_core::id::ProgrammerId;
use pool_core::pool::Pool;
use pool_telemetry::{LogFormat, init_logs};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use worker::host::{self, Choice, HostOptions};
use worker::programmer::EndSignals;
use worker::sandbox::access::settle;
use worker::sandbox::settled::SettledSandbox;
use worker::sandbox::{LimitsBy, cgroup, trial};

const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

/// A process that hosts programmers: each takes one coding task at a time and works on it with its agent.
#[derive(Parser)]
#[command(
    name = "worker",
    version,
    arg_required_else_help = true,
    after_help = "Exit status: 0 done; 1 failure; 2 the command line or the pool file is wrong.\n\nExamples:\n  \
    worker run --programmers 001,002\n  \
    worker run --all --pool config/pool.yaml"
)]
struct Arguments {
    /// When to use colors; auto: only on a terminal, and not with NO_COLOR
    #[arg(long, value_name = "WHEN", global = true, value_enum, default_value_t)]
    color: ColorChoice,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Work until SIGTERM, then finish the running tasks. A second signal hands them back at once
    #[command(after_help = "Examples:\n  \
        worker run --programmers 001,002\n  \
        worker run --any 2 --listen 0.0.0.0:6150\n  \
        worker run --all --pool config/pool.yaml")]
    Run(RunArgs),
    /// Ask the worker that serves `--listen` on this machine for its health; exit status 1 if it is
    /// not healthy
    #[command(after_help = "Example:\n  worker health --address 127.0.0.1:6150")]
    Health {
        /// The address of its `--listen`
        #[arg(long, default_value = "127.0.0.1:6150")]
        address: SocketAddr,
    },
    /// Say which sandbox level this machine supports, or run a command as an acceptance check would
    /// run
    #[command(after_help = "Examples:\n  \
        worker sandbox\n  \
        worker sandbox --in ~/app -- cargo test")]
    Sandbox(SandboxArgs),
    /// Print a shell completion script
    #[command(
        after_help = "Example:\n  worker completions bash >~/.local/share/bash-completion/completions/worker"
    )]
    Completions { shell: Shell },
    /// Start an agent's process; used by the worker itself
    #[command(name = worker::sandbox::HELPER_COMMAND, hide = true)]
    SandboxExec,
}

#[derive(clap::Args)]
struct RunArgs {
    /// The pool file
    #[arg(long, env = "POOL_FILE", default_value = "config/pool.yaml")]
    pool: PathBuf,
    /// Serve GET /health, GET /ready and GET /metrics of this process here, for example on 0.0.0.0:6150
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Name of its connections in the management UI, for example worker-1; default: `worker
    /// HOST/PID`
    #[arg(long, env = "POOL_PROCESS_NAME")]
    name: Option<String>,
    #[command(flatten)]
    which: HostedArgs,
}

#[derive(clap::Args)]
struct SandboxArgs {
    /// The pool file
    #[arg(long, env = "POOL_FILE", default_value = "config/pool.yaml")]
    pool: PathBuf,
    /// The directory that takes the place of the worktree. The command may change it
    #[arg(long = "in", value_name = "DIRECTORY", default_value = ".")]
    directory: PathBuf,
    /// The level to try instead of the one in the pool file
    #[arg(long, value_name = "LEVEL")]
    level: Option<String>,
    /// The command and its arguments, after `--`
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct HostedArgs {
    /// Host these programmers
    #[arg(
        long,
        env = "PROGRAMMER_ID",
        value_delimiter = ',',
        value_name = "ID,…"
    )]
    programmers: Option<Vec<ProgrammerId>>,
    /// Host every programmer of the pool file
    #[arg(long)]
    all: bool,
    /// Host this number of programmers that no other process holds
    #[arg(long, value_name = "N")]
    any: Option<usize>,
}

impl HostedArgs {
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
    // The helper and the stages must have no threads, so this comes before the runtime.
    if let Some(word) = args.next() {
        if word == worker::sandbox::HELPER_COMMAND {
            worker::sandbox::exec::main(args);
        }
        agent_sandbox::run_stage(&word, args);
    }
    let Arguments { color, command } = Arguments::parse();
    match color {
        ColorChoice::Auto => anstream::ColorChoice::Auto,
        ColorChoice::Always => anstream::ColorChoice::Always,
        ColorChoice::Never => anstream::ColorChoice::Never,
    }
    .write_global();
    let args = match command {
        Command::Run(args) => args,
        Command::Health { address } => return ask_health(address),
        Command::Sandbox(args) => {
            return try_sandbox(args).unwrap_or_else(|problem| {
                eprintln!("{problem}");
                ExitCode::from(2)
            });
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "worker", &mut script);
            return print(&script);
        }
        Command::SandboxExec => return ExitCode::FAILURE,
    };
    let settled = load_pool(&args.pool).and_then(|mut pool| {
        let settled = settle_sandbox(&mut pool)?;
        Ok((pool, settled))
    });
    let (pool, settled) = match settled {
        Ok(settled) => settled,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    // Without kernel layers an agent could otherwise read the keys from this process's memory. If
    // the kernel refuses, the layers still hold.
    let _ = agent_sandbox::hide_process();
    let choice = args.which.choice();
    let worked = worker::signals::unblock_all()
        .map_err(Into::into)
        .and_then(|()| runtime(&pool, &choice));
    let worked = worked.and_then(|runtime| {
        let running = run(pool, settled, choice, args.name, args.listen);
        let worked = runtime.block_on(running);
        // File work that hangs in the kernel must not delay the end of the process.
        runtime.shutdown_background();
        worked
    });
    match worked {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One thread for each programmer, up to the number of processors. More threads would only pass
/// work to each other. Blocking work (files, git) has threads of its own.
fn runtime(pool: &Pool, choice: &Choice) -> anyhow::Result<tokio::runtime::Runtime> {
    let programmers = match choice {
        Choice::All => pool.programmers.len(),
        Choice::These(ids) => ids.len(),
        Choice::Any(count) => *count,
    };
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder
        .worker_threads(programmers.clamp(1, processors))
        .enable_all();
    builder.build().context("failed to start the runtime")
}

fn load_pool(file: &Path) -> Result<Pool, String> {
    load(file, &Env::of_process()).map_err(|mistakes| mistakes.to_string())
}

/// Tests the sandbox of the pool file, and puts the level that works into `pool`.
fn settle_sandbox(pool: &mut Pool) -> Result<SettledSandbox, String> {
    let begin = tokio::time::Instant::now();
    let level = settle(pool).map_err(|error| error.to_string())?;
    let settled = SettledSandbox::new(
        &pool.sandbox,
        &level,
        LimitsBy::of_this_process(),
        begin.elapsed(),
    );
    pool.sandbox.level = level.level;
    Ok(settled)
}

/// The mechanism that holds the limits of whole runs.
fn limits() -> String {
    match cgroup::delegation() {
        Ok(_) => LimitsBy::Cgroup.name().to_owned(),
        Err(why) => format!("{} ({why})", LimitsBy::Watched.name()),
    }
}

/// `worker sandbox`: prints the level, or runs a command with it.
fn try_sandbox(args: SandboxArgs) -> Result<ExitCode, String> {
    let mut pool = load_pool(&args.pool)?;
    if let Some(level) = &args.level {
        pool.sandbox.level = serde_json::from_value(level.as_str().into())
            .map_err(|_| format!("--level {level}: write auto, strict, files or off"))?;
    }
    let settled = settle_sandbox(&mut pool)?;
    if args.command.is_empty() {
        let text = format!("{settled}\nlimits: {}\n", limits());
        return Ok(print(text.as_bytes()));
    }
    trial::run(&pool, settled.layers, &args.directory, args.command)
        .map_err(|error| format!("{error:#}"))
}

async fn run(
    pool: Pool,
    settled: SettledSandbox,
    choice: Choice,
    name: Option<String>,
    listen: Option<SocketAddr>,
) -> anyhow::Result<()> {
    let format = if std::env::var("POOL_LOG").is_ok_and(|f| f == "json") {
        LogFormat::Json
    } else {
        LogFormat::Text
    };
    init_logs(std::env::var("RUST_LOG").ok().as_deref(), format);
    log_sandbox(&settled);
    let ending = EndSignals::default();
    worker::signals::keep_ignored_signals_here();
    end_on_signals(ending.clone())?;
    let listener = match listen {
        None => None,
        Some(listen) => Some(
            TcpListener::bind(listen)
                .await
                .with_context(|| format!("failed to listen on {listen} (--listen)"))?,
        ),
    };
    let options = HostOptions {
        name,
        listener,
        sandbox: settled,
    };
    host::run(pool, choice, options, ending).await
}

/// A full sandbox is worth one line. Everything that a weaker one leaves open is a warning.
fn log_sandbox(settled: &SettledSandbox) {
    for line in settled.lines() {
        if settled.is_full() {
            tracing::info!("sandbox: {line}");
        } else {
            tracing::warn!("sandbox: {line}");
        }
    }
    if nix::unistd::geteuid().is_root() {
        tracing::warn!(
            "the worker runs as root, so a bug in the sandbox would give an agent the whole machine; start it as a user of its own"
        );
    }
}

/// Writes to stdout. A reader that has gone away is not an error.
fn print(text: &[u8]) -> ExitCode {
    match std::io::stdout().lock().write_all(text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The health check of a container, whose image has no HTTP client.
fn ask_health(address: SocketAddr) -> ExitCode {
    let answer = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, HEALTH_TIMEOUT)?;
        stream.set_read_timeout(Some(HEALTH_TIMEOUT))?;
        stream.write_all(format!("GET /health HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    match answer() {
        Ok(answer) => {
            print(format!("{}\n", answer.lines().last().unwrap_or_default()).as_bytes());
            if answer.split(' ').nth(1) == Some("200") {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            let red = anstyle::AnsiColor::Red.on_default().bold();
            let next = format!("start one with `worker run --listen {address}`, or set --address");
            // If standard error is closed, the message is lost.
            let _ = writeln!(
                anstream::stderr(),
                "{red}error:{red:#} no worker answers on {address} ({error}); {next}"
            );
            ExitCode::FAILURE
        }
    }
}

/// The first SIGTERM or SIGINT drains, the second hands the running tasks back at once, the third
/// exits at once.
fn end_on_signals(ending: EndSignals) -> anyhow::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_an_example_that_is_right() {
        let mut root = Arguments::command();
        root.build();
        let commands = root
            .get_subcommands()
            .filter(|one| !one.is_hide_set() && one.get_name() != "help");
        for command in commands.chain([&root]) {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            let examples: Vec<&str> = help
                .lines()
                .map(str::trim)
                .filter(|line| line.starts_with("worker "))
                .collect();
            assert!(
                !examples.is_empty(),
                "{} has an example",
                command.get_name()
            );
            for line in examples {
                let call = line
                    .split(" >")
                    .next()
                    .unwrap_or_default()
                    .split_whitespace();
                assert!(Arguments::try_parse_from(call).is_ok(), "{line}");
            }
        }
    }
}
