//! Reads the log and folds it. Whenever its consumer has ended or is silent, it begins again.
//!
//! Offsets mean other events after a broker has lost the end of a stream. So the reader goes on behind its last message only
//! if the stream still has the messages before it (`tail`). Otherwise it reads the whole log into a new state. Meanwhile the
//! rest of the process sees the last known state.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::message::Delivery;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Shared, View, appender};
use crate::acks::Acks;
use crate::consumer::{self, ConsumerSettings, Deliveries, offset_of};
use crate::link::Link;
use crate::publisher::Publisher;
use crate::tail::{Chain, KeptTail, Opened, Tail};
use crate::topology::EVENTS_STREAM;
use crate::{BrokerError, log_broker_error};
use pool_core::event::{EmitterId, Event, EventBatch, EventId, PoolEvent};
use pool_core::state::{PoolState, Verdict};
use pool_telemetry::catalog::LOG_READS;
use pool_telemetry::clock::new_id;

/// The most unacknowledged messages; a stream's consumer must set a limit.
const PREFETCH: u16 = 1000;
pub(super) async fn run(
    shared: Arc<Shared>,
    link: Link,
    publisher: Publisher,
    stale: Duration,
    retention: Duration,
    shutdown: CancellationToken,
) {
    let reader = &LogReader {
        shared,
        link,
        publisher,
        stale,
        retention,
        tail: KeptTail::default(),
        read_whole: Mutex::new(Instant::now()),
    };
    consumer::keep(&shutdown, || async move {
        let chain = reader.chain();
        let mut end = reader.read(chain).await;
        if let Ok(LogChanged) = end {
            tracing::warn!("the event log has other messages than before; reading the whole log");
            end = reader.read(None).await;
        }
        let view = &reader.shared.view;
        view.send_modify(|view| view.caught_up = false);
        if let Err(error) = end {
            log_broker_error(&error, "the reader of the event log starts over");
        }
    })
    .await;
}

/// The stream is not the one that was read before.
struct LogChanged;

struct LogReader {
    shared: Arc<Shared>,
    link: Link,
    publisher: Publisher,
    stale: Duration,
    /// How long the stream keeps its messages.
    retention: Duration,
    /// The newest messages in the state that the process sees.
    tail: KeptTail,
    /// When the whole log was read last.
    read_whole: Mutex<Instant>,
}

/// The fate of the next message.
enum Reading {
    /// It is folded into a new state, until the mark arrives.
    Rebuilding(Box<Rebuild>),
    /// It is folded into the state that the process sees. `whole`: the mark has arrived.
    Following { whole: bool },
}

/// A fold that the process does not see yet, and its verdicts for events of this process. A caller gets a verdict only when it
/// can also see the state behind it.
struct Rebuild {
    fold: PoolState,
    tail: Tail,
    own: Vec<(EventId, Verdict)>,
}

impl Reading {
    fn is_current(&self) -> bool {
        matches!(self, Self::Following { whole: true })
    }
}

impl LogReader {
    /// The messages behind which the reader may go on. None when it has not read the whole log for long: its state still has
    /// what the stream has dropped, and the states of younger processes do not.
    fn chain(&self) -> Option<Chain> {
        let age = self.read_whole().elapsed();
        let chain = self.tail.lock().chain();
        chain.filter(|_| age < self.retention / 2)
    }

    fn read_whole(&self) -> MutexGuard<'_, Instant> {
        self.read_whole
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends with an error, or at once when the stream has other messages than the chain.
    async fn read(&self, chain: Option<Chain>) -> Result<LogChanged, BrokerError> {
        let reading = self.link.on_channel(|channel| async move {
            let settings = ConsumerSettings::new(EVENTS_STREAM, "event-log").prefetch(PREFETCH);
            let limit = self.link.endpoint().timeout();
            match self.tail.open(chain, settings, &channel, limit).await? {
                Opened::Broken => Ok(LogChanged),
                Opened::Behind(deliveries) => {
                    LOG_READS.add(["last"], 1);
                    let following = Reading::Following { whole: false };
                    self.follow(deliveries, following).await
                }
                Opened::First(deliveries) => {
                    self.shared.observer.start_over();
                    let rebuild = Box::new(Rebuild::new(&self.shared));
                    self.follow(deliveries, Reading::Rebuilding(rebuild)).await
                }
            }
        });
        reading.await
    }

    /// Folds the messages. Ends with an error.
    async fn follow(
        &self,
        deliveries: Deliveries,
        mut reading: Reading,
    ) -> Result<LogChanged, BrokerError> {
        let mark = new_id::<EmitterId>();
        let publisher = self.publisher.clone();
        let marking = async move { appender::publish(&publisher, &appender::mark(mark)).await };
        let _marking = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(marking));
        let mut chunks = deliveries.ready_chunks(256);
        let mut acks = Acks::new(self.stale);
        loop {
            let Ok(chunk) = tokio::time::timeout(self.stale, chunks.next()).await else {
                return Err(BrokerError::Silent {
                    what: format!("read the stream {EVENTS_STREAM}"),
                    after: self.stale,
                });
            };
            let chunk = chunk.unwrap_or_default();
            let (mut last, count) = (None, chunk.len());
            for delivery in chunk {
                let delivery = delivery?;
                reading = self.take(reading, &delivery, mark);
                last = Some(delivery);
            }
            self.shared.view.send_replace(View {
                caught_up: reading.is_current(),
                heard: Instant::now(),
            });
            // Ticks come often enough to acknowledge the last messages in time.
            if let Some(last) = last {
                acks.read(last, count).await?;
            }
        }
    }

    /// Takes one message.
    fn take(&self, reading: Reading, delivery: &Delivery, mark: EmitterId) -> Reading {
        let (offset, batch) = (offset_of(delivery), read_batch(delivery));
        let is_mark = batch.as_ref().is_some_and(|batch| batch.emitter == mark);
        match reading {
            Reading::Rebuilding(mut rebuild) => {
                rebuild.tail.add(offset, &delivery.data, batch.as_ref());
                if let Some(batch) = &batch {
                    apply(&self.shared, &mut rebuild.fold, batch, &mut rebuild.own);
                }
                if !is_mark {
                    return Reading::Rebuilding(rebuild);
                }
                LOG_READS.add(["first"], 1);
                *self.tail.lock() = rebuild.show(&self.shared);
                *self.read_whole() = Instant::now();
                Reading::Following { whole: true }
            }
            Reading::Following { whole } => {
                self.tail.lock().add(offset, &delivery.data, batch.as_ref());
                if let Some(batch) = &batch {
                    fold(&self.shared, batch);
                }
                Reading::Following {
                    whole: whole || is_mark,
                }
            }
        }
    }
}

fn read_batch(delivery: &Delivery) -> Option<EventBatch> {
    match EventBatch::from_json(&delivery.data) {
        Ok(batch) => Some(batch),
        Err(error) => {
            tracing::warn!(%error, "a message in the event log is not a batch of events; every process skips it");
            None
        }
    }
}

impl Rebuild {
    fn new(shared: &Shared) -> Self {
        Self {
            fold: shared.empty_state(),
            tail: Tail::default(),
            own: Vec::new(),
        }
    }

    /// Makes this state the one that the process sees.
    fn show(self, shared: &Shared) -> Tail {
        *shared.fold.write().unwrap_or_else(PoisonError::into_inner) = self.fold;
        shared.news.wake_all();
        self.own
            .into_iter()
            .for_each(|(event, verdict)| shared.resolve(event, verdict));
        self.tail
    }
}

/// Folds a batch into the state that the process sees, and tells everybody who waits for it.
fn fold(shared: &Shared, batch: &EventBatch) {
    let mut own = Vec::new();
    {
        let mut fold = shared.fold.write().unwrap_or_else(PoisonError::into_inner);
        apply(shared, &mut fold, batch, &mut own);
    }
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

/// Folds a batch. `own` receives the verdicts for events of this process.
fn apply(
    shared: &Shared,
    fold: &mut PoolState,
    batch: &EventBatch,
    own: &mut Vec<(EventId, Verdict)>,
) {
    fold.apply(batch, |event, decision, verdict| {
        shared.observer.report_event(batch, decision, verdict);
        if event.emitter == shared.emitter {
            own.push((event, verdict));
        }
    });
}
