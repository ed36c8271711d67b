//! Steps 10 to 12 of the life of a task (ARCHITECTURE.md): publish the result, acknowledge the task,
//! then see that the log names the outcome.

use std::future::ready;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lapin::message::Delivery;
use lapin::options::BasicAckOptions;
use pool_broker::backoff::Backoff;
use pool_broker::fault::{Point, point};
use pool_broker::headers::{
    DeadLetterInfo, Reply, repeat_properties, result_properties, task_properties,
};
use pool_broker::process::Process;
use pool_broker::publisher::Message;
use pool_broker::topology::{DEAD_EXCHANGE, REPLIES, RESULTS_KEY, TASKS};
use pool_broker::{BrokerError, log_broker_error, with_timeout};
use pool_core::event::{Event, PoolEvent, TaskReleased};
use pool_core::id::{AttemptId, TaskId};
use pool_core::result::{MAX_RESULT_BYTES, ResultMessage, Status, TaskFailure, lower_limit};
use pool_core::routing::routing_key;
use pool_core::state::{PoolState, Refusal, TaskState, Verdict};
use pool_telemetry::clock::wall_clock;
use tokio::time::Instant;

use super::attempt::Branch;
use super::claim::Envelope;

/// A running dispatcher reads a result and writes its outcome well within this time.
const DECIDED_WITHIN: Duration = Duration::from_millis(500);
/// For this long after a dispatcher did not answer, programmers do not wait for one.
const ALONE_FOR: Duration = Duration::from_secs(10);

/// How a delivery ended for its programmer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The message is acknowledged or dead-lettered; nothing is left to do.
    Settled,
    /// The channel is gone. The broker has the message, and the log knows the outcome.
    Broken,
    /// Another attempt owns the task, or its state is unknown: send neither ack nor nack.
    Lost,
}

/// Publishes a result to `results` until it is confirmed or `still_wanted` returns false. A result
/// that is too large for the broker is cut to fit. Returns whether it was confirmed.
pub async fn publish_result(
    process: &Process,
    result: &mut ResultMessage,
    reply: &Reply,
    still_wanted: impl Fn() -> bool,
) -> bool {
    let id = result.task_id.as_ref().map_or("", TaskId::as_str);
    let properties = reply.on(result_properties(
        id,
        result.attempt.map(|attempt| attempt.to_string()),
    ));
    // A worker that was frozen or cut off may have lost the task since. Reading back its own tick
    // shows whether it did. A log that cannot be written delays the result no longer than one
    // append.
    let still_wanted = &still_wanted;
    let wanted = || async move {
        if !still_wanted() {
            return false;
        }
        process.log.is_current()
            || process
                .log
                .append(Event::Pool(PoolEvent::Tick))
                .await
                .is_err()
            || still_wanted()
    };
    let (mut limit, mut backoff) = (MAX_RESULT_BYTES, Backoff::default());
    while wanted().await {
        let body = result.fit(limit);
        let properties = properties.clone();
        let message = Message {
            exchange: REPLIES,
            key: RESULTS_KEY,
            body: &body,
            properties,
            mandatory: true,
        };
        let Err(error) = process.publisher.publish(message).await else {
            return true;
        };
        log_broker_error(&error, "the result is not confirmed; publishing it again");
        limit = error
            .size_limit()
            .map_or(limit, |takes| lower_limit(body.len(), takes));
        backoff.wait().await;
    }
    false
}

/// Publishes a message until it is confirmed (true) or no longer wanted (false). Each failure is
/// logged with `words`.
pub(super) async fn publish_while<W: Future<Output = bool>>(
    process: &Process,
    message: Message<'_>,
    words: &str,
    wanted: impl Fn() -> W,
) -> bool {
    let mut backoff = Backoff::default();
    while wanted().await {
        match process.publisher.publish(message.clone()).await {
            Ok(()) => return true,
            Err(error) => {
                log_broker_error(&error, words);
                backoff.wait().await;
            }
        }
    }
    false
}

/// Decides which process writes outcomes into the log. A dispatcher does so as soon as it has the
/// result, for all programmers. A programmer whose result finds no dispatcher writes the outcome
/// itself.
#[derive(Debug, Default)]
pub struct OutcomeWriter {
    /// Until this instant no dispatcher is waited for, because none answered last time.
    alone_until: Mutex<Option<Instant>>,
}

impl OutcomeWriter {
    /// How long to wait for a dispatcher.
    fn patience(&self, now: Instant) -> Duration {
        let alone = self
            .alone_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if alone.is_some_and(|until| now < until) {
            Duration::ZERO
        } else {
            DECIDED_WITHIN
        }
    }

    fn missed(&self, now: Instant) {
        *self
            .alone_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(now + ALONE_FOR);
    }
}

/// Step 12: waits until the log names the outcome, or writes it when no dispatcher does. True if
/// this attempt's outcome counts.
pub async fn decided(
    process: &Process,
    scribes: &OutcomeWriter,
    task: &TaskId,
    (attempt, result): (AttemptId, &ResultMessage),
) -> bool {
    let log = &process.log;
    let decided = log.wait_for_task(task, |fold| match fold.tasks.winner(task) {
        Some(winner) => Some(winner == Some(attempt)),
        None => (!fold.tasks.is_owner(task, attempt)).then_some(false),
    });
    let patience = scribes.patience(Instant::now());
    if let Ok(won) = tokio::time::timeout(patience, decided).await {
        return won;
    }
    if !patience.is_zero() {
        scribes.missed(Instant::now());
    }
    match log
        .append(Event::finished(task, Some(attempt), result))
        .await
    {
        Ok(Verdict::Accepted) => true,
        // A dispatcher may have been faster.
        Ok(Verdict::Refused(_)) => log.read(|fold| fold.tasks.winner(task)) == Some(Some(attempt)),
        Err(error) => {
            tracing::warn!(%error, "cannot tell whether the task has finished; a dispatcher will finish it");
            false
        }
    }
}

/// Drops a task that did not end with this attempt, and its commit, if the log says that it belongs
/// to another attempt. Otherwise the task may still belong to this attempt, and its commit is kept.
pub async fn let_go(
    process: &Process,
    id: &TaskId,
    held: (AttemptId, u64),
    branch: Option<Branch>,
) {
    if !process.log.read(|fold| is_lost(fold, id, held.0)) {
        return;
    }
    if let Some(branch) = branch {
        branch.forget().await;
    }
    lost(process, id, held).await;
}

/// Whether the log gives the task, or its outcome, to another attempt.
fn is_lost(fold: &PoolState, id: &TaskId, attempt: AttemptId) -> bool {
    let owner = fold.tasks.get(id).and_then(TaskState::owner);
    fold.tasks
        .winner(id)
        .is_some_and(|winner| winner != Some(attempt))
        || owner.is_some_and(|owner| owner.attempt != attempt)
}

/// Releases a task whose connection broke while the worker lived, so that the attempt does not
/// count towards `max_attempts`. If the connection `connection`, which brought the task, is still
/// open, the broker took the task back because it was held too long. That would happen again, so
/// such an attempt counts.
pub async fn lost(process: &Process, id: &TaskId, (attempt, connection): (AttemptId, u64)) {
    if process.consume.number() == connection {
        return;
    }
    let released = Event::from(TaskReleased {
        task: id.clone(),
        attempt,
        no_llm: false,
    });
    if let Err(error) = process.log.append(released).await {
        tracing::warn!(%error, "the attempt counts towards max_attempts although only its connection broke");
    }
}

/// Acknowledges a delivery. If the ack is lost, the broker delivers the message again.
pub async fn ack(process: &Process, delivery: &Delivery) -> End {
    let limit = process.consume.endpoint().timeout();
    point(Point::Acking);
    let written = with_timeout(
        limit,
        "ack a task",
        delivery.ack(BasicAckOptions::default()),
    )
    .await;
    point(Point::Acked);
    match written {
        Ok(true) => End::Settled,
        Ok(false) | Err(_) => End::Broken,
    }
}

/// Acknowledges another delivery of a task that is finished or owned. The result goes out without
/// this message; but its publisher waits for a reply too, so the result is requested again.
pub async fn repeat_result(process: &Process, delivery: &Delivery, envelope: &Envelope) -> End {
    if envelope.reply.to.is_some() {
        let properties = envelope
            .reply
            .on(repeat_properties(envelope.task.id.as_str(), None));
        let message = Message {
            exchange: REPLIES,
            key: RESULTS_KEY,
            body: b"",
            properties,
            mandatory: true,
        };
        if let Err(error) = process.publisher.publish(message).await {
            tracing::warn!(task_id = %envelope.task.id, %error, "failed to request the result again");
            return End::Lost;
        }
        point(Point::RepeatAsked);
    }
    ack(process, delivery).await
}

/// Ends a task without an attempt: publishes the result, then acknowledges the task. The dispatcher
/// writes the outcome into the log.
pub async fn end_without_attempt(
    process: &Process,
    delivery: &Delivery,
    envelope: &Envelope,
    (status, failure): (Status, TaskFailure),
    wanted: impl Fn() -> bool,
) -> End {
    tracing::info!(task_id = %envelope.task.id, status = status.as_str(), reason = %failure.message, "the task ended without an attempt");
    let mut result =
        ResultMessage::without_attempt(Some(envelope.task.id.clone()), status, failure);
    result.task = Some(Box::new(envelope.task.message.clone()));
    if !publish_result(process, &mut result, &envelope.reply, wanted).await {
        return End::Lost;
    }
    point(Point::EndTold);
    ack(process, delivery).await
}

/// Sends a message that cannot be handled to `pool.dead`, after a result to its submitter. The
/// message is published, not rejected, because a rejected message carries no reason. A crash before
/// the ack leaves it in `pool.dead` twice.
pub async fn dead_letter(
    process: &Process,
    delivery: &Delivery,
    id: Option<TaskId>,
    (reply, failure): (&Reply, TaskFailure),
    wanted: impl Fn() -> bool,
) -> End {
    tracing::warn!(task_id = id.as_ref().map(TaskId::as_str), reason = %failure.message, "moving a message to pool.dead");
    let from = format!(
        "{} (key {:?})",
        delivery.exchange,
        delivery.routing_key.as_str()
    );
    let task = id
        .as_ref()
        .map_or(String::new(), |id| format!("task {id}: "));
    let reason = format!("{}: {task}{}", failure.kind.as_str(), failure.message);
    let obituary = DeadLetterInfo::new(reason, from, wall_clock());
    let mut result = ResultMessage::without_attempt(id, Status::Rejected, failure);
    if !publish_result(process, &mut result, reply, &wanted).await {
        return End::Lost;
    }
    point(Point::DeadTold);
    let properties = obituary.properties(&delivery.properties);
    let message = Message {
        exchange: DEAD_EXCHANGE,
        key: "",
        body: &delivery.data,
        properties,
        mandatory: true,
    };
    let words = "the message is not in pool.dead yet; publishing it again";
    if !publish_while(process, message, words, || ready(wanted())).await {
        return End::Lost;
    }
    point(Point::DeadLettered);
    ack(process, delivery).await
}

/// Sends a task back through `pool.tasks`: first `reissued`, then the message, then the ack of the
/// old message.
pub async fn divert(
    process: &Process,
    delivery: &Delivery,
    envelope: &Envelope,
    mut generation: u32,
) -> End {
    let task = &envelope.task;
    loop {
        match process
            .log
            .append(Event::reissued(&task.id, generation))
            .await
        {
            Ok(Verdict::Accepted) => break,
            Ok(Verdict::Refused(Refusal::OldGeneration)) => {
                // Another process was first. Only the log knows whether it has published the
                // message.
                let unpublished = process.log.read(|fold| {
                    fold.tasks
                        .get(&task.id)
                        .filter(|state| !state.is_published())
                        .map(|s| s.generation)
                });
                match unpublished {
                    Some(reached) => generation = reached + 1,
                    None => return ack(process, delivery).await,
                }
            }
            Ok(Verdict::Refused(Refusal::Finished)) => {
                return repeat_result(process, delivery, envelope).await;
            }
            Ok(Verdict::Refused(_)) | Err(_) => return End::Lost,
        }
    }
    point(Point::Reissued);
    tracing::info!(task_id = %task.id, "this programmer does not offer what the task requires; sending the task back through pool.tasks");
    if let Err(error) = publish_task(process, envelope, generation).await {
        tracing::warn!(task_id = %task.id, %error, "the task was not sent back; its next delivery does it");
        return End::Lost;
    }
    point(Point::SentOn);
    // If this event is lost, nothing breaks: the message is in its queue.
    let _ = process
        .log
        .append(Event::published(task.id.clone(), generation))
        .await;
    point(Point::SentOnLogged);
    ack(process, delivery).await
}

async fn publish_task(
    process: &Process,
    envelope: &Envelope,
    generation: u32,
) -> Result<(), BrokerError> {
    let body = envelope.task.to_json();
    let properties = envelope.reply.on(task_properties(
        envelope.task.id.as_str(),
        generation,
        envelope.keeps,
    ));
    let key = routing_key(&envelope.task.message.capabilities);
    process
        .publisher
        .publish(Message {
            exchange: TASKS,
            key: &key,
            body: &body,
            properties,
            mandatory: true,
        })
        .await
}
