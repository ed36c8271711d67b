//! The benchmark: how fast the pool is with an agent that does nothing, next to the least that the broker demands of
//! anybody: publish, consume, publish the result, ack.
//!
//! `raw` is that bare loop, `pool` runs the real binaries as users do, `submitter` is the same client in front of
//! both, `process` reads what the kernel knows of processes, `report` makes the table.

pub mod pool;
pub mod process;
pub mod raw;
pub mod report;
pub mod submitter;

use std::time::Duration;

use anyhow::Context;
use lapin::options::{ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties};

/// Nothing here takes that long unless something is broken.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Waits for a step of the benchmark, but not for ever.
///
/// # Errors
/// When the step fails or takes longer than [`PATIENCE`].
pub async fn patiently<T>(
    what: &str,
    step: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::time::timeout(PATIENCE, step)
        .await
        .with_context(|| format!("{what}: not done after {PATIENCE:?}"))?
}

/// A connection of its own: publishing and consuming never share one.
///
/// # Errors
/// When the broker cannot be reached.
pub async fn connect(url: &str) -> anyhow::Result<Connection> {
    Connection::connect(url, ConnectionProperties::default())
        .await
        .context("failed to connect to the broker")
}

/// A channel that confirms what is published.
///
/// # Errors
/// When the broker does not open it.
pub async fn confirmed_channel(connection: &Connection) -> anyhow::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    Ok(channel)
}

/// Declares an empty quorum queue.
///
/// # Errors
/// When the broker refuses.
pub async fn fresh_queue(channel: &Channel, name: &str) -> anyhow::Result<()> {
    channel
        .queue_delete(name.into(), lapin::options::QueueDeleteOptions::default())
        .await?;
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("quorum".into()),
    );
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(name.into(), options, arguments)
        .await?;
    Ok(())
}
