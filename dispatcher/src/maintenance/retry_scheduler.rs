//! Publishes tasks to `pool.tasks` when their next attempt is due, after an attempt that failed for
//! a reason outside of the task.
//!
//! The programmer has appended `reissued` and put the message into `pool.retries`; this module
//! holds it unacknowledged until it is due. A crash between publish and ack publishes it twice with
//! the same token; the second copy is dropped. Requests for the result of an unfinished task wait
//! here, too.

use std::time::Duration;

use lapin::message::Delivery;
use pool_broker::acks::ack;
use pool_broker::backoff::Backoff;
use pool_broker::consumer::ConsumerSettings;
use pool_broker::fault::{Point, point};
use pool_broker::headers::{self, DeadLetterInfo, Reply};
use pool_broker::process::Process;
use pool_broker::steps::{OutgoingTask, dead_letter, publish_task, request_result};
use pool_broker::topology::RETRIES_QUEUE;
use pool_broker::{BrokerError, log_broker_error};
use pool_core::event::Event;
use pool_core::result::ErrorKind;
use pool_core::routing::routing_key;
use pool_core::task::TaskMessage;
use pool_core::time::Timestamp;
use pool_telemetry::clock::wall_clock;

/// How many messages are held; the others stay in the queue.
const PREFETCH: u16 = 1000;

/// Consumes until shutdown.
pub async fn run(process: Process) {
    let words = "failed to consume tasks that wait for another attempt; trying again";
    process.keep_consuming(words, || consume(&process)).await;
}

async fn consume(process: &Process) -> Result<(), BrokerError> {
    let limit = process.consume.endpoint().timeout();
    let consuming = process.consume.on_channel(|channel| async move {
        let deliveries = ConsumerSettings::new(RETRIES_QUEUE, "retries")
            .prefetch(PREFETCH)
            .start(&channel, limit)
            .await?;
        let in_hand = deliveries.handle_each(PREFETCH, |delivery| async move {
            handle_until_done(process, &delivery).await;
        });
        // Held messages are delivered again, so the next channel must not wait for them.
        process.while_useful(&channel, in_hand).await
    });
    consuming.await
}

/// The longest wait of a task, whatever this machine's clock says.
const LONGEST: Duration = Duration::from_secs(300);

/// Retries without returning the message: the broker would count a return. If the channel is
/// closed, the broker delivers the message again.
async fn handle_until_done(process: &Process, delivery: &Delivery) {
    let due = headers::retry_at(&delivery.properties).unwrap_or_default();
    tokio::time::sleep(due.since(wall_clock()).min(LONGEST)).await;
    let mut backoff = Backoff::default();
    while let Err(error) = issue(process, delivery).await {
        if !delivery.acker.usable() || process.shutdown.is_cancelled() {
            return;
        }
        log_broker_error(
            &error,
            "failed to publish a task for its next attempt; trying again",
        );
        backoff.wait().await;
    }
}

async fn issue(process: &Process, delivery: &Delivery) -> Result<(), BrokerError> {
    let properties = &delivery.properties;
    if headers::text(properties.kind()) == Some(headers::REPEAT) {
        let id = headers::text(properties.message_id()).unwrap_or_default();
        let reply = Reply::of(properties).unwrap_or_default();
        request_result(process, id, &reply, None).await?;
    } else {
        match TaskMessage::parse(&delivery.data, Timestamp::default()) {
            Ok(message) => issue_task(process, delivery, message).await?,
            // Written by another version, or by hand.
            Err(error) => {
                tracing::error!(%error, "a message in `pool.retries` is not a task; moving it to pool.dead");
                let reason = format!("{}: {error}", ErrorKind::InvalidTask.as_str());
                let info = DeadLetterInfo::new(reason, RETRIES_QUEUE, wall_clock());
                dead_letter(process, &delivery.data, properties, &info).await?;
            }
        }
        point(Point::RetryLogged);
    }
    let limit = process.consume.endpoint().timeout();
    ack(delivery, limit).await.map(drop)
}

async fn issue_task(
    process: &Process,
    delivery: &Delivery,
    message: TaskMessage,
) -> Result<(), BrokerError> {
    // A task that was cancelled meanwhile is published too: the programmer that gets it sends the
    // result to its submitter and drops the message.
    let key = routing_key(&message.capabilities);
    let again = OutgoingTask::passed_on(delivery, &key);
    point(Point::RetryDue);
    publish_task(process, &again).await?;
    point(Point::RetryIssued);
    if let Some(task) = message.id {
        let generation = again.generation;
        // Nothing depends on this event: the message is in its queue.
        let _ = process.log.append(Event::published(task, generation)).await;
    }
    Ok(())
}
