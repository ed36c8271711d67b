//! `dispatcher show` and `dispatcher patch`: one task; what it changes.

use std::process::ExitCode;

use pool_shared::id::TaskId;
use pool_shared::result::ResultMessage;
use serde_json::json;

use super::Shown;
use crate::api::tasks::TaskView;
use crate::figures::duration;
use crate::tables::plain;
use crate::why::Why;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    dispatcher show t-019b2c6de0c97d3a8f0c2b7f5e3a1d44\n  \
    dispatcher show t-019b2c6de0c97d3a8f0c2b7f5e3a1d44 --format json")]
pub(super) struct ShowArgs {
    /// The id of a task
    id: TaskId,
    #[command(flatten)]
    shown: Shown,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  dispatcher patch t-019b2c6de0c97d3a8f0c2b7f5e3a1d44")]
pub(super) struct PatchArgs {
    /// The id of a task
    id: TaskId,
    #[command(flatten)]
    shown: Shown,
}

pub(super) async fn run(args: ShowArgs) -> anyhow::Result<ExitCode> {
    let client = args.shown.client()?;
    let view: TaskView = client.get(&format!("/tasks/{}", args.id)).await?;
    if view.status == "queued" {
        let why: Why = client.get(&format!("/tasks/{}/why", args.id)).await?;
        eprintln!("{}: {}", args.id, plain(&why.sentence));
    }
    args.shown.print(&view, text)
}

pub(super) async fn patch(args: PatchArgs) -> anyhow::Result<ExitCode> {
    let patch = args.shown.client()?.text(&format!("/tasks/{}/patch", args.id)).await?;
    args.shown.print(&json!({"patch": patch}), |_| patch.clone())
}

/// What there is to say of it, a line each; then what it was asked for and what was printed.
fn text(view: &TaskView) -> String {
    let mut facts = vec![
        ("status", Some(view.status.clone())),
        ("route", Some(view.route.clone())),
        ("programmer", view.programmer.as_ref().map(|id| id.display_name())),
        ("attempts", (view.attempts > 1).then(|| view.attempts.to_string())),
        ("submitted", view.submitted_at.map(|at| at.to_string())),
        ("started", view.started_at.map(|at| at.to_string())),
        ("finished", view.finished_at.map(|at| at.to_string())),
        ("cost", view.cost_usd.map(|cost| format!("${cost}"))),
    ];
    let labels: Vec<String> = view.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    facts.push(("labels", Some(labels.join(" "))));
    if let Some(result) = &view.result {
        facts.extend(of_result(result));
    }
    let known = facts.into_iter().filter_map(|(name, value)| Some((name, value.filter(|value| !value.is_empty())?)));
    let lines: String = known.map(|(name, value)| format!("{name:<11} {value}\n")).collect();
    let task = view.task.as_ref().map(|task| format!("\n{}\n", task.instruction)).unwrap_or_default();
    plain(&format!("{}\n{lines}{task}{}", view.id, view.result.as_ref().map(checks).unwrap_or_default()))
}

fn of_result(result: &ResultMessage) -> [(&'static str, Option<String>); 6] {
    let llm = |llm| if result.used_backup { format!("{llm} (backup)") } else { format!("{llm}") };
    [
        ("LLM", result.llm.as_ref().map(llm)),
        ("run", Some(duration(result.timings.run_ms))),
        ("branch", result.branch.as_ref().map(ToString::to_string)),
        ("commit", result.commit.as_ref().map(ToString::to_string)),
        ("files", Some(result.files_changed.join(" "))),
        ("error", result.error.as_ref().map(|error| format!("{}: {}", error.kind.as_str(), error.message))),
    ]
}

fn checks(result: &ResultMessage) -> String {
    let check = |check: &pool_shared::result::CheckReport| {
        let ended = check.exit_status.map_or("did not end by itself".to_owned(), |status| format!("exit {status}"));
        let output = if check.exit_status == Some(0) { "" } else { &check.output_tail };
        format!("\ncheck {}: {ended}, {}\n{output}", check.name, duration(check.duration_ms))
    };
    result.acceptance.iter().map(check).collect()
}
