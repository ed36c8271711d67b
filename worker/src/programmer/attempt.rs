//! Step 4 of a task's walk: worktree, agent, judgement, acceptance checks, commit.
//!
//! Nothing here knows of the broker or the log: a task goes in, a result comes out, and nothing stays behind but a
//! commit that the branch is set to later.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use pool_shared::config::{self, AgentKind, Pool, SandboxLevel, Secret};
use pool_shared::id::{AttemptId, TaskId};
use pool_shared::result::{CheckReport, ErrorKind, ResultMessage, Status, TaskFailure, Timings, Usage};
use pool_shared::task::{Limits, Task};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::claim::Claimed;
use crate::acceptance::{Place, run_checks};
use crate::agent::{self, Agent, AgentRun, Edit, Job, judge};
use crate::llm::record::Record;
use crate::llm::{CallPlan, Gateway, Session, Upstreams};
use crate::sandbox::{Sandbox, Watch};
use crate::workspace::{Changes, Credit, RepositoryHandle, Workspaces, Worktree};

/// What is kept of an agent's output in the result, bytes.
const LOG_TAIL_BYTES: usize = 4096;
/// An LLM call that has just ended excuses silence for so long.
const JUST_CALLED: Duration = Duration::from_secs(2);

/// What an attempt brought about.
pub struct Outcome {
    /// Its `attempt` and `queued_ms` are filled in by whoever delivers it.
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
    /// When git does not set it; the result holds the patch all the same.
    pub async fn set(&self, task: &TaskId) -> Result<(), TaskFailure> {
        self.repository.set_branch(task, &self.commit).await?;
        self.repository.forget(self.attempt).await;
        Ok(())
    }

    /// Lets go of the commit: another attempt's is the outcome.
    pub async fn forget(&self) {
        self.repository.forget(self.attempt).await;
    }
}

/// What the programmers of a process share: keys, worktrees, the sandbox.
pub struct Workshop {
    pool: Arc<Pool>,
    upstreams: Arc<Upstreams>,
    workspaces: Workspaces,
    sandbox: Sandbox,
    agent: Box<dyn Agent>,
    env: Vec<(OsString, OsString)>,
    path: OsString,
}

impl Workshop {
    /// # Errors
    /// When the sandbox, the workspace directory or the providers cannot be used; the text names it.
    pub fn open(pool: Arc<Pool>) -> anyhow::Result<Self> {
        match pool.sandbox.level {
            SandboxLevel::Off => {}
            SandboxLevel::Files | SandboxLevel::Strict => bail!(
                "{}: sandbox.level: this version has no kernel sandbox yet; write \"off\" and run the worker as a user \
                 of its own, or in a container",
                pool.file.display()
            ),
        }
        let upstreams = Upstreams::new(&pool, |name| std::env::var(name).ok())?;
        let workspaces = Workspaces::open(&pool.workspace)
            .with_context(|| format!("failed to use the workspace directory {}", pool.workspace.dir.display()))?;
        Ok(Self {
            upstreams,
            workspaces,
            sandbox: Sandbox::new(&pool.sandbox),
            agent: agent::from_config(&pool.agent),
            env: agent::allowed_env(&pool.agent.env_allow),
            path: std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()),
            pool,
        })
    }

    /// What one programmer works with: a gateway of its own.
    ///
    /// # Errors
    /// When no loopback port is free.
    pub async fn attempts(self: &Arc<Self>, programmer: config::Programmer) -> anyhow::Result<Attempts> {
        let gateway = Gateway::start(Arc::clone(&self.upstreams)).await.context("failed to start the LLM gateway")?;
        Ok(Attempts { workshop: Arc::clone(self), programmer, gateway })
    }
}

/// Runs attempts of one programmer, one at a time.
pub struct Attempts {
    workshop: Arc<Workshop>,
    programmer: config::Programmer,
    gateway: Gateway,
}

/// What has come together so far; what is missing stays empty when the attempt fails early.
#[derive(Default)]
struct Findings {
    usage: Usage,
    timings: Timings,
    llm: Option<pool_shared::id::LlmName>,
    log_tail: String,
    changes: Changes,
    checks: Vec<CheckReport>,
    commit: Option<(String, RepositoryHandle)>,
}

impl Attempts {
    /// Works on a task until there is an outcome. None when `stop` was cancelled: nothing of it is left then.
    pub async fn run(&self, claimed: &Claimed, stop: &CancellationToken) -> Option<Outcome> {
        let began = Instant::now();
        let mut findings = Findings::default();
        let task = &claimed.envelope.task;
        let ended = match self.workshop.pool.agent.kind {
            // For measuring the pool itself: not even a worktree.
            AgentKind::Noop => Ok(()),
            AgentKind::Aider { .. } | AgentKind::Command { .. } => {
                self.in_a_worktree(task, claimed.attempt, stop, &mut findings).await
            }
        };
        if stop.is_cancelled() {
            return None;
        }
        findings.timings.run_ms = millis(began.elapsed());
        Some(self.outcome(claimed, findings, ended.err()))
    }

    async fn in_a_worktree(
        &self,
        task: &Task,
        attempt: AttemptId,
        stop: &CancellationToken,
        findings: &mut Findings,
    ) -> Result<(), TaskFailure> {
        let limit = self.time_limit(&task.message.limits);
        let until = Instant::now() + limit;
        let worktree = tokio::select! {
            worktree = self.workshop.workspaces.prepare(task, attempt) => worktree?,
            () = stop.cancelled() => return Err(cancelled()),
            () = tokio::time::sleep_until(until) => return Err(out_of_time(limit)),
        };
        // Cancelled, not dropped: whoever is cancelled sees to it that its processes are gone before it returns.
        let cancel = stop.child_token();
        let ended = {
            let working = self.work(task, &worktree, &cancel, findings);
            tokio::pin!(working);
            tokio::select! {
                ended = &mut working => ended,
                () = tokio::time::sleep_until(until) => {
                    cancel.cancel();
                    // What it says now is a consequence of the time-out.
                    let _ = working.await;
                    Err(out_of_time(limit))
                }
            }
        };
        if let Err(error) = worktree.remove().await {
            tracing::warn!(task_id = %task.id, error = %error.message, "a worktree stays behind; the next worker removes it");
        }
        ended
    }

    /// Agent, judgement, checks, commit.
    async fn work(
        &self,
        task: &Task,
        worktree: &Worktree,
        cancel: &CancellationToken,
        findings: &mut Findings,
    ) -> Result<(), TaskFailure> {
        let (run, record) = self.run_agent(task, worktree, cancel).await?;
        findings.usage = record.usage();
        findings.llm = record.last().map(|call| call.llm.clone());
        findings.timings.llm_ms = millis(record.llm_time());
        findings.log_tail = run.output.tail(LOG_TAIL_BYTES);
        let changes = worktree.collect().await?;
        let edit = judge(&self.workshop.pool.agent.kind, &run, &record, !changes.is_empty())?;
        // An edit that was taken in half is not to be kept, unless the checks say that it will do.
        if edit == Edit::Partial && task.message.acceptance.is_empty() {
            return Err(half_applied("and the task has no acceptance check that could tell whether it will do"));
        }
        findings.changes = changes;
        self.check(task, worktree, cancel, findings).await.map_err(|failure| match edit {
            Edit::Partial => half_applied(&failure.message),
            Edit::Whole | Edit::Nothing => failure,
        })?;
        self.commit(task, worktree, findings).await
    }

    async fn run_agent(
        &self,
        task: &Task,
        worktree: &Worktree,
        cancel: &CancellationToken,
    ) -> Result<(AgentRun, Record), TaskFailure> {
        let session = Arc::new(self.gateway.open(self.call_plan(&task.message.limits)));
        let job = self.job(task, worktree, &session);
        let heard = Arc::clone(&session);
        let busy = move || heard.open_calls() > 0 || heard.last_activity().elapsed() < JUST_CALLED;
        let watch = Watch { busy: Arc::new(busy), cancel: cancel.clone() };
        let run = self.workshop.agent.run(&job, &self.workshop.sandbox, &watch).await;
        drop(watch);
        let record = match Arc::into_inner(session) {
            Some(session) => session.close().await,
            None => Record::default(),
        };
        Ok((run?, record))
    }

    fn job(&self, task: &Task, worktree: &Worktree, session: &Session) -> Job {
        Job {
            worktree: worktree.path(),
            scratch: worktree.scratch(),
            prompt: task.message.instruction.clone(),
            files: task.message.files.clone(),
            base_url: session.base_url(),
            token: Secret::new(session.token()),
            model: self.programmer.primary().clone(),
            context_limit: self.programmer.limits.context_limit,
            timeout: self.programmer.limits.agent_timeout,
            no_output_timeout: self.workshop.pool.agent.no_output_timeout,
            env: self.workshop.env.clone(),
        }
    }

    fn call_plan(&self, limits: &Limits) -> CallPlan {
        let cap = self.programmer.limits.max_cost;
        CallPlan {
            llms: self.programmer.llms.clone(),
            call_timeout: self.workshop.pool.failover.call_timeout,
            max_tokens: self.programmer.limits.max_tokens,
            max_cost: limits.max_cost_usd.map_or(cap, |own| own.min(cap)),
            context_limit: self.programmer.limits.context_limit,
        }
    }

    async fn check(
        &self,
        task: &Task,
        worktree: &Worktree,
        cancel: &CancellationToken,
        findings: &mut Findings,
    ) -> Result<(), TaskFailure> {
        if task.message.acceptance.is_empty() {
            return Ok(());
        }
        worktree.clean().await?;
        let (tree, scratch) = (worktree.path(), worktree.scratch());
        let place = Place {
            worktree: &tree,
            scratch: &scratch,
            path: self.workshop.path.clone(),
            sandbox: &self.workshop.sandbox,
        };
        let watch = Watch::new(cancel.clone());
        let checked = run_checks(&task.message.acceptance, &self.workshop.pool.acceptance, &place, &watch).await;
        findings.timings.acceptance_ms = millis(checked.duration);
        let failed = checked.failed().map(|report| report.name.clone());
        let passed = checked.passed();
        findings.checks = checked.reports;
        match failed {
            Some(name) => {
                Err(TaskFailure::new(ErrorKind::AcceptanceFailed, format!("the acceptance check {name:?} failed")))
            }
            None if passed => Ok(()),
            None => Err(cancelled()),
        }
    }

    async fn commit(&self, task: &Task, worktree: &Worktree, findings: &mut Findings) -> Result<(), TaskFailure> {
        if findings.changes.is_empty() || !self.programmer.limits.auto_commit {
            return Ok(());
        }
        let llm = findings.llm.as_ref().unwrap_or(self.programmer.primary());
        let credit = Credit { task, programmer: &self.programmer.id, llm };
        findings.commit = Some((worktree.commit(&credit).await?, worktree.repository()));
        Ok(())
    }

    fn time_limit(&self, limits: &Limits) -> Duration {
        let cap = self.programmer.limits.timeout;
        limits.timeout().map_or(cap, |own| own.min(cap))
    }

    fn outcome(&self, claimed: &Claimed, findings: Findings, error: Option<TaskFailure>) -> Outcome {
        let id = &claimed.envelope.task.id;
        let commit = findings.commit.filter(|_| error.is_none());
        let used_backup = findings.llm.as_ref().is_some_and(|llm| llm != self.programmer.primary());
        let result = ResultMessage {
            task_id: Some(id.clone()),
            status: if error.is_none() { Status::Succeeded } else { Status::Failed },
            programmer: Some(self.programmer.id.clone()),
            llm: findings.llm,
            used_backup,
            attempt: Some(claimed.attempt),
            branch: commit.as_ref().map(|_| format!("pool/{id}")),
            commit: commit.as_ref().map(|(commit, _)| commit.clone()),
            patch: findings.changes.patch,
            files_changed: findings.changes.files,
            acceptance: findings.checks,
            usage: findings.usage,
            timings: findings.timings,
            error,
            log_tail: findings.log_tail,
            task: None,
        };
        let attempt = claimed.attempt;
        Outcome { result, branch: commit.map(|(commit, repository)| Branch { repository, commit, attempt }) }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn cancelled() -> TaskFailure {
    TaskFailure::new(ErrorKind::Cancelled, "the attempt was stopped")
}

fn out_of_time(limit: Duration) -> TaskFailure {
    TaskFailure::new(ErrorKind::TaskTimeout, format!("the task was ended after {} s (`timeout_s`)", limit.as_secs()))
}

fn half_applied(why: &str) -> TaskFailure {
    TaskFailure::new(ErrorKind::EditNotApplied, format!("part of the edit did not fit the files, {why}"))
}
