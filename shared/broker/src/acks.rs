//! Acks of a stream's reader. They only tell the broker to send more, and each of them wakes it up: one for every
//! message would cost it as much as the message.

use std::time::Duration;

use lapin::message::Delivery;
use lapin::options::BasicAckOptions;
use tokio::time::Instant;

use super::{BrokerError, within};

/// Far below any prefetch, so that the broker never waits for an ack.
const TOGETHER: usize = 64;
/// What is left over is acked after so long: the broker closes channels that leave a message unacknowledged.
pub const AT_LATEST: Duration = Duration::from_secs(1);

/// The messages that were read and are not acked yet.
#[derive(Debug)]
pub struct Acks {
    last: Option<Delivery>,
    count: usize,
    since: Instant,
    limit: Duration,
}

impl Acks {
    /// `limit` is for each single ack.
    pub fn new(limit: Duration) -> Self {
        Self {
            last: None,
            count: 0,
            since: Instant::now(),
            limit,
        }
    }

    /// These were read, in this order.
    ///
    /// # Errors
    /// When an ack was due and could not be written.
    pub async fn read(&mut self, last: Delivery, count: usize) -> Result<(), BrokerError> {
        self.last = Some(last);
        self.count += count;
        if self.count >= TOGETHER || self.since.elapsed() >= AT_LATEST {
            self.send().await
        } else {
            Ok(())
        }
    }

    /// Acks what is left; call it when nothing has come for [`AT_LATEST`].
    ///
    /// # Errors
    /// When it could not be written.
    pub async fn send(&mut self) -> Result<(), BrokerError> {
        self.count = 0;
        self.since = Instant::now();
        match self.last.take() {
            Some(last) => within(
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
