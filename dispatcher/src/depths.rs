//! How many messages wait in a queue.

use lapin::Queue;
use lapin::options::QueueDeclareOptions;
use lapin::protocol::AMQPSoftError;
use lapin::types::FieldTable;
use pool_broker::link::discard;
use pool_broker::process::Process;
use pool_broker::{BrokerError, within};

/// What a queue holds for whoever asks next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    Ready(u32),
    Missing,
    /// The broker did not say.
    Unknown,
}

pub(crate) async fn depth(process: &Process, queue: &str) -> Depth {
    match look(process, queue).await {
        Ok(queue) => Depth::Ready(queue.message_count()),
        Err(error) if error.is(AMQPSoftError::NOTFOUND) => Depth::Missing,
        Err(_) => Depth::Unknown,
    }
}

/// On a channel of its own: asking for a queue that is not there closes it.
pub(crate) async fn look(process: &Process, queue: &str) -> Result<Queue, BrokerError> {
    let channel = process.consume.channel().await?;
    let options = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let look = channel.queue_declare(queue.into(), options, FieldTable::default());
    let seen = within(
        process.consume.endpoint().timeout(),
        format!("look into {queue}"),
        look,
    )
    .await;
    discard(&channel, process.consume.endpoint()).await;
    seen
}
