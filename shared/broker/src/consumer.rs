//! Consumes from queues: starts a consumer, receives from it, notices when the broker cancels it, and starts over.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::{BrokerError, with_timeout};

/// The offset of a message of a stream.
pub fn offset_of(delivery: &Delivery) -> Option<u64> {
    let headers = delivery.properties.headers().as_ref()?;
    let AMQPValue::LongLongInt(offset) = headers.inner().get("x-stream-offset")? else {
        return None;
    };
    u64::try_from(*offset).ok()
}

/// Consumes until `shutdown`: whenever `consume` ends, calls it again, with growing pauses.
pub async fn keep<C: Future<Output = ()>>(shutdown: &CancellationToken, consume: impl Fn() -> C) {
    let keeping = async {
        let mut backoff = Backoff::default();
        loop {
            let began = Instant::now();
            consume().await;
            backoff.worked_for(began.elapsed());
            backoff.wait().await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = keeping => {}
    }
}

/// A queue to consume from, and how. Every message must be acknowledged, unless [`ConsumerSettings::without_acks`] is used.
#[derive(Debug, Clone)]
pub struct ConsumerSettings<'a> {
    queue: &'a str,
    tag: &'a str,
    prefetch: Option<u16>,
    options: BasicConsumeOptions,
    arguments: FieldTable,
}

impl<'a> ConsumerSettings<'a> {
    /// `tag` names the consumer in RabbitMQ; RabbitMQ finds a name when it is empty.
    pub fn new(queue: &'a str, tag: &'a str) -> Self {
        Self {
            queue,
            tag,
            prefetch: None,
            options: BasicConsumeOptions::default(),
            arguments: FieldTable::default(),
        }
    }

    /// The most unacknowledged messages. Without it, the limit that the channel has already.
    #[must_use]
    pub fn prefetch(mut self, most: u16) -> Self {
        self.prefetch = Some(most);
        self
    }

    /// Where to begin in a stream: an offset or a time.
    #[must_use]
    pub fn from_offset(self, offset: AMQPValue) -> Self {
        self.argument("x-stream-offset", offset)
    }

    /// Begins with the first message of a stream.
    #[must_use]
    pub fn from_first(self) -> Self {
        self.from_offset(AMQPValue::LongString("first".into()))
    }

    /// Among the waiting consumers of a queue, the broker gives a message to one with the highest priority (broker fact 1).
    #[must_use]
    pub fn priority(self, priority: u8) -> Self {
        self.argument("x-priority", AMQPValue::LongInt(i32::from(priority)))
    }

    /// The broker forgets a message as soon as it has sent it.
    #[must_use]
    pub fn without_acks(mut self) -> Self {
        self.options.no_ack = true;
        self
    }

    fn argument(mut self, name: &str, value: AMQPValue) -> Self {
        self.arguments.insert(name.into(), value);
        self
    }

    /// Begins to consume. `limit` is the time-out of each answer of the broker.
    ///
    /// # Errors
    /// When the broker refuses or does not answer.
    pub async fn start(
        self,
        channel: &Channel,
        limit: Duration,
    ) -> Result<Deliveries, BrokerError> {
        let what = format!("consume {}", self.queue);
        if let Some(most) = self.prefetch {
            set_prefetch(channel, most, limit).await?;
        }
        let consume = channel.basic_consume(
            self.queue.into(),
            self.tag.into(),
            self.options,
            self.arguments,
        );
        let consumer = with_timeout(limit, what.as_str(), consume).await?;
        Ok(Deliveries { consumer, what })
    }
}

/// Limits the unacknowledged messages of each consumer that starts on this channel from now on.
///
/// # Errors
/// When the broker refuses or does not answer.
pub async fn set_prefetch(
    channel: &Channel,
    most: u16,
    limit: Duration,
) -> Result<(), BrokerError> {
    let qos = channel.basic_qos(most, BasicQosOptions::default());
    with_timeout(limit, format!("set the prefetch to {most}"), qos).await
}

/// The messages that a consumer receives. As a stream it has no end: the last item is an error.
#[derive(Debug)]
pub struct Deliveries {
    consumer: lapin::Consumer,
    what: String,
}

impl Deliveries {
    /// Waits for the next message. Cancel safe.
    ///
    /// # Errors
    /// [`BrokerError::Cancelled`] when the broker has ended the consumer; or why the channel is gone.
    pub async fn receive(&mut self) -> Result<Delivery, BrokerError> {
        let next = self.consumer.next().await;
        self.checked(next)
    }

    /// Handles up to `most` messages at once. When the consumer has ended, finishes those in hand before it returns: if
    /// their queue was deleted, nobody delivers them again.
    ///
    /// # Errors
    /// Why the consumer has ended. It does not end otherwise.
    pub async fn handle_each<H: Future<Output = ()>>(
        self,
        most: u16,
        handle: impl FnMut(Delivery) -> H,
    ) -> Result<(), BrokerError> {
        let mut ended = Ok(());
        let until_the_end = self.scan((), |(), next| {
            std::future::ready(next.map_err(|error| ended = Err(error)).ok())
        });
        until_the_end
            .for_each_concurrent(usize::from(most), handle)
            .await;
        ended
    }

    /// Ends the consumer. Returns the messages that were still on their way.
    ///
    /// # Errors
    /// When the channel is gone, or the broker does not answer in time.
    pub async fn cancel(
        &mut self,
        channel: &Channel,
        limit: Duration,
    ) -> Result<Vec<Delivery>, BrokerError> {
        let cancel = channel.basic_cancel(self.consumer.tag(), BasicCancelOptions::default());
        with_timeout(limit, "stop consuming", cancel).await?;
        // The consumer ends after the last message that was on its way.
        let late = async {
            let mut late = Vec::new();
            while let Some(delivery) = self.consumer.next().await {
                late.push(delivery?);
            }
            Ok(late)
        };
        with_timeout(limit, "stop consuming", late).await
    }

    fn checked(&self, next: Option<lapin::Result<Delivery>>) -> Result<Delivery, BrokerError> {
        let what = || self.what.clone();
        match next {
            Some(Ok(delivery)) => Ok(delivery),
            Some(Err(error)) => Err(BrokerError::Amqp {
                what: what(),
                error,
            }),
            None => Err(BrokerError::Cancelled { what: what() }),
        }
    }
}

impl Stream for Deliveries {
    type Item = Result<Delivery, BrokerError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = std::task::ready!(self.consumer.poll_next_unpin(context));
        Poll::Ready(Some(self.checked(next)))
    }
}
