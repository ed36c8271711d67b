//! Reads the whole log and folds it. It begins again from the start whenever its consumer has ended or is silent.
//!
//! It never resumes in the middle, because offsets mean other events after a broker has lost the tail of a stream. During
//! a rebuild the rest of the process sees the last known state.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Shared, View, appender};
use crate::acks::Acks;
use crate::backoff::Backoff;
use crate::link::{Link, discard};
use crate::publisher::Publisher;
use crate::topology::EVENTS_STREAM;
use crate::{BrokerError, log_broker_error, with_timeout};
use pool_core::event::{EmitterId, Event, EventBatch, EventId, PoolEvent};
use pool_core::state::{PoolState, Verdict};

/// The most unacknowledged messages; a stream's consumer must set a limit.
const PREFETCH: u16 = 1000;

pub(super) async fn run(
    shared: Arc<Shared>,
    link: Link,
    publisher: Publisher,
    stale: Duration,
    shutdown: CancellationToken,
) {
    let mut backoff = Backoff::default();
    loop {
        let began = Instant::now();
        let end = tokio::select! {
            () = shutdown.cancelled() => return,
            end = read(&shared, &link, &publisher, stale) => end,
        };
        backoff.worked_for(began.elapsed());
        shared.view.send_modify(|view| view.caught_up = false);
        match end {
            End::Broker(error) => {
                log_broker_error(&error, "the reader of the event log starts over")
            }
            end @ (End::Silent(_) | End::Ended) => {
                tracing::warn!(reason = %end, "the reader of the event log starts over")
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = backoff.wait() => {}
        }
    }
}

/// Why reading ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error("no message came for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the broker ended the consumer")]
    Ended,
}

/// Reads until something fails, and gives the reason.
async fn read(shared: &Arc<Shared>, link: &Link, publisher: &Publisher, stale: Duration) -> End {
    let channel = match link.channel().await {
        Ok(channel) => channel,
        Err(error) => return error.into(),
    };
    let end = match consume(&channel, link).await {
        Ok(consumer) => follow(shared, consumer, publisher, stale).await,
        Err(error) => error.into(),
    };
    discard(&channel, link.endpoint()).await;
    end
}

async fn consume(channel: &lapin::Channel, link: &Link) -> Result<lapin::Consumer, BrokerError> {
    let limit = link.endpoint().timeout();
    with_timeout(
        limit,
        "limit the event log's reader",
        channel.basic_qos(PREFETCH, BasicQosOptions::default()),
    )
    .await?;
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-stream-offset".into(),
        AMQPValue::LongString("first".into()),
    );
    let consume = channel.basic_consume(
        EVENTS_STREAM.into(),
        "event-log".into(),
        BasicConsumeOptions::default(),
        arguments,
    );
    with_timeout(limit, format!("read the stream {EVENTS_STREAM}"), consume).await
}

/// Folds the messages: until the mark arrives into a new fold, then into the one that the process sees.
async fn follow(
    shared: &Arc<Shared>,
    consumer: lapin::Consumer,
    publisher: &Publisher,
    stale: Duration,
) -> End {
    let mark = EmitterId::new();
    let publisher = publisher.clone();
    let marking = async move { appender::publish(&publisher, &appender::mark(mark)).await };
    let _marking = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(marking));
    let mut rebuilding = Some(Rebuild::default());
    shared.observer.start_over();
    let mut chunks = consumer.ready_chunks(256);
    let mut acks = Acks::new(stale);
    loop {
        let chunk = match tokio::time::timeout(stale, chunks.next()).await {
            Err(_) => return End::Silent(stale),
            Ok(None) => return End::Ended,
            Ok(Some(chunk)) => chunk,
        };
        let (mut last, count) = (None, chunk.len());
        let mut marked = false;
        for delivery in chunk {
            match delivery {
                Ok(delivery) => {
                    marked |= apply(shared, rebuilding.as_mut(), &delivery, mark);
                    last = Some(delivery);
                }
                Err(error) => {
                    let what = format!("read the stream {EVENTS_STREAM}");
                    return BrokerError::Amqp { what, error }.into();
                }
            }
        }
        if marked && let Some(rebuilt) = rebuilding.take() {
            *shared.fold.write().unwrap_or_else(PoisonError::into_inner) = rebuilt.fold;
            shared.news.tell_all();
            rebuilt
                .own
                .into_iter()
                .for_each(|(event, verdict)| shared.resolve(event, verdict));
        }
        let caught_up = rebuilding.is_none();
        shared.view.send_replace(View {
            caught_up,
            heard: Instant::now(),
        });
        // Ticks come often enough to acknowledge the last messages in time.
        if let Some(last) = last
            && let Err(error) = acks.read(last, count).await
        {
            return error.into();
        }
    }
}

/// A fold that the process does not see yet, and its verdicts for events of this process. A caller gets a verdict only when it
/// can also see the state behind it.
#[derive(Default)]
struct Rebuild {
    fold: PoolState,
    own: Vec<(EventId, Verdict)>,
}

/// Folds one message; true when it was the mark.
fn apply(
    shared: &Shared,
    rebuilding: Option<&mut Rebuild>,
    delivery: &Delivery,
    mark: EmitterId,
) -> bool {
    let batch = match EventBatch::from_json(&delivery.data) {
        Ok(batch) => batch,
        Err(error) => {
            tracing::warn!(%error, "a message in the event log is not a batch of events; every process skips it");
            return false;
        }
    };
    let mut own = Vec::new();
    let keep = |event: EventId, decision: &Event, verdict| {
        shared.observer.tell(&batch, decision, verdict);
        if event.emitter == shared.emitter {
            own.push((event, verdict));
        }
    };
    match rebuilding {
        Some(rebuild) => {
            rebuild.fold.apply(&batch, keep);
            rebuild.own.append(&mut own);
        }
        None => {
            shared
                .fold
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .apply(&batch, keep);
            own.into_iter()
                .for_each(|(event, verdict)| shared.resolve(event, verdict));
            shared
                .news
                .tell(batch.events.iter().filter_map(Event::task));
            if batch.events.iter().any(|event| {
                matches!(
                    event,
                    Event::Pool(PoolEvent::Paused(_) | PoolEvent::Resumed(_))
                )
            }) {
                shared.orders.notify_one();
            }
        }
    }
    batch.emitter == mark
}
