//! Waits for a batch: a progress bar on a terminal, a line per result elsewhere, and a table at the
//! end.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pool_api::format::{counted, duration};
use pool_api::tasks::{Stage, TaskList, TaskView};
use pool_core::id::TaskId;
use pool_core::money::MicroUsd;
use pool_core::result::CheckReport;

use crate::client::Client;
use crate::output::{Format, exit_code};
use crate::table::{Cell, lines, or_blank, table, task_tone};

const POLL: Duration = Duration::from_millis(300);
/// How many results are requested at the same time.
const RESULTS_AT_ONCE: usize = 8;
/// Open tasks that are too old for one list are requested in portions of this size.
const ONE_BY_ONE: usize = 200;
const ERROR_CHARS: usize = 160;

/// Waits for all results. Exit status 1 if any task did not succeed.
pub(super) async fn wait(
    client: &Client,
    taken: &[TaskView],
    format: Format,
) -> anyhow::Result<ExitCode> {
    let mut open: BTreeSet<TaskId> = taken.iter().map(|task| task.id.clone()).collect();
    let bar = bar(open.len() as u64);
    let mut failed = 0;
    loop {
        let seen = look(client, &open, taken.len()).await?;
        for task in seen.iter().filter(|task| task.finished_at.is_some()) {
            failed += usize::from(task.status != Stage::Succeeded);
            note(&bar, task);
            open.remove(&task.id);
        }
        if open.is_empty() {
            break;
        }
        let running = seen
            .iter()
            .filter(|task| task.status == Stage::Running)
            .count();
        // Set the message first: setting the position draws the bar.
        bar.set_message(format!("{running} running, {failed} not succeeded"));
        bar.set_position((taken.len() - open.len()) as u64);
        tokio::time::sleep(POLL).await;
    }
    bar.finish_and_clear();
    report(client, taken, format).await
}

/// The open tasks of the batch: those in one list, and the next few of the others one by one.
async fn look(
    client: &Client,
    open: &BTreeSet<TaskId>,
    batch: usize,
) -> anyhow::Result<Vec<TaskView>> {
    let newest: TaskList = client
        .get(&format!("/tasks?limit={}", 2 * batch + 100))
        .await?;
    let mut seen: Vec<TaskView> = newest
        .tasks
        .into_iter()
        .filter(|task| open.contains(&task.id))
        .collect();
    let listed: BTreeSet<&TaskId> = seen.iter().map(|task| &task.id).collect();
    let unlisted: Vec<&TaskId> = open
        .iter()
        .filter(|id| !listed.contains(id))
        .take(ONE_BY_ONE)
        .collect();
    let others = results(client, &unlisted).await?;
    seen.extend(others);
    Ok(seen)
}

/// The tasks with their results.
async fn results(client: &Client, ids: &[&TaskId]) -> anyhow::Result<Vec<TaskView>> {
    stream::iter(ids.iter().map(|id| format!("/tasks/{id}")))
        .map(|path| async move { client.get::<TaskView>(&path).await })
        .buffered(RESULTS_AT_ONCE)
        .try_collect()
        .await
}

fn bar(length: u64) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(length), target);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} done, {msg} ({elapsed})")
    {
        bar.set_style(style);
    }
    bar
}

/// Without a terminal, prints a line for a task that has ended.
fn note(bar: &ProgressBar, task: &TaskView) {
    if bar.is_hidden() {
        let who = task
            .programmer
            .as_ref()
            .map(|id| format!(" by {}", id.display_name()))
            .unwrap_or_default();
        eprintln!("{} {}{who}", task.id, task.status);
    }
}

async fn report(client: &Client, taken: &[TaskView], format: Format) -> anyhow::Result<ExitCode> {
    let results = results(
        client,
        &taken.iter().map(|task| &task.id).collect::<Vec<_>>(),
    )
    .await?;
    let good = results.iter().all(|task| task.status == Stage::Succeeded);
    let printed = format.print(&results, |results| results_table(results))?;
    Ok(exit_code(printed, good))
}

fn results_table(results: &[TaskView]) -> String {
    let mut rows = table(&[
        "task",
        "status",
        "programmer",
        "LLM",
        "checks",
        "run",
        "cost",
        "error",
    ]);
    for task in results {
        let result = task.result.as_ref();
        let checks = result.map_or(0, |r| r.acceptance.len());
        let is_passed = |check: &&CheckReport| check.exit_status == Some(0);
        let passed = result.map_or(0, |r| r.acceptance.iter().filter(is_passed).count());
        rows.add_row([
            Cell::from(task.id.to_string()),
            Cell::toned(task.status.as_str(), task_tone(task.status)),
            or_blank(task.programmer.as_ref()).into(),
            or_blank(result.and_then(|r| r.llm.as_ref())).into(),
            or_blank((checks > 0).then(|| format!("{passed}/{checks}"))).into(),
            or_blank(result.map(|r| duration(r.timings.run_ms))).into(),
            task.cost_usd
                .filter(|cost| *cost > MicroUsd::ZERO)
                .map(|cost| format!("${cost}"))
                .unwrap_or_default()
                .into(),
            result
                .and_then(|r| r.error.as_ref())
                .map(|e| shortened(e.kind.as_str(), &e.message))
                .unwrap_or_default()
                .into(),
        ]);
    }
    rows.align_right(&[4, 5, 6]);
    rows.spare(&[2, 4, 3, 5]);
    let succeeded = results
        .iter()
        .filter(|task| task.status == Stage::Succeeded)
        .count();
    let cost: MicroUsd = results.iter().filter_map(|task| task.cost_usd).sum();
    let count = counted(results.len(), "task", "tasks");
    format!(
        "{}{succeeded} of {count} succeeded, ${cost} in all\n",
        lines(rows)
    )
}

fn shortened(kind: &str, message: &str) -> String {
    let text = format!("{kind}: {}", message.lines().next().unwrap_or_default());
    match text.char_indices().nth(ERROR_CHARS) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}
