//! Events about one task.

use serde::{Deserialize, Serialize};

use crate::id::{AttemptId, LlmName, ProgrammerId, TaskId, Token};
use crate::money::MicroUsd;
use crate::result::{ErrorKind, Status};
use crate::task_state::{Retry, Spent, TaskState};

/// An event about one task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TaskEvent {
    /// A dispatcher holds the task message and will publish it.
    Submitted(TaskSubmitted),
    /// The message of this generation is in its queue.
    Published(TaskPublished),
    /// A process is about to publish the task again with this generation. When two processes try, the log accepts the
    /// first.
    Reissued(TaskReissued),
    /// An attempt claims the task.
    Started(TaskStarted),
    /// An attempt gives the task back. Or it lost the task while its worker lived: its connection broke, and the broker
    /// delivered the message to another. The attempt does not count.
    Released(TaskReleased),
    /// The usage of one attempt; the last of these events counts. The worker appends one with `so_far` before each paid call:
    /// it includes the call's worst case and is an upper bound if the worker dies. The worker appends one without `so_far`
    /// when an attempt ends and publishes no result.
    Used(TaskUsed),
    /// The first of these by the owner is the outcome of the task. One without an attempt is an outcome before any attempt.
    Finished(TaskFinished),
    /// Somebody cancels the task. This is the outcome if the task has none yet, even while an attempt runs.
    Cancelled(TaskCancelled),
    /// A snapshot of an open task, appended before its first events fall out of retention. A process that knows more
    /// keeps what it knows.
    Stated(TaskSnapshot),
}

/// The values of `submitted`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSubmitted {
    /// The task.
    pub task: TaskId,
    /// Tells a repeated submission from another task with the same id.
    pub body_hash: String,
    /// The route that the message will be published to.
    pub route: String,
    /// The task expires if it is not started by this moment: milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
}

/// The values of `published`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskPublished {
    /// The task.
    pub task: TaskId,
    /// The generation of the published message.
    pub generation: u32,
}

/// The values of `reissued`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskReissued {
    /// The task.
    pub task: TaskId,
    /// Higher than every generation before.
    pub generation: u32,
    /// Set by the owner: its attempt has failed, and another one follows later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
}

/// The values of `started`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStarted {
    /// The task.
    pub task: TaskId,
    /// The claiming attempt; the owner if the event is accepted.
    pub attempt: AttemptId,
    /// The programmer that makes the attempt.
    pub programmer: ProgrammerId,
    /// Of the delivery. It must be higher than every token before.
    pub token: Token,
    /// The route from whose queue the message came.
    pub route: String,
    /// Of the delivered message. For a task that came straight to the broker the log has no other record.
    pub body_hash: String,
}

/// The values of `released`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WireReleased", into = "WireReleased")]
pub struct TaskReleased {
    /// The task.
    pub task: TaskId,
    /// The attempt that gives it back.
    pub attempt: AttemptId,
    /// Why it does so.
    pub cause: ReleaseCause,
}

/// Why an attempt gives its task back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReleaseCause {
    /// Its worker stops, or lost its connection.
    Stopped,
    /// None of its LLMs was available. Such returns are counted and limited (`max_hand_backs`).
    NoLlm,
    /// The sandbox could not be set up. Such returns have a count of their own, with the same limit.
    NoSandbox,
}

/// `released` in the log. Older versions know `no_llm` only.
#[derive(Serialize, Deserialize)]
struct WireReleased {
    task: TaskId,
    attempt: AttemptId,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    no_llm: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    no_sandbox: bool,
}

impl From<WireReleased> for TaskReleased {
    fn from(wire: WireReleased) -> Self {
        let cause = match (wire.no_llm, wire.no_sandbox) {
            (true, _) => ReleaseCause::NoLlm,
            (false, true) => ReleaseCause::NoSandbox,
            (false, false) => ReleaseCause::Stopped,
        };
        Self {
            task: wire.task,
            attempt: wire.attempt,
            cause,
        }
    }
}

impl From<TaskReleased> for WireReleased {
    fn from(released: TaskReleased) -> Self {
        Self {
            task: released.task,
            attempt: released.attempt,
            no_llm: released.cause == ReleaseCause::NoLlm,
            no_sandbox: released.cause == ReleaseCause::NoSandbox,
        }
    }
}

/// The values of `used`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskUsed {
    /// The task.
    pub task: TaskId,
    /// The attempt that used it.
    pub attempt: AttemptId,
    /// The sum over all calls of the attempt.
    pub spent: Spent,
    /// `spent` is an upper bound.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub so_far: bool,
}

/// The values of `finished`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskFinished {
    /// The task.
    pub task: TaskId,
    /// The attempt whose result this is; None: rejected or expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<AttemptId>,
    /// The status of the result.
    pub status: Status,
    /// The LLM of the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub llm: Option<LlmName>,
    /// The cost of all attempts.
    #[serde(default)]
    pub cost_usd: MicroUsd,
    /// The error kind of the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorKind>,
}

/// The values of `cancelled`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskCancelled {
    /// The task.
    pub task: TaskId,
}

/// The values of `stated`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSnapshot {
    /// The task.
    pub task: TaskId,
    /// Its state when the snapshot was made.
    pub state: Box<TaskState>,
}

impl TaskEvent {
    /// The task that this event is about.
    pub fn task(&self) -> &TaskId {
        match self {
            Self::Submitted(TaskSubmitted { task, .. })
            | Self::Published(TaskPublished { task, .. })
            | Self::Reissued(TaskReissued { task, .. })
            | Self::Started(TaskStarted { task, .. })
            | Self::Released(TaskReleased { task, .. })
            | Self::Used(TaskUsed { task, .. })
            | Self::Finished(TaskFinished { task, .. })
            | Self::Cancelled(TaskCancelled { task })
            | Self::Stated(TaskSnapshot { task, .. }) => task,
        }
    }
}
