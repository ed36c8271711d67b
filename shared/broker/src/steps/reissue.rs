//! Publishes a task again in three steps: append `reissued` with the next generation, publish the message, append
//! `published`. If several processes try, the log accepts one. A programmer drops a delivery of a lower generation, or sends
//! it on if the newer message is not known to be published.

use lapin::BasicProperties;
use pool_core::event::Event;
use pool_core::id::TaskId;
use pool_core::routing::routing_key;
use pool_core::state::{Refusal, TaskState, Verdict};
use pool_core::task::{Task, TaskMessage};
use pool_core::time::Timestamp;

use super::{OutgoingTask, publish_task, request_result};
use crate::BrokerError;
use crate::event_log::LogError;
use crate::fault::{Point, point};
use crate::headers::{self, Keeps, Reply};
use crate::process::Process;

/// The result of reissuing a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reissued {
    /// The task is in its queue, with this generation.
    Published(u32),
    /// Another process has published the task again since.
    Overtaken,
    /// The task has finished.
    Finished,
}

/// The fault points between the steps.
#[derive(Debug, Clone, Copy)]
pub struct ReissuePoints {
    reissued: Point,
    published: Point,
}

impl ReissuePoints {
    /// A dispatcher publishes a lost task.
    pub const OF_RESCUER: Self = Self {
        reissued: Point::RepairReissued,
        published: Point::RepairPublished,
    };
    /// A dispatcher sends on a message that no programmer takes.
    pub const OF_DISPATCHER: Self = Self {
        reissued: Point::RetiredReissued,
        published: Point::RetiredSentOn,
    };
    /// A worker sends on a task that belongs to other programmers.
    pub const OF_WORKER: Self = Self {
        reissued: Point::Reissued,
        published: Point::SentOn,
    };
}

/// Publishes a lost task with this generation, unless another process was faster.
///
/// # Errors
/// When a step was not confirmed: the log has the steps that were, and the rescuer finishes the rest.
pub async fn reissue(
    process: &Process,
    task: &Task,
    generation: u32,
) -> Result<Reissued, BrokerError> {
    let reissued = Event::reissued(&task.id, generation);
    match process.log.append(reissued).await {
        Ok(Verdict::Accepted) => {}
        Ok(Verdict::Refused(Refusal::Finished)) => return Ok(Reissued::Finished),
        Ok(Verdict::Refused(_)) => return Ok(Reissued::Overtaken),
        Err(error) => return Err(not_logged(error)),
    }
    let submitted = process
        .log
        .read(|fold| fold.tasks.get(&task.id)?.submitted_at);
    let outgoing = OutgoingTask {
        id: task.id.as_str(),
        generation,
        keeps: Keeps::of_task(&task.message, submitted),
        reply: Reply::default(),
        key: &routing_key(&task.message.capabilities),
        body: &task.to_json(),
    };
    publish_reissued(
        process,
        &outgoing,
        Some(&task.id),
        ReissuePoints::OF_RESCUER,
    )
    .await
}

/// Sends on a message that was taken from a queue, with its body and reply address. The caller acknowledges it afterwards. If
/// the task has finished, its result is requested for the reply address.
///
/// # Errors
/// When a step was not confirmed: the message must stay where it is.
pub async fn send_on(
    process: &Process,
    body: &[u8],
    came_with: &BasicProperties,
    points: ReissuePoints,
) -> Result<Reissued, BrokerError> {
    let message = TaskMessage::parse(body, Timestamp::default()).ok();
    let property = headers::text(came_with.message_id()).and_then(|id| TaskId::new(id).ok());
    let id = message
        .as_ref()
        .and_then(|message| message.id.clone())
        .or(property);
    let carried = headers::token(came_with).generation;
    let generation = match &id {
        None => carried + 1,
        Some(id) => match claim_generation(process, id, carried).await? {
            NextStep::Publish(generation) => generation,
            NextStep::Drop => return Ok(Reissued::Overtaken),
            NextStep::RequestResult => {
                let reply = Reply::of(came_with).unwrap_or_default();
                request_result(process, id.as_str(), &reply, None).await?;
                return Ok(Reissued::Finished);
            }
        },
    };
    // A message that cannot be read is sent to any programmer, which refuses it.
    let key = message.map_or_else(
        || "any".to_owned(),
        |message| routing_key(&message.capabilities),
    );
    let outgoing = OutgoingTask {
        id: id.as_ref().map_or("", TaskId::as_str),
        generation,
        keeps: Keeps::of(came_with),
        reply: Reply::as_it_came(came_with),
        key: &key,
        body,
    };
    publish_reissued(process, &outgoing, id.as_ref(), points).await
}

/// The last two steps: `reissued` is in the log.
async fn publish_reissued(
    process: &Process,
    outgoing: &OutgoingTask<'_>,
    task: Option<&TaskId>,
    points: ReissuePoints,
) -> Result<Reissued, BrokerError> {
    let generation = outgoing.generation;
    point(points.reissued);
    publish_task(process, outgoing).await?;
    point(points.published);
    if let Some(task) = task.cloned() {
        // If this event is lost, the rescuer publishes the task once more; the generation decides between the messages.
        let published = Event::published(task, generation);
        if let Err(error) = process.log.append(published).await {
            tracing::warn!(task_id = outgoing.id, %error, "the task is in its queue, but the event log does not say so");
        }
    }
    Ok(Reissued::Published(generation))
}

/// The next step for a message that was taken from a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NextStep {
    Publish(u32),
    /// Another message of the task is in its queue.
    Drop,
    /// The task has finished.
    RequestResult,
}

/// The next step for a message that carries this generation.
fn next_step(state: Option<&TaskState>, carried: u32) -> NextStep {
    let Some(state) = state else {
        return NextStep::Publish(carried + 1);
    };
    if state.is_finished() {
        return NextStep::RequestResult;
    }
    // The process that reissued the task may have died before it published the message. Then this message is the only one.
    if state.generation > carried && state.is_published() {
        NextStep::Drop
    } else {
        NextStep::Publish(state.generation.max(carried) + 1)
    }
}

async fn claim_generation(
    process: &Process,
    task: &TaskId,
    carried: u32,
) -> Result<NextStep, BrokerError> {
    loop {
        let next = process
            .log
            .read(|fold| next_step(fold.tasks.get(task).as_deref(), carried));
        let NextStep::Publish(generation) = next else {
            return Ok(next);
        };
        match process.log.append(Event::reissued(task, generation)).await {
            Ok(Verdict::Accepted) => return Ok(next),
            Ok(Verdict::Refused(Refusal::OldGeneration | Refusal::Finished)) => {}
            Ok(Verdict::Refused(refusal)) => {
                let what = format!("publish task {task} again");
                return Err(BrokerError::RefusedByLog { what, refusal });
            }
            Err(error) => return Err(not_logged(error)),
        }
    }
}

fn not_logged(error: LogError) -> BrokerError {
    BrokerError::Log {
        what: "publish a task again".to_owned(),
        error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pool_core::event::{ReleaseCause, TaskCancelled, TaskReleased, TaskStarted};
    use pool_core::id::{AttemptId, ProgrammerId, Token};
    use pool_core::state::PoolState;

    fn id() -> TaskId {
        TaskId::new("t").expect("an id")
    }

    fn step_after(events: Vec<Event>, carried: u32) -> NextStep {
        let fold = PoolState::of_events(Timestamp(1), events);
        next_step(fold.tasks.get(&id()).as_deref(), carried)
    }

    #[test]
    fn an_old_copy_is_dropped_only_when_the_newer_one_is_in_its_queue() {
        let reissued = || Event::reissued(&id(), 2);
        assert_eq!(
            step_after(vec![], 0),
            NextStep::Publish(1),
            "not in the log"
        );
        assert_eq!(
            step_after(vec![reissued()], 1),
            NextStep::Publish(3),
            "the newer message was never published: this is the only one"
        );
        let published = Event::published(id(), 2);
        assert_eq!(
            step_after(vec![reissued(), published.clone()], 1),
            NextStep::Drop,
            "another message is in its queue"
        );
        assert_eq!(
            step_after(vec![reissued(), published], 2),
            NextStep::Publish(3),
            "this message was in its queue"
        );
        assert_eq!(
            step_after(
                vec![reissued(), Event::from(TaskCancelled { task: id() })],
                2
            ),
            NextStep::RequestResult,
            "cancelled"
        );
    }

    #[test]
    fn a_delivery_that_lost_to_no_owner_gets_the_next_generation() {
        let started = Event::from(TaskStarted {
            task: id(),
            attempt: AttemptId::from_u128(1),
            programmer: ProgrammerId::new("001").expect("an id"),
            token: Token {
                generation: 0,
                count: 5,
            },
            route: "any".to_owned(),
            body_hash: "b".to_owned(),
        });
        let released = Event::from(TaskReleased {
            task: id(),
            attempt: AttemptId::from_u128(1),
            cause: ReleaseCause::Stopped,
        });
        assert_eq!(
            step_after(vec![started, released], 0),
            NextStep::Publish(1),
            "no attempt has it"
        );
    }
}
