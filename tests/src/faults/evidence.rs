//! Reads the remains of a run from the broker: the event log, folded, and the history.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context;
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection};
use pool_broker::topology::{
    DEAD_QUEUE, EVENTS_KEY, EVENTS_STREAM, HISTORY_KEY, HISTORY_STREAM, LOG, RESULTS_QUEUE,
    RETRIES_QUEUE, UNROUTABLE,
};
use pool_core::event::{
    EmitterId, Event, EventBatch, TaskEvent, TaskFinished, TaskReissued, TaskStarted,
};
use pool_core::result::ResultMessage;
use pool_core::routing::Routes;
use pool_core::state::{PoolState, Verdict};
use pool_telemetry::clock::wall_clock;
use serde_json::json;

use super::checker::{Answer, Outcome};
use crate::bench::confirmed_channel;

const STREAM_WITHIN: Duration = Duration::from_secs(30);

/// The evidence in the event log.
#[derive(Debug, Default)]
pub struct Record {
    pub starts: Vec<String>,
    pub outcomes: Vec<Outcome>,
    /// Attempts that broke and were retried.
    pub made_again: usize,
    /// Every task queue that was ever used.
    pub queues: BTreeSet<String>,
}

impl Record {
    fn take(&mut self, decision: &Event) {
        if let Event::Task(TaskEvent::Started(TaskStarted { task, .. })) = decision {
            self.starts.push(task.to_string());
        } else if let (Some(task), Some(status)) = (decision.task(), decision.ends_as()) {
            let attempt =
                if let Event::Task(TaskEvent::Finished(TaskFinished { attempt, .. })) = decision {
                    *attempt
                } else {
                    None
                };
            let attempt = attempt.map(|attempt| attempt.to_string());
            self.outcomes.push(Outcome {
                task: task.to_string(),
                attempt,
                status,
            });
        } else if let Event::Task(TaskEvent::Reissued(TaskReissued { retry: Some(_), .. })) =
            decision
        {
            self.made_again += 1;
        }
    }
}

/// Folds the whole event log.
///
/// # Errors
/// When the broker does not give it.
pub async fn read_log(connection: &Connection) -> anyhow::Result<Record> {
    let mark = EmitterId::new();
    let batch = json!({"v": 1, "emitter": mark, "first": 0, "at_ms": wall_clock().0, "events": [{"kind": "unknown"}]});
    let properties = BasicProperties::default();
    let is_mark = |delivery: &Delivery| {
        EventBatch::from_json(&delivery.data).is_ok_and(|batch| batch.emitter == mark)
    };
    let mark = (EVENTS_KEY, batch.to_string(), properties);
    let (mut fold, mut record) = (PoolState::new(), Record::default());
    for delivery in read(connection, EVENTS_STREAM, mark, is_mark).await? {
        let Ok(batch) = EventBatch::from_json(&delivery.data) else {
            continue;
        };
        fold.apply(&batch, |_, decision, verdict| {
            if verdict == Verdict::Accepted {
                record.take(decision);
            }
        });
    }
    let nobody = Routes::new(&BTreeMap::new());
    record.queues = fold
        .retired_queues(&nobody)
        .into_iter()
        .chain(nobody.all().iter().map(|route| route.queue()))
        .collect();
    record
        .queues
        .extend([RESULTS_QUEUE, RETRIES_QUEUE, UNROUTABLE, DEAD_QUEUE].map(str::to_owned));
    Ok(record)
}

/// The results in the history.
///
/// # Errors
/// When the broker does not give them.
pub async fn read_history(connection: &Connection) -> anyhow::Result<Vec<Answer>> {
    let kind = format!("mark-{:?}", EmitterId::new());
    let properties = BasicProperties::default().with_type(kind.as_str().into());
    let is = |delivery: &Delivery, kind: &str| {
        delivery
            .properties
            .kind()
            .as_ref()
            .is_some_and(|its| its.as_str() == kind)
    };
    let mark = (HISTORY_KEY, String::new(), properties);
    let entries = read(connection, HISTORY_STREAM, mark, |delivery| {
        is(delivery, &kind)
    })
    .await?;
    let results = entries
        .into_iter()
        .filter(|delivery| is(delivery, "result"));
    Ok(results.map(|delivery| answer(delivery.data)).collect())
}

/// A result message as an answer.
pub fn answer(body: Vec<u8>) -> Answer {
    let result: Option<ResultMessage> = serde_json::from_slice(&body).ok();
    let task = result
        .as_ref()
        .and_then(|result| result.task_id.as_ref())
        .map(ToString::to_string)
        .unwrap_or_default();
    let status = result.as_ref().map(|result| result.status);
    let attempt = result
        .and_then(|result| result.attempt)
        .map(|attempt| attempt.to_string());
    Answer {
        task,
        attempt,
        status,
        body,
    }
}

/// Reads a stream from its first message to a mark that is appended now.
async fn read(
    connection: &Connection,
    stream: &str,
    (key, body, properties): (&str, String, BasicProperties),
    is_mark: impl Fn(&Delivery) -> bool,
) -> anyhow::Result<Vec<Delivery>> {
    let reading = async {
        let channel = confirmed_channel(connection).await?;
        let publish = BasicPublishOptions::default();
        channel
            .basic_publish(LOG.into(), key.into(), publish, body.as_bytes(), properties)
            .await?
            .await?;
        channel.basic_qos(500, BasicQosOptions::default()).await?;
        let mut arguments = FieldTable::default();
        arguments.insert(
            "x-stream-offset".into(),
            AMQPValue::LongString("first".into()),
        );
        let consume = channel.basic_consume(
            stream.into(),
            "".into(),
            BasicConsumeOptions::default(),
            arguments,
        );
        let mut consumer = consume.await?;
        let mut read = Vec::new();
        loop {
            let delivery = consumer.next().await.context("the stream ended")??;
            delivery.ack(BasicAckOptions::default()).await?;
            if is_mark(&delivery) {
                channel.close(200, "read".into()).await?;
                return anyhow::Ok(read);
            }
            read.push(delivery);
        }
    };
    tokio::time::timeout(STREAM_WITHIN, reading)
        .await
        .with_context(|| format!("failed to read {stream} to its end"))?
}
