//! `dispatcher health`, for the health check of a container, whose image has no HTTP client.

use std::process::ExitCode;

use super::{Client, PoolUrl};
use crate::check::print;

pub(super) async fn run(url: &PoolUrl) -> anyhow::Result<ExitCode> {
    let (status, body) = Client::new(url)?.health().await?;
    print(&format!("{body}\n"));
    Ok(if status.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
