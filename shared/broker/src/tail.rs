//! Where the reader of a stream may go on after it has lost its consumer.
//!
//! A broker that has lost the end of a stream uses the same offsets again for other messages (broker fact 17). So a reader
//! goes on only if the stream still has, at the same offsets, a *chain* of the last messages that it has read.
//!
//! In the event log, some of these messages may even be equal after such a loss: an emitter publishes a batch again until it
//! is confirmed. So the chain begins with a batch of some emitter that has a later batch in the chain. An emitter sends its
//! next batch after the earlier one is confirmed, and never sends the earlier one again. So the earlier one is where it always
//! was, and with it everything before it.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hasher as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lapin::Channel;
use lapin::types::AMQPValue;
use pool_core::event::{EmitterId, EventBatch};

use crate::BrokerError;
use crate::acks::Acks;
use crate::consumer::{ConsumerSettings, Deliveries, offset_of};

/// The number of messages that are remembered. A pool with more processes than this reads the whole log.
const REMEMBERED: usize = 2_000;
/// How long the messages of a chain may take. They are in the stream if it is the same stream. In a stream that is shorter now
/// the reader would wait for the offset.
const CHECKED_WITHIN: Duration = Duration::from_secs(5);

/// How a reading of a stream begins.
pub enum Opened {
    /// With the first message of the stream.
    First(Deliveries),
    /// With the first message that was not read before.
    Behind(Deliveries),
    /// The stream has other messages than before. The channel cannot be used any more.
    Broken,
}

/// The tail of a reader, from reading to reading.
#[derive(Debug, Default)]
pub struct KeptTail(Mutex<Tail>);

impl KeptTail {
    /// The tail. It is right after each message.
    pub fn lock(&self) -> MutexGuard<'_, Tail> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Consumes behind the tail if the stream still has the messages of this chain, and the whole stream without a chain. If
    /// the stream has other messages, or not all of them come in time, the tail is empty afterwards, so the next reading begins
    /// with the first message.
    ///
    /// # Errors
    /// When the broker refuses or does not answer.
    pub async fn open(
        &self,
        chain: Option<Chain>,
        settings: ConsumerSettings<'_>,
        channel: &Channel,
        limit: Duration,
    ) -> Result<Opened, BrokerError> {
        let Some(mut chain) = chain else {
            *self.lock() = Tail::default();
            let deliveries = settings.from_first().start(channel, limit).await?;
            return Ok(Opened::First(deliveries));
        };
        let offset = AMQPValue::LongLongInt(chain.from().cast_signed());
        let mut deliveries = settings.from_offset(offset).start(channel, limit).await?;
        let checking = check(&mut deliveries, &mut chain, limit);
        match tokio::time::timeout(CHECKED_WITHIN, checking).await {
            Ok(Ok(true)) => Ok(Opened::Behind(deliveries)),
            Ok(Ok(false)) | Err(_) => {
                *self.lock() = Tail::default();
                Ok(Opened::Broken)
            }
            // Nothing was folded, so the tail is still right: a broker that starts may not have the stream yet.
            Ok(Err(error)) => Err(error),
        }
    }
}

/// Whether the next messages are those of the chain.
async fn check(
    deliveries: &mut Deliveries,
    chain: &mut Chain,
    limit: Duration,
) -> Result<bool, BrokerError> {
    let mut acks = Acks::new(limit);
    loop {
        let delivery = deliveries.receive().await?;
        match chain.check(offset_of(&delivery), &delivery.data) {
            ChainStep::Fits => acks.read(delivery, 1).await?,
            ChainStep::Broken => return Ok(false),
            ChainStep::Whole => {
                acks.read(delivery, 1).await?;
                acks.send().await?;
                return Ok(true);
            }
        }
    }
}

/// A message that has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ReadMessage {
    offset: u64,
    hash: u64,
    /// None for a message that is not a batch of events.
    batch: Option<BatchId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct BatchId {
    emitter: EmitterId,
    first: u64,
}

/// The newest messages that have been read.
#[derive(Debug, Clone, Default)]
pub struct Tail {
    newest: VecDeque<ReadMessage>,
}

impl Tail {
    /// Records a message. Without an offset the reader cannot go on behind it.
    pub fn add(&mut self, offset: Option<u64>, body: &[u8], batch: Option<&EventBatch>) {
        let Some(offset) = offset else {
            self.newest.clear();
            return;
        };
        if self.newest.len() == REMEMBERED {
            self.newest.pop_front();
        }
        let batch = batch.map(|batch| BatchId {
            emitter: batch.emitter,
            first: batch.first,
        });
        self.newest.push_back(ReadMessage {
            offset,
            hash: hash(body),
            batch,
        });
    }

    /// The last messages; None if there are fewer. Enough for a stream of which nothing but pages for people is made.
    pub fn newest(&self, count: usize) -> Option<Chain> {
        let begins = self.newest.len().checked_sub(count)?;
        Some(Chain {
            links: self.newest.iter().skip(begins).cloned().collect(),
        })
    }

    /// The chain that the event log must still have; None if the reader has to read the whole log.
    pub fn chain(&self) -> Option<Chain> {
        let mut later: HashMap<EmitterId, u64> = HashMap::new();
        let begins = self.newest.iter().rposition(|read| {
            read.batch.is_some_and(|batch| {
                let next = *later.entry(batch.emitter).or_insert(batch.first);
                batch.first < next
            })
        })?;
        Some(Chain {
            links: self.newest.iter().skip(begins).cloned().collect(),
        })
    }
}

/// The messages that the stream must still have, oldest first.
#[derive(Debug)]
pub struct Chain {
    links: VecDeque<ReadMessage>,
}

/// The meaning of a message for the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChainStep {
    /// It fits, and more must follow.
    Fits,
    /// It was the last one: the next message is a new one.
    Whole,
    /// The stream has other messages than before.
    Broken,
}

impl Chain {
    /// The offset of the first message.
    pub fn from(&self) -> u64 {
        self.links.front().map_or(0, |link| link.offset)
    }

    /// Compares the next message of the stream.
    fn check(&mut self, offset: Option<u64>, body: &[u8]) -> ChainStep {
        let fits = self
            .links
            .pop_front()
            .is_some_and(|link| Some(link.offset) == offset && link.hash == hash(body));
        match (fits, self.links.is_empty()) {
            (false, _) => ChainStep::Broken,
            (true, false) => ChainStep::Fits,
            (true, true) => ChainStep::Whole,
        }
    }
}

fn hash(body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(body);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pool_core::event::{Event, PoolEvent};

    /// The batch of an emitter with this number of its first event.
    fn message(emitter: u128, first: u64) -> (Vec<u8>, EventBatch) {
        let batch = EventBatch {
            v: 1,
            emitter: EmitterId::from_u128(emitter),
            first,
            at_ms: 1,
            events: vec![Event::Pool(PoolEvent::Tick)],
        };
        (batch.to_json(), batch)
    }

    /// The tail after these batches, the first of which has the offset 10.
    fn tail(batches: &[(u128, u64)]) -> Tail {
        let mut tail = Tail::default();
        for (offset, (emitter, first)) in (10..).zip(batches) {
            let (body, batch) = message(*emitter, *first);
            tail.add(Some(offset), &body, Some(&batch));
        }
        tail
    }

    /// The verdict of the chain when the stream has these batches from its beginning on.
    fn checked(chain: &mut Chain, batches: &[(u128, u64)]) -> ChainStep {
        let mut last = ChainStep::Fits;
        for (offset, (emitter, first)) in (chain.from()..).zip(batches) {
            last = chain.check(Some(offset), &message(*emitter, *first).0);
            if last != ChainStep::Fits {
                break;
            }
        }
        last
    }

    #[test]
    fn a_chain_begins_where_some_emitter_went_on_and_ends_with_the_last_message() {
        for (batches, from) in [
            // One batch of each emitter: all of them may have been published again.
            (vec![], None),
            (vec![(1, 0)], None),
            (vec![(1, 0), (2, 0), (3, 0)], None),
            // The same batch twice is no later one.
            (vec![(1, 0), (2, 0), (1, 0)], None),
            (vec![(1, 0), (1, 1)], Some(10)),
            (vec![(1, 0), (2, 0), (1, 1)], Some(10)),
            (vec![(1, 0), (2, 0), (1, 1), (2, 1)], Some(11)),
            (
                vec![(1, 0), (2, 0), (1, 1), (2, 1), (2, 2), (3, 0)],
                Some(13),
            ),
            // After a late copy of an earlier batch it is not clear which one is the later.
            (vec![(1, 0), (1, 1), (1, 0)], None),
            (vec![(2, 0), (1, 0), (1, 1), (1, 0), (2, 1)], Some(10)),
        ] {
            let chain = tail(&batches).chain();
            assert_eq!(chain.as_ref().map(Chain::from), from, "{batches:?}");
            if let Some(mut chain) = chain {
                let there = &batches[usize::try_from(chain.from()).expect("small") - 10..];
                assert_eq!(
                    checked(&mut chain, there),
                    ChainStep::Whole,
                    "the same stream"
                );
            }
        }
    }

    #[test]
    fn another_message_in_any_place_breaks_the_chain() {
        let batches = [(1, 0), (2, 0), (3, 5), (1, 1)];
        for place in 0..batches.len() {
            let mut other = batches;
            other[place] = (9, 9);
            let mut chain = tail(&batches).chain().expect("a chain");
            assert_eq!(checked(&mut chain, &other), ChainStep::Broken, "at {place}");
        }
        let mut chain = tail(&batches).chain().expect("a chain");
        let (first, _) = message(1, 0);
        assert_eq!(
            chain.check(Some(11), &first),
            ChainStep::Broken,
            "the same message at another offset"
        );
        let mut chain = tail(&batches).chain().expect("a chain");
        assert_eq!(chain.check(None, &first), ChainStep::Broken, "no offset");
    }

    /// The end of the stream was lost; what was not confirmed was published again, and happens to have its old offset.
    #[test]
    fn batches_that_are_published_again_after_a_loss_do_not_hide_it() {
        let before = [(1, 6), (1, 7), (2, 3), (3, 1), (4, 8)];
        let after = [(5, 0), (9, 9), (2, 3), (3, 1), (4, 8)];
        let mut chain = tail(&before).chain().expect("a chain");
        assert_eq!(
            checked(&mut chain, &after),
            ChainStep::Broken,
            "three equal messages at the end prove nothing"
        );
    }

    #[test]
    fn the_newest_are_a_chain_only_if_there_are_enough() {
        let three = tail(&[(1, 0), (2, 0), (3, 0)]);
        let chain = three.newest(2).expect("a chain");
        assert_eq!((chain.from(), chain.links.len()), (11, 2), "the last two");
        assert!(three.newest(4).is_none(), "too few");
    }

    #[test]
    fn the_memory_is_bounded_and_a_message_without_an_offset_begins_anew() {
        let batches: Vec<(u128, u64)> = (0..REMEMBERED as u64 + 5).map(|n| (1, n)).collect();
        let mut tail = tail(&batches);
        assert_eq!(tail.newest.len(), REMEMBERED, "the newest");
        assert!(tail.chain().is_some(), "a chain");
        tail.add(None, b"{}", None);
        assert!(tail.chain().is_none(), "nothing can be compared");
    }
}
