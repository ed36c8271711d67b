//! Ends tasks whose deadline passes while they wait; no free programmer is needed for that.
//!
//! The result takes the way of all results; the log decides there what it means (`results`). It
//! contains nothing about this dispatcher, so that two dispatchers write the same bytes. The task's
//! message is dropped when a programmer gets it.

use std::collections::HashMap;
use std::time::Duration;

use pool_broker::BrokerError;
use pool_broker::fault::{Point, point};
use pool_broker::headers::Reply;
use pool_broker::process::Process;
use pool_broker::steps::publish_result;
use pool_core::id::TaskId;
use pool_core::result::{ResultMessage, Status, TaskFailure};
use pool_core::time::Timestamp;
use tokio::time::Instant;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// If the outcome of a published result is not in the log after this time, publish it again; then
/// after twice the time, and so on.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_secs(3600);
/// The most tasks per round; the rest waits for the next.
const AT_ONCE: usize = 500;

/// The overdue tasks whose result is published, and when it is published again.
type Expired = HashMap<TaskId, NextTry>;

struct NextTry {
    at: Instant,
    /// The length of the present wait.
    pause: Duration,
}

/// Checks every second until shutdown.
pub async fn run(process: Process) {
    let mut expired = Expired::new();
    while process.pause(LOOK_EVERY).await {
        process.log.read(|fold| {
            expired.retain(|task, _| {
                fold.tasks
                    .get(task)
                    .is_some_and(|state| !state.is_finished())
            });
        });
        for (deadline, task) in overdue(&process, &expired) {
            match expire(&process, &task, deadline).await {
                Ok(()) => {
                    point(Point::Expired);
                    tracing::info!(task_id = %task, %deadline, "the deadline passed while the task waited");
                    let pause = expired
                        .get(&task)
                        .map_or(AGAIN_AFTER, |last| LONGEST.min(last.pause * 2));
                    let at = Instant::now() + pause;
                    expired.insert(task, NextTry { at, pause });
                }
                Err(error) => {
                    tracing::warn!(task_id = %task, %error, "failed to publish the result of an expired task; trying again");
                    break;
                }
            }
        }
    }
}

/// Empty while the log may have gone on without this process: the tasks may have been started.
fn overdue(process: &Process, expired: &Expired) -> Vec<(Timestamp, TaskId)> {
    let (true, Ok(now)) = (process.log.is_fresh(), process.clock.now()) else {
        return Vec::new();
    };
    process.log.read(|fold| {
        let due = |task: &TaskId| {
            expired
                .get(task)
                .is_none_or(|next| Instant::now() >= next.at)
        };
        let overdue = fold.tasks.overdue(now).filter(|(_, task)| due(task));
        overdue
            .take(AT_ONCE)
            .map(|(deadline, task)| (deadline, task.clone()))
            .collect()
    })
}

async fn expire(process: &Process, task: &TaskId, deadline: Timestamp) -> Result<(), BrokerError> {
    let expired = TaskFailure::deadline_passed(deadline);
    let mut result = ResultMessage::without_attempt(Some(task.clone()), Status::Expired, expired);
    publish_result(process, &mut result, &Reply::default()).await
}
