//! The result message: the one outcome of a task. Programmers publish it to `results`; a dispatcher sends
//! it on to the submitter's reply queue.

mod fit;
mod sandbox;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use fit::{MAX_RESULT_BYTES, lower_limit};
pub use sandbox::{NetworkAttempts, SandboxReport};

use crate::id::{AttemptId, LlmName, ProgrammerId, TaskId};
use crate::money::MicroUsd;
use crate::task::TaskMessage;
use crate::time::Timestamp;

/// The largest patch inside a result, in bytes. A result with a larger one names branch and commit only.
pub const MAX_PATCH_BYTES: usize = 1024 * 1024;

crate::words!(
    /// How a task ended.
    pub enum Status {
        /// The change is made, and every acceptance check has passed.
        Succeeded = "succeeded",
        /// An attempt was made, and the last one did not succeed.
        Failed = "failed",
        /// The task was not started: its message is wrong, or no programmer can do it.
        Rejected = "rejected",
        /// Somebody cancelled the task before it had another outcome.
        Cancelled = "cancelled",
        /// The deadline passed before the task was started.
        Expired = "expired",
    }
);

crate::words!(
    /// Why a task did not succeed. The kind is decided once, where the failure happens.
    pub enum ErrorKind {
        /// The task message is wrong: not JSON, or a field is wrong.
        InvalidTask = "invalid_task",
        /// Another task, with another body, has the same id.
        IdConflict = "id_conflict",
        /// No programmer offers all required capabilities.
        Unroutable = "unroutable",
        /// The repository is outside the roots or missing, or it does not have the base.
        Repository = "repository",
        /// The worktree could not be prepared, or the commit could not be made.
        Workspace = "workspace",
        /// The change holds something that cannot be kept: a repository, a link that leads out, a pipe. The message names it.
        ChangeRefused = "change_refused",
        /// The change contains a path that `patch.deny` of the pool file forbids, or more than `patch.max_mib`.
        /// Or the agent or a check killed its sandbox helper.
        Policy = "policy",
        /// The change contains a path that the task or the pool file protects (`protect`).
        ProtectedChanged = "protected_changed",
        /// The agent could not be started or refused its configuration.
        AgentConfig = "agent_config",
        /// The agent ran out of time while no LLM call was open.
        AgentTimeout = "agent_timeout",
        /// The agent printed nothing and called no LLM for too long.
        AgentSilent = "agent_silent",
        /// A signal that the worker had not sent ended the agent.
        AgentCrashed = "agent_crashed",
        /// The agent exited with another status than 0.
        AgentFailed = "agent_failed",
        /// The agent or a check used more memory, processes or disk than a run may. The message names the key that raises
        /// the limit.
        Limit = "limit",
        /// The sandbox could not be set up, and the task was handed back too often because of that.
        Sandbox = "sandbox",
        /// The provider refused the call because of a rate limit.
        LlmRateLimited = "llm_rate_limited",
        /// The LLM gave no whole answer in time.
        LlmTimeout = "llm_timeout",
        /// The provider could not be reached, failed, or broke its answer off.
        LlmUnavailable = "llm_unavailable",
        /// The provider does not serve this model.
        LlmModelUnavailable = "llm_model_unavailable",
        /// The provider's key is missing or refused, or the account has no money.
        LlmAuth = "llm_auth",
        /// The request is longer than the LLM's context.
        LlmContextTooLong = "llm_context_too_long",
        /// The provider refused the request for another reason.
        LlmBadRequest = "llm_bad_request",
        /// The answer was not a valid answer of the protocol.
        LlmBadAnswer = "llm_bad_answer",
        /// The answer was cut at the output limit.
        LlmOutputLimit = "llm_output_limit",
        /// The answer was empty.
        LlmEmpty = "llm_empty",
        /// A call did not fit into the task's token limit.
        TokenLimit = "token_limit",
        /// The LLM answered, but its edit did not fit the files.
        EditNotApplied = "edit_not_applied",
        /// The agent ended without an error and changed nothing.
        NoChange = "no_change",
        /// An acceptance check cannot start: its program is missing or not executable. No LLM was asked.
        CheckCannotStart = "check_cannot_start",
        /// On the base commit, an acceptance check did not do what its `before` says. No LLM was asked.
        CheckProvesNothing = "check_proves_nothing",
        /// An acceptance check failed. The message names it.
        AcceptanceFailed = "acceptance_failed",
        /// The change is whole, but its patch is too large for a result, and `auto_commit: false` allows no commit.
        PatchTooLarge = "patch_too_large",
        /// The attempt ran out of time.
        TaskTimeout = "task_timeout",
        /// The deadline passed before the task was started.
        DeadlinePassed = "deadline_passed",
        /// The worker died in each of `max_attempts` attempts.
        Poison = "poison",
        /// Somebody cancelled the task.
        Cancelled = "cancelled",
    }
);

impl ErrorKind {
    /// Whether another attempt may succeed: something around the agent broke, and neither the task nor the
    /// LLM's work is the cause. Useless answers are asked for again within the attempt. A programmer
    /// without an available LLM hands the task back.
    pub fn is_curable(self) -> bool {
        match self {
            Self::Workspace | Self::AgentSilent | Self::AgentCrashed | Self::AgentFailed => true,
            Self::InvalidTask
            | Self::IdConflict
            | Self::Unroutable
            | Self::Repository
            | Self::ChangeRefused
            | Self::Policy
            | Self::ProtectedChanged
            | Self::AgentConfig
            | Self::AgentTimeout
            | Self::Limit
            | Self::Sandbox
            | Self::LlmRateLimited
            | Self::LlmTimeout
            | Self::LlmUnavailable
            | Self::LlmModelUnavailable
            | Self::LlmAuth
            | Self::LlmContextTooLong
            | Self::LlmBadRequest
            | Self::LlmBadAnswer
            | Self::LlmOutputLimit
            | Self::LlmEmpty
            | Self::TokenLimit
            | Self::EditNotApplied
            | Self::NoChange
            | Self::CheckCannotStart
            | Self::CheckProvesNothing
            | Self::AcceptanceFailed
            | Self::PatchTooLarge
            | Self::TaskTimeout
            | Self::DeadlinePassed
            | Self::Poison
            | Self::Cancelled => false,
        }
    }
}

fn once() -> u32 {
    1
}

fn is_once(tries: &u32) -> bool {
    *tries == 1
}

// Serde passes a reference.
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The reason why a task did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TaskFailure {
    /// For programs.
    pub kind: ErrorKind,
    /// For people: what happened, to which thing, and what to do.
    pub message: String,
}

impl TaskFailure {
    /// A failure with this message.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// The failure of an expired task. Programmers and dispatchers report it in the same words.
    pub fn deadline_passed(deadline: Timestamp) -> Self {
        Self::new(
            ErrorKind::DeadlinePassed,
            format!("its deadline, {deadline}, passed before it was started"),
        )
    }
}

/// The outcome of one acceptance check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CheckReport {
    /// As the task names it.
    pub name: String,
    /// Absent when a signal or its time-out ended the check.
    pub exit_status: Option<i32>,
    /// How often the check was run until it passed or had no try left; absent: once.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    #[schemars(range(min = 1, max = 5))]
    pub tries: u32,
    /// How long the check ran, in all its tries.
    pub duration_ms: u64,
    /// The last lines of its output.
    pub output_tail: String,
}

/// The use of LLMs for this task in all attempts and all runs of the agent, as the gateway counted it. An attempt that
/// died with its worker counts with an upper bound.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// Calls that were sent to an LLM, retries included.
    pub calls: u64,
    /// Those of `calls` that failed.
    pub failed_calls: u64,
    /// Cached ones included.
    pub input_tokens: u64,
    /// Those of `input_tokens` that the provider read from its cache.
    pub cached_input_tokens: u64,
    /// Reasoning included.
    pub output_tokens: u64,
    /// Dollars as a decimal string.
    pub cost_usd: MicroUsd,
    /// True when a provider reported no usage, so that the numbers are upper estimates.
    #[serde(default)]
    pub estimated: bool,
    /// The same for each LLM that was called, in the order of their first calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_llm: Vec<LlmUsage>,
}

/// The use of one LLM for a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LlmUsage {
    /// As in the pool file: `provider/model`.
    pub llm: LlmName,
    /// Calls that were sent to it, retries included.
    pub calls: u64,
    /// Those of `calls` that failed.
    pub failed_calls: u64,
    /// Cached ones included.
    pub input_tokens: u64,
    /// Those of `input_tokens` that the provider read from its cache.
    pub cached_input_tokens: u64,
    /// Reasoning included.
    pub output_tokens: u64,
    /// Dollars as a decimal string.
    pub cost_usd: MicroUsd,
}

impl Usage {
    /// Whether no LLM was called.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Input and output tokens together.
    pub fn tokens(&self) -> u64 {
        self.input_tokens.saturating_add(self.output_tokens)
    }

    /// The sum of both.
    #[must_use]
    pub fn and(mut self, more: &Self) -> Self {
        self.calls += more.calls;
        self.failed_calls += more.failed_calls;
        self.input_tokens = self.input_tokens.saturating_add(more.input_tokens);
        self.cached_input_tokens = self
            .cached_input_tokens
            .saturating_add(more.cached_input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(more.output_tokens);
        self.cost_usd += more.cost_usd;
        self.estimated |= more.estimated;
        for of in &more.by_llm {
            match self.by_llm.iter_mut().find(|known| known.llm == of.llm) {
                Some(known) => known.add(of),
                None => self.by_llm.push(of.clone()),
            }
        }
        self
    }
}

impl LlmUsage {
    fn add(&mut self, more: &Self) {
        self.calls += more.calls;
        self.failed_calls += more.failed_calls;
        self.input_tokens = self.input_tokens.saturating_add(more.input_tokens);
        self.cached_input_tokens = self
            .cached_input_tokens
            .saturating_add(more.cached_input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(more.output_tokens);
        self.cost_usd += more.cost_usd;
    }

    /// No use of this LLM: the value to start a sum with.
    pub fn none(llm: LlmName) -> Self {
        Self {
            llm,
            calls: 0,
            failed_calls: 0,
            input_tokens: 0,
            cached_input_tokens: 0,
            output_tokens: 0,
            cost_usd: MicroUsd::ZERO,
        }
    }
}

/// How long the parts of a task took, in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Timings {
    /// From submission to the start of this attempt; absent when the submitter gave no time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued_ms: Option<u64>,
    /// The attempt as a whole.
    pub run_ms: u64,
    /// The LLM calls of the attempt.
    pub llm_ms: u64,
    /// The acceptance checks of the attempt.
    pub acceptance_ms: u64,
}

/// The outcome of one task. Delivered at least once: drop a second copy by `task_id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ResultMessage {
    /// Absent only when the task message was too broken to carry an id.
    pub task_id: Option<TaskId>,
    /// How the task ended.
    pub status: Status,
    /// The programmer of the attempt; absent when no attempt was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub programmer: Option<ProgrammerId>,
    /// The LLM that gave the last answer; when no LLM answered, the one that was called last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub llm: Option<LlmName>,
    /// Whether an LLM other than the programmer's primary one has answered.
    #[serde(default)]
    pub used_backup: bool,
    /// How often the agent ran: more than once after a failed check or a useless answer; 0 when it did not run.
    #[serde(default)]
    pub runs: u32,
    /// The id of the attempt that decided; absent when no attempt was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<AttemptId>,
    /// The branch of the commit: `pool/<task id>`, or `pool-<task id>` in a repository with a branch `pool`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The full hash of the commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Where the commit is: host and git directory, in the form that `git fetch` takes over SSH.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit_at: Option<String>,
    /// The change as a unified diff against the base, in the form that `git apply` takes; absent above 1 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch: Option<String>,
    /// True when the patch was left out because it is too large for a result.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub patch_truncated: bool,
    /// Names of changed files; at most 10,000 names and 1 MiB.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files_changed: Vec<String>,
    /// How many files were changed, including those that `files_changed` leaves out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub files_changed_total: u64,
    /// True when `files_changed` leaves names out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub files_changed_truncated: bool,
    /// The acceptance checks that were run, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acceptance: Vec<CheckReport>,
    /// LLM calls, tokens and money of the task.
    #[serde(default)]
    pub usage: Usage,
    /// How long the parts of the task took.
    #[serde(default)]
    pub timings: Timings,
    /// True when a provider has cut a prompt: it counted far fewer tokens than the prompt has. Without acceptance checks,
    /// such a task is not a success.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub prompt_cut: bool,
    /// Why the task did not succeed; absent when it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TaskFailure>,
    /// The refusals of the sandbox; absent if there were none.
    #[serde(default, skip_serializing_if = "SandboxReport::is_nothing")]
    pub sandbox: SandboxReport,
    /// The last lines that the agent printed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log_tail: String,
    /// True when texts were cut so that the result fits into a message: `log_tail`, outputs of checks, `error.message`. Or
    /// `task` was left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub texts_truncated: bool,
    /// The task message, when a client published it straight to `pool.tasks` and no dispatcher has seen it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Box<TaskMessage>>,
}

impl ResultMessage {
    /// The result of a cancelled task. Every process makes the same one; `usage` comes from the fold.
    pub fn cancelled(task: TaskId, usage: Usage) -> Self {
        let failure = TaskFailure::new(
            ErrorKind::Cancelled,
            "it was cancelled before it had another outcome",
        );
        Self {
            usage,
            ..Self::without_attempt(Some(task), Status::Cancelled, failure)
        }
    }

    /// An outcome without an attempt: rejected, expired or cancelled.
    pub fn without_attempt(task_id: Option<TaskId>, status: Status, error: TaskFailure) -> Self {
        Self {
            task_id,
            status,
            programmer: None,
            llm: None,
            used_backup: false,
            runs: 0,
            attempt: None,
            branch: None,
            commit: None,
            commit_at: None,
            patch: None,
            patch_truncated: false,
            files_changed: Vec::new(),
            files_changed_total: 0,
            files_changed_truncated: false,
            acceptance: Vec::new(),
            usage: Usage::default(),
            timings: Timings::default(),
            prompt_cut: false,
            error: Some(error),
            sandbox: SandboxReport::default(),
            log_tail: String::new(),
            texts_truncated: false,
            task: None,
        }
    }

    /// The JSON, uncut; [`Self::fit`] limits its size.
    pub fn to_json(&self) -> Vec<u8> {
        // A struct of strings, numbers and lists always serialises.
        serde_json::to_vec(self).unwrap_or_default()
    }
}
