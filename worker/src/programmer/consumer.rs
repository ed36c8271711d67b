//! A programmer's side of the broker: one channel, the lock on its id, and at most one task coming
//! in.
//!
//! Prefetch counts per consumer, so several consumers could deliver several tasks at once.
//! Therefore several are open only while all queues are empty. The first delivery closes all
//! others, and surplus tasks go back. The consumer that delivered stays open: it brings the next
//! task with the ack of this one, which costs the broker less than a `basic.get`.

use std::time::Duration;

use futures_util::future;
use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{BasicGetOptions, BasicNackOptions};
use lapin::protocol::AMQPSoftError;
use pool_broker::consumer::{ConsumerSettings, Deliveries, set_prefetch};
use pool_broker::fault::{Point, point};
use pool_broker::link::{Link, discard};
use pool_broker::topology::programmer_lock;
use pool_broker::{BrokerError, queue, with_timeout};
use pool_core::id::ProgrammerId;
use tokio_util::task::AbortOnDropHandle;

/// A queue whose consumer brings nothing for this long after an ack is empty.
const PATIENCE: Duration = Duration::from_millis(10);

/// A message that came in, and the index of its queue.
#[derive(Debug)]
pub struct Incoming {
    pub delivery: Delivery,
    pub queue: usize,
}

/// A delivery, or the end, of a kept consumer.
#[derive(Debug)]
pub enum Received {
    Task(Box<Incoming>),
    Nothing,
    Disturbed,
}

/// Why a channel could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("another process holds programmer {0}")]
    Held(ProgrammerId),
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// The queues of a programmer, and how it consumes from them.
#[derive(Debug)]
pub struct Consumers {
    /// The most specific first.
    pub queues: Vec<String>,
    /// The consumers' name in the management UI: `Prog-001 ollama/qwen2.5-coder:7b-instruct`.
    pub label: String,
    /// Among the programmers that wait for a task, the broker gives it to the one with the highest
    /// priority (broker fact 1).
    pub priority: u8,
}

/// Consumes for a programmer whose id this process holds, on a channel of its own.
#[derive(Debug)]
pub struct TaskConsumer {
    channel: Channel,
    link: Link,
    consumers: Consumers,
    /// The consumer that stays open. While a task from its queue is unacknowledged it brings
    /// nothing.
    kept: Option<OpenConsumer>,
    /// Consumers that are being closed in the background.
    closing: Closing,
}

#[derive(Debug)]
enum Closing {
    Nothing,
    Running(AbortOnDropHandle<Result<(), BrokerError>>),
    /// A consumer may still be open and bring a task that nothing handles. The channel must not be
    /// used for another task.
    Failed,
}

/// A consumer on the queue with this index.
#[derive(Debug)]
struct OpenConsumer {
    queue: usize,
    deliveries: Deliveries,
}

/// Takes the lock on a programmer's id for the lifetime of the connection: an exclusive queue.
///
/// # Errors
/// [`OpenError::Held`] when another process has it.
pub async fn hold(channel: &Channel, limit: Duration, id: &ProgrammerId) -> Result<(), OpenError> {
    let (name, what) = (programmer_lock(id), format!("hold programmer {id}"));
    match queue::lock(channel, limit, &name, &what).await {
        Ok(()) => Ok(()),
        Err(error) if error.is(AMQPSoftError::RESOURCELOCKED) => Err(OpenError::Held(id.clone())),
        Err(error) => Err(error.into()),
    }
}

impl TaskConsumer {
    /// Opens a channel and takes the lock on the id.
    ///
    /// # Errors
    /// When another process holds the id, or the broker does not answer.
    pub async fn open(
        link: &Link,
        id: &ProgrammerId,
        consumers: Consumers,
    ) -> Result<Self, OpenError> {
        let channel = link.channel().await?;
        let limit = link.endpoint().timeout();
        hold(&channel, limit, id).await?;
        set_prefetch(&channel, 1, limit).await?;
        Ok(Self {
            channel,
            link: link.clone(),
            consumers,
            kept: None,
            closing: Closing::Nothing,
        })
    }

    fn limit(&self) -> Duration {
        self.link.endpoint().timeout()
    }

    /// Polls a queue for a task, with no consumer open. If the kept consumer brings a task while it
    /// is being closed, that task is the answer.
    ///
    /// # Errors
    /// When the channel or the queue is gone.
    pub async fn poll(&mut self, queue: usize) -> Result<Option<Incoming>, BrokerError> {
        if let Some(late) = self.cancel().await? {
            return Ok(Some(late));
        }
        let name = &self.consumers.queues[queue];
        let get = self
            .channel
            .basic_get(name.as_str().into(), BasicGetOptions::default());
        let message = with_timeout(self.limit(), format!("poll {name}"), get).await?;
        Ok(message.map(|message| Incoming {
            delivery: message.delivery,
            queue,
        }))
    }

    /// Keeps a consumer on this queue and waits a moment for a task.
    ///
    /// # Errors
    /// When the channel or the consumer is gone.
    pub async fn keep(
        &mut self,
        queue: usize,
        disturbed: impl Future<Output = ()>,
    ) -> Result<Received, BrokerError> {
        self.closed().await?;
        let mut open = match self.kept.take_if(|kept| kept.queue == queue) {
            Some(open) => open,
            None => {
                if let Some(late) = self.cancel().await? {
                    return Ok(Received::Task(Box::new(late)));
                }
                self.start(queue).await?
            }
        };
        let received = tokio::select! {
            biased;
            delivery = open.deliveries.receive() => Received::Task(Box::new(Incoming { delivery: delivery?, queue })),
            () = disturbed => Received::Disturbed,
            () = tokio::time::sleep(PATIENCE) => Received::Nothing,
        };
        self.kept = Some(open);
        Ok(received)
    }

    /// Consumes from these queues until one delivers or `disturbed` ends. Only the consumer that
    /// delivered stays open.
    ///
    /// # Errors
    /// When the channel or a consumer is gone.
    pub async fn consume(
        &mut self,
        queues: &[usize],
        disturbed: impl Future<Output = ()>,
    ) -> Result<Option<Incoming>, BrokerError> {
        self.closed().await?;
        if self
            .kept
            .as_ref()
            .is_some_and(|kept| !queues.contains(&kept.queue))
            && let Some(late) = self.cancel().await?
        {
            return Ok(Some(late));
        }
        let mut open: Vec<OpenConsumer> = self.kept.take().into_iter().collect();
        let others = queues
            .iter()
            .filter(|queue| open.iter().all(|kept| kept.queue != **queue));
        let others = future::try_join_all(others.map(|queue| self.start(*queue))).await?;
        open.extend(others);
        // If several deliver at once, the most specific queue wins.
        open.sort_by_key(|open| open.queue);
        let Some((index, delivery)) = first(&mut open, disturbed).await else {
            self.close_beside(open);
            self.closed().await?;
            return Ok(None);
        };
        let winner = open.swap_remove(index);
        self.close_beside(open);
        let (delivery, queue) = (delivery?, winner.queue);
        self.kept = Some(winner);
        Ok(Some(Incoming { delivery, queue }))
    }

    async fn start(&self, queue: usize) -> Result<OpenConsumer, BrokerError> {
        let tag = format!("{} #{queue}", self.consumers.label);
        let deliveries = ConsumerSettings::new(&self.consumers.queues[queue], &tag)
            .priority(self.consumers.priority)
            .start(&self.channel, self.limit())
            .await?;
        Ok(OpenConsumer { queue, deliveries })
    }

    /// Closes the kept consumer. Returns the task that was on its way, if there was one.
    ///
    /// # Errors
    /// When the channel is gone.
    pub async fn cancel(&mut self) -> Result<Option<Incoming>, BrokerError> {
        self.closed().await?;
        let limit = self.limit();
        let Some(OpenConsumer { queue, deliveries }) = &mut self.kept else {
            return Ok(None);
        };
        let queue = *queue;
        // If closing fails, the consumer is still kept, because a task that it brings must not be
        // lost.
        let mut late = deliveries.cancel(&self.channel, limit).await?.into_iter();
        self.kept = None;
        let first = late.next().map(|delivery| Incoming { delivery, queue });
        for delivery in late {
            give_back(&delivery, limit).await?;
        }
        Ok(first)
    }

    /// Closes the kept consumer. A task that was on its way goes back to its queue.
    ///
    /// # Errors
    /// When the channel is gone.
    pub async fn stop(&mut self) -> Result<(), BrokerError> {
        match self.cancel().await? {
            Some(late) => give_back(&late.delivery, self.limit()).await,
            None => Ok(()),
        }
    }

    /// Closes consumers in the background. Tasks that were on their way go back.
    fn close_beside(&mut self, open: Vec<OpenConsumer>) {
        if open.is_empty() {
            return;
        }
        let (channel, limit) = (self.channel.clone(), self.limit());
        let closing = async move {
            let each = open.into_iter().map(|mut open| {
                let channel = &channel;
                async move { open.deliveries.cancel(channel, limit).await }
            });
            for delivery in future::try_join_all(each).await?.into_iter().flatten() {
                give_back(&delivery, limit).await?;
            }
            Ok(())
        };
        self.closing = Closing::Running(AbortOnDropHandle::new(tokio::spawn(closing)));
    }

    /// Waits until no consumer is being closed.
    async fn closed(&mut self) -> Result<(), BrokerError> {
        let failed = || BrokerError::StillConsuming {
            what: "stop consuming".to_owned(),
        };
        let closed = match &mut self.closing {
            Closing::Nothing => return Ok(()),
            Closing::Failed => return Err(failed()),
            Closing::Running(closing) => closing.await.unwrap_or_else(|_| Err(failed())),
        };
        self.closing = if closed.is_ok() {
            Closing::Nothing
        } else {
            Closing::Failed
        };
        closed
    }

    /// Returns a delivery to its queue. Closes the kept consumer first, so that no other task comes
    /// in.
    ///
    /// # Errors
    /// When the channel is gone; then the broker returns the delivery by itself.
    pub async fn give_back(&mut self, delivery: Delivery) -> Result<(), BrokerError> {
        point(Point::Released);
        self.stop().await?;
        give_back(&delivery, self.limit()).await
    }

    /// Closes the channel. The broker takes back every unacknowledged message on it.
    pub async fn close(&self) {
        discard(&self.channel, self.link.endpoint()).await;
    }
}

/// The first message that one of these consumers receives, with the consumer's index. None if
/// `disturbed` ended first.
async fn first(
    open: &mut [OpenConsumer],
    disturbed: impl Future<Output = ()>,
) -> Option<(usize, Result<Delivery, BrokerError>)> {
    if open.is_empty() {
        disturbed.await;
        return None;
    }
    let each = open
        .iter_mut()
        .map(|open| Box::pin(open.deliveries.receive()));
    tokio::select! {
        biased;
        (delivery, index, _) = future::select_all(each) => Some((index, delivery)),
        () = disturbed => None,
    }
}

/// The broker counts every return, so this must be rare.
async fn give_back(delivery: &Delivery, limit: Duration) -> Result<(), BrokerError> {
    let options = BasicNackOptions {
        requeue: true,
        multiple: false,
    };
    with_timeout(limit, "give a task back", delivery.nack(options))
        .await
        .map(drop)
}
