//! Steps 12 and 13 of the life of a task (ARCHITECTURE.md): its outcome in the log, and its branch. The
//! result is in `results` by then, so these steps run beside the programmer's next task.
//!
//! A programmer settles one task at a time. If the log does not name the outcome of its last task
//! yet, the programmer appends it before its next claim. So its last task always ends before the
//! next one begins.

use std::sync::{Arc, Mutex, PoisonError};

use pool_broker::fault::{Point, point};
use pool_broker::process::Process;
use pool_core::event::Event;
use pool_core::id::{AttemptId, ProgrammerId, TaskId};
use pool_core::result::ResultMessage;
use pool_core::state::PoolState;
use tokio::task::JoinHandle;
use tracing::Instrument as _;

use super::attempt::Branch;
use super::conclude::{self, Claim, OutcomeWriter};
use super::telemetry::attempt_span;

/// A task whose result is confirmed.
pub struct Concluded {
    pub programmer: ProgrammerId,
    pub claim: Claim,
    pub result: ResultMessage,
    pub branch: Option<Branch>,
}

/// A programmer's last task, while it is being settled.
#[derive(Debug, Default)]
pub struct Completer(Mutex<Option<UnsettledTask>>);

#[derive(Debug)]
struct UnsettledTask {
    task: TaskId,
    attempt: AttemptId,
    outcome: Event,
    settled: JoinHandle<()>,
}

impl Completer {
    /// Begins to settle a task as soon as the one before is settled.
    pub async fn begin(
        &self,
        process: &Process,
        outcome_writer: &Arc<OutcomeWriter>,
        concluded: Concluded,
    ) {
        self.settled().await;
        let Claim { task, attempt, .. } = concluded.claim.clone();
        let outcome = Event::finished(&task, Some(attempt), &concluded.result);
        let span = attempt_span(&task, &concluded.programmer, attempt);
        let settling = settle(process.clone(), Arc::clone(outcome_writer), concluded);
        let settled = tokio::spawn(settling.instrument(span));
        *self.last() = Some(UnsettledTask {
            task,
            attempt,
            outcome,
            settled,
        });
    }

    /// Waits until the last task is settled.
    pub async fn settled(&self) {
        let last = self.last().take();
        if let Some(UnsettledTask { task, settled, .. }) = last
            && let Err(error) = settled.await
        {
            tracing::error!(task_id = %task, %error, "settling a task panicked");
        }
    }

    /// The outcome of the last task, unless the log names one or gives the task to another attempt.
    pub fn unread(&self, fold: &PoolState) -> Option<Event> {
        let last = self.last();
        let open = |last: &&UnsettledTask| {
            fold.tasks.winner(&last.task).is_none() && fold.tasks.is_owner(&last.task, last.attempt)
        };
        last.as_ref().filter(open).map(|last| last.outcome.clone())
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Option<UnsettledTask>> {
        // The value is valid at every instant, so a panic elsewhere does not spoil it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn settle(process: Process, outcome_writer: Arc<OutcomeWriter>, concluded: Concluded) {
    let Concluded {
        programmer: _,
        claim,
        result,
        branch,
    } = concluded;
    if !conclude::decided(&process, &outcome_writer, &claim, &result).await {
        return conclude::let_go(&process, &claim, branch).await;
    }
    point(Point::FinishedRead);
    tracing::info!(
        status = result.status.as_str(),
        error = result.error.as_ref().map(|error| error.kind.as_str()),
        run_ms = result.timings.run_ms,
        "finished"
    );
    let Some(branch) = branch else { return };
    point(Point::SettingBranch);
    if let Err(error) = branch.set(&claim.task).await {
        let problem = error.message;
        tracing::warn!(error = %problem, "failed to set the branch; the result holds the patch");
    }
    point(Point::BranchSet);
}

#[cfg(test)]
mod tests {
    use super::*;
    use pool_core::event::{TaskCancelled, TaskStarted};
    use pool_core::id::Token;
    use pool_core::result::{ErrorKind, Status, TaskFailure};
    use pool_core::time::Timestamp;

    fn fold(events: Vec<Event>) -> PoolState {
        PoolState::of_events(Timestamp(1000), events)
    }

    #[tokio::test]
    async fn the_outcome_of_the_last_task_is_unread_until_the_log_has_one_or_the_task_is_anothers()
    {
        let (task, mine) = (TaskId::new("t").expect("an id"), AttemptId::from_u128(1));
        let started = |attempt, count| {
            Event::from(TaskStarted {
                task: task.clone(),
                attempt,
                programmer: ProgrammerId::new("001").expect("an id"),
                token: Token {
                    generation: 0,
                    count,
                },
                route: "any".to_owned(),
                body_hash: "b".to_owned(),
            })
        };
        let failure = TaskFailure::new(ErrorKind::Cancelled, "any key will do");
        let result = ResultMessage::without_attempt(Some(task.clone()), Status::Failed, failure);
        let outcome = Event::finished(&task, Some(mine), &result);
        let (settled, last) = (tokio::spawn(async {}), Completer::default());
        assert_eq!(
            last.unread(&fold(vec![started(mine, 0)])),
            None,
            "nothing was being settled"
        );
        *last.last() = Some(UnsettledTask {
            task: task.clone(),
            attempt: mine,
            outcome: outcome.clone(),
            settled,
        });
        assert_eq!(
            last.unread(&fold(vec![started(mine, 0)])),
            Some(outcome.clone()),
            "the log has no outcome"
        );
        assert_eq!(
            last.unread(&fold(vec![started(mine, 0), outcome])),
            None,
            "the log has the outcome"
        );
        let other = started(AttemptId::from_u128(2), 1);
        assert_eq!(
            last.unread(&fold(vec![started(mine, 0), other])),
            None,
            "another attempt owns the task"
        );
        assert_eq!(
            last.unread(&fold(vec![
                started(mine, 0),
                Event::from(TaskCancelled { task })
            ])),
            None,
            "it was cancelled"
        );
    }
}
