//! The work of an attempt in its worktree: as many runs of the agent as [`runs`](super::runs) says,
//! each judged and checked, and finally the commit. Money and tokens are counted over all runs.

use std::sync::Arc;
use std::time::Duration;

use pool_core::id::LlmName;
use pool_core::money::MicroUsd;
use pool_core::pool::Secret;
use pool_core::result::{CheckReport, ErrorKind, MAX_PATCH_BYTES, TaskFailure, Timings, Usage};
use pool_core::task::{AcceptanceCheck, Task};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::policy::Policy;
use super::progress::OutputStream;
use super::runs::{AttemptBounds, NextRun, Run, RunEnd, next_run, repair_prompt};
use super::telemetry::RunEnded;
use super::workshop::Attempts;
use crate::acceptance::{CheckEnvironment, CheckLimit, Checked, run_checks};
use crate::agent::{AgentRun, Edit, Job, judge, no_llm_left, silent};
use crate::sandbox::telemetry::ConnectionsRefused;
use crate::sandbox::{CommandAccess, Denials, Exit, GatewayServer, LastWords, Watch};
use crate::workspace::{Credit, KEPT_DAYS, RepositoryHandle, Worktree, WorktreeChanges};
use llm_gateway::class::CallClass;
use llm_gateway::permits::Permits;
use llm_gateway::record::{CallRecord, RunRecord, llm_time, usage};
use llm_gateway::{CallPlan, LlmSession, candidates};

/// How much of the end of an agent's output the result holds, in bytes.
const LOG_TAIL_BYTES: usize = 4096;
/// For this long after an LLM call has ended, silence is excused.
const JUST_CALLED: Duration = Duration::from_secs(2);
/// How long an agent may take to exit after its last event.
const EXIT_GRACE: Duration = Duration::from_secs(10);

/// The findings so far. An attempt that ends early leaves the rest empty.
#[derive(Default)]
pub(super) struct Findings {
    /// The calls of all runs.
    pub(super) calls: Vec<CallRecord>,
    pub(super) runs: u32,
    pub(super) timings: Timings,
    /// The end of the last run's output.
    pub(super) log_tail: String,
    /// The changes in the worktree. `checks` are the reports on them.
    pub(super) changes: WorktreeChanges,
    pub(super) checks: Vec<CheckReport>,
    /// The refusals of the sandbox in all runs, with hints about the last one.
    pub(super) denials: Denials,
    pub(super) commit: Option<KeptCommit>,
}

/// A commit in the repository, and the branch that is to be set to it.
pub(super) struct KeptCommit {
    pub(super) id: String,
    pub(super) branch: String,
    pub(super) repository: RepositoryHandle,
}

impl Findings {
    fn answers(&self) -> impl DoubleEndedIterator<Item = &CallRecord> {
        self.calls.iter().filter(|call| call.class == CallClass::Ok)
    }

    /// The LLM that gave the last answer or, without an answer, the one that was asked last.
    pub(super) fn llm(&self) -> Option<&LlmName> {
        self.answers()
            .next_back()
            .or(self.calls.last())
            .map(|call| &call.llm)
    }

    pub(super) fn used_backup(&self, primary: &LlmName) -> bool {
        self.answers().any(|call| call.llm != *primary)
    }

    pub(super) fn usage(&self) -> Usage {
        usage(&self.calls)
    }

    /// Whether a provider has cut a prompt of any run.
    pub(super) fn prompt_cut(&self) -> bool {
        self.calls.iter().any(|call| call.prompt_cut)
    }
}

/// How the work ended, unless it failed on the way.
pub(super) enum Finish {
    Done,
    HandBack(TaskFailure),
    Failed(TaskFailure),
}

/// The rest of a task's limits.
#[derive(Debug, Clone, Copy)]
pub(super) struct RemainingLimits {
    pub(super) tokens: u64,
    pub(super) cost_usd: MicroUsd,
}

/// One attempt in its worktree.
pub(super) struct Work<'a> {
    pub(super) attempts: &'a Attempts,
    pub(super) task: &'a Task,
    /// The rest that earlier attempts have left.
    pub(super) remaining: RemainingLimits,
    pub(super) worktree: &'a Worktree,
    pub(super) permits: Arc<dyn Permits>,
    pub(super) cancel: &'a CancellationToken,
    /// The paths that the change may contain.
    pub(super) policy: Policy,
    /// The receiver of the live output of the agent and the checks.
    pub(super) output: Option<&'a OutputStream>,
}

/// The job of one run.
struct Assignment {
    first_llm: usize,
    prompt: String,
    /// The changes that the worktree already contains and the run is to repair.
    kept: WorktreeChanges,
}

impl Work<'_> {
    /// # Errors
    /// The failure, if something other than a run failed.
    pub(super) async fn all_runs(&self, findings: &mut Findings) -> Result<Finish, TaskFailure> {
        match self.preflight(findings).await {
            Err(failure) if failure.kind == ErrorKind::Sandbox => {
                return Ok(Finish::HandBack(failure));
            }
            looked => looked?,
        }
        let instruction = &self.task.message.instruction;
        let mut history = Vec::new();
        let mut assignment = Assignment {
            first_llm: 0,
            prompt: instruction.clone(),
            kept: WorktreeChanges::default(),
        };
        loop {
            let run = self.one_run(&assignment, findings).await;
            let why = match &run.end {
                RunEnd::Refused { .. } => "the change contains files that may not be changed",
                RunEnd::CheckFailed { .. }
                | RunEnd::Passed
                | RunEnd::NoLlmLeft(_)
                | RunEnd::Failed(_) => "an acceptance check failed",
            };
            history.push(run);
            match next_run(&history, self.bounds()) {
                NextRun::Done => {
                    self.commit(findings).await?;
                    return Ok(Finish::Done);
                }
                NextRun::Repair { prompt } => {
                    self.log_next(
                        &format!("{why}; running the agent again to repair it"),
                        assignment.first_llm,
                    );
                    self.step(self.worktree.restore()).await?;
                    assignment = Assignment {
                        prompt,
                        kept: findings.changes.clone(),
                        ..assignment
                    };
                }
                NextRun::Again { first_llm } => {
                    self.log_next("the answer was useless; starting over", first_llm);
                    self.step(self.worktree.reset()).await?;
                    (findings.changes, findings.checks) = (WorktreeChanges::default(), Vec::new());
                    assignment = Assignment {
                        first_llm,
                        prompt: instruction.clone(),
                        kept: WorktreeChanges::default(),
                    };
                }
                NextRun::HandBack(failure) => return Ok(Finish::HandBack(failure)),
                NextRun::Fail(failure) => return Ok(Finish::Failed(failure)),
            }
        }
    }

    fn log_next(&self, what: &str, first_llm: usize) {
        let programmer = &self.attempts.programmer;
        let llm = programmer.llms.get(first_llm).map(LlmName::as_str);
        tracing::info!(llm, "{what}");
    }

    fn bounds(&self) -> AttemptBounds {
        let runs = usize::try_from(self.attempts.programmer.limits.max_fix_iterations)
            .unwrap_or(usize::MAX);
        AttemptBounds {
            llms: self.llms().len(),
            runs: runs.max(1),
        }
    }

    fn llms(&self) -> &[LlmName] {
        candidates(
            &self.attempts.programmer.llms,
            &self.attempts.workshop.pool.failover,
        )
    }

    async fn one_run(&self, assignment: &Assignment, findings: &mut Findings) -> Run {
        let began = Instant::now();
        findings.runs += 1;
        let (ran, record) = self.run_agent(assignment, findings).await;
        // This comes first: the money is spent, however the run is judged.
        findings.calls.extend(record.calls.iter().cloned());
        findings.timings.llm_ms = millis(llm_time(&findings.calls));
        findings.denials.hints.clear();
        if let Ok(run) = &ran {
            self.note(&run.denials, findings);
        }
        let end = match ran {
            Ok(run) => self.end_of(&run, &record, &assignment.kept, findings).await,
            Err(failure) => Err(failure),
        };
        let end = end.unwrap_or_else(RunEnd::Failed);
        RunEnded {
            programmer: &self.attempts.programmer.id,
            end: &end,
            took: began.elapsed(),
        }
        .emit();
        let position = |llm: &LlmName| self.llms().iter().position(|known| known == llm);
        Run {
            first_llm: assignment.first_llm,
            answered_by: record.last_answer().and_then(|call| position(&call.llm)),
            cut: record
                .cut_answers()
                .filter_map(|call| position(&call.llm))
                .collect(),
            end,
        }
    }

    async fn run_agent(
        &self,
        assignment: &Assignment,
        findings: &Findings,
    ) -> (Result<AgentRun, TaskFailure>, RunRecord) {
        let plan = self.call_plan(assignment, findings);
        let model = plan
            .llms
            .first()
            .unwrap_or(self.attempts.programmer.primary())
            .clone();
        let gateway = &self.attempts.gateway;
        let session = if self.attempts.workshop.sandbox.gives_own_network() {
            gateway.open_apart(plan)
        } else {
            gateway.open(plan)
        };
        let session = Arc::new(session);
        let job = self.job(assignment, model, &session);
        let heard = Arc::clone(&session);
        let busy = move || heard.open_calls() > 0 || heard.last_activity().elapsed() < JUST_CALLED;
        let workshop = &self.attempts.workshop;
        let caller = Arc::clone(&session);
        let last_words = workshop
            .pool
            .agent
            .done_when
            .clone()
            .map(|event| LastWords {
                event,
                calls: Arc::new(move || caller.calls_begun()),
                grace: EXIT_GRACE,
            });
        let watch = Watch {
            busy: Arc::new(busy),
            last_words,
            ..self.watch(None)
        };
        let run = workshop.agent.run(&job, &workshop.sandbox, &watch).await;
        drop(watch);
        if !run.as_ref().is_ok_and(|run| !run.may_live) {
            self.worktree.doubt();
        }
        let record = match Arc::into_inner(session) {
            Some(session) => session.close().await,
            None => RunRecord::default(),
        };
        (run, record)
    }

    fn job(&self, assignment: &Assignment, model: LlmName, session: &LlmSession) -> Job {
        let (workshop, limits) = (&self.attempts.workshop, &self.attempts.programmer.limits);
        let access = CommandAccess {
            pinned: self.worktree.objects(),
            write: vec![self.worktree.scratch()],
            gateway: Some(GatewayServer {
                port: session.port(),
                serve: Arc::new(session.server()),
            }),
            ..CommandAccess::default()
        };
        Job {
            worktree: self.worktree.path(),
            scratch: self.worktree.scratch(),
            hidden: self.worktree.hidden(),
            prompt: assignment.prompt.clone(),
            files: self.task.message.files.clone(),
            base_url: session.base_url(),
            token: Secret::new(session.token()),
            model,
            context_limit: limits.context_limit,
            timeout: limits.agent_timeout,
            no_output_timeout: workshop.pool.agent.no_output_timeout,
            env: workshop.agent_variables(),
            access,
        }
    }

    /// The plan for a run: the limits without the part that earlier runs have used.
    fn call_plan(&self, assignment: &Assignment, findings: &Findings) -> CallPlan {
        let limits = &self.attempts.programmer.limits;
        let mut llms = self.llms().to_vec();
        let first = assignment.first_llm.min(llms.len());
        llms.rotate_left(first);
        let used = findings.usage();
        CallPlan {
            llms,
            failover: self.attempts.workshop.pool.failover.clone(),
            max_tokens: self.remaining.tokens.saturating_sub(used.tokens()),
            max_cost: self.remaining.cost_usd.saturating_sub(used.cost_usd),
            used,
            context_limit: limits.context_limit,
            permits: Arc::clone(&self.permits),
        }
    }

    /// Judges a run and runs the checks.
    async fn end_of(
        &self,
        run: &AgentRun,
        record: &RunRecord,
        kept: &WorktreeChanges,
        findings: &mut Findings,
    ) -> Result<RunEnd, TaskFailure> {
        findings.log_tail = run.output.tail(LOG_TAIL_BYTES);
        let verdict = |changed| {
            judge(
                &self.attempts.workshop.pool.agent.kind,
                run,
                record,
                changed,
            )
        };
        // A run that failed regardless of its changes is judged first. Its leftovers are not the
        // cause, and may slow git down.
        match verdict(true) {
            Ok(_) => {}
            Err(failure) if no_llm_left(run, record).is_some() => {
                return Ok(RunEnd::NoLlmLeft(failure));
            }
            Err(failure) => return Err(failure),
        }
        let max_bytes = self.attempts.workshop.pool.patch.max_bytes;
        let changes = self.step(self.worktree.collect_at_most(max_bytes)).await?;
        // Patches that are too large to keep cannot be compared.
        let as_before = changes == *kept && changes.patch.is_some();
        let edit = verdict(!changes.is_empty() && !as_before)?;
        if matches!(run.exit, Exit::Silent | Exit::Done) {
            tracing::info!(exit = %run.exit, "the agent did not exit by itself; judging its change");
        }
        // An edit that was only partly applied is kept only if acceptance checks can tell whether
        // it is enough.
        match edit {
            Edit::Partial if self.task.message.acceptance.is_empty() => {
                return Err(half_applied(
                    "and the task has no acceptance check that could tell whether the rest is enough",
                ));
            }
            Edit::Unfinished if self.task.message.acceptance.is_empty() => return Err(silent()),
            Edit::Whole | Edit::Nothing if self.task.message.acceptance.is_empty() => {
                whole_prompts(record)?;
            }
            Edit::Whole | Edit::Partial | Edit::Unfinished | Edit::Nothing => {}
        }
        findings.changes = changes;
        let instruction = &self.task.message.instruction;
        let protects = |path: &str| self.policy.protects(path);
        let attributes = self.worktree.attribute_changes(&findings.changes, protects);
        let (attributes, files) = (self.step(attributes).await?, &findings.changes.files);
        if let Some(refused) = self.policy.refuse(files, &attributes, instruction) {
            findings.checks = Vec::new();
            return Ok(refused);
        }
        match (self.check(findings).await?, edit) {
            (RunEnd::CheckFailed { failure, .. }, Edit::Partial) => {
                Err(half_applied(&failure.message))
            }
            (end, Edit::Partial | Edit::Unfinished | Edit::Whole | Edit::Nothing) => Ok(end),
        }
    }

    async fn check(&self, findings: &mut Findings) -> Result<RunEnd, TaskFailure> {
        let checks = &self.task.message.acceptance;
        if checks.is_empty() {
            return Ok(RunEnd::Passed);
        }
        let checked = self.run_checks(checks).await?;
        findings.timings.acceptance_ms += millis(checked.duration);
        self.note(&checked.denials, findings);
        let failed = checked.failed().map(|report| report.name.clone());
        let (cut_short, over) = (checked.cancelled, checked.exceeded);
        findings.checks = checked.reports;
        if cut_short {
            return Err(cancelled());
        }
        let Some(name) = failed else {
            return Ok(RunEnd::Passed);
        };
        let failure = match over {
            Some(CheckLimit { check, exceeded }) if check == name => {
                let message = format!("the acceptance check {check:?} {exceeded}");
                TaskFailure::new(ErrorKind::Limit, message)
            }
            Some(_) | None => TaskFailure::new(
                ErrorKind::AcceptanceFailed,
                format!("the acceptance check {name:?} failed"),
            ),
        };
        Ok(RunEnd::CheckFailed {
            failure,
            repair: repair_prompt(&self.task.message.instruction, checks, &findings.checks),
        })
    }

    /// Runs checks in a checkout of their own, which is gone afterwards: an agent that continues must
    /// not find what an overlay has left there.
    pub(super) async fn run_checks(
        &self,
        checks: &[AcceptanceCheck],
    ) -> Result<Checked, TaskFailure> {
        let workshop = &self.attempts.workshop;
        let checkout = self.step(self.worktree.check_out_for_checks()).await?;
        let place = CheckEnvironment {
            worktree: &checkout.tree,
            scratch: &checkout.scratch,
            path: workshop.path.clone(),
            objects: self.worktree.objects(),
            sandbox: &workshop.sandbox,
        };
        let renew = || self.step(self.worktree.renew(&checkout));
        let watch = |check: &str| self.watch(Some(check));
        let checked = run_checks(checks, &workshop.pool.acceptance, &place, renew, watch).await;
        let ended_well = checked.as_ref().is_ok_and(|checked| {
            !checked.cancelled && !checked.may_live && checked.exceeded.is_none()
        });
        if !checked.as_ref().is_ok_and(|checked| !checked.may_live) {
            self.worktree.doubt();
        }
        if ended_well {
            let give_back = self.worktree.give_back_checkout(&checkout);
            self.step(give_back).await?;
        } else {
            self.step(self.worktree.drop_checkout(&checkout)).await?;
        }
        checked
    }

    fn note(&self, denials: &Denials, findings: &mut Findings) {
        findings.denials.add(denials, true);
        ConnectionsRefused {
            programmer: &self.attempts.programmer.id,
            attempts: denials.network,
        }
        .emit();
    }

    /// Observes the agent, or a check.
    fn watch(&self, check: Option<&str>) -> Watch {
        let watch = Watch::new(self.cancel.clone());
        match self.output {
            Some(output) => Watch {
                listen: output.listener(check),
                ..watch
            },
            None => watch,
        }
    }

    /// The worker's own work on files. It ends with the attempt like everything else.
    async fn step<T>(
        &self,
        work: impl Future<Output = Result<T, TaskFailure>>,
    ) -> Result<T, TaskFailure> {
        tokio::select! {
            biased;
            done = work => done,
            () = self.cancel.cancelled() => Err(cancelled()),
        }
    }

    async fn commit(&self, findings: &mut Findings) -> Result<(), TaskFailure> {
        let programmer = &self.attempts.programmer;
        let (commits, patched) = (
            programmer.limits.auto_commit,
            findings.changes.patch.is_some(),
        );
        if findings.changes.is_empty() || (patched && !commits) {
            return Ok(());
        }
        let llm = findings.llm().unwrap_or(programmer.primary());
        let credit = Credit {
            task: self.task,
            programmer: &programmer.id,
            llm,
        };
        let (commit, repository) = (
            self.step(self.worktree.commit(&credit)).await,
            self.worktree.repository(),
        );
        if !commits {
            return Err(patch_too_large(&commit, &repository));
        }
        findings.commit = Some(KeptCommit {
            id: commit?,
            branch: repository.branch_of(&self.task.id).await,
            repository,
        });
        Ok(())
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn cancelled() -> TaskFailure {
    TaskFailure::new(ErrorKind::Cancelled, "the attempt was stopped")
}

/// Without a branch the submitter gets only the patch. The commit keeps the paid work for some
/// days.
fn patch_too_large(
    commit: &Result<String, TaskFailure>,
    repository: &RepositoryHandle,
) -> TaskFailure {
    let kept = commit.as_ref().map(|commit| {
        format!(
            " The change is kept for {KEPT_DAYS} days as commit {commit} in {}.",
            repository.place()
        )
    });
    let kept = kept.unwrap_or_default();
    let message = format!(
        "the patch is larger than {MAX_PATCH_BYTES} bytes, and `auto_commit: false` allows no branch: set auto_commit to \
         true, or make the task smaller.{kept}"
    );
    TaskFailure::new(ErrorKind::PatchTooLarge, message)
}

/// Fails if a provider has cut a prompt. The LLM has not seen all files or not the whole task, and nothing checks its change.
fn whole_prompts(record: &RunRecord) -> Result<(), TaskFailure> {
    let Some(call) = record.cut_prompt() else {
        return Ok(());
    };
    let message = format!(
        "{} has cut a prompt to {} tokens, and the task has no acceptance check that could tell whether its change is good: \
         give the LLM a larger context, or lower context_limit",
        call.llm, call.input_tokens
    );
    Err(TaskFailure::new(ErrorKind::LlmContextTooLong, message))
}

fn half_applied(why: &str) -> TaskFailure {
    TaskFailure::new(
        ErrorKind::EditNotApplied,
        format!("part of the edit did not fit the files, {why}"),
    )
}
