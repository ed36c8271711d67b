//! The benchmark: the speed of the pool with an agent that does nothing, beside the least that any
//! such system asks of the broker: publish, consume, publish the result, ack.
//!
//! `raw` is that bare loop, `pool` runs the real programs as users do, `submitter` is the client of
//! both, `process` reads the kernel's figures about processes, `report` makes the table,
//! `history` writes finished tasks.

pub mod agents;
pub mod history;
pub mod pool;
pub mod process;
pub mod raw;
pub mod report;
pub mod submitter;
pub mod workspace;

use std::time::Duration;

use anyhow::Context;
use lapin::options::{ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties};

/// The limit of every step. No step takes that long unless something is broken.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Waits for a step of the benchmark, for [`PATIENCE`] at most.
///
/// # Errors
/// When the step fails or takes longer than [`PATIENCE`].
pub async fn patiently<T>(
    what: &str,
    step: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::time::timeout(PATIENCE, step)
        .await
        .with_context(|| format!("{what} took longer than {PATIENCE:?}"))?
}

/// A new connection. The benchmark never publishes and consumes on the same one.
///
/// # Errors
/// When the broker cannot be reached.
pub async fn connect(url: &str) -> anyhow::Result<Connection> {
    Connection::connect(url, ConnectionProperties::default())
        .await
        .context("failed to connect to the broker")
}

/// A channel with publisher confirms.
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
