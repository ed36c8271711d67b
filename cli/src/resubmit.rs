//! `pool retry` submits finished tasks again as new ones. `pool requeue` puts an
//! unfinished task back into its queue.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::bail;
use pool_api::format::counted;
use pool_api::tasks::{Force, Requeued, Retried, TaskList};
use pool_core::id::TaskId;
use pool_core::result::Status;

use crate::client::Client;
use crate::output::{OutputArgs, complain, exit_code};
use crate::queue_full::{Interrupted, QueueWaiter, same_command};

/// The exit status that shells give to a process ended by SIGINT.
const INTERRUPTED: u8 = 130;
/// The most tasks that the API lists at once.
const MOST: usize = 5_000;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Each task is submitted again as a new task with a new id; its `retry_of` names the old task. If the pool file limits queues and they are full, the command waits for room.\n\nExit status: 0 all tasks were submitted again; 1 a task was not; 130 Ctrl-C.\n\nExamples:\n  \
    pool retry t-019b2c6de0c97d3a8f0c2b7f5e3a1d44\n  \
    pool retry --failed --label run_id=7"
)]
pub(super) struct RetryArgs {
    /// Ids of finished tasks
    #[arg(required_unless_present = "failed", conflicts_with = "failed", add = crate::completions::tasks())]
    ids: Vec<TaskId>,
    /// Retry all failed tasks that were not retried yet (with --label: only those with the label)
    #[arg(long)]
    failed: bool,
    /// Only tasks with this label: key=value
    #[arg(long, value_name = "KEY=VALUE", requires = "failed")]
    label: Option<String>,
    /// Also retry tasks that have succeeded; with --failed: also tasks that were retried before
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The pool repairs lost messages by itself after `dispatcher.repair_after_s`. A task with two messages is still done once.\n\nExample:\n  \
    pool requeue t-019b2c6de0c97d3a8f0c2b7f5e3a1d44"
)]
pub(super) struct RequeueArgs {
    /// The id of an unfinished task
    #[arg(add = crate::completions::tasks())]
    id: TaskId,
    /// Also requeue a task that is running: the next programmer starts it over
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn retry(args: RetryArgs) -> anyhow::Result<ExitCode> {
    let client = args.output.client()?;
    let ids = match args.failed {
        true => failed(&client, args.label.as_deref(), args.force).await?,
        false => args.ids.clone(),
    };
    let (mut retried, mut refused, mut rest) = (Vec::new(), 0, &ids[..]);
    let waiter = QueueWaiter::default();
    while let [id, others @ ..] = rest {
        match waiter
            .ask::<Retried>(
                &client,
                &format!("/tasks/{id}/retry"),
                &Force { force: args.force },
            )
            .await
        {
            Ok(Ok(one)) => retried.push(one),
            Ok(Err(Interrupted)) => break,
            Err(error) => {
                refused += 1;
                complain(&error);
            }
        }
        rest = others;
    }
    drop(waiter);
    let printed = args.output.print(&retried, |retried| text(retried))?;
    if !rest.is_empty() {
        eprintln!("interrupted; {}", go_on(&args, rest));
        return Ok(ExitCode::from(INTERRUPTED));
    }
    Ok(exit_code(printed, refused == 0))
}

/// The command that retries the rest later. With `--failed`, the same command finds the rest by
/// itself.
fn go_on(args: &RetryArgs, rest: &[TaskId]) -> String {
    let ids: Vec<&str> = rest.iter().map(TaskId::as_str).collect();
    let command = match (args.failed, args.force) {
        (true, false) => same_command(&[]),
        (_, true) => format!("pool retry --force {}", ids.join(" ")),
        (false, false) => format!("pool retry {}", ids.join(" ")),
    };
    format!(
        "to retry the other {}, run:\n  {command}",
        counted(rest.len(), "task", "tasks")
    )
}

fn text(retried: &[Retried]) -> String {
    let each: String = retried
        .iter()
        .map(|one| format!("{}\n", one.detail))
        .collect();
    format!(
        "{each}{} submitted again\n",
        counted(retried.len(), "task", "tasks")
    )
}

/// The ids of failed tasks, newest first. Tasks that were retried before are included only with
/// `force`, so the same command may be given twice.
async fn failed(client: &Client, label: Option<&str>, force: bool) -> anyhow::Result<Vec<TaskId>> {
    let failed = page(client, label, Some(Status::Failed), 0).await?;
    if failed.total > failed.tasks.len() {
        bail!(
            "{} tasks have failed, but one command retries at most {MOST}; choose some with --label",
            failed.total
        );
    }
    let mut ids: Vec<TaskId> = failed.tasks.into_iter().map(|task| task.id).collect();
    if !force && !ids.is_empty() {
        let again = submitted_again(client, label).await?;
        let all = ids.len();
        ids.retain(|id| !again.contains(id));
        if ids.len() < all {
            let were = counted(all - ids.len(), "failed task was", "failed tasks were");
            eprintln!("{were} retried before and skipped; --force includes them");
        }
    }
    Ok(ids)
}

/// The tasks that have been retried. A retry has the labels of the task it repeats.
async fn submitted_again(client: &Client, label: Option<&str>) -> anyhow::Result<BTreeSet<TaskId>> {
    let (mut again, mut seen) = (BTreeSet::new(), 0);
    loop {
        let list = page(client, label, None, seen).await?;
        seen += list.tasks.len();
        let last = list.tasks.is_empty() || seen >= list.total;
        again.extend(list.tasks.into_iter().filter_map(|task| task.retry_of));
        if last {
            return Ok(again);
        }
    }
}

async fn page(
    client: &Client,
    label: Option<&str>,
    status: Option<Status>,
    offset: usize,
) -> anyhow::Result<TaskList> {
    let (limit, offset) = (MOST.to_string(), offset.to_string());
    let query = [
        ("limit", Some(limit.as_str())),
        ("offset", Some(&offset)),
        ("status", status.map(Status::as_str)),
        ("label", label),
    ];
    client.get_with("/tasks", &query).await
}

pub(super) async fn requeue(args: RequeueArgs) -> anyhow::Result<ExitCode> {
    let path = format!("/tasks/{}/requeue", args.id);
    let done: Requeued = args
        .output
        .client()?
        .post(&path, &Force { force: args.force })
        .await?;
    args.output
        .print(&done, |done| format!("{}\n", done.detail))
}
