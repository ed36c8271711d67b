//! Steps 10 to 12 of a task's walk (ARCHITECTURE.md): the result first, then the ack; and what the log says then.

use std::future::ready;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lapin::message::Delivery;
use lapin::options::BasicAckOptions;
use pool_broker::backoff::Backoff;
use pool_broker::fault::{Point, point};
use pool_broker::headers::{
    Obituary, Reply, repeat_properties, result_properties, task_properties,
};
use pool_broker::process::Process;
use pool_broker::publisher::Message;
use pool_broker::topology::{DEAD_EXCHANGE, REPLIES, RESULTS_KEY, TASKS};
use pool_broker::{BrokerError, tell, within};
use pool_core::event::Decision;
use pool_core::id::{AttemptId, TaskId};
use pool_core::result::{MAX_RESULT_BYTES, ResultMessage, Status, TaskFailure, lower_limit};
use pool_core::routing::routing_key;
use pool_core::state::{Fold, Refusal, Verdict};
use pool_telemetry::clock::wall_clock;
use tokio::time::Instant;

use super::attempt::Branch;
use super::claim::Envelope;

/// A dispatcher that runs has read a result and written its outcome long before.
const DECIDED_WITHIN: Duration = Duration::from_millis(500);
/// So long nobody waits for a dispatcher after one was missed.
const ALONE_FOR: Duration = Duration::from_secs(10);

/// How a delivery ended for its programmer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Acked (or dead-lettered): off our hands.
    Settled,
    /// The channel is gone; the broker has the message and the log knows what came of it.
    Broken,
    /// Another attempt owns the task, or its state is not known: neither ack nor nack.
    Lost,
}

/// Publishes a result to `results` and does not stop before it is confirmed, unless `still_wanted` says no. It is cut to
/// what the broker takes.
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
    // Who was frozen or cut off may have lost the task since: once this is read back he knows. A log that cannot be
    // written to holds no result up for longer than that.
    let still_wanted = &still_wanted;
    let wanted = || async move {
        if !still_wanted() {
            return false;
        }
        process.log.is_current()
            || process.log.append(Decision::Tick).await.is_err()
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
        tell(&error, "the result is not confirmed; publishing it again");
        limit = error
            .size_limit()
            .map_or(limit, |takes| lower_limit(body.len(), takes));
        backoff.wait().await;
    }
    false
}

/// Publishes a message again and again until it is confirmed, or is not wanted any more: false. `words` say what does not
/// work meanwhile.
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
                tell(&error, words);
                backoff.wait().await;
            }
        }
    }
    false
}

/// Who writes outcomes into the log. A dispatcher does it as soon as it has the result, for all programmers together; a
/// programmer whose result finds none does it itself.
#[derive(Debug, Default)]
pub struct Scribes {
    /// No dispatcher was there; until then none is waited for.
    alone_until: Mutex<Option<Instant>>,
}

impl Scribes {
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

/// Step 12: waits until the log names the outcome, and writes it down itself when no dispatcher does. True when it is
/// this attempt's.
pub async fn decided(
    process: &Process,
    scribes: &Scribes,
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
        .append(Decision::finished(task, Some(attempt), result))
        .await
    {
        Ok(Verdict::Accepted) => true,
        // A dispatcher may have been faster.
        Ok(Verdict::Refused(_)) => log.read(|fold| fold.tasks.winner(task)) == Some(Some(attempt)),
        Err(error) => {
            tracing::warn!(%error, "it is not known whether the task has finished; leaving it to a dispatcher");
            false
        }
    }
}

/// Lets go of a task that did not end with this attempt, if somebody else has it: of the commit too. What is not known may
/// still be this attempt's, and then the commit is wanted.
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

/// Whether the log says that the task is another attempt's, or that its outcome is.
fn is_lost(fold: &Fold, id: &TaskId, attempt: AttemptId) -> bool {
    let owner = fold.tasks.get(id).and_then(|state| state.owner.as_ref());
    fold.tasks
        .winner(id)
        .is_some_and(|winner| winner != Some(attempt))
        || owner.is_some_and(|owner| owner.attempt != attempt)
}

/// A task does no harm to a worker that lives and was only cut off from the broker: the attempt shall not count towards
/// `max_attempts`. (A message that was taken back on a connection that held was kept for too long, and would be again.)
/// `connection` is the number of the one that brought it.
pub async fn lost(process: &Process, id: &TaskId, (attempt, connection): (AttemptId, u64)) {
    if process.consume.number() == connection {
        return;
    }
    let released = Decision::Released {
        task: id.clone(),
        attempt,
        no_llm: false,
    };
    if let Err(error) = process.log.append(released).await {
        tracing::warn!(task_id = %id, %error, "the attempt counts, although only its connection broke");
    }
}

/// Acks; what the broker makes of it is known only by its next delivery.
pub async fn ack(process: &Process, delivery: &Delivery) -> End {
    let limit = process.consume.endpoint().timeout();
    point(Point::Acking);
    let written = within(
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

/// A task that is finished, or in somebody's hands, came once more. Its result is delivered without this message; but who
/// published it waits for a reply too.
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
            tracing::warn!(task_id = %envelope.task.id, %error, "the result was not asked for again");
            return End::Lost;
        }
        point(Point::RepeatAsked);
    }
    ack(process, delivery).await
}

/// Ends a task without an attempt: the result first, then the ack. The dispatcher writes it into the log.
pub async fn end_without_attempt(
    process: &Process,
    delivery: &Delivery,
    envelope: &Envelope,
    (status, failure): (Status, TaskFailure),
    wanted: impl Fn() -> bool,
) -> End {
    tracing::info!(task_id = %envelope.task.id, status = status.as_str(), reason = %failure.message, "ended without an attempt");
    let mut result =
        ResultMessage::without_attempt(Some(envelope.task.id.clone()), status, failure);
    result.task = Some(Box::new(envelope.task.message.clone()));
    if !publish_result(process, &mut result, &envelope.reply, wanted).await {
        return End::Lost;
    }
    point(Point::EndTold);
    ack(process, delivery).await
}

/// What cannot be handled goes to `pool.dead`; its submitter gets a result first. Published and not rejected, because only
/// so it carries the reason; a crash before the ack leaves it there twice.
pub async fn dead_letter(
    process: &Process,
    delivery: &Delivery,
    id: Option<TaskId>,
    (reply, failure): (&Reply, TaskFailure),
    wanted: impl Fn() -> bool,
) -> End {
    tracing::warn!(task_id = id.as_ref().map(TaskId::as_str), reason = %failure.message, "a message goes to pool.dead");
    let from = format!(
        "{} (key {:?})",
        delivery.exchange,
        delivery.routing_key.as_str()
    );
    let task = id
        .as_ref()
        .map_or(String::new(), |id| format!("task {id}: "));
    let reason = format!("{}: {task}{}", failure.kind.as_str(), failure.message);
    let obituary = Obituary::new(reason, from, wall_clock());
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

/// Sends a task on through `pool.tasks`: first `reissued`, then the message, then the ack of the old one.
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
            .append(Decision::reissued(&task.id, generation))
            .await
        {
            Ok(Verdict::Accepted) => break,
            Ok(Verdict::Refused(Refusal::OldGeneration)) => {
                // Somebody else was first; but whether he has published it only the log knows.
                let unpublished = process.log.read(|fold| {
                    fold.tasks
                        .get(&task.id)
                        .filter(|state| !state.published)
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
    tracing::info!(task_id = %task.id, "the task is for others; sending it back through pool.tasks");
    if let Err(error) = publish_task(process, envelope, generation).await {
        tracing::warn!(task_id = %task.id, %error, "the task was not sent on; its next delivery takes that up");
        return End::Lost;
    }
    point(Point::SentOn);
    // Whether this arrives decides nothing: the message is in its queue.
    let _ = process
        .log
        .append(Decision::Published {
            task: task.id.clone(),
            generation,
        })
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
