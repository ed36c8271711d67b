//! Acknowledgements: of one message, and of many messages of a stream at once. Those only allow the broker to send more. One
//! for every message would cost the broker as much as the message.

use std::time::Duration;

use lapin::message::Delivery;
use lapin::options::BasicAckOptions;
use tokio::time::Instant;

use super::{BrokerError, with_timeout};

/// The number of messages per acknowledgement: far below any prefetch, so that the broker never waits.
const TOGETHER: usize = 64;
/// The longest time between acknowledgements, because the broker closes a channel that leaves messages unacknowledged.
pub const AT_LATEST: Duration = Duration::from_secs(1);

/// Acknowledges one message. False when its channel is closed already.
///
/// # Errors
/// When it could not be written: the broker delivers the message again.
pub async fn ack(delivery: &Delivery, limit: Duration) -> Result<bool, BrokerError> {
    let what = format!("ack a message of {:?}", delivery.routing_key.as_str());
    with_timeout(limit, what, delivery.ack(BasicAckOptions::default())).await
}

/// The messages that were read and are not acknowledged yet.
#[derive(Debug)]
pub struct Acks {
    last: Option<Delivery>,
    count: usize,
    since: Instant,
    limit: Duration,
}

impl Acks {
    /// `limit`: the time-out of each acknowledgement.
    pub fn new(limit: Duration) -> Self {
        Self {
            last: None,
            count: 0,
            since: Instant::now(),
            limit,
        }
    }

    /// Records `count` messages, the last of which is `last`, and acknowledges when it is due.
    ///
    /// # Errors
    /// When an acknowledgement was due and could not be written.
    pub async fn read(&mut self, last: Delivery, count: usize) -> Result<(), BrokerError> {
        self.last = Some(last);
        self.count += count;
        if self.count >= TOGETHER || self.since.elapsed() >= AT_LATEST {
            self.send().await
        } else {
            Ok(())
        }
    }

    /// Acknowledges the rest. Call it when no message has come for [`AT_LATEST`].
    ///
    /// # Errors
    /// When it could not be written.
    pub async fn send(&mut self) -> Result<(), BrokerError> {
        self.count = 0;
        self.since = Instant::now();
        match self.last.take() {
            Some(last) => with_timeout(
                self.limit,
                "ack a stream",
                last.ack(BasicAckOptions { multiple: true }),
            )
            .await
            .map(drop),
            None => Ok(()),
        }
    }
}
