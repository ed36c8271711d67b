//! The event log as it stands in the broker, read and folded by the test itself.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, Consumer};
use pool_shared::event::{Batch, Decision, EmitterId};
use pool_shared::fold::{Fold, Verdict};
use pool_shared::id::{AttemptId, ProgrammerId, TaskId};
use pool_shared::result::Status;
use pool_shared::time::{Timestamp, wall_clock};

use tokio::time::Instant;

use super::amqp::channel;
use super::{SOON, eventually};

/// An event with its time and what it meant at its place.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) at: Timestamp,
    pub(crate) decision: Decision,
    pub(crate) accepted: bool,
}

impl Entry {
    pub(crate) fn is_start_of(&self, id: &str) -> bool {
        self.accepted && matches!(&self.decision, Decision::Started { task, .. } if task.as_str() == id)
    }

    pub(crate) fn is_end_of(&self, id: &str) -> bool {
        self.accepted && matches!(&self.decision, Decision::Finished { task, .. } if task.as_str() == id)
    }
}

/// What has been read so far.
#[derive(Debug)]
pub(crate) struct EventLog {
    pub(crate) entries: Vec<Entry>,
    fold: Fold,
    channel: Channel,
    consumer: Consumer,
    /// The connection ends with it.
    _connection: Connection,
}

impl EventLog {
    pub(crate) async fn open(url: &str) -> Self {
        let (connection, channel) = channel(url).await;
        channel.basic_qos(500, BasicQosOptions::default()).await.expect("a limit, which a stream wants");
        let mut arguments = FieldTable::default();
        arguments.insert("x-stream-offset".into(), AMQPValue::LongString("first".into()));
        let options = BasicConsumeOptions::default();
        let consumer = channel.basic_consume("pool.events".into(), "".into(), options, arguments).await;
        let consumer = consumer.expect("the stream pool.events");
        Self { entries: Vec::new(), fold: Fold::new(), channel, consumer, _connection: connection }
    }

    /// Reads up to the present end: to a mark that it appends itself.
    pub(crate) async fn read(&mut self) -> &[Entry] {
        let mark = EmitterId::new();
        let batch = Batch { v: 1, emitter: mark, first: 0, at_ms: wall_clock().0, events: vec![Decision::Unknown] };
        let body = batch.to_json();
        let options = BasicPublishOptions::default();
        let publish =
            self.channel.basic_publish("pool.log".into(), "events".into(), options, &body, BasicProperties::default());
        assert!(publish.await.expect("a publish").await.expect("a confirm").is_ack(), "the mark is in the log");
        while self.next().await != mark {}
        &self.entries
    }

    /// Reads along until so many tasks have an outcome: unlike asking the dispatcher again and again, this costs the
    /// pool nothing.
    pub(crate) async fn finished(&mut self, count: usize, limit: Duration) {
        let deadline = Instant::now() + limit;
        let is_end = |entry: &&Entry| entry.accepted && matches!(entry.decision, Decision::Finished { .. });
        loop {
            let ended = self.entries.iter().filter(is_end).count();
            if ended >= count {
                return;
            }
            assert!(Instant::now() < deadline, "after {} s {ended} of {count} tasks have ended", limit.as_secs());
            self.next().await;
        }
    }

    async fn next(&mut self) -> EmitterId {
        // The pulse of the pool is in the log, so there is always something to come.
        let next = tokio::time::timeout(SOON, self.consumer.next()).await.expect("the log gives what is in it");
        let delivery = next.expect("the stream stays").expect("a delivery");
        let batch = Batch::from_json(&delivery.data).expect("a batch of events");
        let (entries, at) = (&mut self.entries, batch.at());
        self.fold.apply(&batch, |_, decision, verdict| {
            entries.push(Entry { at, decision: decision.clone(), accepted: verdict == Verdict::Accepted });
        });
        delivery.ack(BasicAckOptions::default()).await.expect("an ack");
        batch.emitter
    }

    /// Reads again and again until `look` finds something.
    pub(crate) async fn until<T>(&mut self, what: &str, limit: Duration, look: impl Fn(&[Entry]) -> Option<T>) -> T {
        let log = &mut *self;
        eventually(what, limit, async || look(log.read().await)).await
    }

    /// Waits until somebody owns the task; gives the programmer.
    pub(crate) async fn started(&mut self, task: &str) -> ProgrammerId {
        let id = TaskId::new(task).expect("an id");
        self.until(&format!("{task} is started"), SOON, |entries| starts_of(entries, &id).pop().map(|(_, who)| who))
            .await
    }

    /// Accepted outcomes of a task.
    pub(crate) fn outcomes(&self, task: &str) -> Vec<Status> {
        let of_task = |entry: &&Entry| entry.accepted;
        let status = |entry: &Entry| {
            let Decision::Finished { task: id, status, .. } = &entry.decision else { return None };
            (id.as_str() == task).then_some(*status)
        };
        self.entries.iter().filter(of_task).filter_map(status).collect()
    }

    /// Accepted starts of a task.
    pub(crate) fn starts(&self, task: &str) -> Vec<ProgrammerId> {
        let id = TaskId::new(task).expect("an id");
        starts_of(&self.entries, &id).into_iter().map(|(_, programmer)| programmer).collect()
    }
}

fn starts_of(entries: &[Entry], id: &TaskId) -> Vec<(AttemptId, ProgrammerId)> {
    let starts = entries.iter().filter(|entry| entry.accepted).filter_map(|entry| {
        let Decision::Started { task, attempt, programmer, .. } = &entry.decision else { return None };
        (task == id).then(|| (*attempt, programmer.clone()))
    });
    starts.collect()
}
