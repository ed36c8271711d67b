//! `pool retry`: finished tasks as new ones. `pool requeue`: an unfinished one into its queue again.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::bail;
use pool_core::id::TaskId;
use pool_core::result::Status;
use serde_json::json;

use super::full::{Interrupted, Room, same_command};
use super::{Client, Shown, complain};
use dispatcher::api::resubmit::Requeued;
use dispatcher::dead::retry::Retried;
use dispatcher::format::counted;
use dispatcher::views::tasks::TaskList;

/// As a shell counts what SIGINT has ended.
const INTERRUPTED: u8 = 130;
/// As many as a list of the API holds.
const MOST: usize = 5_000;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Each becomes a new task with an id of its own, which names the old one in `retry_of`.\n\nExit status: 0 all were submitted again, 1 one was not, 130 Ctrl-C. Where the pool file limits queues and they are full, it waits for room.\n\nExamples:\n  \
    pool retry t-019b2c6de0c97d3a8f0c2b7f5e3a1d44\n  \
    pool retry --failed --label run_id=7"
)]
pub(super) struct RetryArgs {
    /// Ids of finished tasks
    #[arg(required_unless_present = "failed", conflicts_with = "failed")]
    ids: Vec<TaskId>,
    /// Every task that has failed and was not submitted again yet (with --label: of those)
    #[arg(long)]
    failed: bool,
    /// Only tasks with this label: key=value
    #[arg(long, value_name = "KEY=VALUE", requires = "failed")]
    label: Option<String>,
    /// Also tasks that have succeeded; with --failed: also those that were submitted again already
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    shown: Shown,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The pool finds lost messages by itself after `dispatcher.repair_after_s`. Of two copies of a task one is done.\n\nExample:\n  \
    pool requeue t-019b2c6de0c97d3a8f0c2b7f5e3a1d44"
)]
pub(super) struct RequeueArgs {
    /// The id of an unfinished task
    id: TaskId,
    /// Also a task that somebody works on: whoever takes it next begins anew
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    shown: Shown,
}

fn body(force: bool) -> Vec<u8> {
    json!({"force": force}).to_string().into_bytes()
}

pub(super) async fn retry(args: RetryArgs) -> anyhow::Result<ExitCode> {
    let client = args.shown.client()?;
    let ids = match args.failed {
        true => failed(&client, args.label.as_deref(), args.force).await?,
        false => args.ids.clone(),
    };
    let (mut retried, mut refused, mut rest) = (Vec::new(), 0, &ids[..]);
    let room = Room::default();
    while let [id, others @ ..] = rest {
        match room
            .ask::<Retried>(&client, &format!("/tasks/{id}/retry"), body(args.force))
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
    drop(room);
    let printed = args.shown.print(&retried, |retried| text(retried))?;
    if !rest.is_empty() {
        eprintln!("interrupted; {}", go_on(&args, rest));
        return Ok(ExitCode::from(INTERRUPTED));
    }
    Ok(if refused == 0 {
        printed
    } else {
        ExitCode::FAILURE
    })
}

/// How the rest is submitted again later. `--failed` finds by itself what was not yet.
fn go_on(args: &RetryArgs, rest: &[TaskId]) -> String {
    let ids: Vec<&str> = rest.iter().map(TaskId::as_str).collect();
    let command = match (args.failed, args.force) {
        (true, false) => same_command(&[]),
        (_, true) => format!("pool retry --force {}", ids.join(" ")),
        (false, false) => format!("pool retry {}", ids.join(" ")),
    };
    format!(
        "this submits the other {} again:\n  {command}",
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

/// What has failed, the newest first; what was submitted again already only if it is `force`d, so that the same command
/// may be given twice.
async fn failed(client: &Client, label: Option<&str>, force: bool) -> anyhow::Result<Vec<TaskId>> {
    let failed = page(client, label, Some(Status::Failed), 0).await?;
    if failed.total > failed.tasks.len() {
        bail!(
            "{} tasks have failed, and at most {MOST} are retried at once; choose some with --label",
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
            eprintln!("{were} submitted again before, and left out; --force takes them too");
        }
    }
    Ok(ids)
}

/// Tasks that are there once more. New ones have the labels of the old ones.
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
    let mut query = vec![("limit", limit.as_str()), ("offset", &offset)];
    query.extend(status.map(|status| ("status", status.as_str())));
    query.extend(label.map(|label| ("label", label)));
    client.get_with("/tasks", &query).await
}

pub(super) async fn requeue(args: RequeueArgs) -> anyhow::Result<ExitCode> {
    let path = format!("/tasks/{}/requeue", args.id);
    let done: Requeued = args.shown.client()?.post(&path, body(args.force)).await?;
    args.shown.print(&done, |done| format!("{}\n", done.detail))
}
