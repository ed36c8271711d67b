//! `pool dead`: list, show, retry and drop dead letters.

use std::process::ExitCode;

use anyhow::bail;
use pool_api::dead::{AllRetried, DeadLetter, DeadList, DeadMessage, Dropped};
use pool_api::format::{clock, counted, with_clocks};
use pool_api::tasks::Retried;
use pool_telemetry::clock::wall_clock;
use serde_json::json;

use crate::client::Client;
use crate::output::{OutputArgs, exit_code};
use crate::queue_full::QueueWaiter;
use crate::table::{lines, plain, table};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    pool dead list\n  \
    pool dead retry 019b2c6de0c97d3a8f0c2b7f5e3a1d44\n  \
    pool dead retry --all\n  \
    pool dead drop --all")]
pub(super) struct DeadArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List the messages in pool.dead with their reasons, oldest first
    #[command(after_help = "Example:\n  pool dead list")]
    List(OutputArgs),
    /// Show one message with its reason, properties and body
    #[command(after_help = "Example:\n  pool dead show 019b2c6de0c97d3a8f0c2b7f5e3a1d44")]
    Show {
        /// The id of a message (see `pool dead list`)
        id: String,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Retry messages: an unfinished task continues under its id, a finished task is submitted as a
    /// new one
    #[command(
        after_help = "Exit status: 0 all messages were retried; 1 some could not be retried and are still there.\n\nExamples:\n  pool dead retry 019b2c6de0c97d3a8f0c2b7f5e3a1d44\n  pool dead retry --all"
    )]
    Retry {
        /// The ids of messages (see `pool dead list`)
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        ids: Vec<String>,
        /// Retry all messages in pool.dead
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Drop messages for good
    #[command(
        after_help = "Examples:\n  pool dead drop 019b2c6de0c97d3a8f0c2b7f5e3a1d44\n  pool dead drop --all"
    )]
    Drop {
        /// The ids of messages (see `pool dead list`)
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        ids: Vec<String>,
        /// Drop all messages in pool.dead
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        output: OutputArgs,
    },
}

pub(super) async fn run(args: DeadArgs) -> anyhow::Result<ExitCode> {
    match args.what {
        What::List(output) => {
            let list: DeadList = output.client()?.get("/dead").await?;
            output.print(&list, listed)
        }
        What::Show { id, output } => {
            let message: DeadMessage = output.client()?.get(&format!("/dead/{id}")).await?;
            output.print(&message, described)
        }
        What::Retry {
            ids: _,
            all: true,
            output,
        } => {
            let done = retry_all(&output.client()?).await?;
            let printed = output.print(&done, all_retried)?;
            Ok(exit_code(printed, done.total == 0))
        }
        What::Retry {
            ids,
            all: false,
            output,
        } => {
            let client = output.client()?;
            let mut retried: Vec<Retried> = Vec::new();
            for id in ids {
                let path = format!("/dead/{id}/retry");
                retried.push(client.post(&path, &json!({})).await?);
            }
            output.print(&retried, |all| {
                all.iter().map(|one| format!("{}\n", one.detail)).collect()
            })
        }
        What::Drop { ids, all, output } => {
            let dropped = if all {
                drop_all(&output.client()?).await?
            } else {
                drop_these(&output.client()?, &ids).await?
            };
            output.print(&dropped, thrown_away)
        }
    }
}

/// Sends requests until no more dead letters can be retried. While queues are full it waits for
/// room.
async fn retry_all(client: &Client) -> anyhow::Result<AllRetried> {
    let (mut retried, waiter) = (Vec::new(), QueueWaiter::default());
    loop {
        let Ok(mut some) = waiter
            .ask::<AllRetried>(client, "/dead/retry", &json!({}))
            .await?
        else {
            bail!(
                "interrupted after {} retried; run the same command to continue",
                retried.len()
            );
        };
        let goes_on = !some.retried.is_empty() && some.total > some.kept.len();
        retried.append(&mut some.retried);
        if !goes_on {
            return Ok(AllRetried { retried, ..some });
        }
    }
}

fn all_retried(done: &AllRetried) -> String {
    let each = done
        .retried
        .iter()
        .map(|one| format!("{}\n", one.detail))
        .collect::<String>();
    let taken = counted(done.retried.len(), "message", "messages");
    let mut text = format!("{each}{taken} retried\n");
    if done.total > 0 {
        let left = counted(done.total, "message", "messages");
        text += &format!("{left} still in pool.dead (`pool dead drop ID` drops one):\n");
        for kept in &done.kept {
            let task = kept
                .task_id
                .as_ref()
                .map_or(String::new(), |task| format!(" (task {task})"));
            text += &format!("  {}{task}: {}\n", kept.id, kept.detail);
        }
    }
    plain(&text)
}

/// Sends requests until the messages that were there at first are gone.
async fn drop_all(client: &Client) -> anyhow::Result<Dropped> {
    let mut dropped = 0;
    loop {
        let some: Dropped = client.delete("/dead").await?;
        dropped += some.dropped;
        if some.dropped == 0 || some.left.unwrap_or_default() == 0 {
            return Ok(Dropped {
                dropped,
                left: some.left,
            });
        }
    }
}

async fn drop_these(client: &Client, ids: &[String]) -> anyhow::Result<Dropped> {
    let mut dropped = 0;
    for id in ids {
        let one: Dropped = client.delete(&format!("/dead/{id}")).await?;
        dropped += one.dropped;
    }
    Ok(Dropped {
        dropped,
        left: None,
    })
}

fn thrown_away(dropped: &Dropped) -> String {
    format!(
        "{} dropped\n",
        counted(dropped.dropped, "message", "messages")
    )
}

fn listed(list: &DeadList) -> String {
    if list.letters.is_empty() {
        return "pool.dead is empty\n".to_owned();
    }
    let mut rows = table(&["id", "task", "from", "when", "bytes", "reason"]);
    rows.align_right(&[4]);
    rows.spare(&[4, 2, 1, 3]);
    let now = wall_clock();
    for DeadLetter {
        id,
        reason,
        task_id,
        from,
        at,
        bytes,
    } in &list.letters
    {
        let (task, at) = (
            task_id.clone().unwrap_or_default(),
            at.map_or(String::new(), |at| clock(at, now)),
        );
        rows.add_row([
            id.clone(),
            task,
            from.clone(),
            at,
            bytes.to_string(),
            with_clocks(reason, now),
        ]);
    }
    let shown = list.letters.len();
    let count = counted(list.total, "message", "messages");
    let count = if shown < list.total {
        format!("{shown} of {count}")
    } else {
        count
    };
    format!("{}{count}. `pool dead show|retry|drop ID`\n", lines(rows))
}

fn described(message: &DeadMessage) -> String {
    let letter = &message.letter;
    let mut text = format!(
        "{}\nreason: {}\nfrom: {}\n",
        letter.id, letter.reason, letter.from
    );
    if let Some(at) = letter.at {
        text += &format!("when: {at}\n");
    }
    text += &format!("routing key: {}\n", message.routing_key);
    for (name, value) in &message.properties {
        text += &format!("{name}: {value}\n");
    }
    let not_text = if message.is_utf8 {
        ""
    } else {
        ", not valid UTF-8"
    };
    plain(&(text + &format!("\n{}\n({} bytes{not_text})\n", message.body, letter.bytes)))
}
