//! Messages that leave together: what arrives while others are on their way goes in one go, on one channel, and their
//! confirms come back in one go. For messages that nobody's next step waits for: each costs the broker a fraction of
//! one that is published alone.
//!
//! Those that the broker did not confirm are published again, each alone. When nothing could be sent at all, everybody
//! hears why.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::message::BasicReturnMessage;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::BrokerError;
use super::publisher::{Message, Publisher, Together};

/// The most messages in one go.
const TOGETHER: usize = 128;
/// The most bytes in one go, but for a message that is larger alone: a slow connection must bring them to the broker
/// within one time-out.
const TOGETHER_BYTES: usize = 4 * 1024 * 1024;
/// From one go to the next, so that a busy sender has something to put together. An idle one does not wait.
pub const PROMPT: Duration = Duration::from_millis(4);
/// Likewise, for what nobody waits for.
pub const UNHURRIED: Duration = Duration::from_millis(20);

/// A mandatory message that can wait in line.
#[derive(Debug, Clone)]
pub struct Letter {
    pub exchange: &'static str,
    pub key: String,
    pub body: Vec<u8>,
    pub properties: BasicProperties,
}

impl Letter {
    fn message(&self) -> Message<'_> {
        let Self {
            exchange,
            key,
            body,
            properties,
        } = self;
        Message {
            exchange,
            key,
            body,
            properties: properties.clone(),
            mandatory: true,
        }
    }

    fn is(&self, returned: &BasicReturnMessage) -> bool {
        returned.delivery.routing_key.as_str() == self.key
            && returned.delivery.properties.message_id() == self.properties.message_id()
    }
}

#[derive(Debug)]
struct Waiting {
    letter: Letter,
    confirmed: oneshot::Sender<Result<(), BrokerError>>,
}

/// Publishes with confirms, many at once. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Outbox(mpsc::Sender<Waiting>);

impl Outbox {
    /// The outbox, and what sends: the caller runs it. It sends until `shutdown`, `pace` ([`PROMPT`], [`UNHURRIED`]) from one
    /// go to the next.
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
    pub async fn publish(&self, letter: Letter) -> Result<(), BrokerError> {
        let closed = |what: String| BrokerError::Pool {
            what,
            reason: "this process is ending".to_owned(),
        };
        let what = format!("publish to {} with key {:?}", letter.exchange, letter.key);
        let (confirmed, answer) = oneshot::channel();
        if self.0.send(Waiting { letter, confirmed }).await.is_err() {
            return Err(closed(what));
        }
        answer.await.unwrap_or_else(|_| Err(closed(what)))
    }
}

async fn run(publisher: Publisher, mut waiting: mpsc::Receiver<Waiting>, pace: Duration) {
    let mut taken = Vec::with_capacity(TOGETHER);
    while waiting.recv_many(&mut taken, TOGETHER).await > 0 {
        while !taken.is_empty() {
            let began = Instant::now();
            let fit = fit(taken.iter().map(|waiting| waiting.letter.body.len()));
            send(&publisher, taken.drain(..fit).collect()).await;
            tokio::time::sleep_until(began + pace).await;
        }
    }
}

/// How many letters of these sizes go together: at least one.
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
            let messages: Vec<Message<'_>> = batch
                .iter()
                .map(|waiting| waiting.letter.message())
                .collect();
            publisher.publish_together(&messages).await
        }
    };
    match together {
        Ok(together) => {
            for (Waiting { letter, confirmed }, taken) in batch.into_iter().zip(&together.taken) {
                if is_done(&letter, *taken, &together.returned) {
                    // The sender may have given up.
                    let _ = confirmed.send(Ok(()));
                } else {
                    let publisher = publisher.clone();
                    tokio::spawn(async move {
                        confirmed.send(publisher.publish(letter.message()).await)
                    });
                }
            }
        }
        Err(error) => batch
            .into_iter()
            .for_each(|waiting| drop(waiting.confirmed.send(Err(error.clone())))),
    }
}

/// Whether nothing is left to do for a letter that was sent with others. One that was returned is published again: it
/// is returned again, and then it is known which it was.
fn is_done(letter: &Letter, taken: bool, returned: &[BasicReturnMessage]) -> bool {
    taken && !returned.iter().any(|message| letter.is(message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::message::Delivery;

    fn letter(key: &str, id: &str) -> Letter {
        let properties = BasicProperties::default().with_message_id(id.into());
        Letter {
            exchange: "pool.log",
            key: key.to_owned(),
            body: Vec::new(),
            properties,
        }
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
                properties: letter(key, id).properties,
                ..Delivery::mock(0, "".into(), key.into(), false, Vec::new())
            },
            reply_code: 312,
            reply_text: "NO_ROUTE".into(),
        };
        let gone = [returned("results.me", "b")];
        assert!(
            is_done(&letter("results.me", "a"), true, &gone),
            "confirmed, and another one was returned"
        );
        assert!(
            !is_done(&letter("results.me", "b"), true, &gone),
            "returned"
        );
        assert!(
            is_done(&letter("results.you", "b"), true, &gone),
            "the same id for another queue"
        );
        assert!(
            !is_done(&letter("results.me", "a"), false, &gone),
            "not confirmed"
        );
    }
}
