use lapin::BasicProperties;
use lapin::message::Delivery;
use pool_core::time::Timestamp;

use crate::BrokerError;
use crate::headers::{self, Keeps, Reply, due_at, task_properties};
use crate::process::Process;
use crate::publisher::Message;
use crate::topology::{REPLIES, RETRIES_KEY, TASKS};

/// A task message to publish.
#[derive(Debug, Clone)]
pub struct OutgoingTask<'a> {
    /// The task's id; empty when the message has none.
    pub id: &'a str,
    /// A programmer drops a delivery of a lower generation once the newer message is known to be published.
    pub generation: u32,
    /// The properties that every copy of the message keeps.
    pub keeps: Keeps,
    /// Where the result goes.
    pub reply: Reply,
    /// The required capabilities as a routing key.
    pub key: &'a str,
    /// The task as JSON.
    pub body: &'a [u8],
}

impl<'a> OutgoingTask<'a> {
    /// A message that was taken from a queue and is passed on in its generation. The programmer that takes the task refuses a
    /// bad reply address.
    pub fn passed_on(delivery: &'a Delivery, key: &'a str) -> Self {
        let properties = &delivery.properties;
        Self {
            id: headers::text(properties.message_id()).unwrap_or_default(),
            generation: headers::token(properties).generation,
            keeps: Keeps::of(properties),
            reply: Reply::as_it_came(properties),
            key,
            body: &delivery.data,
        }
    }

    fn properties(&self) -> BasicProperties {
        self.reply
            .on(task_properties(self.id, self.generation, self.keeps))
    }
}

/// Publishes a task to `pool.tasks`, which leads to its queue.
///
/// # Errors
/// When the broker does not confirm it.
pub async fn publish_task(process: &Process, task: &OutgoingTask<'_>) -> Result<(), BrokerError> {
    let message = Message::new(TASKS, task.key, task.body, task.properties());
    process.publisher.publish(&message).await
}

/// Puts a task into `pool.retries`, from where a dispatcher publishes it at `until`.
///
/// # Errors
/// When the broker does not confirm it.
pub async fn delay_task(
    process: &Process,
    task: &OutgoingTask<'_>,
    until: Timestamp,
) -> Result<(), BrokerError> {
    let properties = due_at(task.properties(), until);
    let message = Message::new(REPLIES, RETRIES_KEY, task.body, properties);
    process.publisher.publish(&message).await
}
