//! The number of messages in queues.

use lapin::Queue;
use lapin::options::QueueDeclareOptions;
use lapin::protocol::AMQPSoftError;
use lapin::types::FieldTable;
use pool_broker::link::discard;
use pool_broker::process::Process;
use pool_broker::{BrokerError, with_timeout};

/// The ready messages of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    Ready(u32),
    Missing,
    /// The broker gave no number.
    Unknown,
}

pub(crate) async fn depth(process: &Process, queue: &str) -> Depth {
    match look(process, queue).await {
        Ok(queue) => Depth::Ready(queue.message_count()),
        Err(error) if error.is(AMQPSoftError::NOTFOUND) => Depth::Missing,
        Err(_) => Depth::Unknown,
    }
}

/// Uses its own channel, because asking for a missing queue closes the channel.
pub(crate) async fn look(process: &Process, queue: &str) -> Result<Queue, BrokerError> {
    let channel = process.consume.channel().await?;
    let options = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let look = channel.queue_declare(queue.into(), options, FieldTable::default());
    let seen = with_timeout(
        process.consume.endpoint().timeout(),
        format!("look into {queue}"),
        look,
    )
    .await;
    discard(&channel, process.consume.endpoint()).await;
    seen
}

/// Waiting messages in each route's queue, in the order of the routes; None if the broker gave no
/// number.
pub(crate) type Depths = Vec<Option<u32>>;

/// Asks the broker for the queue lengths, unless it is known to be away: a lost link would wait for
/// seconds.
pub(crate) async fn queue_depths(process: &Process) -> Depths {
    let (routes, endpoint) = (process.routes.all(), process.consume.endpoint());
    if process.consume.is_there().is_err() {
        return vec![None; routes.len()];
    }
    let mut depths = Vec::with_capacity(routes.len());
    let mut open = None;
    for route in routes {
        let channel = match open.take() {
            Some(channel) => channel,
            None => match process.consume.channel().await {
                Ok(channel) => channel,
                Err(_) => break,
            },
        };
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let declare = channel.queue_declare(
            route.queue().as_str().into(),
            options,
            FieldTable::default(),
        );
        match with_timeout(endpoint.timeout(), "count a queue", declare).await {
            Ok(queue) => {
                depths.push(Some(queue.message_count()));
                open = Some(channel);
                continue;
            }
            // Asking for a missing queue closes the channel, but says nothing about the other
            // queues.
            Err(error) if error.is(AMQPSoftError::NOTFOUND) => depths.push(None),
            Err(_) => break,
        }
        discard(&channel, endpoint).await;
    }
    if let Some(channel) = open {
        discard(&channel, endpoint).await;
    }
    depths.resize(routes.len(), None);
    depths
}
