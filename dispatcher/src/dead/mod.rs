//! Dead letters: list, retry and drop messages that could not be handled; issue again what the
//! broker dead-lettered by itself.
//!
//! `pool.dead` is a queue, so a scan takes the messages and returns them. Only one scan runs at a
//! time. It uses its own connection, whose end returns the messages in their order whatever
//! happens.

pub mod letter;
pub mod retry;

use std::sync::Arc;
use std::time::Duration;

use lapin::Channel;
use lapin::message::Delivery;
use pool_api::dead::DeadLetter;
use pool_broker::acks::ack;
use pool_broker::consumer::{ConsumerSettings, Deliveries};
use pool_broker::link::Link;
use pool_broker::process::Process;
use pool_broker::topology::DEAD_QUEUE;
use pool_broker::{BrokerError, queue};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::Instant;

use crate::queue_depths;
use letter::describe;

/// An exclusive queue, held during a scan.
const LOCK: &str = "pool.dead.look";
/// The most messages that one scan shows.
pub(crate) const MOST: u16 = 1_000;
const NO_MORE_AFTER: Duration = Duration::from_secs(2);
/// Longer than another dispatcher's scan takes.
const TURN_WITHIN: Duration = Duration::from_secs(10);
const ASK_AGAIN: Duration = Duration::from_millis(200);

#[derive(Debug, thiserror::Error)]
pub(crate) enum DeadError {
    #[error("another request has been reading {DEAD_QUEUE} for {} s; try again", TURN_WITHIN.as_secs())]
    Busy,
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// Access to `pool.dead`. Cheap to clone.
#[derive(Clone)]
pub struct DeadLetters {
    process: Process,
    turn: Arc<Mutex<()>>,
}

impl DeadLetters {
    pub fn new(process: Process) -> Self {
        Self {
            process,
            turn: Arc::default(),
        }
    }

    /// Waits for its turn, then takes the first `most` messages.
    pub(crate) async fn scan(&self, most: u16) -> Result<DeadLetterScan, DeadError> {
        // Fail early: otherwise the scan would wait for its own connection.
        self.process.consume.is_there()?;
        let turn = tokio::time::timeout(TURN_WITHIN, Arc::clone(&self.turn).lock_owned());
        let turn = turn.await.map_err(|_| DeadError::Busy)?;
        let link = Link::brief(self.process.consume.endpoint().clone(), "dead letters");
        match begin(&link, most).await {
            Ok((channel, deliveries, all)) => {
                let left = all.min(usize::from(most));
                Ok(DeadLetterScan {
                    link,
                    _channel: channel,
                    deliveries,
                    all,
                    left,
                    _turn: turn,
                })
            }
            Err(error) => {
                link.close().await;
                Err(error)
            }
        }
    }

    /// The messages, oldest first, and their total number.
    pub(crate) async fn list(&self) -> Result<(Vec<DeadLetter>, usize), DeadError> {
        let mut scan = self.scan(MOST).await?;
        let all = scan.all;
        let mut letters = Vec::new();
        while let Some(delivery) = scan.next().await? {
            letters.push(describe(&delivery));
        }
        scan.end().await;
        Ok((letters, all))
    }

    /// The message with this id. The scan stays open, so that the message can be removed.
    pub(crate) async fn find(
        &self,
        id: &str,
    ) -> Result<Option<(DeadLetterScan, Delivery)>, DeadError> {
        let mut scan = self.scan(MOST).await?;
        while let Some(delivery) = scan.next().await? {
            if describe(&delivery).id == id {
                return Ok(Some((scan, delivery)));
            }
        }
        scan.end().await;
        Ok(None)
    }

    /// Drops the first messages; returns how many were dropped and how many are left.
    pub(crate) async fn drop_all(&self) -> Result<(usize, usize), DeadError> {
        let mut scan = self.scan(MOST).await?;
        let (all, mut dropped) = (scan.all, 0);
        while let Some(delivery) = scan.next().await? {
            scan.take_out(&delivery).await?;
            dropped += 1;
        }
        scan.end().await;
        Ok((dropped, all.saturating_sub(dropped)))
    }
}

/// The number of messages. None if it is unknown: the broker does not answer, or a scan has taken
/// them.
pub(crate) async fn count(process: &Process) -> Option<u32> {
    let queue = queue_depths::look(process, DEAD_QUEUE).await;
    queue
        .ok()
        .filter(|queue| queue.consumer_count() == 0)
        .map(|queue| queue.message_count())
}

/// Messages taken for a scan. When it ends, those that were not removed are back in the queue, in
/// their old places.
pub(crate) struct DeadLetterScan {
    link: Link,
    _channel: Channel,
    deliveries: Deliveries,
    /// The number of messages at the beginning.
    pub(crate) all: usize,
    /// How many of them are still to be read.
    left: usize,
    _turn: OwnedMutexGuard<()>,
}

async fn begin(link: &Link, most: u16) -> Result<(Channel, Deliveries, usize), DeadError> {
    let limit = link.endpoint().timeout();
    lock(link, limit).await?;
    let channel = link.channel().await?;
    let left = queue::inspect(&channel, limit, DEAD_QUEUE)
        .await?
        .message_count();
    let deliveries = ConsumerSettings::new(DEAD_QUEUE, "")
        .prefetch(most)
        .start(&channel, limit)
        .await?;
    Ok((
        channel,
        deliveries,
        usize::try_from(left).unwrap_or(usize::MAX),
    ))
}

/// Waits for the end of another dispatcher's scan. The lock ends with the connection.
async fn lock(link: &Link, limit: Duration) -> Result<(), DeadError> {
    let until = Instant::now() + TURN_WITHIN;
    loop {
        // A refusal closes the channel, so each attempt opens a new one.
        let channel = link.channel().await?;
        match queue::lock(&channel, limit, LOCK, "lock pool.dead").await {
            Ok(()) => return Ok(()),
            Err(BrokerError::Amqp { .. }) if Instant::now() < until => {
                tokio::time::sleep(ASK_AGAIN).await
            }
            Err(BrokerError::Amqp { .. }) => return Err(DeadError::Busy),
            Err(error) => return Err(error.into()),
        }
    }
}

impl DeadLetterScan {
    /// The next message, until the scan has returned as many as there were at first or as it may
    /// take.
    pub(crate) async fn next(&mut self) -> Result<Option<Delivery>, DeadError> {
        if self.left == 0 {
            return Ok(None);
        }
        // Fewer messages may come if another process has taken some.
        let Ok(next) = tokio::time::timeout(NO_MORE_AFTER, self.deliveries.receive()).await else {
            return Ok(None);
        };
        self.left -= 1;
        Ok(Some(next?))
    }

    pub(crate) async fn take_out(&self, delivery: &Delivery) -> Result<(), DeadError> {
        ack(delivery, self.link.endpoint().timeout()).await?;
        Ok(())
    }

    pub(crate) async fn end(self) {
        self.link.close().await;
    }
}
