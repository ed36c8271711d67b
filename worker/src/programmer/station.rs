//! A programmer's place at the broker: one channel, the lock on its id, and at most one task coming in.
//!
//! Prefetch is counted per consumer, so several consumers could deliver several tasks at once. They are therefore only
//! open while all queues are empty; the first delivery closes them all, and what was already on its way goes back.

use std::time::Duration;

use futures_util::{StreamExt, future, stream};
use lapin::message::Delivery;
use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions, BasicQosOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};
use pool_shared::broker::link::{Link, discard};
use pool_shared::broker::{BrokerError, within};
use pool_shared::id::{LlmName, ProgrammerId};

/// A message that came in, and from which of the queues.
#[derive(Debug)]
pub struct Incoming {
    pub delivery: Delivery,
    pub queue: usize,
}

/// Why a place could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("another process holds programmer {0}")]
    Held(ProgrammerId),
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// An open channel of a programmer whose id this process holds.
#[derive(Debug)]
pub struct Station {
    channel: Channel,
    link: Link,
    queues: Vec<String>,
    /// What the management UI shows as the consumer: `Prog-001 ollama/qwen2.5-coder:7b-instruct`.
    label: String,
}

/// Takes the lock on a programmer's id for the lifetime of the connection: an exclusive queue.
///
/// # Errors
/// [`OpenError::Held`] when another process has it.
pub async fn hold(channel: &Channel, limit: Duration, id: &ProgrammerId) -> Result<(), OpenError> {
    let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let declare = channel.queue_declare(format!("programmer.{id}").into(), options, FieldTable::default());
    match within(limit, format!("hold programmer {id}"), declare).await {
        Ok(_) => Ok(()),
        Err(error) if is_locked(&error) => Err(OpenError::Held(id.clone())),
        Err(error) => Err(error.into()),
    }
}

fn is_locked(error: &BrokerError) -> bool {
    let BrokerError::Amqp { error, .. } = error else { return false };
    let lapin::ErrorKind::ProtocolError(error) = error.kind() else { return false };
    error.get_id() == 405
}

impl Station {
    /// Opens a channel and takes the lock on the id.
    ///
    /// # Errors
    /// When another process holds the id, or the broker does not answer.
    pub async fn open(link: &Link, id: &ProgrammerId, llm: &LlmName, queues: Vec<String>) -> Result<Self, OpenError> {
        let channel = link.channel().await?;
        let limit = link.endpoint().timeout();
        hold(&channel, limit, id).await?;
        within(limit, "limit a programmer to one task", channel.basic_qos(1, BasicQosOptions::default())).await?;
        Ok(Self { channel, link: link.clone(), queues, label: format!("{} {llm}", id.display_name()) })
    }

    fn limit(&self) -> Duration {
        self.link.endpoint().timeout()
    }

    /// Looks whether a queue has a task.
    ///
    /// # Errors
    /// When the channel or the queue is gone.
    pub async fn ask(&self, queue: usize) -> Result<Option<Incoming>, BrokerError> {
        let name = &self.queues[queue];
        let get = self.channel.basic_get(name.as_str().into(), BasicGetOptions::default());
        let message = within(self.limit(), format!("ask {name}"), get).await?;
        Ok(message.map(|message| Incoming { delivery: message.delivery, queue }))
    }

    /// Consumes from all queues until one delivers or `disturbed` ends; then nothing is open any more.
    ///
    /// # Errors
    /// When the channel or a consumer is gone.
    pub async fn listen(&self, disturbed: impl Future<Output = ()>) -> Result<Option<Incoming>, BrokerError> {
        let open = self.queues.iter().enumerate().map(|(index, queue)| self.consume(index, queue));
        let consumers = future::try_join_all(open).await?;
        let tags: Vec<_> = consumers.iter().map(Consumer::tag).collect();
        let indexed = consumers.into_iter().enumerate().map(|(queue, consumer)| consumer.map(move |d| (queue, d)));
        let mut incoming = stream::select_all(indexed);
        let first = tokio::select! {
            biased;
            next = incoming.next() => Some(self.incoming(next)?),
            () = disturbed => None,
        };
        let cancels = tags.into_iter().map(|tag| self.channel.basic_cancel(tag, BasicCancelOptions::default()));
        within(self.limit(), "stop consuming", future::try_join_all(cancels)).await?;
        // The streams end once what was on its way has come out.
        while let Some(next) = within(self.limit(), "stop consuming", async { Ok(incoming.next().await) }).await? {
            self.give_back(self.incoming(Some(next))?.delivery).await?;
        }
        Ok(first)
    }

    async fn consume(&self, index: usize, queue: &str) -> Result<Consumer, BrokerError> {
        let tag = format!("{} #{index}", self.label);
        let options = BasicConsumeOptions::default();
        let consume = self.channel.basic_consume(queue.into(), tag.as_str().into(), options, FieldTable::default());
        within(self.limit(), format!("consume {queue}"), consume).await
    }

    fn incoming(&self, next: Option<(usize, lapin::Result<Delivery>)>) -> Result<Incoming, BrokerError> {
        match next {
            Some((queue, Ok(delivery))) => Ok(Incoming { delivery, queue }),
            Some((queue, Err(error))) => {
                Err(BrokerError::Amqp { what: format!("consume {}", self.queues[queue]), error })
            }
            // The broker cancelled the consumers, as when their queue is deleted.
            None => Err(BrokerError::Nacked { what: "consume: the broker ended every consumer".to_owned() }),
        }
    }

    /// Returns a delivery to its queue. Every return is counted by the broker, so this must be rare.
    ///
    /// # Errors
    /// When the channel is gone; the broker then returns it by itself.
    pub async fn give_back(&self, delivery: Delivery) -> Result<(), BrokerError> {
        let options = BasicNackOptions { requeue: true, multiple: false };
        within(self.limit(), "give a task back", delivery.nack(options)).await.map(drop)
    }

    /// Closes the channel: the broker takes back what is unacknowledged on it.
    pub async fn close(&self) {
        discard(&self.channel, self.link.endpoint()).await;
    }
}
