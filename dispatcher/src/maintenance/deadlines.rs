//! Ends tasks whose deadline passes while they wait: no programmer has to be free for that.
//!
//! The result goes the way of all results; what it means the log decides there (`replies`). It holds nothing of this
//! dispatcher, so that two write the same bytes. The message is dropped when somebody gets it.

use std::collections::HashMap;
use std::time::Duration;

use pool_broker::BrokerError;
use pool_broker::fault::{Point, point};
use pool_broker::headers::result_properties;
use pool_broker::process::Process;
use pool_broker::publisher::Message;
use pool_broker::topology::{REPLIES, RESULTS_KEY};
use pool_core::id::TaskId;
use pool_core::result::{ResultMessage, Status, TaskFailure};
use pool_core::time::Timestamp;
use tokio::time::Instant;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A result whose outcome has not been read within so long is published again, then after twice as long, and so on.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_secs(3600);
/// In one look; the rest is still there at the next.
const AT_ONCE: usize = 500;

/// When the result of an overdue task is published again, and how long it was waited for until then.
type Told = HashMap<TaskId, (Instant, Duration)>;

/// Looks every second until shutdown.
pub async fn run(process: Process) {
    let mut told = Told::new();
    loop {
        tokio::select! {
            () = process.shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        process.log.read(|fold| {
            told.retain(|task, _| {
                fold.tasks
                    .get(task)
                    .is_some_and(|state| state.outcome.is_none())
            });
        });
        for (deadline, task) in overdue(&process, &told) {
            match expire(&process, &task, deadline).await {
                Ok(()) => {
                    point(Point::Expired);
                    tracing::info!(task_id = %task, %deadline, "the deadline passed while the task waited");
                    let pause = told
                        .get(&task)
                        .map_or(AGAIN_AFTER, |(_, pause)| LONGEST.min(*pause * 2));
                    told.insert(task, (Instant::now() + pause, pause));
                }
                Err(error) => {
                    tracing::warn!(task_id = %task, %error, "a task is not expired yet; trying again");
                    break;
                }
            }
        }
    }
}

/// Nothing while the log may have gone on without this process: somebody may have started them.
fn overdue(process: &Process, told: &Told) -> Vec<(Timestamp, TaskId)> {
    let (true, Ok(now)) = (process.log.is_fresh(), process.clock.now()) else {
        return Vec::new();
    };
    process.log.read(|fold| {
        let due = |task: &TaskId| {
            told.get(task)
                .is_none_or(|(again, _)| Instant::now() >= *again)
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
    let body =
        ResultMessage::without_attempt(Some(task.clone()), Status::Expired, expired).to_json();
    let properties = result_properties(task.as_str(), None);
    let message = Message {
        exchange: REPLIES,
        key: RESULTS_KEY,
        body: &body,
        properties,
        mandatory: true,
    };
    process.publisher.publish(message).await
}
