//! `pool health`: for people, and for the health check of a container whose image has no HTTP
//! client.

use std::process::ExitCode;

use serde_json::Value;

use crate::output::{OutputArgs, exit_code};

pub(super) async fn run(output: &OutputArgs) -> anyhow::Result<ExitCode> {
    let (status, health): (_, Value) = output.client()?.health().await?;
    let printed = output.print(&health, text)?;
    Ok(exit_code(printed, status.is_success()))
}

fn text(health: &Value) -> String {
    let word = health["status"].as_str().unwrap_or("unknown");
    let detail = health["detail"]
        .as_str()
        .map(|detail| format!(": {detail}"))
        .unwrap_or_default();
    let version = health["version"].as_str().unwrap_or_default();
    format!(
        "{word}{detail} (version {version}, broker {})\n",
        health["broker"]["address"].as_str().unwrap_or("?")
    )
}
