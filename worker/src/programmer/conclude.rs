//! Steps 10 to 12 of the life of a task (ARCHITECTURE.md): publish the result, acknowledge the task,
//! then see that the log names the outcome.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lapin::message::Delivery;
use pool_broker::backoff::Backoff;
use pool_broker::fault::{Point, point};
use pool_broker::headers::{DeadLetterInfo, Reply};
use pool_broker::process::Process;
use pool_broker::steps::{self, ReissuePoints, request_result, send_on};
use pool_broker::{BrokerError, acks, log_broker_error};
use pool_core::event::{Event, PoolEvent, ReleaseCause, TaskReleased};
use pool_core::id::{AttemptId, TaskId};
use pool_core::result::{ResultMessage, Status};
use pool_core::state::{PoolState, Verdict};
use pool_telemetry::clock::wall_clock;
use tokio::time::Instant;

use super::attempt::Branch;
use super::claim::{DeadDelivery, DeliveredTask, TaskEnd};

/// A running dispatcher reads a result and writes its outcome well within this time.
const DECIDED_WITHIN: Duration = Duration::from_millis(500);
/// For this long after a dispatcher did not answer, programmers do not wait for one.
const ALONE_FOR: Duration = Duration::from_secs(10);

/// How a delivery ended for its programmer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryEnd {
    /// The message is acknowledged or dead-lettered; nothing is left to do.
    Settled,
    /// The channel is gone. The broker has the message, and the log knows the outcome.
    Broken,
    /// Another attempt owns the task, or its state is unknown: send neither ack nor nack.
    Lost,
}

/// The claim of an attempt to a task.
#[derive(Debug, Clone)]
pub struct Claim {
    pub task: TaskId,
    pub attempt: AttemptId,
    /// The number of the connection that brought the task.
    pub connection: u64,
}

/// Publishes a result to `results` until it is confirmed or `still_wanted` returns false. Returns
/// whether it was confirmed.
pub async fn publish_result(
    process: &Process,
    result: &mut ResultMessage,
    reply: &Reply,
    still_wanted: impl Fn() -> bool,
) -> bool {
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
    let mut backoff = Backoff::default();
    while wanted().await {
        let Err(error) = steps::publish_result(process, result, reply).await else {
            return true;
        };
        log_broker_error(&error, "the result is not confirmed; publishing it again");
        backoff.wait().await;
    }
    false
}

/// Repeats a step until the broker confirms it (true) or it is no longer wanted (false). Each failure
/// is logged with `words`.
pub(super) async fn until_confirmed<S>(
    words: &str,
    wanted: impl Fn() -> bool,
    step: impl Fn() -> S,
) -> bool
where
    S: Future<Output = Result<(), BrokerError>>,
{
    let mut backoff = Backoff::default();
    while wanted() {
        let Err(error) = step().await else {
            return true;
        };
        log_broker_error(&error, words);
        backoff.wait().await;
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
    outcome_writer: &OutcomeWriter,
    claim: &Claim,
    result: &ResultMessage,
) -> bool {
    let (task, attempt) = (&claim.task, claim.attempt);
    let log = &process.log;
    let decided = log.wait_for_task(task, |fold| match fold.tasks.winner(task) {
        Some(winner) => Some(winner == Some(attempt)),
        None => (!fold.tasks.is_owner(task, attempt)).then_some(false),
    });
    let patience = outcome_writer.patience(Instant::now());
    if let Ok(won) = tokio::time::timeout(patience, decided).await {
        return won;
    }
    if !patience.is_zero() {
        outcome_writer.missed(Instant::now());
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
pub async fn let_go(process: &Process, claim: &Claim, branch: Option<Branch>) {
    if !process.log.read(|fold| is_lost(fold, claim)) {
        return;
    }
    if let Some(branch) = branch {
        branch.forget().await;
    }
    lost(process, claim).await;
}

/// Whether the log gives the task, or its outcome, to another attempt.
fn is_lost(fold: &PoolState, Claim { task, attempt, .. }: &Claim) -> bool {
    fold.tasks
        .winner(task)
        .is_some_and(|winner| winner != Some(*attempt))
        || fold
            .tasks
            .owner(task)
            .is_some_and(|owner| owner != *attempt)
}

/// Releases a task whose connection broke while the worker lived, so that the attempt does not
/// count towards `max_attempts`. If the connection that brought the task is still
/// open, the broker took the task back because it was held too long. That would happen again, so
/// such an attempt counts.
pub async fn lost(process: &Process, claim: &Claim) {
    if process.consume.number() == claim.connection {
        return;
    }
    let released = Event::from(TaskReleased {
        task: claim.task.clone(),
        attempt: claim.attempt,
        cause: ReleaseCause::Stopped,
    });
    if let Err(error) = process.log.append(released).await {
        tracing::warn!(%error, "the attempt counts towards max_attempts although only its connection broke");
    }
}

/// Acknowledges a delivery. If the ack is lost, the broker delivers the message again.
pub async fn ack(process: &Process, delivery: &Delivery) -> DeliveryEnd {
    let limit = process.consume.endpoint().timeout();
    point(Point::Acking);
    let written = acks::ack(delivery, limit).await;
    point(Point::Acked);
    match written {
        Ok(true) => DeliveryEnd::Settled,
        Ok(false) | Err(_) => DeliveryEnd::Broken,
    }
}

/// Acknowledges another delivery of a task that is finished or owned. The result goes out without
/// this message; but its publisher waits for a reply too, so the result is requested again.
pub async fn repeat_result(
    process: &Process,
    delivery: &Delivery,
    delivered: &DeliveredTask,
) -> DeliveryEnd {
    if delivered.reply.to.is_some() {
        let id = delivered.task.id.as_str();
        if let Err(error) = request_result(process, id, &delivered.reply, None).await {
            tracing::warn!(task_id = %delivered.task.id, %error, "failed to request the result again");
            return DeliveryEnd::Lost;
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
    delivered: &DeliveredTask,
    end: TaskEnd,
    wanted: impl Fn() -> bool,
) -> DeliveryEnd {
    let TaskEnd { status, failure } = end;
    tracing::info!(task_id = %delivered.task.id, status = status.as_str(), reason = %failure.message, "the task ended without an attempt");
    let mut result =
        ResultMessage::without_attempt(Some(delivered.task.id.clone()), status, failure);
    result.task = Some(Box::new(delivered.task.message.clone()));
    if !publish_result(process, &mut result, &delivered.reply, wanted).await {
        return DeliveryEnd::Lost;
    }
    point(Point::EndTold);
    ack(process, delivery).await
}

/// Sends a message that cannot be handled to `pool.dead`, after a result to its submitter.
pub async fn dead_letter(
    process: &Process,
    delivery: &Delivery,
    dead: DeadDelivery,
    wanted: impl Fn() -> bool,
) -> DeliveryEnd {
    let DeadDelivery { id, reply, failure } = dead;
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
    let info = DeadLetterInfo::new(reason, from, wall_clock());
    let mut result = ResultMessage::without_attempt(id, Status::Rejected, failure);
    if !publish_result(process, &mut result, &reply, &wanted).await {
        return DeliveryEnd::Lost;
    }
    point(Point::DeadTold);
    let step = || steps::dead_letter(process, &delivery.data, &delivery.properties, &info);
    let words = "the message is not in pool.dead yet; publishing it again";
    if !until_confirmed(words, wanted, step).await {
        return DeliveryEnd::Lost;
    }
    point(Point::DeadLettered);
    ack(process, delivery).await
}

/// Sends a task back through `pool.tasks` with the next generation, then acknowledges the old
/// message.
pub async fn divert(process: &Process, delivery: &Delivery, task: &TaskId) -> DeliveryEnd {
    tracing::info!(task_id = %task, "this programmer does not take the task; sending it back through pool.tasks");
    let points = ReissuePoints::OF_WORKER;
    if let Err(error) = send_on(process, &delivery.data, &delivery.properties, points).await {
        tracing::warn!(task_id = %task, %error, "the task was not sent back; its next delivery does it");
        return DeliveryEnd::Lost;
    }
    point(Point::SentOnLogged);
    ack(process, delivery).await
}
