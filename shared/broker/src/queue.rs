//! Inspects queues, and uses exclusive ones as locks.

use std::time::Duration;

use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Channel, Queue};

use super::{BrokerError, with_timeout};

/// The numbers of messages and consumers of a queue.
///
/// # Errors
/// When the queue does not exist, which also closes the channel; or when the broker does not answer.
pub async fn inspect(
    channel: &Channel,
    limit: Duration,
    queue: &str,
) -> Result<Queue, BrokerError> {
    let options = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let look = channel.queue_declare(queue.into(), options, FieldTable::default());
    with_timeout(limit, format!("look for the queue {queue}"), look).await
}

/// Takes a lock until the connection ends: an exclusive queue. `what` says for what.
///
/// # Errors
/// When another connection has it, which also closes the channel; or when the broker does not answer.
pub async fn lock(
    channel: &Channel,
    limit: Duration,
    queue: &str,
    what: &str,
) -> Result<(), BrokerError> {
    let options = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    let lock = channel.queue_declare(queue.into(), options, FieldTable::default());
    with_timeout(limit, what, lock).await.map(drop)
}
