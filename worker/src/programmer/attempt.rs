//! Step 9 of the life of a task (ARCHITECTURE.md): a worktree, the runs in it ([`work`](super::work)),
//! and their outcome.
//!
//! This module knows neither the broker nor the log. A task goes in, a result comes out. The only
//! thing that stays behind is a commit; the branch is set to it later.

use std::sync::Arc;
use std::time::Duration;

use pool_broker::fault::{Point, point};
use pool_core::event::ReleaseCause;
use pool_core::id::{AttemptId, TaskId};
use pool_core::pool::AgentKind;
use pool_core::result::{ErrorKind, ResultMessage, Status, TaskFailure, Usage};
use pool_core::source::Repository;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::claim::Claimed;
use super::policy::Policy;
use super::work::{Findings, Finish, RemainingLimits, Work, cancelled, millis};
use super::workshop::Attempts;
use crate::workspace::{RepositoryHandle, Worktree};
use llm_gateway::permits::Permits;

/// How long the outcome waits for the removal of the worktree. After that the removal goes on in
/// the background.
const REMOVAL: Duration = Duration::from_secs(10);

/// How an attempt ended.
pub enum AttemptEnd {
    Outcome(Box<AttemptOutcome>),
    /// No LLM was left for the task, or there was no sandbox. It goes back to its queue.
    HandBack(Box<HandBack>),
    /// The attempt was cancelled. Its usage still counts.
    Stopped {
        usage: Usage,
    },
}

/// An attempt for which no LLM was left, or no sandbox.
pub struct HandBack {
    /// For people: which LLM was out, or what the sandbox lacked, and why.
    pub why: String,
    /// The error kind of the last LLM's failure, or [`ErrorKind::Sandbox`].
    pub kind: ErrorKind,
    /// The usage and findings of the attempt, as a failed outcome. It is used when the task has
    /// been handed back too often.
    pub outcome: AttemptOutcome,
}

impl HandBack {
    pub fn cause(&self) -> ReleaseCause {
        if self.kind == ErrorKind::Sandbox {
            ReleaseCause::NoSandbox
        } else {
            ReleaseCause::NoLlm
        }
    }
}

/// The outcome of an attempt.
pub struct AttemptOutcome {
    /// The caller fills in `attempt` and `queued_ms`.
    pub result: ResultMessage,
    pub branch: Option<Branch>,
}

/// A branch that is set once the outcome is decided.
pub struct Branch {
    repository: RepositoryHandle,
    commit: String,
    attempt: AttemptId,
}

impl Branch {
    /// Sets `pool/<task id>` to the commit of the attempt.
    ///
    /// # Errors
    /// When git fails to set the branch. The result holds the patch in any case.
    pub async fn set(&self, task: &TaskId) -> Result<(), TaskFailure> {
        self.repository.set_branch(task, &self.commit).await?;
        self.repository.forget(self.attempt).await;
        Ok(())
    }

    /// Drops the commit, because another attempt's outcome counts.
    pub async fn forget(&self) {
        self.repository.forget(self.attempt).await;
    }
}

impl Attempts {
    /// Works on a task until the attempt ends in any way. Nothing stays behind but a commit, if
    /// there is one.
    pub async fn run(
        &self,
        claimed: &Claimed,
        permits: Arc<dyn Permits>,
        stop: &CancellationToken,
    ) -> AttemptEnd {
        let began = Instant::now();
        let mut findings = Findings::default();
        let finish = match self.workshop.pool.agent.kind {
            // For measuring the pool itself: no agent runs and no worktree is made.
            AgentKind::Noop => Finish::Done,
            AgentKind::Aider { .. } | AgentKind::Command { .. } => self
                .in_a_worktree(claimed, permits, stop, &mut findings)
                .await
                .unwrap_or_else(Finish::Failed),
        };
        if stop.is_cancelled() {
            return AttemptEnd::Stopped {
                usage: findings.usage(),
            };
        }
        findings.timings.run_ms = millis(began.elapsed());
        match finish {
            Finish::Done => AttemptEnd::Outcome(Box::new(self.outcome(claimed, findings, None))),
            Finish::Failed(failure) => {
                AttemptEnd::Outcome(Box::new(self.outcome(claimed, findings, Some(failure))))
            }
            Finish::HandBack(failure) => AttemptEnd::HandBack(Box::new(HandBack {
                why: failure.message.clone(),
                kind: failure.kind,
                outcome: self.outcome(claimed, findings, Some(failure)),
            })),
        }
    }

    async fn in_a_worktree(
        &self,
        claimed: &Claimed,
        permits: Arc<dyn Permits>,
        stop: &CancellationToken,
        findings: &mut Findings,
    ) -> Result<Finish, TaskFailure> {
        let task = &claimed.delivered.task;
        let limits = &self.programmer.limits;
        let remaining = RemainingLimits {
            cost_usd: claimed.max_cost(limits.max_cost),
            tokens: claimed.max_tokens(limits.max_tokens),
        };
        let own_limit = task.message.limits.timeout();
        let limit = own_limit.map_or(limits.timeout, |own| own.min(limits.timeout));
        let until = Instant::now() + limit;
        let prepared = async {
            let workspaces = &self.workshop.workspaces;
            let worktree = workspaces.prepare(task, claimed.attempt).await?;
            let kept = worktree.keep_base().await;
            if limits.auto_commit {
                // Otherwise the submitter would pay for a change that cannot be kept.
                kept?;
            }
            Ok(worktree)
        };
        let worktree = tokio::select! {
            worktree = prepared => worktree?,
            () = stop.cancelled() => return Err(cancelled()),
            () = tokio::time::sleep_until(until) => return Err(out_of_time(limit)),
        };
        point(Point::WorktreeMade);
        // Cancelled, not dropped: a cancelled run ends its processes before it returns.
        let cancel = stop.child_token();
        let output = self
            .reporter
            .as_ref()
            .map(|reporter| reporter.stream(&task.id, claimed.attempt));
        let finish = {
            let is_its_repository = |name: &Repository| {
                self.workshop
                    .workspaces
                    .is_same(name, &task.message.repository)
            };
            let patch = &self.workshop.pool.patch;
            let work = Work {
                policy: Policy::new(patch, is_its_repository, &task.message.protect),
                attempts: self,
                task,
                remaining,
                worktree: &worktree,
                permits,
                cancel: &cancel,
                output: output.as_ref(),
            };
            let working = work.all_runs(findings);
            tokio::pin!(working);
            tokio::select! {
                finish = &mut working => finish,
                () = tokio::time::sleep_until(until) => {
                    cancel.cancel();
                    // Its result is a consequence of the time-out and does not count.
                    let _ = working.await;
                    Err(out_of_time(limit))
                }
            }
        };
        point(Point::AgentDone);
        let failed = !matches!(finish, Ok(Finish::Done));
        let has_time = !stop.is_cancelled() && Instant::now() < until;
        if failed && has_time && has_lfs_pointers(&worktree).await {
            findings.denials.hints.push(LFS_HINT.to_owned());
        }
        let removal = async {
            if ended_well(&finish) {
                worktree.give_back().await
            } else {
                worktree.remove().await
            }
        };
        match tokio::time::timeout(REMOVAL, removal).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = %error.message, "a worktree could not be removed; the next worker process removes it");
            }
            Err(_) => {
                tracing::warn!("removing a worktree takes long; the outcome does not wait for it")
            }
        }
        finish
    }

    fn outcome(
        &self,
        claimed: &Claimed,
        findings: Findings,
        error: Option<TaskFailure>,
    ) -> AttemptOutcome {
        let id = &claimed.delivered.task.id;
        let (usage, prompt_cut) = (findings.usage(), findings.prompt_cut());
        let (llm, used_backup) = (
            findings.llm().cloned(),
            findings.used_backup(self.programmer.primary()),
        );
        let commit = findings.commit.filter(|_| error.is_none());
        let result = ResultMessage {
            task_id: Some(id.clone()),
            status: if error.is_none() {
                Status::Succeeded
            } else {
                Status::Failed
            },
            programmer: Some(self.programmer.id.clone()),
            llm,
            used_backup,
            runs: findings.runs,
            attempt: Some(claimed.attempt),
            branch: commit.as_ref().map(|kept| kept.branch.clone()),
            commit: commit.as_ref().map(|kept| kept.id.clone()),
            commit_at: commit.as_ref().map(|kept| kept.repository.place()),
            patch_truncated: !findings.changes.is_empty() && findings.changes.patch.is_none(),
            patch: findings.changes.patch,
            files_changed_total: findings.changes.files.len() as u64,
            files_changed_truncated: false,
            files_changed: findings.changes.files,
            acceptance: findings.checks,
            usage,
            timings: findings.timings,
            prompt_cut,
            sandbox: findings.denials.report(
                error
                    .as_ref()
                    .is_some_and(|error| may_be_refused(error.kind)),
            ),
            error,
            log_tail: findings.log_tail,
            texts_truncated: false,
            task: None,
        };
        let attempt = claimed.attempt;
        AttemptOutcome {
            result,
            branch: commit.map(|kept| Branch {
                repository: kept.repository,
                commit: kept.id,
                attempt,
            }),
        }
    }
}

const LFS_HINT: &str = "the repository keeps files in git LFS, and agents and checks see only the pointers to them: \
                        the worker runs no filters";

/// The outcome does not wait long for a hint.
async fn has_lfs_pointers(worktree: &Worktree) -> bool {
    const LIMIT: Duration = Duration::from_secs(2);
    let look = tokio::time::timeout(LIMIT, worktree.has_lfs_pointers());
    look.await.unwrap_or(false)
}

/// Whether the attempt came to its own end, so that later attempts may use its worktree again. After
/// a time-out, a limit or a problem of the worker nobody knows what is in it.
fn ended_well(finish: &Result<Finish, TaskFailure>) -> bool {
    let failure = match finish {
        Ok(Finish::Done) => return true,
        Ok(Finish::Failed(failure)) => failure,
        Ok(Finish::HandBack(_)) | Err(_) => return false,
    };
    matches!(
        failure.kind,
        ErrorKind::ProtectedChanged
            | ErrorKind::AgentFailed
            | ErrorKind::EditNotApplied
            | ErrorKind::NoChange
            | ErrorKind::CheckCannotStart
            | ErrorKind::CheckProvesNothing
            | ErrorKind::AcceptanceFailed
            | ErrorKind::PatchTooLarge
    )
}

/// Whether the sandbox may be the cause of such a failure, because a program of the task did not do its work.
fn may_be_refused(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::AgentConfig
            | ErrorKind::AgentTimeout
            | ErrorKind::AgentSilent
            | ErrorKind::AgentCrashed
            | ErrorKind::AgentFailed
            | ErrorKind::NoChange
            | ErrorKind::AcceptanceFailed
            | ErrorKind::TaskTimeout
    )
}

fn out_of_time(limit: Duration) -> TaskFailure {
    TaskFailure::new(
        ErrorKind::TaskTimeout,
        format!(
            "the task was stopped after {} s (`timeout_s`)",
            limit.as_secs()
        ),
    )
}
