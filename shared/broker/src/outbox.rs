//! Publishes messages in batches. While one batch is on its way, further messages collect for the next one, which goes out
//! on one channel. A batched message costs the broker a fraction of one that is published alone. It is for senders that can
//! wait a few milliseconds.
//!
//! Messages that the broker did not confirm are published again, each by itself. When nothing could be sent at all, every
//! sender of the batch gets the error.

use std::time::Duration;

use lapin::message::BasicReturnMessage;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::BrokerError;
use super::publisher::{Message, Publisher, Together};

/// The most messages in one batch.
const TOGETHER: usize = 128;
/// The most bytes in one batch (a larger message goes alone): a slow connection must send them within one time-out.
const TOGETHER_BYTES: usize = 4 * 1024 * 1024;
/// The time between batches, so that the messages of a busy sender collect. The first message after a pause does not wait.
pub const PROMPT: Duration = Duration::from_millis(4);
/// The time between batches of messages for which no user waits.
pub const UNHURRIED: Duration = Duration::from_millis(20);

#[derive(Debug)]
struct Waiting {
    message: Message<'static>,
    confirmed: oneshot::Sender<Result<(), BrokerError>>,
}

/// Publishes batches with confirms. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Outbox(mpsc::Sender<Waiting>);

impl Outbox {
    /// The outbox and the service that publishes until `shutdown`, which the caller runs. `pace` ([`PROMPT`] or [`UNHURRIED`])
    /// is the time between batches.
    pub fn new(
        publisher: Publisher,
        shutdown: CancellationToken,
        pace: Duration,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, waiting) = mpsc::channel(TOGETHER);
        let sending = async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = run(publisher, waiting, pace) => {}
            }
        };
        (Self(sender), sending)
    }

    /// Publishes one message and waits until the broker has taken it.
    ///
    /// # Errors
    /// As of [`Publisher::publish`].
    pub async fn publish(&self, message: Message<'static>) -> Result<(), BrokerError> {
        let what = format!("publish to {} with key {:?}", message.exchange, message.key);
        let (confirmed, answer) = oneshot::channel();
        if self.0.send(Waiting { message, confirmed }).await.is_err() {
            return Err(BrokerError::Ending { what });
        }
        answer.await.unwrap_or(Err(BrokerError::Ending { what }))
    }
}

async fn run(publisher: Publisher, mut waiting: mpsc::Receiver<Waiting>, pace: Duration) {
    let mut taken = Vec::with_capacity(TOGETHER);
    while waiting.recv_many(&mut taken, TOGETHER).await > 0 {
        while !taken.is_empty() {
            let began = Instant::now();
            let fit = fit(taken.iter().map(|waiting| waiting.message.body.len()));
            send(&publisher, taken.drain(..fit).collect()).await;
            tokio::time::sleep_until(began + pace).await;
        }
    }
}

/// How many messages of these sizes fit into one batch: at least one.
fn fit(sizes: impl Iterator<Item = usize>) -> usize {
    let up_to = sizes.scan(0, |bytes: &mut usize, size| {
        *bytes += size;
        Some(*bytes)
    });
    up_to
        .take_while(|bytes| *bytes <= TOGETHER_BYTES)
        .count()
        .max(1)
}

async fn send(publisher: &Publisher, batch: Vec<Waiting>) {
    let together = match batch.as_slice() {
        [_] => Ok(Together {
            taken: vec![false],
            returned: Vec::new(),
        }),
        _ => {
            let messages: Vec<_> = batch.iter().map(|waiting| &waiting.message).collect();
            publisher.publish_together(&messages).await
        }
    };
    match together {
        Ok(together) => {
            for (Waiting { message, confirmed }, taken) in batch.into_iter().zip(&together.taken) {
                if is_done(&message, *taken, &together.returned) {
                    // The sender may have given up.
                    let _ = confirmed.send(Ok(()));
                } else {
                    let publisher = publisher.clone();
                    tokio::spawn(async move { confirmed.send(publisher.publish(&message).await) });
                }
            }
        }
        Err(error) => batch
            .into_iter()
            .for_each(|waiting| drop(waiting.confirmed.send(Err(error.clone())))),
    }
}

/// Whether a message of a batch has arrived. A returned one is published again by itself: it is returned again, and then its
/// sender gets the error.
fn is_done(message: &Message<'_>, taken: bool, returned: &[BasicReturnMessage]) -> bool {
    let is_it = |returned: &BasicReturnMessage| {
        returned.delivery.routing_key.as_str() == message.key
            && returned.delivery.properties.message_id() == message.properties.message_id()
    };
    taken && !returned.iter().any(is_it)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::BasicProperties;
    use lapin::message::Delivery;

    fn message(key: &str, id: &str) -> Message<'static> {
        let properties = BasicProperties::default().with_message_id(id.into());
        Message::new("pool.log", key.to_owned(), Vec::new(), properties)
    }

    #[test]
    fn a_batch_has_an_end_in_bytes_and_always_takes_one() {
        const MIB: usize = 1024 * 1024;
        assert_eq!(fit([MIB, MIB, 2 * MIB, 1].into_iter()), 3, "up to 4 MiB");
        assert_eq!(
            fit([100 * MIB, 1].into_iter()),
            1,
            "a larger one goes alone"
        );
        assert_eq!(
            fit(std::iter::repeat_n(1000, 128)),
            128,
            "small ones all together"
        );
    }

    #[test]
    fn only_what_was_not_taken_is_published_again() {
        let returned = |key: &str, id: &str| BasicReturnMessage {
            delivery: Delivery {
                properties: message(key, id).properties,
                ..Delivery::mock(0, "".into(), key.into(), false, Vec::new())
            },
            reply_code: 312,
            reply_text: "NO_ROUTE".into(),
        };
        let gone = [returned("results.me", "b")];
        assert!(
            is_done(&message("results.me", "a"), true, &gone),
            "confirmed, and another one was returned"
        );
        assert!(
            !is_done(&message("results.me", "b"), true, &gone),
            "returned"
        );
        assert!(
            is_done(&message("results.you", "b"), true, &gone),
            "the same id for another queue"
        );
        assert!(
            !is_done(&message("results.me", "a"), false, &gone),
            "not confirmed"
        );
    }
}
