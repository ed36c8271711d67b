//! `pool show` prints one task; `pool patch` prints its patch.

use std::process::ExitCode;

use pool_api::format::{counted, duration, tokens};
use pool_api::tasks::{Stage, TaskView};
use pool_api::why::Why;
use pool_core::id::TaskId;
use pool_core::result::{NetworkAttempts, ResultMessage, Status, Usage};
use pool_core::task::{Limits, Priority, TaskMessage};
use serde_json::json;

use crate::output::OutputArgs;
use crate::table::plain;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    pool show t-019b2c6de0c97d3a8f0c2b7f5e3a1d44\n  \
    pool show t-019b2c6de0c97d3a8f0c2b7f5e3a1d44 --format json")]
pub(super) struct ShowArgs {
    /// The id of a task
    #[arg(add = crate::completions::tasks())]
    id: TaskId,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  pool patch t-019b2c6de0c97d3a8f0c2b7f5e3a1d44")]
pub(super) struct PatchArgs {
    /// The id of a task
    #[arg(add = crate::completions::tasks())]
    id: TaskId,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: ShowArgs) -> anyhow::Result<ExitCode> {
    let client = args.output.client()?;
    let view: TaskView = client.get(&format!("/tasks/{}", args.id)).await?;
    if view.status == Stage::Queued {
        let why: Why = client.get(&format!("/tasks/{}/why", args.id)).await?;
        eprintln!("{}: {}", args.id, plain(&why.sentence));
    }
    args.output.print(&view, text)
}

pub(super) async fn patch(args: PatchArgs) -> anyhow::Result<ExitCode> {
    let patch = args
        .output
        .client()?
        .text(&format!("/tasks/{}/patch", args.id))
        .await?;
    args.output
        .print(&json!({"patch": patch}), |_| patch.clone())
}

/// One line per fact, then the instruction and the output.
fn text(view: &TaskView) -> String {
    let mut facts = vec![
        ("status", Some(view.status.to_string())),
        ("route", Some(view.route.clone())),
        (
            "programmer",
            view.programmer.as_ref().map(|id| id.display_name()),
        ),
        (
            "attempts",
            (view.attempts > 1).then(|| view.attempts.to_string()),
        ),
        ("submitted", view.submitted_at.map(|at| at.to_string())),
        ("started", view.started_at.map(|at| at.to_string())),
        ("finished", view.finished_at.map(|at| at.to_string())),
        ("cost", view.cost_usd.map(|cost| format!("${cost}"))),
    ];
    let labels: Vec<String> = view
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    facts.extend([
        ("labels", Some(labels.join(" "))),
        ("retry of", view.retry_of.as_ref().map(ToString::to_string)),
    ]);
    facts.extend(view.task.as_ref().map(of_task).into_iter().flatten());
    facts.extend(view.result.as_ref().map(of_result).into_iter().flatten());
    let known = facts
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.filter(|value| !value.is_empty())?)));
    let lines: String = known
        .map(|(name, value)| format!("{name:<11} {value}\n"))
        .collect();
    let task = view
        .task
        .as_ref()
        .map(|task| format!("\n{}\n", task.instruction))
        .unwrap_or_default();
    let printed = view
        .result
        .as_ref()
        .map(|result| hints(result) + &checks(result) + &output(result))
        .unwrap_or_default();
    plain(&format!("{}\n{lines}{task}{printed}", view.id))
}

fn words<T: ToString>(all: impl IntoIterator<Item = T>) -> String {
    all.into_iter()
        .map(|one| one.to_string())
        .collect::<Vec<_>>()
        .join(" ")
}

fn of_task(task: &TaskMessage) -> [(&'static str, Option<String>); 6] {
    let Limits {
        timeout_s,
        max_cost_usd,
        deadline,
    } = task.limits;
    let limits = [
        timeout_s.map(|seconds| duration(seconds.saturating_mul(1000))),
        max_cost_usd.map(|cost| format!("${cost}")),
        deadline.map(|at| format!("until {at}")),
    ];
    let base = task
        .base
        .as_ref()
        .map(|base| format!(" at {base}"))
        .unwrap_or_default();
    [
        ("repository", Some(format!("{}{base}", task.repository))),
        ("requires", Some(words(&task.capabilities))),
        ("files given", Some(words(&task.files))),
        ("limits", Some(words(limits.into_iter().flatten()))),
        (
            "priority",
            (task.priority != Priority::Normal).then(|| "high".to_owned()),
        ),
        (
            "checks",
            Some(words(task.acceptance.iter().map(|check| &check.name))),
        ),
    ]
}

fn of_result(result: &ResultMessage) -> [(&'static str, Option<String>); 9] {
    let llm = |llm| {
        if result.used_backup {
            format!("{llm} (backup)")
        } else {
            format!("{llm}")
        }
    };
    [
        ("LLM", result.llm.as_ref().map(llm)),
        ("run", Some(duration(result.timings.run_ms))),
        (
            "agent runs",
            (result.runs > 1).then(|| result.runs.to_string()),
        ),
        (
            "tokens",
            (result.usage.calls > 0).then(|| used(&result.usage)),
        ),
        ("branch", result.branch.as_ref().map(ToString::to_string)),
        ("commit", result.commit.as_ref().map(ToString::to_string)),
        ("files", Some(files(result))),
        ("refused", attempts(result)),
        (
            "error",
            result
                .error
                .as_ref()
                .map(|error| format!("{}: {}", error.kind.as_str(), error.message)),
        ),
    ]
}

fn files(result: &ResultMessage) -> String {
    let named = result.files_changed.join(" ");
    let more = result
        .files_changed_total
        .saturating_sub(result.files_changed.len() as u64);
    if more == 0 {
        named
    } else {
        format!("{named} … and {more} more")
    }
}

fn used(usage: &Usage) -> String {
    let calls = counted(usage.calls, "call", "calls");
    let failed = if usage.failed_calls == 0 {
        String::new()
    } else {
        format!(", {} failed", usage.failed_calls)
    };
    format!(
        "{} in, {} out, {calls}{failed}",
        tokens(usage.input_tokens),
        tokens(usage.output_tokens)
    )
}

/// The likely causes of the failure.
pub(super) fn hints(result: &ResultMessage) -> String {
    let hint = |hint: &String| format!("hint: {hint}\n");
    let lines: String = result.sandbox.hints.iter().map(hint).collect();
    if lines.is_empty() {
        return lines;
    }
    format!("\n{lines}")
}

/// Connections that the sandbox did not let through.
fn attempts(result: &ResultMessage) -> Option<String> {
    let NetworkAttempts {
        addresses,
        names,
        local_ports,
    } = result.sandbox.network_attempts;
    let parts = [
        (addresses, "to other machines"),
        (names, "questions to name servers"),
        (local_ports, "to local ports without a server"),
    ];
    let parts: Vec<String> = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// The end of the agent's output, for a task that did not succeed.
fn output(result: &ResultMessage) -> String {
    let tail = result.log_tail.trim_end();
    if tail.is_empty() {
        return String::new();
    }
    match result.status {
        Status::Succeeded => String::new(),
        Status::Failed | Status::Rejected | Status::Cancelled | Status::Expired => {
            format!("\nthe end of the agent's output:\n{tail}\n")
        }
    }
}

fn checks(result: &ResultMessage) -> String {
    let check = |check: &pool_core::result::CheckReport| {
        let ended = check
            .exit_status
            .map_or("was stopped".to_owned(), |status| format!("exit {status}"));
        let output = if check.exit_status == Some(0) {
            ""
        } else {
            &check.output_tail
        };
        let tries = match check.tries {
            1 => String::new(),
            several => format!(", {several} tries"),
        };
        format!(
            "\ncheck {}: {ended}{tries}, {}\n{output}",
            check.name,
            duration(check.duration_ms)
        )
    };
    result.acceptance.iter().map(check).collect()
}
