//! `pool tasks`: lists tasks, newest first.

use std::process::ExitCode;

use pool_api::format::{age, counted, millis};
use pool_api::tasks::{TaskList, TaskView};
use pool_core::id::ProgrammerId;
use pool_core::time::Timestamp;
use pool_telemetry::clock::wall_clock;

use crate::output::OutputArgs;
use crate::table::{Cell, lines, or_blank, table, task_tone};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    pool tasks\n  \
    pool tasks --status queued\n  \
    pool tasks --label run_id=7 --status failed --format json\n  \
    pool tasks --text parser --limit 500")]
pub(super) struct TasksArgs {
    /// Only tasks with this status
    #[arg(long, value_parser = ["queued", "running", "succeeded", "failed", "rejected", "cancelled", "expired"])]
    status: Option<String>,
    /// Only tasks with this label: key=value
    #[arg(long, value_name = "KEY=VALUE")]
    label: Option<String>,
    /// Only tasks of this programmer, running or finished
    #[arg(long, value_name = "ID", add = crate::completions::programmers())]
    programmer: Option<ProgrammerId>,
    /// Only tasks with this text in their id, summary or labels
    #[arg(long, value_name = "WORDS")]
    text: Option<String>,
    /// List at most this many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=5_000))]
    limit: u16,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: TasksArgs) -> anyhow::Result<ExitCode> {
    let limit = args.limit.to_string();
    let query = [
        ("limit", Some(limit.as_str())),
        ("status", args.status.as_deref()),
        ("label", args.label.as_deref()),
        (
            "programmer",
            args.programmer.as_ref().map(ProgrammerId::as_str),
        ),
        ("text", args.text.as_deref()),
    ];
    let list: TaskList = args.output.client()?.get_with("/tasks", &query).await?;
    args.output.print(&list, |list| text(list, wall_clock()))
}

fn text(list: &TaskList, now: Timestamp) -> String {
    if list.tasks.is_empty() {
        return "no tasks match\n".to_owned();
    }
    let mut rows = table(&["task", "status", "programmer", "LLM", "age", "summary"]);
    rows.align_right(&[4]);
    rows.spare(&[3, 2]);
    for task in &list.tasks {
        rows.add_row(row(task, now));
    }
    let shown = list.tasks.len();
    let count = counted(list.total, "task", "tasks");
    let count = if shown < list.total {
        format!("the newest {shown} of {count} (--limit shows more)")
    } else {
        count
    };
    format!("{}{count}. `pool show ID` shows one in full\n", lines(rows))
}

fn row(task: &TaskView, now: Timestamp) -> [Cell; 6] {
    let since = task.submitted_at.or(task.started_at).or(task.finished_at);
    let old = since.map(|since| age(millis(since, now)));
    [
        task.id.to_string().into(),
        Cell::toned(task.status.as_str(), task_tone(task.status)),
        or_blank(task.programmer.as_ref()).into(),
        or_blank(task.llm.as_ref()).into(),
        old.unwrap_or_default().into(),
        task.summary.lines().next().unwrap_or_default().into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_task_is_a_row_with_its_age_and_what_it_is_about_and_the_end_says_how_many_there_are() {
        let task = json!({
            "id": "t-1", "status": "succeeded", "route": "fast", "summary": "Add a test\nfor parse()", "submitted_at": "2026-01-31T12:00:00Z",
            "attempts": 1, "programmer": "003", "attempt": null, "started_at": null, "finished_at": "2026-01-31T12:01:00Z",
            "cost_usd": "0.01", "llm": "free/small", "error": null
        });
        let list = serde_json::from_value(json!({"total": 7, "tasks": [task]}))
            .expect("an answer of GET /tasks");
        let text = text(&list, "2026-01-31T12:02:05Z".parse().expect("a time"));
        let row = text
            .lines()
            .nth(2)
            .unwrap_or_default()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        assert_eq!(
            row, "t-1 succeeded 003 free/small 2 min 05 s Add a test",
            "the whole row:\n{text}"
        );
        assert!(
            text.contains("the newest 1 of 7 tasks (--limit shows more)"),
            "there are more:\n{text}"
        );
    }
}
