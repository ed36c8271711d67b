//! Reads the stream `pool.history` from its beginning. When the consumer is lost or silent, it goes on
//! where it was, or starts over if the stream is another one than before.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use pool_broker::acks::{self, Acks};
use pool_broker::consumer::{self, ConsumerSettings, Deliveries, offset_of};
use pool_broker::headers::{self, json_properties};
use pool_broker::publisher::Message;
use pool_broker::tail::{Chain, KeptTail, Opened, Tail};
use pool_broker::topology::{HISTORY_KEY, HISTORY_STREAM, LOG};
use pool_broker::{BrokerError, log_broker_error};
use pool_telemetry::clock::new_id;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::index::Index;
use super::{History, Read};

const PREFETCH: u16 = 200;
/// The number of entries that must be the same as before.
const CHAIN: usize = 50;

/// How the history is consumed.
pub(super) fn consumer() -> ConsumerSettings<'static> {
    ConsumerSettings::new(HISTORY_STREAM, "history").prefetch(PREFETCH)
}

pub(super) async fn follow(history: History, read: watch::Sender<Read>) {
    let reader = &HistoryReader {
        history,
        read,
        tail: KeptTail::default(),
    };
    consumer::keep(&reader.history.process.shutdown, || async move {
        let chain = reader.tail.lock().newest(CHAIN);
        let mut end = reader.read(chain).await;
        if let Ok(HistoryChanged) = end {
            tracing::warn!("the history has other entries than before; reading the whole history");
            end = reader.read(None).await;
        }
        if let Err(error) = end {
            log_broker_error(&error, "the reader of the history starts over");
        }
    })
    .await;
}

/// The stream is not the one that was read before.
struct HistoryChanged;

struct HistoryReader {
    history: History,
    read: watch::Sender<Read>,
    /// The newest entries in the index that the process sees.
    tail: KeptTail,
}

impl HistoryReader {
    /// Reads until an error. Ends at once when the stream has other entries than the chain.
    async fn read(&self, chain: Option<Chain>) -> Result<HistoryChanged, BrokerError> {
        let link = &self.history.process.consume;
        let reading = link.on_channel(|channel| async move {
            let limit = link.endpoint().timeout();
            match self.tail.open(chain, consumer(), &channel, limit).await? {
                Opened::Broken => Ok(HistoryChanged),
                Opened::Behind(deliveries) => {
                    read_on(self, deliveries, IndexReading::going_on()).await
                }
                Opened::First(deliveries) => read_on(self, deliveries, IndexReading::new()).await,
            }
        });
        reading.await
    }
}

/// Reads until an error.
async fn read_on(
    reader: &HistoryReader,
    deliveries: Deliveries,
    mut reading: IndexReading,
) -> Result<HistoryChanged, BrokerError> {
    let HistoryReader {
        history,
        read,
        tail,
    } = reader;
    let stale = history.process.log.stale();
    let _marking = write_mark(history, &reading.mark);
    let mut pulse = Pulse::Felt(Instant::now());
    let mut chunks = deliveries.ready_chunks(100);
    let mut acks = Acks::new(history.process.consume.endpoint().timeout());
    loop {
        let Ok(next) = tokio::time::timeout(acks::AT_LATEST, chunks.next()).await else {
            acks.send().await?;
            if pulse.is_missed(stale, || write_mark(history, &reading.mark)) {
                return Err(BrokerError::Silent {
                    what: format!("read the stream {HISTORY_STREAM}"),
                    after: stale,
                });
            }
            continue;
        };
        let chunk = next.unwrap_or_default();
        pulse = Pulse::Felt(Instant::now());
        let (mut last, count) = (None, chunk.len());
        for delivery in chunk {
            let delivery = delivery?;
            reading.remember(tail, &delivery);
            if !history.hear_output(&delivery) && reading.learn(&history.index, &delivery) {
                *tail.lock() = std::mem::take(&mut reading.tail);
            }
            last = Some(delivery);
        }
        let whole = reading.fresh.is_none();
        read.send_modify(|read| {
            *read = Read {
                whole: read.whole || whole,
                news: read.news + 1,
            }
        });
        if let Some(last) = last {
            acks.read(last, count).await?;
        }
    }
}

/// One reading of the stream.
struct IndexReading {
    /// The index of this reading, hidden until it is complete. Then it becomes the index, and this
    /// is None.
    fresh: Option<Index>,
    /// The newest entries in `fresh`.
    tail: Tail,
    /// When this mark arrives, the reading has covered all entries that existed at its start.
    mark: String,
}

impl IndexReading {
    fn new() -> Self {
        Self {
            fresh: Some(Index::default()),
            tail: Tail::default(),
            mark: new_id::<Uuid>().to_string(),
        }
    }

    /// A reading that continues an earlier one.
    fn going_on() -> Self {
        Self {
            fresh: None,
            ..Self::new()
        }
    }

    fn remember(&mut self, seen: &KeptTail, delivery: &Delivery) {
        let offset = offset_of(delivery);
        match self.fresh {
            Some(_) => self.tail.add(offset, &delivery.data, None),
            None => seen.lock().add(offset, &delivery.data, None),
        }
    }

    /// True if the index of this reading is complete now.
    fn learn(&mut self, seen: &RwLock<Index>, delivery: &Delivery) -> bool {
        let seen = || seen.write().unwrap_or_else(PoisonError::into_inner);
        match &mut self.fresh {
            Some(fresh) => fresh.learn(delivery),
            None => seen().learn(delivery),
        }
        if headers::text(delivery.properties.correlation_id()) == Some(&self.mark)
            && let Some(fresh) = self.fresh.take()
        {
            *seen() = fresh;
            return true;
        }
        false
    }
}

/// Detects a stream that stopped delivering. Days may pass without an entry, so a silent reader
/// writes a mark and waits for it.
enum Pulse {
    Felt(Instant),
    /// A mark is being written; resolves to the time the broker confirmed it.
    Asking(AbortOnDropHandle<Instant>),
    Asked(Instant),
}

impl Pulse {
    /// Checks after a silence. True if a mark was written and did not arrive within `stale`.
    fn is_missed(
        &mut self,
        stale: Duration,
        ask: impl FnOnce() -> AbortOnDropHandle<Instant>,
    ) -> bool {
        match self {
            Self::Felt(heard) if heard.elapsed() > stale => *self = Self::Asking(ask()),
            Self::Felt(_) => {}
            Self::Asking(marking) => {
                if let Some(Ok(written)) = marking.now_or_never() {
                    *self = Self::Asked(written);
                }
            }
            Self::Asked(written) => return written.elapsed() > stale,
        }
        false
    }
}

/// Writes a mark, retrying without limit; resolves when it is confirmed.
fn write_mark(history: &History, mark: &str) -> AbortOnDropHandle<Instant> {
    let (publisher, mark) = (history.process.publisher.clone(), mark.to_owned());
    AbortOnDropHandle::new(tokio::spawn(async move {
        let properties = json_properties()
            .with_type("mark".into())
            .with_correlation_id(mark.into());
        let message = Message::new(LOG, HISTORY_KEY, b"{}", properties);
        let words = "a mark in the history is not confirmed; writing it again";
        publisher.publish_until_confirmed(&message, words).await;
        Instant::now()
    }))
}

#[cfg(test)]
mod tests {
    use super::super::EntryKind;
    use super::*;
    use lapin::types::{AMQPValue, FieldTable};
    use pool_core::id::TaskId;

    fn delivery(offset: i64, id: &str, properties: lapin::BasicProperties) -> Delivery {
        let mut headers = FieldTable::default();
        headers.insert("x-stream-offset".into(), AMQPValue::LongLongInt(offset));
        let properties = properties.with_message_id(id.into()).with_headers(headers);
        Delivery {
            properties,
            ..Delivery::mock(1, LOG.into(), HISTORY_KEY.into(), false, b"{}".to_vec())
        }
    }

    fn result(offset: i64, id: &str) -> Delivery {
        delivery(
            offset,
            id,
            json_properties().with_type(EntryKind::Result.as_str().into()),
        )
    }

    fn mark(reading: &IndexReading) -> Delivery {
        delivery(
            9,
            "",
            json_properties().with_correlation_id(reading.mark.as_str().into()),
        )
    }

    fn result_at(seen: &RwLock<Index>, id: &str) -> Option<u64> {
        let id = TaskId::new(id).expect("an id");
        seen.read()
            .expect("an index")
            .get(&id)
            .and_then(|entry| entry.result_at)
    }

    #[test]
    fn a_new_reading_takes_the_place_of_the_last_one_when_it_is_complete() {
        let seen = RwLock::default();
        let mut first = IndexReading::new();
        first.learn(&seen, &result(1, "kept"));
        assert_eq!(
            result_at(&seen, "kept"),
            None,
            "an incomplete index is not shown"
        );
        let end = mark(&first);
        first.learn(&seen, &end);
        first.learn(&seen, &result(2, "lost"));
        assert_eq!(
            (result_at(&seen, "kept"), result_at(&seen, "lost")),
            (Some(1), Some(2)),
            "the whole index"
        );

        // The broker has lost the end of the stream, and another entry has taken the offset.
        let mut second = IndexReading::new();
        second.learn(&seen, &mark(&first));
        second.learn(&seen, &result(1, "kept"));
        second.learn(&seen, &result(2, "other"));
        assert_eq!(
            result_at(&seen, "lost"),
            Some(2),
            "until then the old index stays"
        );
        let end = mark(&second);
        second.learn(&seen, &end);
        let found = (
            result_at(&seen, "kept"),
            result_at(&seen, "lost"),
            result_at(&seen, "other"),
        );
        assert_eq!(
            found,
            (Some(1), None, Some(2)),
            "lost entries are gone from the index"
        );
    }

    #[tokio::test]
    async fn a_stream_that_does_not_bring_a_mark_is_stale() {
        let never = || AbortOnDropHandle::new(tokio::spawn(std::future::pending()));
        let long_ago = Instant::now() - Duration::from_secs(60);
        let (stale, far) = (Duration::from_secs(20), Duration::from_secs(600));
        let mut pulse = Pulse::Felt(long_ago);
        assert!(!pulse.is_missed(far, never), "silence alone proves nothing");
        assert!(
            !pulse.is_missed(stale, never) && matches!(pulse, Pulse::Asking(_)),
            "it writes a mark"
        );
        assert!(
            !pulse.is_missed(stale, never),
            "the broker may refuse messages"
        );
        pulse = Pulse::Asked(Instant::now());
        assert!(!pulse.is_missed(stale, never), "the mark may be on its way");
        pulse = Pulse::Asked(long_ago);
        assert!(pulse.is_missed(stale, never), "the mark is overdue");
    }
}
