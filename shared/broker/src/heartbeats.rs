//! Sends this process's heartbeats and receives those of all processes.

use std::sync::Arc;
use std::time::Duration;

use lapin::Channel;
use lapin::options::{QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use super::consumer::{self, ConsumerSettings, Deliveries};
use super::headers::json_properties;
use super::link::Link;
use super::publisher::{Message, Publisher};
use super::topology::HEARTBEATS;
use super::{BrokerError, with_timeout};
use pool_core::heartbeat::Heartbeat;

/// How long a starting process waits for an answer to its greeting. Running processes answer immediately.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);

/// Sends `beat()` once per `every`, and within half a second after each `nudge`. At `shutdown` it sends a last one with
/// `ends`.
pub async fn send(
    publisher: Publisher,
    every: Duration,
    nudge: Arc<Notify>,
    beat: impl Fn() -> Heartbeat,
    shutdown: CancellationToken,
) {
    loop {
        send_one(&publisher, &beat()).await;
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = tokio::time::sleep(every) => {}
            () = async { nudge.notified().await; tokio::time::sleep(Duration::from_millis(500)).await } => {}
        }
    }
    send_one(
        &publisher,
        &Heartbeat {
            ends: true,
            ..beat()
        },
    )
    .await;
}

async fn send_one(publisher: &Publisher, heartbeat: &Heartbeat) {
    let body = serde_json::to_vec(heartbeat).unwrap_or_default();
    let message = Message {
        mandatory: false,
        ..Message::new(HEARTBEATS, "", body, json_properties())
    };
    if let Err(error) = publisher.publish(&message).await {
        tracing::debug!(%error, "a heartbeat was not sent");
    }
}

/// Asks the other processes for the time as soon as their heartbeats can arrive, and then answers their greetings. With no
/// answer after one second the process trusts its own clock.
pub async fn greet(
    publisher: Publisher,
    greeting: impl Fn(bool) -> Heartbeat,
    clock: Arc<Clock>,
    hears: Arc<Notify>,
    asked: Arc<Notify>,
    shutdown: CancellationToken,
) {
    let answered = async {
        hears.notified().await;
        send_one(&publisher, &greeting(true)).await;
        clock.compared().await;
    };
    if tokio::time::timeout(ANSWERED_WITHIN, answered)
        .await
        .is_err()
    {
        clock.is_alone();
    }
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = asked.notified() => send_one(&publisher, &greeting(false)).await,
        }
    }
}

/// Calls `hear` for every heartbeat of every process, including this one, until `shutdown`. Notifies `hears` whenever it has
/// begun to consume.
pub async fn listen(
    link: Link,
    hear: impl Fn(Heartbeat),
    hears: Arc<Notify>,
    shutdown: CancellationToken,
) {
    let (hear, hears) = (&hear, &hears);
    consumer::keep(&shutdown, || async {
        let heard =
            link.on_channel(|channel| hear_all(channel, link.endpoint().timeout(), hear, hears));
        if let Err(error) = heard.await {
            tracing::debug!(%error, "heartbeats cannot be received; trying again");
        }
    })
    .await;
}

/// Receives until the consumer ends, and gives the reason.
async fn hear_all(
    channel: Channel,
    limit: Duration,
    hear: &impl Fn(Heartbeat),
    hears: &Notify,
) -> Result<(), BrokerError> {
    let mut deliveries = consume(&channel, limit).await?;
    hears.notify_one();
    loop {
        let delivery = deliveries.receive().await?;
        if let Ok(heartbeat) = serde_json::from_slice(&delivery.data) {
            hear(heartbeat);
        }
    }
}

async fn consume(channel: &Channel, limit: Duration) -> Result<Deliveries, BrokerError> {
    let options = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let mut arguments = FieldTable::default();
    // An older heartbeat says nothing about the present.
    arguments.insert("x-message-ttl".into(), AMQPValue::LongInt(10_000));
    let declare = channel.queue_declare("".into(), options, arguments);
    let queue = with_timeout(limit, "declare a queue for heartbeats", declare)
        .await?
        .name()
        .clone();
    let bind = channel.queue_bind(
        queue.clone(),
        HEARTBEATS.into(),
        "".into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    with_timeout(limit, "bind a queue for heartbeats", bind).await?;
    ConsumerSettings::new(queue.as_str(), "heartbeats")
        .without_acks()
        .start(channel, limit)
        .await
}
