//! `dispatcher show` and `dispatcher patch`.

use std::process::ExitCode;

use pool_shared::id::TaskId;

use super::{Client, PoolUrl};
use crate::check::print;

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
    let view: serde_json::Value = Client::new(&args.url)?.get(&format!("/tasks/{}", args.id)).await?;
    Ok(print(&format!("{view:#}\n")))
}

pub(super) async fn patch(args: PatchArgs) -> anyhow::Result<ExitCode> {
    Ok(print(&Client::new(&args.url)?.text(&format!("/tasks/{}/patch", args.id)).await?))
}
