//! `pool completions` prints the script that makes a shell ask this program for completions. The
//! shell then runs it with the variable COMPLETE. Ids come from the dispatcher, if it answers at
//! once.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};
use pool_api::pool::PoolStatus;
use pool_api::tasks::TaskList;
use pool_config::Env;
use serde::de::DeserializeOwned;

use super::{Arguments, print};
use crate::client::Client;
use crate::config::{dispatcher, http_url};
use crate::table::plain;

/// Nobody waits longer for a key to have an effect.
const ANSWERED_WITHIN: Duration = Duration::from_millis(300);
/// The newest tasks are offered.
const TASKS: &str = "200";
const VARIABLE: &str = "COMPLETE";

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The script asks `pool` itself, so it completes ids of tasks and programmers, and routes, too.\n\nExamples:\n  \
    pool completions bash >~/.local/share/bash-completion/completions/pool\n  \
    pool completions zsh >~/.zfunc/_pool\n  \
    pool completions fish >~/.config/fish/completions/pool.fish"
)]
pub(super) struct CompletionsArgs {
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    let shells = Shells::builtins();
    let shell = args.shell.to_string();
    let completer = shells
        .completer(&shell)
        .with_context(|| format!("no completions for {shell}"))?;
    // A program that is not found through PATH is called by its own path.
    let program = std::env::args().next().unwrap_or_default();
    let program = match program.contains('/') {
        true => std::path::absolute(&program)?.display().to_string(),
        false => "pool".to_owned(),
    };
    let mut script = Vec::new();
    completer.write_registration(VARIABLE, "pool", "pool", &program, &mut script)?;
    Ok(print(&String::from_utf8_lossy(&script)))
}

/// Ends the process with candidates if a shell asks for them.
pub(super) fn answer_shell() {
    CompleteEnv::with_factory(Arguments::command)
        .var(VARIABLE)
        .complete();
}

/// Ids of tasks, newest first, with their status and summary.
pub(super) fn tasks() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let list: Option<TaskList> = ask("/tasks?limit=", TASKS);
        let all = list.into_iter().flat_map(|list| list.tasks);
        let offered = all.map(|task| {
            let summary = task.summary.lines().next().unwrap_or_default();
            let help = plain(&format!("{}: {summary}", task.status));
            (task.id.to_string(), Some(help))
        });
        matching(current, offered)
    })
}

pub(super) fn programmers() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let all = status().into_iter().flat_map(|status| status.programmers);
        let offered = all.map(|one| {
            let help = format!("{}, {}", one.state.as_str(), one.current_llm);
            (one.id.to_string(), Some(help))
        });
        matching(current, offered)
    })
}

pub(super) fn routes() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let all = status().into_iter().flat_map(|status| status.routes);
        matching(current, all.map(|route| (route.name, None)))
    })
}

/// LLMs whose breakers are open.
pub(super) fn llms() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let status = status();
        let open = status.iter().flat_map(PoolStatus::open_breakers);
        let llms: BTreeSet<String> = open.map(|one| one.llm.to_string()).collect();
        matching(current, llms.into_iter().map(|llm| (llm, None)))
    })
}

fn status() -> Option<PoolStatus> {
    ask("/programmer_pool/status", "")
}

fn matching(
    current: &OsStr,
    offered: impl Iterator<Item = (String, Option<String>)>,
) -> Vec<CompletionCandidate> {
    let begun = current.to_str().unwrap_or_default();
    let fits = offered.filter(|(value, _)| value.starts_with(begun));
    fits.map(|(value, help)| CompletionCandidate::new(value).help(help.map(Into::into)))
        .collect()
}

/// The answer of the dispatcher; None when it does not answer in time.
fn ask<T: DeserializeOwned>(path: &str, more: &str) -> Option<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    let env = Env::of_process();
    let given = env.get("POOL_URL").and_then(|url| http_url(url).ok());
    let client = Client::of(dispatcher(given.as_ref(), &env).ok()?).ok()?;
    let path = format!("{path}{more}");
    let answer = async { tokio::time::timeout(ANSWERED_WITHIN, client.get(&path)).await };
    let answer = runtime.block_on(answer);
    // Without waiting for the thread that looks a name up.
    runtime.shutdown_background();
    answer.ok()?.ok()
}
