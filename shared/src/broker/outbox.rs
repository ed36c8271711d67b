//! Messages that leave together: what arrives while others are on their way goes in one go, on one channel, and their
//! confirms come back in one go. For messages that nobody's next step waits for: each costs the broker a fraction of
//! one that is published alone.
//!
//! When the broker did not confirm all of them, each is published again, alone.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::message::BasicReturnMessage;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::BrokerError;
use super::publisher::{Message, Publisher};

/// The most messages in one go.
const TOGETHER: usize = 128;
/// From one go to the next, so that a busy sender has something to put together. An idle one does not wait.
const PACE: Duration = Duration::from_millis(4);

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
        let Self { exchange, key, body, properties } = self;
        Message { exchange, key, body, properties: properties.clone(), mandatory: true }
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
    /// Sends until `shutdown`.
    pub fn start(publisher: Publisher, shutdown: CancellationToken) -> Self {
        let (sender, waiting) = mpsc::channel(TOGETHER);
        tokio::spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = run(publisher, waiting) => {}
            }
        });
        Self(sender)
    }

    /// Publishes one message and waits until the broker has taken it.
    ///
    /// # Errors
    /// As of [`Publisher::publish`].
    pub async fn publish(&self, letter: Letter) -> Result<(), BrokerError> {
        let closed = |what: String| BrokerError::Pool { what, reason: "this process is ending".to_owned() };
        let what = format!("publish to {} with key {:?}", letter.exchange, letter.key);
        let (confirmed, answer) = oneshot::channel();
        if self.0.send(Waiting { letter, confirmed }).await.is_err() {
            return Err(closed(what));
        }
        answer.await.unwrap_or_else(|_| Err(closed(what)))
    }
}

async fn run(publisher: Publisher, mut waiting: mpsc::Receiver<Waiting>) {
    let mut batch = Vec::with_capacity(TOGETHER);
    while waiting.recv_many(&mut batch, TOGETHER).await > 0 {
        let began = Instant::now();
        send(&publisher, &mut batch).await;
        tokio::time::sleep_until(began + PACE).await;
    }
}

async fn send(publisher: &Publisher, batch: &mut Vec<Waiting>) {
    let messages: Vec<Message<'_>> = batch.iter().map(|waiting| waiting.letter.message()).collect();
    let together = match messages.len() {
        1 => Ok(None),
        _ => publisher.publish_together(&messages).await.map(Some),
    };
    let returned = together.unwrap_or_else(|error| {
        tracing::debug!(%error, messages = messages.len(), "messages were not confirmed together; publishing each alone");
        None
    });
    drop(messages);
    for Waiting { letter, confirmed } in batch.drain(..) {
        match &returned {
            Some(returned) if !returned.iter().any(|message| letter.is(message)) => drop(confirmed.send(Ok(()))),
            // What was returned is returned again: then it is known which it was.
            Some(_) | None => {
                let publisher = publisher.clone();
                tokio::spawn(async move { confirmed.send(publisher.publish(letter.message()).await) });
            }
        }
    }
}
