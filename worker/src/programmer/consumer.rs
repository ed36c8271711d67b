//! A programmer's side of the broker: one channel, the lock on its id, and at most one task coming
//! in.
//!
//! Prefetch counts per consumer, so several consumers could deliver several tasks at once.
//! Therefore several are open only while all queues are empty. The first delivery closes all
//! others, and surplus tasks go back. The consumer that delivered stays open: it brings the next
//! task with the ack of this one, which costs the broker less than a `basic.get`.

use std::time::Duration;

use futures_util::{StreamExt, future};
use lapin::message::Delivery;
use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions, BasicQosOptions,
    QueueDeclareOptions,
};
use lapin::protocol::AMQPSoftError;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Consumer};
use pool_broker::fault::{Point, point};
use pool_broker::link::{Link, discard};
use pool_broker::{BrokerError, with_timeout};
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

/// How staying at a queue ended.
#[derive(Debug)]
pub enum Heard {
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
    pub queues: Vec<String>,
    /// The consumers' name in the management UI: `Prog-001 ollama/qwen2.5-coder:7b-instruct`.
    pub label: String,
    /// Among the programmers that wait for a task, the broker gives it to the one with the highest
    /// priority (broker fact 1).
    pub priority: u8,
}

/// An open channel of a programmer whose id this process holds.
#[derive(Debug)]
pub struct Station {
    channel: Channel,
    link: Link,
    consumers: Consumers,
    /// The consumer that stays open. While a task from its queue is unacknowledged it brings
    /// nothing.
    kept: Option<Open>,
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
struct Open {
    queue: usize,
    consumer: Consumer,
}

/// Takes the lock on a programmer's id for the lifetime of the connection: an exclusive queue.
///
/// # Errors
/// [`OpenError::Held`] when another process has it.
pub async fn hold(channel: &Channel, limit: Duration, id: &ProgrammerId) -> Result<(), OpenError> {
    let options = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    let declare = channel.queue_declare(
        format!("programmer.{id}").into(),
        options,
        FieldTable::default(),
    );
    match with_timeout(limit, format!("hold programmer {id}"), declare).await {
        Ok(_) => Ok(()),
        Err(error) if error.is(AMQPSoftError::RESOURCELOCKED) => Err(OpenError::Held(id.clone())),
        Err(error) => Err(error.into()),
    }
}

impl Station {
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
        with_timeout(
            limit,
            "limit a programmer to one task",
            channel.basic_qos(1, BasicQosOptions::default()),
        )
        .await?;
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

    /// Asks a queue for a task, with no consumer open. If the kept consumer brings a task while it
    /// is being closed, that task is the answer.
    ///
    /// # Errors
    /// When the channel or the queue is gone.
    pub async fn ask(&mut self, queue: usize) -> Result<Option<Incoming>, BrokerError> {
        if let Some(late) = self.leave().await? {
            return Ok(Some(late));
        }
        let name = &self.consumers.queues[queue];
        let get = self
            .channel
            .basic_get(name.as_str().into(), BasicGetOptions::default());
        let message = with_timeout(self.limit(), format!("ask {name}"), get).await?;
        Ok(message.map(|message| Incoming {
            delivery: message.delivery,
            queue,
        }))
    }

    /// Keeps a consumer on this queue and waits a moment for a task.
    ///
    /// # Errors
    /// When the channel or the consumer is gone.
    pub async fn stay(
        &mut self,
        queue: usize,
        disturbed: impl Future<Output = ()>,
    ) -> Result<Heard, BrokerError> {
        self.closed().await?;
        let mut open = match self.kept.take_if(|kept| kept.queue == queue) {
            Some(open) => open,
            None => {
                if let Some(late) = self.leave().await? {
                    return Ok(Heard::Task(Box::new(late)));
                }
                self.consume(queue).await?
            }
        };
        let heard = tokio::select! {
            biased;
            next = open.consumer.next() => Heard::Task(Box::new(self.incoming(queue, next)?)),
            () = disturbed => Heard::Disturbed,
            () = tokio::time::sleep(PATIENCE) => Heard::Nothing,
        };
        self.kept = Some(open);
        Ok(heard)
    }

    /// Consumes from these queues until one delivers or `disturbed` ends. Only the consumer that
    /// delivered stays open.
    ///
    /// # Errors
    /// When the channel or a consumer is gone.
    pub async fn listen(
        &mut self,
        queues: &[usize],
        disturbed: impl Future<Output = ()>,
    ) -> Result<Option<Incoming>, BrokerError> {
        self.closed().await?;
        if self
            .kept
            .as_ref()
            .is_some_and(|kept| !queues.contains(&kept.queue))
            && let Some(late) = self.leave().await?
        {
            return Ok(Some(late));
        }
        let mut open: Vec<Open> = self.kept.take().into_iter().collect();
        let others = queues
            .iter()
            .filter(|queue| open.iter().all(|kept| kept.queue != **queue));
        let others = future::try_join_all(others.map(|queue| self.consume(*queue))).await?;
        open.extend(others);
        let Some((index, next)) = first(&mut open, disturbed).await else {
            self.close_beside(open);
            self.closed().await?;
            return Ok(None);
        };
        let winner = open.swap_remove(index);
        self.close_beside(open);
        let incoming = self.incoming(winner.queue, next)?;
        self.kept = Some(winner);
        Ok(Some(incoming))
    }

    async fn consume(&self, queue: usize) -> Result<Open, BrokerError> {
        let name = &self.consumers.queues[queue];
        let tag = format!("{} #{queue}", self.consumers.label);
        let options = BasicConsumeOptions::default();
        let mut arguments = FieldTable::default();
        arguments.insert(
            "x-priority".into(),
            AMQPValue::LongInt(i32::from(self.consumers.priority)),
        );
        let consume = self.channel.basic_consume(
            name.as_str().into(),
            tag.as_str().into(),
            options,
            arguments,
        );
        let consumer = with_timeout(self.limit(), format!("consume {name}"), consume).await?;
        Ok(Open { queue, consumer })
    }

    fn incoming(
        &self,
        queue: usize,
        next: Option<lapin::Result<Delivery>>,
    ) -> Result<Incoming, BrokerError> {
        let what = || format!("consume {}", self.consumers.queues[queue]);
        match next {
            Some(Ok(delivery)) => Ok(Incoming { delivery, queue }),
            Some(Err(error)) => Err(BrokerError::Amqp {
                what: what(),
                error,
            }),
            // The broker cancelled the consumer, for example because its queue was deleted.
            None => Err(BrokerError::Nacked { what: what() }),
        }
    }

    /// Closes the kept consumer. Returns the task that was on its way, if there was one.
    ///
    /// # Errors
    /// When the channel is gone.
    pub async fn leave(&mut self) -> Result<Option<Incoming>, BrokerError> {
        self.closed().await?;
        let limit = self.limit();
        let Some(Open { queue, consumer }) = &mut self.kept else {
            return Ok(None);
        };
        let queue = *queue;
        // If closing fails, the consumer is still kept, because a task that it brings must not be
        // lost.
        let mut late = stop(&self.channel, limit, consumer).await?.into_iter();
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
    pub async fn take_no_more(&mut self) -> Result<(), BrokerError> {
        match self.leave().await? {
            Some(late) => give_back(&late.delivery, self.limit()).await,
            None => Ok(()),
        }
    }

    /// Closes consumers in the background. Tasks that were on their way go back.
    fn close_beside(&mut self, open: Vec<Open>) {
        if open.is_empty() {
            return;
        }
        let (channel, limit) = (self.channel.clone(), self.limit());
        let closing = async move {
            let each = open.into_iter().map(|mut open| {
                let channel = &channel;
                async move { stop(channel, limit, &mut open.consumer).await }
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
        let failed = |why: &str| BrokerError::Nacked {
            what: format!("stop consuming: {why}"),
        };
        let closed = match &mut self.closing {
            Closing::Nothing => return Ok(()),
            Closing::Failed => return Err(failed("an earlier consumer may still be open")),
            Closing::Running(closing) => closing
                .await
                .unwrap_or_else(|error| Err(failed(&error.to_string()))),
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
        self.take_no_more().await?;
        give_back(&delivery, self.limit()).await
    }

    /// Closes the channel. The broker takes back every unacknowledged message on it.
    pub async fn close(&self) {
        discard(&self.channel, self.link.endpoint()).await;
    }
}

/// The first message that one of these consumers brings, with the consumer's index. None if
/// `disturbed` ended first.
async fn first(
    open: &mut [Open],
    disturbed: impl Future<Output = ()>,
) -> Option<(usize, Option<lapin::Result<Delivery>>)> {
    if open.is_empty() {
        disturbed.await;
        return None;
    }
    let next = future::select_all(open.iter_mut().map(|open| open.consumer.next()));
    tokio::select! {
        biased;
        (next, index, _) = next => Some((index, next)),
        () = disturbed => None,
    }
}

/// Closes a consumer. Returns the deliveries that were still on their way.
async fn stop(
    channel: &Channel,
    limit: Duration,
    consumer: &mut Consumer,
) -> Result<Vec<Delivery>, BrokerError> {
    let cancel = channel.basic_cancel(consumer.tag(), BasicCancelOptions::default());
    with_timeout(limit, "stop consuming", cancel).await?;
    // The stream ends after the last delivery that was on its way.
    let late = async {
        let mut late = Vec::new();
        while let Some(delivery) = consumer.next().await {
            late.push(delivery?);
        }
        Ok(late)
    };
    with_timeout(limit, "stop consuming", late).await
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
