//! The result message: the one outcome of a task, as it comes back on `results` and on reply queues.

mod fit;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use fit::{MAX_RESULT_BYTES, lower_limit};

use crate::id::{AttemptId, LlmName, ProgrammerId, TaskId};
use crate::money::MicroUsd;
use crate::task::TaskMessage;
use crate::time::Timestamp;

/// The largest patch that travels inside a result; above it the result names branch and commit only.
pub const MAX_PATCH_BYTES: usize = 1024 * 1024;

#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Succeeded,
    Failed,
    Rejected,
    Cancelled,
    Expired,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

/// Why a task did not succeed. Classified once, where it happens; everything else matches on it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The message itself is wrong.
    InvalidTask,
    /// The id is taken by a task with another body.
    IdConflict,
    /// No programmer offers what is required.
    Unroutable,
    /// The repository is outside the roots, missing, or the base ref is not in it.
    Repository,
    /// The workspace could not be prepared or the commit not made.
    Workspace,
    /// The change holds something that cannot be kept: a repository, a link that leads out, a pipe. The message names it.
    ChangeRefused,
    /// The agent could not be started or refused its configuration.
    AgentConfig,
    /// The agent ran out of time while no LLM call was open.
    AgentTimeout,
    /// The agent printed nothing and called no LLM for too long.
    AgentSilent,
    /// The agent was ended by a signal that was not ours.
    AgentCrashed,
    /// The agent exited with another status than 0.
    AgentFailed,
    LlmRateLimited,
    LlmTimeout,
    LlmUnavailable,
    LlmModelUnavailable,
    LlmAuth,
    LlmContextTooLong,
    LlmBadRequest,
    /// The answer was no valid answer of the protocol.
    LlmBadAnswer,
    /// The answer was cut at the output limit.
    LlmOutputLimit,
    /// The answer was empty.
    LlmEmpty,
    /// A call did not fit into the task's token limit.
    TokenLimit,
    /// The LLM answered, but its edit did not fit the files.
    EditNotApplied,
    /// The agent ended well and changed nothing.
    NoChange,
    AcceptanceFailed,
    /// The change is whole, but its patch is too large for a result and no commit may be made of it.
    PatchTooLarge,
    /// The whole task ran out of time.
    TaskTimeout,
    /// The deadline passed before the task was started.
    DeadlinePassed,
    /// The task was started too often without an end.
    Poison,
    Cancelled,
}

impl ErrorKind {
    /// The word used in messages, logs and metrics (the same as on the wire).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidTask => "invalid_task",
            Self::IdConflict => "id_conflict",
            Self::Unroutable => "unroutable",
            Self::Repository => "repository",
            Self::Workspace => "workspace",
            Self::ChangeRefused => "change_refused",
            Self::AgentConfig => "agent_config",
            Self::AgentTimeout => "agent_timeout",
            Self::AgentSilent => "agent_silent",
            Self::AgentCrashed => "agent_crashed",
            Self::AgentFailed => "agent_failed",
            Self::LlmRateLimited => "llm_rate_limited",
            Self::LlmTimeout => "llm_timeout",
            Self::LlmUnavailable => "llm_unavailable",
            Self::LlmModelUnavailable => "llm_model_unavailable",
            Self::LlmAuth => "llm_auth",
            Self::LlmContextTooLong => "llm_context_too_long",
            Self::LlmBadRequest => "llm_bad_request",
            Self::LlmBadAnswer => "llm_bad_answer",
            Self::LlmOutputLimit => "llm_output_limit",
            Self::LlmEmpty => "llm_empty",
            Self::TokenLimit => "token_limit",
            Self::EditNotApplied => "edit_not_applied",
            Self::NoChange => "no_change",
            Self::AcceptanceFailed => "acceptance_failed",
            Self::PatchTooLarge => "patch_too_large",
            Self::TaskTimeout => "task_timeout",
            Self::DeadlinePassed => "deadline_passed",
            Self::Poison => "poison",
            Self::Cancelled => "cancelled",
        }
    }
}

impl ErrorKind {
    /// Whether another attempt may end better: something around the agent broke, not the task, and not what an LLM made of
    /// it. Answers of no use have been asked for again within the attempt, and an LLM that is out hands the task back.
    pub fn is_curable(self) -> bool {
        match self {
            Self::Workspace | Self::AgentSilent | Self::AgentCrashed | Self::AgentFailed => true,
            Self::InvalidTask
            | Self::IdConflict
            | Self::Unroutable
            | Self::Repository
            | Self::ChangeRefused
            | Self::AgentConfig
            | Self::AgentTimeout
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
            | Self::AcceptanceFailed
            | Self::PatchTooLarge
            | Self::TaskTimeout
            | Self::DeadlinePassed
            | Self::Poison
            | Self::Cancelled => false,
        }
    }
}

// Serde passes a reference.
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TaskFailure {
    pub kind: ErrorKind,
    /// For people: names the thing and says what to do.
    pub message: String,
}

impl TaskFailure {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// A task that was too late. Programmers and dispatchers both say so, in the same words.
    pub fn deadline_passed(deadline: Timestamp) -> Self {
        Self::new(
            ErrorKind::DeadlinePassed,
            format!("its deadline, {deadline}, passed while it waited"),
        )
    }
}

/// What one acceptance check said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CheckReport {
    pub name: String,
    /// None: ended by a signal or by its time-out.
    pub exit_status: Option<i32>,
    pub duration_ms: u64,
    /// The last lines of its output.
    pub output_tail: String,
}

/// The use of LLMs for this task, in all attempts and all runs of the agent, as the gateway metered it. An attempt that
/// died with its worker counts with an upper bound.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    pub calls: u64,
    pub failed_calls: u64,
    pub input_tokens: u64,
    pub cached_input_tokens: u64,
    pub output_tokens: u64,
    /// Dollars as a decimal string.
    pub cost_usd: MicroUsd,
    /// True when a provider reported no usage and the numbers are upper estimates.
    #[serde(default)]
    pub estimated: bool,
    /// The same for each LLM that was called, in the order of their first calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_llm: Vec<LlmUsage>,
}

/// What one LLM did for a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LlmUsage {
    pub llm: LlmName,
    /// Retries included.
    pub calls: u64,
    pub failed_calls: u64,
    pub input_tokens: u64,
    pub cached_input_tokens: u64,
    pub output_tokens: u64,
    /// Dollars as a decimal string.
    pub cost_usd: MicroUsd,
}

impl Usage {
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Input and output.
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

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Timings {
    /// From submission to the start of this attempt; absent when the submitter gave no time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued_ms: Option<u64>,
    pub run_ms: u64,
    pub llm_ms: u64,
    pub acceptance_ms: u64,
}

/// The outcome of one task. Delivered at least once: drop a second copy by `task_id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ResultMessage {
    /// Absent only when the task message was too broken to carry an id.
    pub task_id: Option<TaskId>,
    pub status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub programmer: Option<ProgrammerId>,
    /// The LLM that gave the last answer; when there was none, the one that was asked last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub llm: Option<LlmName>,
    /// Whether another LLM than the programmer's primary one has answered.
    #[serde(default)]
    pub used_backup: bool,
    /// How often the agent was run: more than once after a failed check or an answer of no use. 0: not at all.
    #[serde(default)]
    pub runs: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<AttemptId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Where the commit is: host and git directory, as `git fetch` takes them over SSH.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit_at: Option<String>,
    /// Unified diff against the base, as `git apply` takes it; absent above 1 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch: Option<String>,
    /// The patch is left out because it is too large for a result.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub patch_truncated: bool,
    /// At most 10,000 names and 1 MiB.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files_changed: Vec<String>,
    /// How many files were changed, also when `files_changed` does not name them all.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub files_changed_total: u64,
    /// `files_changed` does not name them all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub files_changed_truncated: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acceptance: Vec<CheckReport>,
    #[serde(default)]
    pub usage: Usage,
    #[serde(default)]
    pub timings: Timings,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TaskFailure>,
    /// The last lines that the agent printed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log_tail: String,
    /// Texts were cut so that the result fits into a message: `log_tail`, outputs of checks, `error.message`; or `task` was
    /// left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub texts_truncated: bool,
    /// The task message, when no dispatcher has seen it before (published straight to `pool.tasks`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Box<TaskMessage>>,
}

impl ResultMessage {
    /// The result of a cancelled task. Every process makes the same one from the log; `usage` comes from the fold.
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

    /// An outcome that no attempt has brought about: rejected, expired, cancelled.
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
            error: Some(error),
            log_tail: String::new(),
            texts_truncated: false,
            task: None,
        }
    }

    pub fn to_json(&self) -> Vec<u8> {
        // A struct of strings, numbers and lists always serialises.
        serde_json::to_vec(self).unwrap_or_default()
    }
}
