//! The number of messages in queues.

use lapin::Queue;
use lapin::protocol::AMQPSoftError;
use pool_broker::link::discard;
use pool_broker::process::Process;
use pool_broker::{BrokerError, queue};

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
    let limit = process.consume.endpoint().timeout();
    let look = |channel| async move { queue::inspect(&channel, limit, queue).await };
    process.consume.on_channel(look).await
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
        match queue::inspect(&channel, endpoint.timeout(), &route.queue()).await {
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
