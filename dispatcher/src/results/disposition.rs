//! Decides by the event log what to do with a result.

use std::time::Duration;

use pool_broker::event_log::LogError;
use pool_broker::process::Process;
use pool_core::event::Event;
use pool_core::id::{AttemptId, TaskId};
use pool_core::result::{ErrorKind, ResultMessage, Status};
use pool_core::state::{Outcome, PoolState, Refusal, Verdict};
use pool_core::task::Task;

/// How long to wait until this process has read the claim of a task whose result is already here.
const CLAIM_READ_WITHIN: Duration = Duration::from_secs(2);
/// A programmer with another task writes the outcome of its last task in front of its next claim.
/// Under load that takes less than 10 ms, and saves the dispatcher its own message to the log.
const WRITTEN_WITHIN: Duration = Duration::from_millis(10);

/// The status of a result by the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ResultStatus {
    /// The result is the outcome.
    Winner,
    /// Another attempt's result is the outcome.
    Loser,
    /// The result's attempt owns the task, which has not finished.
    Open,
    /// No attempt has started the task, as far as this process has read.
    Unknown,
}

fn status(fold: &PoolState, task: &TaskId, attempt: AttemptId) -> ResultStatus {
    match (fold.tasks.winner(task), fold.tasks.is_owner(task, attempt)) {
        (Some(Some(winner)), _) if winner == attempt => ResultStatus::Winner,
        (Some(_), _) => ResultStatus::Loser,
        (None, true) => ResultStatus::Open,
        (None, false) => ResultStatus::Unknown,
    }
}

/// The way to handle a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disposition {
    /// Another attempt's result counts. The submitter of this one may be another, so it gets that
    /// result.
    Repeat,
    /// The result is about a message that misuses the id of a task. Its publisher gets this result;
    /// the task keeps its own.
    Reply,
    /// The result is the outcome: write it to the history and deliver it to the submitter.
    Outcome,
    /// The task was cancelled before the log had its attempt, which finished all the same. The
    /// task's message may already be acked, so the dispatcher must send the cancelled result to the
    /// submitter.
    Cancelled,
}

impl Disposition {
    /// For a result that is not the outcome of its task.
    fn of_loser(fold: &PoolState, task: &TaskId) -> Self {
        let is_cancelled = |outcome: &Outcome| outcome.status == Status::Cancelled;
        let known = fold.tasks.get(task);
        if known.is_some_and(|state| state.outcome().is_some_and(is_cancelled)) {
            Self::Cancelled
        } else {
            Self::Repeat
        }
    }
}

/// `others`: more results are waiting for delivery.
pub(super) async fn decide(
    process: &Process,
    result: &ResultMessage,
    others: bool,
) -> Result<Disposition, LogError> {
    match (&result.task_id, result.attempt) {
        (Some(task), Some(attempt)) => decide_attempt(process, task, attempt, result, others).await,
        (Some(task), None) => decide_without_attempt(process, task, result).await,
        // The message was too broken to have an id. There is nothing to decide, but its submitter
        // gets the result.
        (None, _) => Ok(Disposition::Outcome),
    }
}

async fn decide_attempt(
    process: &Process,
    task: &TaskId,
    attempt: AttemptId,
    result: &ResultMessage,
    others: bool,
) -> Result<Disposition, LogError> {
    let log = &process.log;
    let beyond = async |than, within| {
        let other = log.wait_for_task(task, |fold| {
            Some(status(fold, task, attempt)).filter(|status| *status != than)
        });
        tokio::time::timeout(within, other).await.unwrap_or(than)
    };
    // The claim was appended before the result, but this process may not have read it yet.
    let mut known = beyond(ResultStatus::Unknown, CLAIM_READ_WITHIN).await;
    if known == ResultStatus::Open && others {
        known = beyond(ResultStatus::Open, WRITTEN_WITHIN).await;
    }
    match known {
        ResultStatus::Winner => return Ok(Disposition::Outcome),
        ResultStatus::Loser => return Ok(log.read(|fold| Disposition::of_loser(fold, task))),
        ResultStatus::Open | ResultStatus::Unknown => {}
    }
    // The dispatcher appends the outcome unless the programmer was faster. So the outcomes of all
    // workers share messages of the log, and dead programmers need no special case. Once
    // this event is read back, the claim has been read too.
    match log
        .append(Event::finished(task, Some(attempt), result))
        .await?
    {
        Verdict::Accepted => Ok(Disposition::Outcome),
        Verdict::Refused(_) => Ok(log.read(|fold| match status(fold, task, attempt) {
            ResultStatus::Winner => Disposition::Outcome,
            ResultStatus::Loser | ResultStatus::Open | ResultStatus::Unknown => {
                Disposition::of_loser(fold, task)
            }
        })),
    }
}

async fn decide_without_attempt(
    process: &Process,
    task: &TaskId,
    result: &ResultMessage,
) -> Result<Disposition, LogError> {
    if process.log.read(|fold| misuses_id(fold, task, result)) {
        return Ok(Disposition::Reply);
    }
    match process
        .log
        .append(Event::finished(task, None, result))
        .await?
    {
        Verdict::Accepted => Ok(Disposition::Outcome),
        // The same result again, after a crash between the event and the ack.
        Verdict::Refused(Refusal::Finished) => {
            let the_same =
                |outcome: &Outcome| outcome.attempt.is_none() && outcome.status == result.status;
            let known = |fold: &PoolState| fold.tasks.get(task)?.outcome().map(the_same);
            Ok(process.log.read(|fold| match known(fold) {
                Some(true) => Disposition::Outcome,
                Some(false) | None => Disposition::of_loser(fold, task),
            }))
        }
        Verdict::Refused(_) => Ok(Disposition::Repeat),
    }
}

/// Whether the message is not a task, uses the id of another task, or only has a wrong routing key.
/// Such a result says nothing about the task that has this id, now or later.
fn misuses_id(fold: &PoolState, task: &TaskId, result: &ResultMessage) -> bool {
    match result.error.as_ref().map(|error| error.kind) {
        Some(ErrorKind::InvalidTask | ErrorKind::IdConflict) => return true,
        Some(ErrorKind::Unroutable) if can_be_done(fold, result) => return true,
        Some(_) | None => {}
    }
    let known = fold
        .tasks
        .get(task)
        .and_then(|state| state.body_hash.clone());
    let body = result
        .task
        .as_deref()
        .map(|message| Task::new(task.clone(), message.clone()).body_hash());
    known.zip(body).is_some_and(|(known, body)| known != body)
}

/// Whether some programmer offers what the task of this result requires.
fn can_be_done(fold: &PoolState, result: &ResultMessage) -> bool {
    let required = result.task.as_ref().map(|message| &message.capabilities);
    let offers = fold
        .configuration()
        .map(|configuration| configuration.capabilities.values());
    required
        .zip(offers)
        .is_some_and(|(required, mut offers)| offers.any(|offered| required.is_subset(offered)))
}
