//! `dispatcher show` and `dispatcher patch`. What goes to standard output is JSON, or the patch; why a task waits goes beside it.

use std::process::ExitCode;

use pool_shared::id::TaskId;

use super::{Client, PoolUrl};
use crate::check::print;
use crate::why::Why;

#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    id: TaskId,
    #[command(flatten)]
    url: PoolUrl,
}

#[derive(Debug, clap::Args)]
pub struct PatchArgs {
    id: TaskId,
    #[command(flatten)]
    url: PoolUrl,
}

pub(super) async fn run(args: ShowArgs) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.url)?;
    let view: serde_json::Value = client.get(&format!("/tasks/{}", args.id)).await?;
    if view["status"] == "queued" {
        let why: Why = client.get(&format!("/tasks/{}/why", args.id)).await?;
        eprintln!("{}: {}", args.id, why.sentence);
    }
    Ok(print(&format!("{view:#}\n")))
}

pub(super) async fn patch(args: PatchArgs) -> anyhow::Result<ExitCode> {
    Ok(print(&Client::new(&args.url)?.text(&format!("/tasks/{}/patch", args.id)).await?))
}
