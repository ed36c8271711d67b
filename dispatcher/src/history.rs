//! What people want to read later: task messages and full results, in the stream `pool.history`.
//!
//! The stream is the only store. Here is an index of it: for each task where its message and its result lie, and the
//! few words that lists show. The newest bodies are kept; older ones are read from the stream when somebody asks.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use pool_shared::broker::acks::{self, Acks};
use pool_shared::broker::backoff::Backoff;
use pool_shared::broker::headers::{self, json_properties};
use pool_shared::broker::link::{Link, discard};
use pool_shared::broker::outbox::{Letter, Outbox};
use pool_shared::broker::process::Process;
use pool_shared::broker::topology::{HISTORY_KEY, HISTORY_STREAM, LOG};
use pool_shared::broker::{BrokerError, within};
use pool_shared::id::TaskId;
use pool_shared::progress;
use pool_shared::task::TaskMessage;
use tokio::sync::watch;

use crate::dashboard::Outputs;

/// Of so many tasks the newest are listed with their words.
const LISTED: usize = 50_000;
const SUMMARY_CHARS: usize = 120;
const PREFETCH: u16 = 200;
/// Reading one body from the stream takes the broker tens of milliseconds, so the newest are kept.
const KEPT_BYTES: usize = 16 * 1024 * 1024;

/// What an entry of the stream is (AMQP property `type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Task,
    Result,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Task => "task",
            Self::Result => "result",
        }
    }
}

/// What the index knows of a task.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    pub task_at: Option<u64>,
    pub result_at: Option<u64>,
    /// The first words of the instruction.
    pub summary: String,
    pub labels: BTreeMap<String, String>,
}

#[derive(Default)]
struct Index {
    entries: HashMap<TaskId, Entry>,
    order: VecDeque<TaskId>,
    newest: Newest,
}

/// The newest bodies, up to a number of bytes.
#[derive(Default)]
struct Newest {
    bodies: HashMap<u64, Vec<u8>>,
    offsets: VecDeque<u64>,
    bytes: usize,
}

impl Newest {
    fn keep(&mut self, offset: u64, body: &[u8]) {
        if self.bodies.insert(offset, body.to_vec()).is_some() {
            return;
        }
        self.offsets.push_back(offset);
        self.bytes += body.len();
        while self.bytes > KEPT_BYTES
            && let Some(oldest) = self.offsets.pop_front()
        {
            self.bytes -= self.bodies.remove(&oldest).map_or(0, |body| body.len());
        }
    }
}

/// The history, as far as it has been read. Cheap to clone.
#[derive(Clone)]
pub struct History {
    process: Process,
    outbox: Outbox,
    index: Arc<RwLock<Index>>,
    read: watch::Receiver<u64>,
    outputs: Outputs,
}

impl History {
    /// Starts reading the stream from its beginning; what agents print goes to `outputs`.
    pub fn start(process: &Process, outputs: Outputs) -> Self {
        let (sender, read) = watch::channel(0);
        let outbox = Outbox::start(process.publisher.clone(), process.shutdown.clone());
        let history = Self { process: process.clone(), outbox, index: Arc::default(), read, outputs };
        tokio::spawn(follow(history.clone(), sender));
        history
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// When the broker does not confirm it; it may be there all the same, which does no harm.
    pub async fn add(&self, kind: Kind, task: Option<&TaskId>, body: &[u8]) -> Result<(), BrokerError> {
        let id = task.map_or("", TaskId::as_str);
        let properties = json_properties().with_type(kind.as_str().into()).with_message_id(id.into());
        let letter = Letter { exchange: LOG, key: HISTORY_KEY.to_owned(), body: body.to_vec(), properties };
        self.outbox.publish(letter).await
    }

    /// Entries leave through it, and what else can wait for them.
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Looks at what is known of all tasks. Keep it short: the reader waits meanwhile.
    pub fn look<T>(&self, look: impl FnOnce(&HashMap<TaskId, Entry>) -> T) -> T {
        self.with(|index| look(&index.entries))
    }

    pub fn entry(&self, task: &TaskId) -> Option<Entry> {
        self.with(|index| index.entries.get(task).cloned())
    }

    /// Waits until the index holds the result of this task, at most `limit`.
    pub async fn wait_for_result(&self, task: &TaskId, limit: Duration) -> Option<Entry> {
        let mut read = self.read.clone();
        let found = async {
            loop {
                read.borrow_and_update();
                if let Some(entry) = self.entry(task).filter(|entry| entry.result_at.is_some()) {
                    return Some(entry);
                }
                read.changed().await.ok()?;
            }
        };
        tokio::time::timeout(limit, found).await.unwrap_or_else(|_| self.entry(task))
    }

    /// The body of the entry at this offset of the stream.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn body(&self, offset: u64) -> Result<Option<Vec<u8>>, BrokerError> {
        if let Some(body) = self.with(|index| index.newest.bodies.get(&offset).cloned()) {
            return Ok(Some(body));
        }
        let link = &self.process.consume;
        let channel = link.channel().await?;
        let body = self.fetch(&channel, offset).await;
        discard(&channel, link.endpoint()).await;
        body
    }

    async fn fetch(&self, channel: &lapin::Channel, offset: u64) -> Result<Option<Vec<u8>>, BrokerError> {
        let limit = self.process.consume.endpoint().timeout();
        let mut consumer = consume(channel, limit, AMQPValue::LongLongInt(offset.cast_signed())).await?;
        loop {
            let next = within(limit, format!("read {HISTORY_STREAM}"), async { Ok(consumer.next().await) }).await?;
            match next {
                Some(Ok(delivery)) if offset_of(&delivery) >= Some(offset) => {
                    return Ok((offset_of(&delivery) == Some(offset)).then_some(delivery.data));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(BrokerError::Amqp { what: format!("read {HISTORY_STREAM}"), error }),
                None => return Ok(None),
            }
        }
    }

    fn with<T>(&self, look: impl FnOnce(&Index) -> T) -> T {
        // Entries are valid one by one, so a panic elsewhere does not spoil them.
        look(&self.index.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn learn(&self, delivery: &Delivery) {
        let Some(offset) = offset_of(delivery) else { return };
        let Some(id) = headers::text(delivery.properties.message_id()).and_then(|id| TaskId::new(id).ok()) else {
            return;
        };
        let kind = headers::text(delivery.properties.kind());
        if kind == Some(progress::KIND) {
            // Nothing of it is kept here: it would drive out what people ask for.
            if let Ok(progress) = serde_json::from_slice(&delivery.data) {
                self.outputs.hear(&id, progress);
            }
            return;
        }
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        index.newest.keep(offset, &delivery.data);
        if kind == Some(Kind::Task.as_str()) {
            let words = serde_json::from_slice::<TaskMessage>(&delivery.data).ok();
            let entry = index.entry(&id);
            entry.task_at.get_or_insert(offset);
            if let Some(task) = words {
                entry.describe(&task);
            }
        } else if kind == Some(Kind::Result.as_str()) {
            let entry = index.entry(&id);
            entry.result_at = Some(offset);
            if entry.summary.is_empty() {
                let result: Option<pool_shared::result::ResultMessage> = serde_json::from_slice(&delivery.data).ok();
                if let Some(task) = result.and_then(|result| result.task) {
                    entry.describe(&task);
                }
            }
        }
    }
}

impl Entry {
    fn describe(&mut self, task: &TaskMessage) {
        self.summary = task.instruction.split_whitespace().collect::<Vec<_>>().join(" ");
        if let Some((cut, _)) = self.summary.char_indices().nth(SUMMARY_CHARS) {
            self.summary.truncate(cut);
        }
        self.labels.clone_from(&task.labels);
    }
}

impl Index {
    fn entry(&mut self, id: &TaskId) -> &mut Entry {
        if !self.entries.contains_key(id) {
            self.order.push_back(id.clone());
            if self.order.len() > LISTED
                && let Some(oldest) = self.order.pop_front()
                && let Some(entry) = self.entries.get_mut(&oldest)
            {
                // Its bodies can still be found; only the words are forgotten.
                *entry = Entry { task_at: entry.task_at, result_at: entry.result_at, ..Entry::default() };
            }
        }
        self.entries.entry(id.clone()).or_default()
    }
}

fn offset_of(delivery: &Delivery) -> Option<u64> {
    let headers = delivery.properties.headers().as_ref()?;
    let AMQPValue::LongLongInt(offset) = headers.inner().get("x-stream-offset")? else { return None };
    u64::try_from(*offset).ok()
}

async fn consume(channel: &lapin::Channel, limit: Duration, offset: AMQPValue) -> Result<lapin::Consumer, BrokerError> {
    let qos = channel.basic_qos(PREFETCH, BasicQosOptions::default());
    within(limit, "limit the history's reader", qos).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-stream-offset".into(), offset);
    let consume = channel.basic_consume(HISTORY_STREAM.into(), "".into(), BasicConsumeOptions::default(), arguments);
    within(limit, format!("read the stream {HISTORY_STREAM}"), consume).await
}

async fn follow(history: History, read: watch::Sender<u64>) {
    let mut backoff = Backoff::default();
    let shutdown = history.process.shutdown.clone();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            end = read_all(&history, &read) => match end {
                Ok(()) => backoff.reset(),
                Err(error) => tracing::warn!(%error, "the reader of the history starts over"),
            },
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = backoff.wait() => {}
        }
    }
}

async fn read_all(history: &History, read: &watch::Sender<u64>) -> Result<(), BrokerError> {
    let link: &Link = &history.process.consume;
    let channel = link.channel().await?;
    let limit = link.endpoint().timeout();
    let consumer = consume(&channel, limit, AMQPValue::LongString("first".into())).await?;
    let mut chunks = consumer.ready_chunks(100);
    let mut acks = Acks::new(limit);
    loop {
        let Ok(next) = tokio::time::timeout(acks::AT_LATEST, chunks.next()).await else {
            acks.send().await?;
            continue;
        };
        let Some(chunk) = next else { return Ok(()) };
        let (mut last, count) = (None, chunk.len());
        for delivery in chunk {
            let Ok(delivery) = delivery else { return Ok(()) };
            history.learn(&delivery);
            last = Some(delivery);
        }
        read.send_modify(|count| *count += 1);
        if let Some(last) = last {
            acks.read(last, count).await?;
        }
    }
}
