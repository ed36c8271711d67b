//! Publishes a task again in three steps: append `reissued` with the next generation, publish the
//! message, append `published`. If several processes try, the log accepts one. Deliveries of a
//! lower generation are dropped.

use lapin::BasicProperties;
use pool_broker::BrokerError;
use pool_broker::event_log::LogError;
use pool_broker::fault::{Point, point};
use pool_broker::headers::{self, Keeps, REPEAT, Reply, result_properties, task_properties};
use pool_broker::process::Process;
use pool_broker::publisher::Message;
use pool_broker::topology::{REPLIES, RESULTS_KEY, TASKS};
use pool_core::event::Event;
use pool_core::id::TaskId;
use pool_core::routing::routing_key;
use pool_core::state::{Refusal, TaskState, Verdict};
use pool_core::task::{Task, TaskMessage};
use pool_core::time::Timestamp;

#[derive(Debug, thiserror::Error)]
pub enum NotReissued {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Log(#[from] LogError),
}

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

/// Publishes the task with this generation, unless another process was faster.
///
/// # Errors
/// When a step was not confirmed: the log has the steps that were, and the repair finishes the
/// rest.
pub async fn reissue(
    process: &Process,
    task: &Task,
    generation: u32,
) -> Result<Reissued, NotReissued> {
    match process
        .log
        .append(Event::reissued(&task.id, generation))
        .await?
    {
        Verdict::Accepted => {}
        Verdict::Refused(Refusal::Finished) => return Ok(Reissued::Finished),
        Verdict::Refused(_) => return Ok(Reissued::Overtaken),
    }
    point(Point::RepairReissued);
    let submitted = process.log.read(|fold| {
        fold.tasks
            .get(&task.id)
            .and_then(|state| state.submitted_at)
    });
    let properties = task_properties(
        task.id.as_str(),
        generation,
        Keeps::of_task(&task.message, submitted),
    );
    publish(
        process,
        &routing_key(&task.message.capabilities),
        &task.to_json(),
        properties,
    )
    .await?;
    point(Point::RepairPublished);
    process
        .log
        .append(Event::published(task.id.clone(), generation))
        .await?;
    Ok(Reissued::Published(generation))
}

async fn publish(
    process: &Process,
    key: &str,
    body: &[u8],
    properties: BasicProperties,
) -> Result<(), BrokerError> {
    process
        .publisher
        .publish(Message {
            exchange: TASKS,
            key,
            body,
            properties,
            mandatory: true,
        })
        .await
}

/// The next step for a taken message that carries this generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Publish(u32),
    /// Another message of the task is in its queue.
    Drop,
    Finished,
}

fn step(state: Option<&TaskState>, carried: u32) -> Step {
    let Some(state) = state else {
        return Step::Publish(carried + 1);
    };
    if state.is_finished() {
        return Step::Finished;
    }
    // The process that reissued the task may have died before it published the message. Then this
    // message is the only one.
    if state.generation > carried && state.is_published() {
        Step::Drop
    } else {
        Step::Publish(state.generation.max(carried) + 1)
    }
}

/// Sends on a message that was taken from a queue, with its body and reply address. The caller acks
/// it afterwards.
///
/// # Errors
/// When a step was not confirmed: the message must stay where it is.
pub async fn send_on(
    process: &Process,
    body: &[u8],
    came_with: &BasicProperties,
) -> Result<Reissued, NotReissued> {
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
            Step::Publish(generation) => generation,
            Step::Drop => return Ok(Reissued::Overtaken),
            Step::Finished => {
                ask_again(process, id, came_with).await?;
                return Ok(Reissued::Finished);
            }
        },
    };
    point(Point::RetiredReissued);
    // A message that cannot be read is sent to any programmer, which refuses it.
    let key = message.map_or_else(
        || "any".to_owned(),
        |message| routing_key(&message.capabilities),
    );
    let text = id.as_ref().map_or("", TaskId::as_str);
    let properties = task_properties(text, generation, Keeps::of(came_with));
    publish(
        process,
        &key,
        body,
        Reply::as_it_came(came_with).on(properties),
    )
    .await?;
    point(Point::RetiredSentOn);
    if let Some(task) = id {
        process
            .log
            .append(Event::published(task, generation))
            .await?;
    }
    Ok(Reissued::Published(generation))
}

async fn claim_generation(
    process: &Process,
    task: &TaskId,
    carried: u32,
) -> Result<Step, LogError> {
    loop {
        let next = process.log.read(|fold| step(fold.tasks.get(task), carried));
        let Step::Publish(generation) = next else {
            return Ok(next);
        };
        match process
            .log
            .append(Event::reissued(task, generation))
            .await?
        {
            Verdict::Accepted => return Ok(next),
            Verdict::Refused(Refusal::OldGeneration | Refusal::Finished) => {}
            Verdict::Refused(_) => return Err(LogError::Closed),
        }
    }
}

/// The task has finished. If this message names a reply queue, request that the result is sent
/// there.
async fn ask_again(
    process: &Process,
    id: &TaskId,
    came_with: &BasicProperties,
) -> Result<(), BrokerError> {
    let Ok(reply @ Reply { to: Some(_), .. }) = Reply::of(came_with) else {
        return Ok(());
    };
    let properties = reply.on(result_properties(id.as_str(), None).with_type(REPEAT.into()));
    let message = Message {
        exchange: REPLIES,
        key: RESULTS_KEY,
        body: b"",
        properties,
        mandatory: true,
    };
    process.publisher.publish(message).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use pool_core::event::{EmitterId, EventBatch, TaskCancelled};
    use pool_core::state::PoolState;

    fn id() -> TaskId {
        TaskId::new("t").expect("an id")
    }

    fn step_after(events: Vec<Event>, carried: u32) -> Step {
        let mut fold = PoolState::new();
        let batch = EventBatch {
            v: 1,
            emitter: EmitterId::from_u128(1),
            first: 0,
            at_ms: 1,
            events,
        };
        fold.apply(&batch, |_, _, _| ());
        step(fold.tasks.get(&id()), carried)
    }

    #[test]
    fn an_old_copy_is_dropped_only_when_the_newer_one_is_in_its_queue() {
        let reissued = || Event::reissued(&id(), 2);
        assert_eq!(step_after(vec![], 0), Step::Publish(1), "not in the log");
        assert_eq!(
            step_after(vec![reissued()], 1),
            Step::Publish(3),
            "the newer message was never published: this is the only one"
        );
        let published = Event::published(id(), 2);
        assert_eq!(
            step_after(vec![reissued(), published.clone()], 1),
            Step::Drop,
            "another message is in its queue"
        );
        assert_eq!(
            step_after(vec![reissued(), published], 2),
            Step::Publish(3),
            "this message was in its queue"
        );
        assert_eq!(
            step_after(
                vec![reissued(), Event::from(TaskCancelled { task: id() })],
                2
            ),
            Step::Finished,
            "cancelled"
        );
    }
}
