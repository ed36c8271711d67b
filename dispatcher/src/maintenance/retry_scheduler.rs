//! Publishes tasks to `pool.tasks` when their next attempt is due, after an attempt that failed for
//! a reason outside of the task.
//!
//! The programmer has appended `reissued` and put the message into `pool.retries`; this module
//! holds it unacknowledged until it is due. A crash between publish and ack publishes it twice with
//! the same token; the second copy is dropped. Requests for the result of an unfinished task wait
//! here, too.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::BasicAckOptions;
use pool_broker::backoff::Backoff;
use pool_broker::fault::{Point, point};
use pool_broker::headers::{self, DeadLetterInfo, Keeps, Reply};
use pool_broker::link::discard;
use pool_broker::process::Process;
use pool_broker::publisher::Message;
use pool_broker::topology::{DEAD_EXCHANGE, RETRIES_QUEUE, TASKS};
use pool_broker::{BrokerError, log_broker_error, with_timeout};
use pool_core::event::Event;
use pool_core::result::ErrorKind;
use pool_core::routing::routing_key;
use pool_core::task::TaskMessage;
use pool_core::time::Timestamp;
use pool_telemetry::clock::wall_clock;

use crate::consumer;
use crate::results::ask_for_result;

/// How many messages are held; the others stay in the queue.
const PREFETCH: u16 = 1000;

/// Consumes until shutdown.
pub async fn run(process: Process) {
    consumer::keep(
        &process,
        "failed to consume tasks that wait for another attempt; trying again",
        || consume(&process),
    )
    .await;
}

async fn consume(process: &Process) -> Result<(), BrokerError> {
    let channel = process.consume.channel().await?;
    let consumer = consumer::start(process, &channel, (RETRIES_QUEUE, "retries"), PREFETCH).await?;
    let in_hand = consumer.for_each_concurrent(usize::from(PREFETCH), |delivery| async {
        if let Ok(delivery) = delivery {
            handle_until_done(process, &delivery).await;
        }
    });
    tokio::select! {
        () = in_hand => {}
        // Held messages are delivered again, so the next channel must not wait for them.
        () = consumer::in_vain(process, &channel) => {}
    }
    discard(&channel, process.consume.endpoint()).await;
    Ok(())
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
    let limit = process.consume.endpoint().timeout();
    if headers::text(delivery.properties.kind()) == Some(headers::REPEAT) {
        ask_for_result(process, &delivery.properties, None).await?;
        return with_timeout(
            limit,
            "ack a request for a result",
            delivery.ack(BasicAckOptions::default()),
        )
        .await
        .map(drop);
    }
    match TaskMessage::parse(&delivery.data, Timestamp::default()) {
        Ok(message) => issue_task(process, delivery, &message).await?,
        // Written by another version, or by hand.
        Err(error) => {
            tracing::error!(%error, "a message in `pool.retries` is not a task; moving it to pool.dead");
            let reason = format!("{}: {error}", ErrorKind::InvalidTask.as_str());
            let properties = DeadLetterInfo::new(reason, RETRIES_QUEUE, wall_clock())
                .properties(&delivery.properties);
            let message = Message {
                exchange: DEAD_EXCHANGE,
                key: "",
                body: &delivery.data,
                properties,
                mandatory: true,
            };
            process.publisher.publish(message).await?;
        }
    }
    point(Point::RetryLogged);
    with_timeout(
        limit,
        "ack a retried task",
        delivery.ack(BasicAckOptions::default()),
    )
    .await
    .map(drop)
}

async fn issue_task(
    process: &Process,
    delivery: &Delivery,
    message: &TaskMessage,
) -> Result<(), BrokerError> {
    let properties = &delivery.properties;
    let generation = headers::token(properties).generation;
    let id = message.id.clone();
    let name = headers::text(properties.message_id()).unwrap_or_default();
    let reply = Reply::of(properties).unwrap_or_else(|_| Reply::without_address(properties));
    let properties = headers::task_properties(name, generation, Keeps::of(properties));
    let (key, properties) = (routing_key(&message.capabilities), reply.on(properties));
    // A task that was cancelled meanwhile is published too: the programmer that gets it sends the
    // result to its submitter and drops the message.
    let again = Message {
        exchange: TASKS,
        key: &key,
        body: &delivery.data,
        properties,
        mandatory: true,
    };
    point(Point::RetryDue);
    process.publisher.publish(again).await?;
    point(Point::RetryIssued);
    if let Some(task) = id {
        // Nothing depends on this event: the message is in its queue.
        let _ = process.log.append(Event::published(task, generation)).await;
    }
    Ok(())
}
