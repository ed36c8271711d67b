//! Consumes from a queue for as long as the dispatcher lives.

use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};
use pool_broker::backoff::Backoff;
use pool_broker::link::gone;
use pool_broker::process::Process;
use pool_broker::{BrokerError, log_broker_error, with_timeout};
use tokio::time::Instant;

/// Consumes until shutdown. Whenever `consume` ends, sets everything up again, with growing pauses.
/// `words` say what does not work meanwhile.
pub(crate) async fn keep<C>(process: &Process, words: &str, consume: impl Fn() -> C)
where
    C: Future<Output = Result<(), BrokerError>>,
{
    let mut backoff = Backoff::default();
    loop {
        tokio::select! {
            () = process.shutdown.cancelled() => return,
            _ = process.clock.right() => {}
        }
        let began = Instant::now();
        tokio::select! {
            () = process.shutdown.cancelled() => return,
            end = consume() => if let Err(error) = end {
                log_broker_error(&error, words);
            },
        }
        backoff.worked_for(began.elapsed());
        tokio::select! {
            () = process.shutdown.cancelled() => return,
            () = backoff.wait() => {}
        }
    }
}

/// Consumes from a queue with acknowledgements, at most `prefetch` messages at a time. `tag` names the
/// consumer in RabbitMQ.
///
/// # Errors
/// When the broker refuses or does not answer.
pub(crate) async fn start(
    process: &Process,
    channel: &Channel,
    (queue, tag): (&str, &str),
    prefetch: u16,
) -> Result<Consumer, BrokerError> {
    let limit = process.consume.endpoint().timeout();
    with_timeout(
        limit,
        format!("set the prefetch of {tag}"),
        channel.basic_qos(prefetch, BasicQosOptions::default()),
    )
    .await?;
    let options = BasicConsumeOptions::default();
    let consume = channel.basic_consume(queue.into(), tag.into(), options, FieldTable::default());
    with_timeout(limit, format!("consume {queue}"), consume).await
}

/// Resolves when deliveries of this channel cannot be completed: the channel is closed, or this
/// machine's clock is off, so that nothing can be appended. Another dispatcher can have them then.
pub(crate) async fn in_vain(process: &Process, channel: &Channel) {
    tokio::select! {
        () = gone(channel) => {}
        off = process.clock.wrong() => {
            tracing::warn!("{off}: returning unfinished messages to other dispatchers");
        }
    }
}
