//! Publishing with confirms over a pool of channels: one message in flight on each.
//!
//! With several mandatory messages in flight lapin can pair a return with the wrong confirm, so a channel belongs to
//! one publish at a time and the pool gives the throughput. [`Publisher::publish_together`] takes its returns
//! from the whole batch.

use deadpool::managed::{Manager, Metrics, Object, Pool, QueueMode, RecycleError, RecycleResult};
use futures_util::future;
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};

use super::{BrokerError, Endpoint, link::Link, within};

#[derive(Debug)]
struct ConfirmedChannels(Link);

impl Manager for ConfirmedChannels {
    type Type = Channel;
    type Error = BrokerError;

    async fn create(&self) -> Result<Channel, BrokerError> {
        let channel = self.0.channel().await?;
        let select = channel.confirm_select(ConfirmSelectOptions::default());
        within(self.0.endpoint().timeout(), "ask for publisher confirms", select).await?;
        Ok(channel)
    }

    async fn recycle(&self, channel: &mut Channel, _: &Metrics) -> RecycleResult<BrokerError> {
        if channel.status().connected() { Ok(()) } else { Err(RecycleError::message("the channel is closed")) }
    }
}

/// Where a message goes and what it carries.
#[derive(Debug, Clone)]
pub struct Message<'a> {
    pub exchange: &'a str,
    pub key: &'a str,
    pub body: &'a [u8],
    pub properties: BasicProperties,
    /// Whether a message that reaches no queue is an error.
    pub mandatory: bool,
}

/// Publishes with confirms. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Publisher {
    channels: Pool<ConfirmedChannels>,
    endpoint: Endpoint,
}

impl Publisher {
    /// Opens nothing yet: the first publish does.
    ///
    /// # Errors
    /// Never with a valid pool file: the pool of channels could not be built.
    pub fn new(link: Link) -> Result<Self, BrokerError> {
        let endpoint = link.endpoint().clone();
        let channels = Pool::builder(ConfirmedChannels(link))
            .max_size(endpoint.publish_channels())
            // Few channels in use, not all in turn.
            .queue_mode(QueueMode::Lifo)
            .build()
            .map_err(|error| BrokerError::Pool { what: "set up publishing".to_owned(), reason: error.to_string() })?;
        Ok(Self { channels, endpoint })
    }

    /// Publishes one message and waits until the broker has taken it. Only a clean confirm is success.
    ///
    /// # Errors
    /// Whatever else came, or nothing in time: the message may still arrive later, so repeat it with the same id.
    pub async fn publish(&self, message: Message<'_>) -> Result<(), BrokerError> {
        let what = || format!("publish to {} with key {:?}", message.exchange, message.key);
        let channel = self.channel(what).await?;
        match self.confirmed(&channel, &message, what()).await {
            Ok(()) => Ok(()),
            Err(error) => {
                // Its state is unknown: a late confirm must not be taken for the next message's.
                drop(Object::take(channel));
                Err(error)
            }
        }
    }

    /// Publishes several messages on one channel and waits until the broker has answered for all of them. Gives those
    /// that it did not take because they reach no queue.
    ///
    /// Which confirm carries a return says nothing (broker fact 10), but the return itself names its message, and every
    /// return comes with some confirm of this batch, because it comes before its own.
    ///
    /// # Errors
    /// When one was not confirmed: which ones were taken is not known then.
    pub async fn publish_together(&self, messages: &[Message<'_>]) -> Result<Vec<BasicReturnMessage>, BrokerError> {
        let what = || format!("publish {} messages", messages.len());
        let channel = self.channel(what).await?;
        let sent = async {
            let mut confirms = Vec::with_capacity(messages.len());
            for message in messages {
                confirms.push(basic_publish(&channel, message).await?);
            }
            future::try_join_all(confirms).await
        };
        let confirmed = within(self.endpoint.timeout(), what(), sent).await;
        let returned =
            confirmed.and_then(|all| all.into_iter().filter_map(|one| returned(one, what).transpose()).collect());
        if returned.is_err() {
            drop(Object::take(channel));
        }
        returned
    }

    async fn channel(&self, what: impl Fn() -> String) -> Result<Object<ConfirmedChannels>, BrokerError> {
        // A channel may need a connection first; two time-outs cover both.
        match tokio::time::timeout(self.endpoint.timeout() * 2, self.channels.get()).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(deadpool::managed::PoolError::Backend(error))) => Err(error),
            Ok(Err(error)) => Err(BrokerError::Pool { what: what(), reason: error.to_string() }),
            Err(_) => Err(BrokerError::Pool { what: what(), reason: "all are waiting for the broker".to_owned() }),
        }
    }

    async fn confirmed(&self, channel: &Channel, message: &Message<'_>, what: String) -> Result<(), BrokerError> {
        let publish = async { basic_publish(channel, message).await?.await };
        let confirmation = within(self.endpoint.timeout(), what.as_str(), publish).await?;
        match confirmation {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(_)) => Err(BrokerError::Returned { what }),
            Confirmation::Nack(_) | Confirmation::NotRequested => Err(BrokerError::Nacked { what }),
        }
    }
}

async fn basic_publish(channel: &Channel, message: &Message<'_>) -> lapin::Result<PublisherConfirm> {
    let options = BasicPublishOptions { mandatory: message.mandatory, ..BasicPublishOptions::default() };
    let properties = message.properties.clone();
    channel.basic_publish(message.exchange.into(), message.key.into(), options, message.body, properties).await
}

fn returned(confirmation: Confirmation, what: impl Fn() -> String) -> Result<Option<BasicReturnMessage>, BrokerError> {
    match confirmation {
        Confirmation::Ack(returned) => Ok(returned),
        Confirmation::Nack(_) | Confirmation::NotRequested => Err(BrokerError::Nacked { what: what() }),
    }
}
