//! Finished tasks as the log and the history have them, so that a pool can be measured that has worked for long.

use futures_util::{StreamExt, TryStreamExt, stream};
use pool_broker::topology::{EVENTS_KEY, HISTORY_KEY, LOG};
use pool_core::event::{
    EmitterId, Event, EventBatch, TaskFinished, TaskPublished, TaskStarted, TaskSubmitted,
};
use pool_core::id::{AttemptId, ProgrammerId, TaskId, Token};
use pool_core::money::MicroUsd;
use pool_core::result::Status;
use pool_telemetry::clock::wall_clock;
use serde_json::json;

use super::submitter::{persistent, publish, task};
use super::{confirmed_channel, connect};

/// The most publishes that may be unconfirmed.
const IN_FLIGHT: usize = 500;
/// Tasks in one message of the log.
const TASKS_IN_BATCH: usize = 30;
/// Milliseconds between the tasks.
const APART_MS: u64 = 30;

/// A number that looks random, always the same for `n`.
fn mixed(n: usize) -> u128 {
    (n as u128 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)
}

/// A finished task.
struct Finished {
    id: TaskId,
    attempt: AttemptId,
}

impl Finished {
    fn new(n: usize) -> anyhow::Result<Self> {
        Ok(Self {
            id: TaskId::new(format!("t-{:032x}", mixed(n)))?,
            attempt: AttemptId::from_u128(mixed(n)),
        })
    }

    fn events(&self) -> anyhow::Result<[Event; 4]> {
        let (task, attempt) = (self.id.clone(), self.attempt);
        let (body_hash, route) = (
            format!("{:032x}", mixed(task.as_str().len())),
            "any".to_owned(),
        );
        Ok([
            Event::from(TaskSubmitted {
                task: task.clone(),
                body_hash: body_hash.clone(),
                route: route.clone(),
                deadline_ms: None,
            }),
            Event::from(TaskPublished {
                task: task.clone(),
                generation: 0,
            }),
            Event::from(TaskStarted {
                task: task.clone(),
                attempt,
                programmer: ProgrammerId::new("001")?,
                token: Token::default(),
                route,
                body_hash,
            }),
            Event::from(TaskFinished {
                task,
                attempt: Some(attempt),
                status: Status::Succeeded,
                llm: None,
                cost_usd: MicroUsd::ZERO,
                error: None,
            }),
        ])
    }

    fn result(&self) -> String {
        let result = json!({
            "task_id": self.id, "attempt": self.attempt, "status": "succeeded", "programmer": "001",
            "branch": format!("pool/{}", self.id), "commit": "0".repeat(40), "log_tail": "x".repeat(300)
        });
        result.to_string()
    }
}

/// The messages of the event log in which these tasks are submitted, started and finished. They were written by one process
/// until now.
///
/// # Errors
/// Never: the ids are valid.
pub fn batches(count: usize) -> impl Iterator<Item = anyhow::Result<EventBatch>> {
    let emitter = EmitterId::from_u128(mixed(count));
    let begins = wall_clock().0 - count as u64 * APART_MS;
    (0..count).step_by(TASKS_IN_BATCH).map(move |first| {
        let tasks = first..count.min(first + TASKS_IN_BATCH);
        let mut events = Vec::with_capacity(4 * tasks.len());
        for n in tasks {
            events.extend(Finished::new(n)?.events()?);
        }
        Ok(EventBatch {
            v: 1,
            emitter,
            first: 4 * first as u64,
            at_ms: begins + first as u64 * APART_MS,
            events,
        })
    })
}

/// Writes so many finished tasks into the log and the history, which must be declared.
///
/// # Errors
/// When the broker does not take a message.
pub async fn write(url: &str, count: usize) -> anyhow::Result<()> {
    let connection = connect(url).await?;
    let channel = &confirmed_channel(&connection).await?;
    // The log has an order: one message after the other goes to the broker.
    let log = stream::iter(batches(count)).map(|batch| async move {
        let body = batch?.to_json();
        publish(channel, (LOG, EVENTS_KEY), &body, persistent("")).await
    });
    log.buffered(IN_FLIGHT).try_collect::<()>().await?;
    let history = stream::iter(0..count).map(|n| async move {
        let finished = Finished::new(n)?;
        let id = finished.id.as_str();
        let of = |kind: &str| persistent(id).with_type(kind.into());
        let body = task(id).into_bytes();
        publish(channel, (LOG, HISTORY_KEY), &body, of("task")).await?;
        let body = finished.result().into_bytes();
        publish(channel, (LOG, HISTORY_KEY), &body, of("result")).await
    });
    history
        .buffer_unordered(IN_FLIGHT)
        .try_collect::<()>()
        .await
}
