//! The event log of the broker, read and folded by the test itself.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, Consumer};
use pool_core::event::{EmitterId, Event, EventBatch, TaskEvent, TaskFinished, TaskStarted};
use pool_core::id::{AttemptId, ProgrammerId, TaskId};
use pool_core::money::MicroUsd;
use pool_core::result::Status;
use pool_core::state::{PoolState, Verdict};
use pool_core::time::Timestamp;
use pool_telemetry::clock::wall_clock;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::amqp::channel;
use super::{SOON, eventually};

/// An event with its time and its effect at its place in the log.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) at: Timestamp,
    pub(crate) decision: Event,
    /// The JSON of the event.
    pub(crate) json: Value,
    pub(crate) accepted: bool,
}

impl Entry {
    /// Whether the event is of this kind and took effect.
    pub(crate) fn is(&self, kind: &str) -> bool {
        self.accepted && self.json["kind"] == kind
    }

    /// A text field of the event.
    pub(crate) fn text(&self, field: &str) -> &str {
        self.json[field].as_str().unwrap_or_default()
    }

    /// The model of the LLM that a breaker event is about.
    pub(crate) fn model(&self) -> &str {
        self.json["key"]["llm"]
            .as_str()
            .and_then(|llm| llm.split_once('/'))
            .map_or("", |(_, model)| model)
    }

    /// An amount field of the event.
    pub(crate) fn amount(&self, field: &str) -> MicroUsd {
        let amount = serde_json::from_value(self.json[field].clone());
        amount.unwrap_or_else(|error| panic!("{field} of {}: {error}", self.json))
    }

    pub(crate) fn is_start_of(&self, id: &str) -> bool {
        self.accepted
            && matches!(&self.decision, Event::Task(TaskEvent::Started(TaskStarted { task, .. })) if task.as_str() == id)
    }

    pub(crate) fn is_end_of(&self, id: &str) -> bool {
        self.accepted
            && matches!(&self.decision, Event::Task(TaskEvent::Finished(TaskFinished { task, .. })) if task.as_str() == id)
    }
}

/// The entries that have been read so far.
#[derive(Debug)]
pub(crate) struct EventLog {
    pub(crate) entries: Vec<Entry>,
    fold: PoolState,
    channel: Channel,
    consumer: Consumer,
    /// The connection, which ends with this value.
    _connection: Connection,
}

impl EventLog {
    pub(crate) async fn open(url: &str) -> Self {
        let (connection, channel) = channel(url).await;
        channel
            .basic_qos(500, BasicQosOptions::default())
            .await
            .expect("a limit, which a stream wants");
        let mut arguments = FieldTable::default();
        arguments.insert(
            "x-stream-offset".into(),
            AMQPValue::LongString("first".into()),
        );
        let options = BasicConsumeOptions::default();
        let consumer = channel
            .basic_consume("pool.events".into(), "".into(), options, arguments)
            .await;
        let consumer = consumer.expect("the stream pool.events");
        Self {
            entries: Vec::new(),
            fold: PoolState::new(),
            channel,
            consumer,
            _connection: connection,
        }
    }

    /// Reads up to the present end: to a mark that it appends.
    pub(crate) async fn read(&mut self) -> &[Entry] {
        self.append(&[json!({"kind": "unknown"})]).await
    }

    /// Appends events, as any process of the pool could, and reads up to them.
    pub(crate) async fn append(&mut self, events: &[Value]) -> &[Entry] {
        let mark = EmitterId::new();
        let batch =
            json!({"v": 1, "emitter": mark, "first": 0, "at_ms": wall_clock().0, "events": events});
        let body = batch.to_string();
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        let publish = self.channel.basic_publish(
            "pool.log".into(),
            "events".into(),
            options,
            body.as_bytes(),
            properties,
        );
        assert!(
            publish
                .await
                .expect("a publish")
                .await
                .expect("a confirm")
                .is_ack(),
            "the batch is in the log"
        );
        while self.next().await != mark {}
        &self.entries
    }

    /// Reads along until this many tasks have an outcome. Unlike polling the dispatcher, this costs
    /// the pool nothing.
    pub(crate) async fn finished(&mut self, count: usize, limit: Duration) {
        let deadline = Instant::now() + limit;
        let is_end = |entry: &&Entry| {
            entry.accepted && matches!(entry.decision, Event::Task(TaskEvent::Finished(_)))
        };
        loop {
            let ended = self.entries.iter().filter(is_end).count();
            if ended >= count {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "after {} s {ended} of {count} tasks have ended",
                limit.as_secs()
            );
            self.next().await;
        }
    }

    /// Reads along until `look` finds something. It appends nothing, so the pool must have its own
    /// pulse.
    pub(crate) async fn follow<T>(
        &mut self,
        what: &str,
        limit: Duration,
        look: impl Fn(&[Entry]) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(seen) = look(&self.entries) {
                return seen;
            }
            assert!(
                Instant::now() < deadline,
                "not within {} s: {what}",
                limit.as_secs()
            );
            self.next().await;
        }
    }

    async fn next(&mut self) -> EmitterId {
        // The pool's pulse is in the log, so another entry always comes.
        let next = tokio::time::timeout(SOON, self.consumer.next())
            .await
            .expect("the log gives what is in it");
        let delivery = next.expect("the stream stays").expect("a delivery");
        let batch = EventBatch::from_json(&delivery.data).expect("a batch of events");
        let raw: Value = serde_json::from_slice(&delivery.data).expect("a batch is JSON");
        let (entries, at) = (&mut self.entries, batch.at());
        self.fold.apply(&batch, |id, decision, verdict| {
            let place = usize::try_from(id.seq - batch.first).expect("a place in the batch");
            let json = raw["events"][place].clone();
            entries.push(Entry {
                at,
                decision: decision.clone(),
                json,
                accepted: verdict == Verdict::Accepted,
            });
        });
        delivery
            .ack(BasicAckOptions::default())
            .await
            .expect("an ack");
        batch.emitter
    }

    /// Reads again and again until `look` finds something.
    pub(crate) async fn until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        look: impl Fn(&[Entry]) -> Option<T>,
    ) -> T {
        let log = &mut *self;
        eventually(what, limit, async || look(log.read().await)).await
    }

    /// Waits until a programmer owns the task; gives the programmer.
    pub(crate) async fn started(&mut self, task: &str) -> ProgrammerId {
        let id = TaskId::new(task).expect("an id");
        self.until(&format!("{task} is started"), SOON, |entries| {
            starts_of(entries, &id).pop().map(|(_, who)| who)
        })
        .await
    }

    /// The accepted outcomes of a task.
    pub(crate) fn outcomes(&self, task: &str) -> Vec<Status> {
        let of_task = |entry: &&Entry| {
            entry.accepted && entry.decision.task().is_some_and(|id| id.as_str() == task)
        };
        self.entries
            .iter()
            .filter(of_task)
            .filter_map(|entry| entry.decision.ends_as())
            .collect()
    }

    /// The accepted starts of a task.
    pub(crate) fn starts(&self, task: &str) -> Vec<ProgrammerId> {
        let id = TaskId::new(task).expect("an id");
        starts_of(&self.entries, &id)
            .into_iter()
            .map(|(_, programmer)| programmer)
            .collect()
    }
}

fn starts_of(entries: &[Entry], id: &TaskId) -> Vec<(AttemptId, ProgrammerId)> {
    let starts = entries
        .iter()
        .filter(|entry| entry.accepted)
        .filter_map(|entry| {
            let Event::Task(TaskEvent::Started(TaskStarted {
                task,
                attempt,
                programmer,
                ..
            })) = &entry.decision
            else {
                return None;
            };
            (task == id).then(|| (*attempt, programmer.clone()))
        });
    starts.collect()
}
