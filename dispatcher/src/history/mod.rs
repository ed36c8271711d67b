//! The history: task messages and full results, in the stream `pool.history`, for people to read
//! later.
//!
//! The stream is the only store. This module keeps an index of it: where each task's message and
//! result are, and the few words that lists show. The newest bodies are cached; older ones are read
//! from the stream on request.
//!
//! After a lost connection the reader goes on where it was, if the stream still has the last
//! entries that it has read. Otherwise it reads the whole stream into an empty index, because offsets
//! mean other entries after a broker has lost the tail of a stream (broker fact 17). That index
//! replaces the old one when it is complete.

mod index;
pub mod output;
mod reader;
pub mod record;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::FutureExt;
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::AMQPValue;
use pool_broker::consumer::offset_of;
use pool_broker::headers::{self, json_properties};
use pool_broker::outbox::{Outbox, PROMPT, UNHURRIED};
use pool_broker::process::Process;
use pool_broker::publisher::Message;
use pool_broker::service::Service;
use pool_broker::topology::{HISTORY_KEY, HISTORY_STREAM, LOG};
use pool_broker::{BrokerError, with_timeout};
use pool_core::expected::Expected;
use pool_core::id::{LlmName, TaskId};
use pool_core::progress;
use pool_core::result::ResultMessage;
use pool_core::task::{Task, TaskMessage};
use tokio::sync::watch;

pub use self::index::{ExpectedAtSubmission, IndexEntry};
use self::index::{Index, id_of, with_expected};
pub use self::output::Outputs;
use self::reader::{consumer, follow};

/// The kind of a stream entry (AMQP property `type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    Task,
    Result,
}

impl EntryKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Task => "task",
            Self::Result => "result",
        }
    }

    fn properties(self, task: Option<&TaskId>) -> BasicProperties {
        json_properties()
            .with_type(self.as_str().into())
            .with_message_id(task.map_or("", TaskId::as_str).into())
    }
}

/// The history, as far as it has been read. Cheap to clone.
#[derive(Clone)]
pub struct History {
    process: Process,
    /// Writes task messages: a submitter waits until its task is stored.
    tasks: Outbox,
    results: Outbox,
    index: Arc<RwLock<Index>>,
    read: watch::Receiver<Read>,
    outputs: Outputs,
}

/// How far the history has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Read {
    /// It has been read to its end at least once.
    whole: bool,
    /// Grows with every entry that is read.
    news: u64,
}

/// The history has not been read to its end yet, so its content is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the history has not been read to its end yet; try again")]
pub struct NotRead;

impl History {
    /// The history and its services, which the caller runs: they read the stream from its beginning, and write to it. Output of
    /// agents goes to `outputs`.
    pub fn new(process: &Process, outputs: Outputs) -> (Self, [Service; 3]) {
        let (sender, read) = watch::channel(Read::default());
        let outbox = |pace| Outbox::new(process.publisher.clone(), process.shutdown.clone(), pace);
        let ((tasks, sending_tasks), (results, sending_results)) =
            (outbox(PROMPT), outbox(UNHURRIED));
        let history = Self {
            process: process.clone(),
            tasks,
            results,
            index: Arc::default(),
            read,
            outputs,
        };
        let services = [
            ("history_reader", follow(history.clone(), sender).boxed()),
            ("history_tasks", sending_tasks.boxed()),
            ("history_results", sending_results.boxed()),
        ];
        (history, services)
    }

    /// Adds the message of a task. `expected` decided its place in its submission.
    ///
    /// # Errors
    /// When the broker does not confirm it. The entry may exist all the same, which is harmless.
    pub async fn add_task(
        &self,
        task: &TaskId,
        body: &[u8],
        expected: Option<&Expected>,
    ) -> Result<(), BrokerError> {
        let properties = EntryKind::Task.properties(Some(task));
        let properties = match expected {
            Some(expected) => with_expected(properties, expected),
            None => properties,
        };
        let message = Message::new(LOG, HISTORY_KEY, body.to_vec(), properties);
        self.tasks.publish(message).await
    }

    /// Adds a result.
    ///
    /// # Errors
    /// When the broker does not confirm it. The entry may exist all the same, which is harmless.
    pub async fn add_result(&self, task: Option<&TaskId>, body: &[u8]) -> Result<(), BrokerError> {
        let properties = EntryKind::Result.properties(task);
        let message = Message::new(LOG, HISTORY_KEY, body.to_vec(), properties);
        self.results.publish(message).await
    }

    /// How long a task will probably take, by its `llm` among other things; None when no result has been read yet.
    pub fn expect(&self, task: &TaskMessage, llm: Option<&LlmName>) -> Option<Expected> {
        self.with(|index| index.expect(task, llm))
    }

    /// Checks that the stream has been read to its end at least once.
    ///
    /// # Errors
    /// When it has not: an entry that is not found may still exist.
    pub fn whole(&self) -> Result<(), NotRead> {
        if self.read.borrow().whole {
            Ok(())
        } else {
            Err(NotRead)
        }
    }

    /// Reads the index of all tasks. Keep `look` short: the reader waits meanwhile.
    pub fn look<T>(&self, look: impl FnOnce(&HashMap<TaskId, IndexEntry>) -> T) -> T {
        self.with(|index| look(index.entries()))
    }

    /// True if the entry is output of an agent. The index keeps none of it: it would crowd out what
    /// people ask for.
    fn hear_output(&self, delivery: &Delivery) -> bool {
        let is_output = headers::text(delivery.properties.kind()) == Some(progress::KIND);
        if is_output
            && let (Some(id), Ok(progress)) =
                (id_of(delivery), serde_json::from_slice(&delivery.data))
        {
            self.outputs.hear(&id, progress);
        }
        is_output
    }

    pub fn entry(&self, task: &TaskId) -> Option<IndexEntry> {
        self.with(|index| index.get(task).map(Cow::into_owned))
    }

    /// Waits until the index has the result of this task, at most `limit`.
    ///
    /// # Errors
    /// When the history has not been read by then: it may contain the result.
    pub async fn wait_for_result(
        &self,
        task: &TaskId,
        limit: Duration,
    ) -> Result<Option<IndexEntry>, NotRead> {
        found_within(limit, self.read.clone(), || self.entry(task)).await
    }

    /// The body of the entry at this offset of the stream.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn body(&self, offset: u64) -> Result<Option<Vec<u8>>, BrokerError> {
        if let Some(body) = self.with(|index| index.body(offset).map(<[u8]>::to_vec)) {
            return Ok(Some(body));
        }
        let link = &self.process.consume;
        link.on_channel(|channel| async move { self.fetch(&channel, offset).await })
            .await
    }

    /// Finds the message of a task: from its submission here, or from a result that carries it. None if the task was published
    /// straight to the broker and has no result, or if it is too old for the history.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn task(&self, id: &TaskId) -> Result<Option<Task>, BrokerError> {
        let Some(entry) = self.entry(id) else {
            return Ok(None);
        };
        let task = |message: TaskMessage| Task::new(id.clone(), message);
        if let Some(offset) = entry.task_at {
            let body = self.body(offset).await?;
            if let Some(message) = body.and_then(|body| serde_json::from_slice(&body).ok()) {
                return Ok(Some(task(message)));
            }
        }
        let Some(offset) = entry.result_at else {
            return Ok(None);
        };
        let body = self.body(offset).await?;
        let result: Option<ResultMessage> =
            body.and_then(|body| serde_json::from_slice(&body).ok());
        Ok(result
            .and_then(|result| result.task)
            .map(|message| task(*message)))
    }

    async fn fetch(
        &self,
        channel: &lapin::Channel,
        offset: u64,
    ) -> Result<Option<Vec<u8>>, BrokerError> {
        let limit = self.process.consume.endpoint().timeout();
        let mut deliveries = consumer()
            .from_offset(AMQPValue::LongLongInt(offset.cast_signed()))
            .start(channel, limit)
            .await?;
        loop {
            let next = async { Ok(deliveries.receive().await) };
            let delivery = with_timeout(limit, format!("read {HISTORY_STREAM}"), next).await??;
            if offset_of(&delivery) >= Some(offset) {
                // If the broker has lost the end of the stream, another entry may be at this
                // offset.
                let same = offset_of(&delivery) == Some(offset)
                    && id_of(&delivery)
                        .and_then(|id| self.entry(&id))
                        .is_some_and(|entry| entry.lies_at(offset));
                return Ok(same.then_some(delivery.data));
            }
        }
    }

    fn with<T>(&self, look: impl FnOnce(&Index) -> T) -> T {
        // Entries are valid one by one, so a panic elsewhere does not spoil them.
        look(&self.index.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Checks at once and after every news until there is a result. At the end, returns what there is.
async fn found_within(
    limit: Duration,
    mut read: watch::Receiver<Read>,
    look: impl Fn() -> Option<IndexEntry>,
) -> Result<Option<IndexEntry>, NotRead> {
    let found = async {
        loop {
            read.borrow_and_update();
            if let Some(entry) = look().filter(|entry| entry.result_at.is_some()) {
                return Some(entry);
            }
            read.changed().await.ok()?;
        }
    };
    match tokio::time::timeout(limit, found).await {
        Ok(Some(entry)) => Ok(Some(entry)),
        Ok(None) | Err(_) if read.borrow().whole => Ok(look()),
        Ok(None) | Err(_) => Err(NotRead),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_says_that_there_is_no_result_before_the_history_was_read() {
        let (read, seen) = watch::channel(Read::default());
        let moment = Duration::from_millis(10);
        let look = || None;
        assert_eq!(
            found_within(moment, seen.clone(), look)
                .await
                .expect_err("not read"),
            NotRead,
            "the result may exist"
        );
        read.send_replace(Read {
            whole: true,
            news: 1,
        });
        assert!(
            found_within(moment, seen, look)
                .await
                .expect("it was read")
                .is_none(),
            "now it is certain"
        );
    }
}
