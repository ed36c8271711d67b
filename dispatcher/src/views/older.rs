//! Timelines that the journal has forgotten, read from the stream on request.

use std::time::Duration;

use lapin::types::AMQPValue;
use pool_broker::acks::ack;
use pool_broker::consumer::ConsumerSettings;
use pool_broker::process::Process;
use pool_broker::topology::EVENTS_STREAM;
use pool_broker::{BrokerError, with_timeout};
use pool_core::event::{Event, EventBatch, TaskEvent};
use pool_core::id::{AttemptId, TaskId};
use pool_core::state::PoolState;
use pool_core::time::Timestamp;
use tokio::sync::Semaphore;

use super::journal::JournalEntry;

/// Reading the stream is expensive for the broker and this process: one reader at a time.
static ONE: Semaphore = Semaphore::const_new(1);
const PREFETCH: u16 = 1000;
/// A stream that delivers nothing for this long is at its end.
const END: Duration = Duration::from_secs(2);
/// A timeline that takes longer is not shown.
const LIMIT: Duration = Duration::from_secs(20);

/// When a task was submitted and when it ended, if known.
#[derive(Debug, Clone, Copy)]
pub struct TimeRange {
    pub from: Option<Timestamp>,
    pub to: Timestamp,
}

/// All events of a task within this span.
///
/// # Errors
/// When the broker does not deliver the stream in time.
pub async fn entries(
    process: &Process,
    task: &TaskId,
    span: TimeRange,
) -> Result<Vec<JournalEntry>, BrokerError> {
    let reading = async {
        let _one = ONE.acquire().await;
        process
            .consume
            .on_channel(|channel| async move { read(process, &channel, task, span).await })
            .await
    };
    with_timeout(LIMIT, format!("read the stream {EVENTS_STREAM}"), async {
        Ok(reading.await)
    })
    .await?
}

async fn read(
    process: &Process,
    channel: &lapin::Channel,
    task: &TaskId,
    span: TimeRange,
) -> Result<Vec<JournalEntry>, BrokerError> {
    let limit = process.consume.endpoint().timeout();
    // A time stands for the chunk that contains it; earlier events in the chunk are skipped.
    // Verdicts about a task need no earlier events.
    let from = span
        .from
        .map_or(AMQPValue::LongString("first".into()), |from| {
            AMQPValue::Timestamp(from.0 / 1000)
        });
    let mut deliveries = ConsumerSettings::new(EVENTS_STREAM, "")
        .prefetch(PREFETCH)
        .from_offset(from)
        .start(channel, limit)
        .await?;
    let mut search = Search {
        task,
        fold: PoolState::new(),
        attempts: Vec::new(),
        found: Vec::new(),
    };
    while let Ok(Ok(delivery)) = tokio::time::timeout(END, deliveries.receive()).await {
        let Ok(batch) = EventBatch::from_json(&delivery.data) else {
            continue;
        };
        if batch.at() > span.to {
            break;
        }
        search.read(&batch);
        ack(&delivery, limit).await?;
    }
    Ok(search.found)
}

struct Search<'a> {
    task: &'a TaskId,
    fold: PoolState,
    attempts: Vec<AttemptId>,
    found: Vec<JournalEntry>,
}

impl Search<'_> {
    fn read(&mut self, batch: &EventBatch) {
        self.fold.apply(batch, |_, decision, verdict| {
            if let Event::Task(TaskEvent::Started(started)) = decision
                && started.task == *self.task
            {
                self.attempts.push(started.attempt);
            }
            let is_its = |attempt: &AttemptId| self.attempts.contains(attempt);
            let task_of = |attempt: &AttemptId| is_its(attempt).then(|| self.task.clone());
            if decision.part_of(task_of).as_ref() == Some(self.task) {
                self.found.push(JournalEntry {
                    at: batch.at(),
                    decision: decision.clone(),
                    verdict,
                });
            }
        });
    }
}
