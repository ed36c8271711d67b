//! `pool why`: explains why a task waits.

use std::process::ExitCode;

use pool_api::format::clock;
use pool_api::tasks::TaskView;
use pool_api::why::{Availability, ProgrammerWhy, Reason, Why};
use pool_core::id::TaskId;
use serde_json::json;

use crate::output::OutputArgs;
use crate::show::hints;
use crate::table::{lines, table};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  pool why t-019b2c6de0c97d3a8f0c2b7f5e3a1d44")]
pub(super) struct WhyArgs {
    /// The id of a task
    #[arg(add = crate::completions::tasks())]
    id: TaskId,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: WhyArgs) -> anyhow::Result<ExitCode> {
    let client = args.output.client()?;
    let why: Why = client.get(&format!("/tasks/{}/why", args.id)).await?;
    let mut result = None;
    if why.reason == Reason::Finished {
        let view: TaskView = client.get(&format!("/tasks/{}", args.id)).await?;
        result = view.result;
    }
    args.output.print(&why, |why| {
        text(why) + &result.as_ref().map(hints).unwrap_or_default()
    })
}

fn text(why: &Why) -> String {
    let sentence = format!("{}: {}\n", why.task, why.sentence);
    if why.programmers.is_empty() {
        return sentence;
    }
    let mut rows = table(&["programmer", "state", "until", "why"]);
    for ProgrammerWhy {
        id,
        state,
        detail,
        until,
        ..
    } in &why.programmers
    {
        let until = until.map_or(String::new(), |until| clock(until, why.at));
        rows.add_row([id.to_string(), word(*state), until, detail.clone()]);
    }
    format!("{sentence}\n{}", lines(rows))
}

fn word(state: Availability) -> String {
    if state == Availability::Unheard {
        return "no heartbeat".to_owned();
    }
    json!(state).as_str().unwrap_or_default().replace('_', " ")
}
