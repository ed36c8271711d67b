//! Retries a dead letter. An unfinished task continues under its id; a finished task is submitted
//! as a new one; a refused result is sent to its reply queue again. Any other message stays.

use lapin::message::Delivery;
use pool_api::problem::QueueFull;
use pool_api::tasks::Retried;
use pool_broker::BrokerError;
use pool_broker::headers::{self, Reply};
use pool_broker::process::Process;
use pool_broker::steps::{ReissuePoints, Reissued, send_on};
use pool_core::id::TaskId;
use pool_core::task::{Task, TaskMessage};
use pool_core::time::Timestamp;
use pool_core::wrong::id_in;
use pool_telemetry::clock::wall_clock;

use crate::intake::resubmit::resubmit;
use crate::intake::{Intake, NotTaken};
use crate::results::send_again;

#[derive(Debug, thiserror::Error)]
pub(crate) enum NotRetried {
    #[error("{0}; put it right and submit it as a new task")]
    NoTask(String),
    #[error(
        "the result was not accepted: {0}; it is still in pool.dead, try again when its reply queue works"
    )]
    NotSent(#[from] BrokerError),
    #[error(transparent)]
    NotTaken(#[from] NotTaken),
    #[error("its task queue is full")]
    Full(QueueFull),
    #[error("not retried: {0}; the message is still in pool.dead, try again")]
    NotReissued(BrokerError),
}

/// The task in a dead letter, and where its result goes.
fn task_in(delivery: &Delivery) -> Result<(Task, Reply), NotRetried> {
    let reply = Reply::of(&delivery.properties).map_err(|to| {
        NotRetried::NoTask(format!("reply_to: {to:?} does not begin with `results.`"))
    })?;
    let message = TaskMessage::parse(&delivery.data, Timestamp::default());
    let message = message.map_err(|error| {
        let which = id_in(&delivery.data).map_or(String::new(), |id| format!(" (its id is {id})"));
        NotRetried::NoTask(format!("the message is not a task{which}: {error}"))
    })?;
    let property =
        || headers::text(delivery.properties.message_id()).and_then(|id| TaskId::new(id).ok());
    let id = message.id.clone().or_else(property);
    let id =
        id.ok_or_else(|| NotRetried::NoTask("the message is not a task: it has no id".to_owned()))?;
    Ok((Task::new(id, message), reply))
}

/// The caller removes the letter afterwards.
pub(crate) async fn retry(
    process: &Process,
    intake: &Intake,
    letter_id: &str,
    delivery: &Delivery,
) -> Result<Retried, NotRetried> {
    if let Some(to) = send_again(process, delivery).await? {
        let task_id = headers::text(delivery.properties.message_id())
            .unwrap_or_default()
            .to_owned();
        let detail = format!("the result of task {task_id} was sent to {to}");
        return Ok(Retried {
            task_id,
            retry_of: None,
            detail,
        });
    }
    let (task, reply) = task_in(delivery)?;
    let known = process.log.read(|fold| {
        fold.tasks.get(&task.id).map(|state| {
            (
                state.body_hash.clone(),
                state.outcome().map(|end| end.status),
            )
        })
    });
    let (hash, outcome) = known.unwrap_or_default();
    if hash.is_some_and(|hash| hash != task.body_hash()) {
        return Err(NotTaken::IdConflict(task.id).into());
    }
    let Some(status) = outcome else {
        let _slot = intake.slot_again(&task).map_err(NotRetried::Full)?;
        let points = ReissuePoints::OF_DISPATCHER;
        let sent_on = send_on(process, &delivery.data, &delivery.properties, points).await;
        let detail = match sent_on.map_err(NotRetried::NotReissued)? {
            Reissued::Published(generation) => {
                format!(
                    "task {} is back in its queue (generation {generation})",
                    task.id
                )
            }
            Reissued::Overtaken => format!("task {} is already in its queue", task.id),
            Reissued::Finished => format!("task {} has already finished", task.id),
        };
        return Ok(Retried {
            task_id: task.id.to_string(),
            retry_of: None,
            detail,
        });
    };
    // Derived from the letter's id, so that a second retry after a crash before the ack makes the
    // same task.
    let new_id = TaskId::new(format!("t-{letter_id}"))
        .map_err(|error| NotRetried::NoTask(error.to_string()))?;
    let old = task.id.clone();
    let task = intake.prepare(resubmit(task, new_id, wall_clock()))?;
    let slot = intake.slot_again(&task).map_err(NotRetried::Full)?;
    let taken = intake.take(task, slot, &reply).await?;
    Ok(Retried::anew(old, status, &taken.id))
}
