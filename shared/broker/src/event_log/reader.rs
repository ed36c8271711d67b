//! Reads the whole log and folds it. It begins again from the start whenever its consumer has ended or is silent.
//!
//! It never resumes in the middle, because offsets mean other events after a broker has lost the tail of a stream. During
//! a rebuild the rest of the process sees the last known state.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::message::Delivery;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Shared, View, appender};
use crate::acks::Acks;
use crate::consumer::{self, ConsumerSettings, Deliveries};
use crate::link::Link;
use crate::publisher::Publisher;
use crate::topology::EVENTS_STREAM;
use crate::{BrokerError, log_broker_error};
use pool_core::event::{EmitterId, Event, EventBatch, EventId, PoolEvent};
use pool_core::state::{PoolState, Verdict};
use pool_telemetry::clock::new_id;

/// The most unacknowledged messages; a stream's consumer must set a limit.
const PREFETCH: u16 = 1000;

pub(super) async fn run(
    shared: Arc<Shared>,
    link: Link,
    publisher: Publisher,
    stale: Duration,
    shutdown: CancellationToken,
) {
    let (shared, link, publisher) = (&shared, &link, &publisher);
    consumer::keep(&shutdown, || async move {
        let reading = link.on_channel(|channel| async move {
            let deliveries = ConsumerSettings::new(EVENTS_STREAM, "event-log")
                .prefetch(PREFETCH)
                .from_first()
                .start(&channel, link.endpoint().timeout())
                .await?;
            follow(shared, deliveries, publisher, stale).await
        });
        let end = reading.await;
        shared.view.send_modify(|view| view.caught_up = false);
        if let Err(error) = end {
            log_broker_error(&error, "the reader of the event log starts over");
        }
    })
    .await;
}

/// Folds the messages: until the mark arrives into a new fold, then into the one that the process sees. Ends with an error.
async fn follow(
    shared: &Arc<Shared>,
    deliveries: Deliveries,
    publisher: &Publisher,
    stale: Duration,
) -> Result<(), BrokerError> {
    let mark = new_id::<EmitterId>();
    let publisher = publisher.clone();
    let marking = async move { appender::publish(&publisher, &appender::mark(mark)).await };
    let _marking = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(marking));
    let mut rebuilding = Some(Rebuild {
        fold: shared.empty_state(),
        own: Vec::new(),
    });
    shared.observer.start_over();
    let mut chunks = deliveries.ready_chunks(256);
    let mut acks = Acks::new(stale);
    loop {
        let Ok(chunk) = tokio::time::timeout(stale, chunks.next()).await else {
            return Err(BrokerError::Silent {
                what: format!("read the stream {EVENTS_STREAM}"),
                after: stale,
            });
        };
        let chunk = chunk.unwrap_or_default();
        let (mut last, count) = (None, chunk.len());
        let mut marked = false;
        for delivery in chunk {
            let delivery = delivery?;
            marked |= apply(shared, rebuilding.as_mut(), &delivery, mark);
            last = Some(delivery);
        }
        if marked && let Some(rebuilt) = rebuilding.take() {
            *shared.fold.write().unwrap_or_else(PoisonError::into_inner) = rebuilt.fold;
            shared.news.wake_all();
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
        if let Some(last) = last {
            acks.read(last, count).await?;
        }
    }
}

/// A fold that the process does not see yet, and its verdicts for events of this process. A caller gets a verdict only when it
/// can also see the state behind it.
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
        shared.observer.report_event(&batch, decision, verdict);
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
                .wake(batch.events.iter().filter_map(Event::task));
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
