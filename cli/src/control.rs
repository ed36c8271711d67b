//! Operator commands: `pool cancel`, `pause`, `drain`, `resume` and `pauses`.

use std::process::ExitCode;
use std::time::Duration;

use pool_api::control::{BreakerList, EndOfPause, NewBreakerOrder, NewPause, PauseList};
use pool_api::format::clock;
use pool_api::pool::PoolStatus;
use pool_api::status::ProgrammerState;
use pool_api::tasks::{TaskList, TaskView};
use pool_core::event::BreakerOrder;
use pool_core::id::{LlmName, ProgrammerId, TaskId};
use pool_core::pause::{Pause, Target};
use pool_telemetry::clock::wall_clock;
use serde::Serialize;

use crate::client::Client;
use crate::output::{OutputArgs, complain, exit_code};
use crate::status::breaker_word;
use crate::table::{lines, table};

/// The interval at which `drain` checks the programmer.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 all tasks are cancelled; 1 a task is not.\n\nExample:\n  \
    pool cancel t-019b2c6de0c97d3a8f0c2b7f5e3a1d44"
)]
pub(super) struct CancelArgs {
    /// The ids of tasks. A waiting task never starts; a running one is stopped
    #[arg(required = true, add = crate::completions::tasks())]
    ids: Vec<TaskId>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct PauseTarget {
    /// One programmer, for example 003
    #[arg(long, value_name = "ID", add = crate::completions::programmers())]
    programmer: Option<ProgrammerId>,
    /// The tasks of one route, for example fast.local
    #[arg(long, value_name = "ROUTE", add = crate::completions::routes())]
    route: Option<String>,
    /// The whole pool
    #[arg(long)]
    all: bool,
}

impl PauseTarget {
    fn target(self) -> Target {
        match (self.programmer, self.route) {
            (Some(id), _) => Target::Programmer { id },
            (None, Some(name)) => Target::Route { name },
            // The clap group admits nothing else.
            (None, None) => Target::All,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct PauseArgs {
    #[command(flatten)]
    target: PauseTarget,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  pool drain --programmer 003\n  pool drain --programmer 003 --no-wait"
)]
pub(super) struct DrainArgs {
    /// The programmer to drain. Its task may run for `dispatcher.drain_timeout_s`, then it is
    /// handed back
    #[arg(long, value_name = "ID", add = crate::completions::programmers())]
    programmer: ProgrammerId,
    /// Do not wait until the programmer is idle
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn cancel(args: CancelArgs) -> anyhow::Result<ExitCode> {
    let client = args.output.client()?;
    let (mut cancelled, mut failed): (Vec<TaskView>, bool) = (Vec::new(), false);
    for id in &args.ids {
        match client.delete(&format!("/tasks/{id}")).await {
            Ok(view) => cancelled.push(view),
            Err(error) => {
                complain(&error);
                failed = true;
            }
        }
    }
    let text = |all: &Vec<TaskView>| {
        all.iter()
            .map(|view| format!("{}: {}\n", view.id, view.status))
            .collect()
    };
    let code = args.output.print(&cancelled, text)?;
    Ok(exit_code(code, !failed))
}

pub(super) async fn pause(args: PauseArgs) -> anyhow::Result<ExitCode> {
    let (target, pause) = (args.target.target(), Pause::Pause);
    change(&args.output, "pause", &NewPause { target, pause }).await
}

pub(super) async fn resume(args: PauseArgs) -> anyhow::Result<ExitCode> {
    let target = args.target.target();
    change(&args.output, "resume", &EndOfPause { target }).await
}

async fn change(
    output: &OutputArgs,
    what: &str,
    body: &impl Serialize,
) -> anyhow::Result<ExitCode> {
    let path = format!("/programmer_pool/{what}");
    output.print(&output.client()?.post(&path, body).await?, text)
}

#[derive(Debug, clap::Args)]
pub(super) struct BreakerArgs {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, clap::Subcommand)]
enum Order {
    /// Probe an LLM now, whatever wait its provider has demanded
    #[command(after_help = "Example:\n  pool breaker probe openai/gpt-4o")]
    Probe(OrderArgs),
    /// Close the breakers of an LLM without a probe
    #[command(after_help = "Example:\n  pool breaker close openai/gpt-4o")]
    Close(OrderArgs),
}

#[derive(Debug, clap::Args)]
struct OrderArgs {
    /// The LLM, for example openai/gpt-4o
    #[arg(add = crate::completions::llms())]
    llm: LlmName,
    #[command(flatten)]
    output: OutputArgs,
}

/// `pool breaker probe` and `pool breaker close`.
pub(super) async fn breaker(args: BreakerArgs) -> anyhow::Result<ExitCode> {
    let (order, OrderArgs { llm, output }) = match args.order {
        Order::Probe(args) => (BreakerOrder::Probe, args),
        Order::Close(args) => (BreakerOrder::Close, args),
    };
    let body = NewBreakerOrder { llm, order };
    let list: BreakerList = output
        .client()?
        .post("/programmer_pool/breakers", &body)
        .await?;
    output.print(&list, |list| {
        let of_llm = list.breakers.iter().filter(|one| one.llm == body.llm);
        of_llm
            .map(|one| format!("{}: {}\n", one.llm, breaker_word(one.state)))
            .collect()
    })
}

pub(super) async fn pauses(output: &OutputArgs) -> anyhow::Result<ExitCode> {
    let list = output.client()?.get("/programmer_pool/pauses").await?;
    output.print(&list, text)
}

pub(super) async fn drain(args: DrainArgs) -> anyhow::Result<ExitCode> {
    let client = args.output.client()?;
    let target = Target::Programmer {
        id: args.programmer.clone(),
    };
    let pause = Pause::Drain;
    let pauses = client
        .post("/programmer_pool/pause", &NewPause { target, pause })
        .await?;
    if !args.no_wait {
        until_idle(&client, &args.programmer).await?;
    }
    args.output.print(&pauses, text)
}

/// Waits until the programmer is shut or down, and the log has no running task of it. The
/// programmer's last heartbeat may be older than the drain. Each check sleeps first, so that a
/// claim that was on its way reaches the log.
async fn until_idle(client: &Client, id: &ProgrammerId) -> anyhow::Result<()> {
    let mut said = false;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let query = [
            ("status", Some("running")),
            ("programmer", Some(id.as_str())),
            ("limit", Some("1")),
        ];
        let works = client.get_with::<TaskList>("/tasks", &query).await?.total > 0;
        let status: PoolStatus = client.get("/programmer_pool/status").await?;
        let Some(programmer) = status
            .programmers
            .iter()
            .find(|programmer| programmer.id == *id)
        else {
            return Ok(());
        };
        match programmer.state {
            ProgrammerState::Down => return Ok(()),
            ProgrammerState::Shut if !works => return Ok(()),
            ProgrammerState::Busy | ProgrammerState::Shut if !said => {
                eprintln!("programmer {id} is busy; waiting until its task has ended");
                said = true;
            }
            ProgrammerState::Busy | ProgrammerState::Shut | ProgrammerState::Idle => {}
        }
    }
}

fn text(list: &PauseList) -> String {
    if list.pauses.is_empty() {
        return "nothing is paused\n".to_owned();
    }
    let mut table = table(&["paused", "since", "running tasks"]);
    let now = wall_clock();
    for pause in &list.pauses {
        let running = match pause.pause {
            Pause::Pause => "keep running",
            Pause::Drain => "are handed back after drain_timeout_s",
        };
        table.add_row([
            pause.target.to_string(),
            clock(pause.since, now),
            running.to_owned(),
        ]);
    }
    lines(table)
}
