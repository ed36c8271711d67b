//! How many messages wait in a queue.

use lapin::options::QueueDeclareOptions;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::FieldTable;
use pool_shared::broker::link::discard;
use pool_shared::broker::process::Process;
use pool_shared::broker::{BrokerError, within};

/// What a queue holds for whoever asks next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    Ready(u32),
    Missing,
    /// The broker did not say.
    Unknown,
}

/// On a channel of its own: asking for a queue that is not there closes it.
pub(crate) async fn depth(process: &Process, queue: &str) -> Depth {
    let Ok(channel) = process.consume.channel().await else { return Depth::Unknown };
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let look = channel.queue_declare(queue.into(), options, FieldTable::default());
    let limit = process.consume.endpoint().timeout();
    let depth = match within(limit, format!("look into {queue}"), look).await {
        Ok(queue) => Depth::Ready(queue.message_count()),
        Err(error) if is_missing(&error) => Depth::Missing,
        Err(_) => Depth::Unknown,
    };
    discard(&channel, process.consume.endpoint()).await;
    depth
}

fn is_missing(error: &BrokerError) -> bool {
    let BrokerError::Amqp { error, .. } = error else { return false };
    let lapin::ErrorKind::ProtocolError(error) = error.kind() else { return false };
    matches!(error.kind(), AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND))
}
