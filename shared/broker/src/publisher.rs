//! Publishing with confirms over a pool of channels, with one message in flight on each.
//!
//! With several mandatory messages in flight lapin can pair a return with the wrong confirm. So a channel belongs to one
//! publish at a time, and the pool of channels gives the throughput. [`Publisher::publish_together`] matches returns with
//! messages by itself. While the broker takes no messages, publishing fails immediately.

use std::borrow::Cow;
use std::collections::VecDeque;

use deadpool::managed::{Manager, Metrics, Object, Pool, QueueMode, RecycleError, RecycleResult};
use futures_util::FutureExt;
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};

use super::backoff::Backoff;
use super::link::Link;
use super::{BrokerError, log_broker_error, with_timeout};

#[derive(Debug)]
struct ConfirmedChannels(Link);

impl Manager for ConfirmedChannels {
    type Type = Channel;
    type Error = BrokerError;

    async fn create(&self) -> Result<Channel, BrokerError> {
        let channel = self.0.channel_now().await?;
        let select = channel.confirm_select(ConfirmSelectOptions::default());
        with_timeout(
            self.0.endpoint().timeout(),
            "ask for publisher confirms",
            select,
        )
        .await?;
        Ok(channel)
    }

    async fn recycle(&self, channel: &mut Channel, _: &Metrics) -> RecycleResult<BrokerError> {
        if channel.status().connected() {
            Ok(())
        } else {
            Err(RecycleError::message("the channel is closed"))
        }
    }
}

/// A channel with a publish in flight. It returns to the pool only after a clean confirm. After an error, or when the
/// publish was dropped, its state is unknown: a late confirm must not be taken for that of the next message.
struct InUse<M: Manager<Type: Clone>> {
    channel: M::Type,
    of_pool: Option<Object<M>>,
}

impl<M: Manager<Type: Clone>> InUse<M> {
    fn new(of_pool: Object<M>) -> Self {
        Self {
            channel: M::Type::clone(&of_pool),
            of_pool: Some(of_pool),
        }
    }

    fn give_back(mut self) {
        drop(self.of_pool.take());
    }
}

impl<M: Manager<Type: Clone>> Drop for InUse<M> {
    fn drop(&mut self) {
        if let Some(channel) = self.of_pool.take() {
            drop(Object::take(channel));
        }
    }
}

/// A message and its address.
#[derive(Debug, Clone)]
pub struct Message<'a> {
    /// The exchange to publish to.
    pub exchange: &'a str,
    /// The routing key.
    pub key: Cow<'a, str>,
    /// The content.
    pub body: Cow<'a, [u8]>,
    /// AMQP properties and headers.
    pub properties: BasicProperties,
    /// Whether it is an error when the message reaches no queue.
    pub mandatory: bool,
}

impl<'a> Message<'a> {
    /// A mandatory message.
    pub fn new(
        exchange: &'a str,
        key: impl Into<Cow<'a, str>>,
        body: impl Into<Cow<'a, [u8]>>,
        properties: BasicProperties,
    ) -> Self {
        Self {
            exchange,
            key: key.into(),
            body: body.into(),
            properties,
            mandatory: true,
        }
    }
}

/// Publishes with confirms. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Publisher {
    channels: Pool<ConfirmedChannels>,
    link: Link,
}

impl Publisher {
    /// Opens no channel yet; the first publish does.
    ///
    /// # Errors
    /// When the pool of channels cannot be built, which does not happen with a valid pool file.
    pub fn new(link: Link) -> Result<Self, BrokerError> {
        let channels = Pool::builder(ConfirmedChannels(link.clone()))
            .max_size(link.endpoint().publish_channels())
            // Use few channels often, not all in turn.
            .queue_mode(QueueMode::Lifo)
            .build()
            .map_err(|error| BrokerError::Pool {
                what: "set up publishing".to_owned(),
                reason: error.to_string(),
            })?;
        Ok(Self { channels, link })
    }

    /// Publishes one message and waits for its confirm. Only a clean confirm is success.
    ///
    /// # Errors
    /// Any other answer, or none in time. The message may still arrive later, so repeat it with the same id.
    pub async fn publish(&self, message: &Message<'_>) -> Result<(), BrokerError> {
        let what = || format!("publish to {} with key {:?}", message.exchange, message.key);
        let publish = async {
            let channel = self.channel(what).await?;
            self.confirmed(&channel.channel, message, what()).await?;
            channel.give_back();
            Ok(())
        };
        self.unless_blocked(what, publish).await
    }

    /// Publishes a message until it is confirmed. Each failure is logged with `words`.
    pub async fn publish_until_confirmed(&self, message: &Message<'_>, words: &str) {
        let mut backoff = Backoff::default();
        loop {
            // An outage may last for days: wait until it is over.
            self.link.until_usable().await;
            let Err(error) = self.publish(message).await else {
                return;
            };
            log_broker_error(&error, words);
            backoff.wait().await;
        }
    }

    /// Publishes several messages on one channel and waits until the broker has answered for all of them.
    ///
    /// # Errors
    /// When nothing was sent.
    pub async fn publish_together(
        &self,
        messages: &[&Message<'_>],
    ) -> Result<Together, BrokerError> {
        let what = || format!("publish {} messages", messages.len());
        let channel = self.unless_blocked(what, self.channel(what)).await?;
        let mut sending = Sending::default();
        let sent = with_timeout(
            self.link.endpoint().timeout(),
            what(),
            sending.run(&channel.channel, messages),
        );
        let sent = self.unless_blocked(what, sent).await;
        let together = sending.end(messages.len());
        match sent {
            Ok(()) if together.taken.iter().all(|taken| *taken) => channel.give_back(),
            Ok(()) => {}
            Err(error) => tracing::debug!(%error, "messages were not confirmed together"),
        }
        Ok(together)
    }

    /// The connection for publishing.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Gives up as soon as the broker reports an alarm, because then no answer will come for a while. A message in flight may
    /// still arrive later.
    async fn unless_blocked<T>(
        &self,
        what: impl Fn() -> String,
        publish: impl Future<Output = Result<T, BrokerError>>,
    ) -> Result<T, BrokerError> {
        tokio::select! {
            biased;
            reason = self.link.until_blocked() => Err(BrokerError::Blocked { what: what(), reason }),
            done = publish => done,
        }
    }

    async fn channel(
        &self,
        what: impl Fn() -> String,
    ) -> Result<InUse<ConfirmedChannels>, BrokerError> {
        // A channel may need a connection first; two time-outs cover both.
        match tokio::time::timeout(self.link.endpoint().timeout() * 2, self.channels.get()).await {
            Ok(Ok(channel)) => Ok(InUse::new(channel)),
            Ok(Err(deadpool::managed::PoolError::Backend(error))) => Err(error),
            Ok(Err(error)) => Err(BrokerError::Pool {
                what: what(),
                reason: error.to_string(),
            }),
            Err(_) => Err(BrokerError::Pool {
                what: what(),
                reason: "all of them wait for the broker".to_owned(),
            }),
        }
    }

    async fn confirmed(
        &self,
        channel: &Channel,
        message: &Message<'_>,
        what: String,
    ) -> Result<(), BrokerError> {
        let publish = async { basic_publish(channel, message).await?.await };
        let confirmation =
            with_timeout(self.link.endpoint().timeout(), what.as_str(), publish).await?;
        match confirmation {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(_)) => Err(BrokerError::Returned { what }),
            Confirmation::Nack(_) | Confirmation::NotRequested => Err(BrokerError::Nacked { what }),
        }
    }
}

async fn basic_publish(
    channel: &Channel,
    message: &Message<'_>,
) -> lapin::Result<PublisherConfirm> {
    let options = BasicPublishOptions {
        mandatory: message.mandatory,
        ..BasicPublishOptions::default()
    };
    let properties = message.properties.clone();
    channel
        .basic_publish(
            message.exchange.into(),
            message.key.as_ref().into(),
            options,
            &message.body,
            properties,
        )
        .await
}

/// The outcome of messages that were published together.
#[derive(Debug, Default)]
pub struct Together {
    /// For each message, whether the broker has confirmed it. Nothing is known about the others.
    pub taken: Vec<bool>,
    /// The confirmed messages that reached no queue.
    pub returned: Vec<BasicReturnMessage>,
}

/// Messages in flight on one channel.
///
/// lapin may attach a return to the confirm of another message (broker fact 10). But the return itself names its message,
/// and it comes before that message's confirm. So after the last confirm all returns are known.
#[derive(Default)]
struct Sending {
    answers: Vec<Confirmation>,
    expected: VecDeque<PublisherConfirm>,
}

impl Sending {
    async fn run(&mut self, channel: &Channel, messages: &[&Message<'_>]) -> lapin::Result<()> {
        for message in messages {
            self.expected
                .push_back(basic_publish(channel, message).await?);
        }
        while let Some(confirm) = self.expected.front_mut() {
            self.answers.push(confirm.await?);
            self.expected.pop_front();
        }
        Ok(())
    }

    /// The outcome as far as it is known now.
    fn end(self, messages: usize) -> Together {
        let late = self
            .expected
            .into_iter()
            .map(|confirm| confirm.now_or_never().and_then(Result::ok));
        let mut together = Together::default();
        for answer in self.answers.into_iter().map(Some).chain(late) {
            together
                .taken
                .push(matches!(answer, Some(Confirmation::Ack(_))));
            if let Some(Confirmation::Ack(Some(returned))) = answer {
                together.returned.push(returned);
            }
        }
        together.taken.resize(messages, false);
        together
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers instead of channels.
    struct Numbers;

    impl Manager for Numbers {
        type Type = u8;
        type Error = BrokerError;

        async fn create(&self) -> Result<u8, BrokerError> {
            Ok(1)
        }

        async fn recycle(&self, _: &mut u8, _: &Metrics) -> RecycleResult<BrokerError> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_channel_whose_publish_was_given_up_does_not_go_back() {
        let pool = Pool::builder(Numbers).max_size(1).build().expect("a pool");
        InUse::new(pool.get().await.expect("a channel")).give_back();
        assert_eq!(pool.status().size, 1, "after a clean end it is kept");
        let publish = async {
            let _channel = InUse::new(pool.get().await.expect("a channel"));
            std::future::pending::<()>().await;
        };
        assert!(
            publish.now_or_never().is_none(),
            "it is in flight when its future is dropped"
        );
        assert_eq!(pool.status().size, 0, "it is gone");
    }
}
