//! Tasks in lists and in full, and the actions on one task.

use std::collections::BTreeMap;
use std::str::FromStr;

use pool_core::id::{AttemptId, LlmName, ProgrammerId, TaskId};
use pool_core::money::MicroUsd;
use pool_core::result::{ResultMessage, Status};
use pool_core::state::TaskState;
use pool_core::task::TaskMessage;
use pool_core::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A task in lists; with `result`, by itself.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct TaskView {
    pub id: TaskId,
    /// `queued`, `running`, or the status of its result.
    pub status: Stage,
    pub route: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub summary: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The task that this one repeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<TaskId>,
    pub submitted_at: Option<Timestamp>,
    pub attempts: u32,
    /// The programmer that works on the task, or that produced the result.
    pub programmer: Option<ProgrammerId>,
    /// The running attempt, or the attempt that produced the result.
    pub attempt: Option<AttemptId>,
    /// When that attempt began.
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub cost_usd: Option<MicroUsd>,
    /// The LLM that produced the result.
    pub llm: Option<LlmName>,
    /// The error's kind, if there is an error.
    pub error: Option<String>,
    /// The result without its patch; the patch is at `/tasks/{id}/patch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<ResultMessage>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskMessage>,
    /// In the answer to a submission: the task was accepted, but may not do what its submitter
    /// expects.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// The answer of `GET /tasks`: newest first.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct TaskList {
    /// How many tasks match, including those not listed.
    pub total: usize,
    pub tasks: Vec<TaskView>,
}

pool_core::words!(
    /// The values of a task's `status`.
    pub enum Stage {
        Queued = "queued",
        Running = "running",
        Succeeded = "succeeded",
        Failed = "failed",
        Rejected = "rejected",
        Cancelled = "cancelled",
        Expired = "expired",
    }
);

impl Stage {
    pub fn of(state: &TaskState, runs: bool) -> Self {
        match (state.outcome(), runs) {
            (Some(outcome), _) => outcome.status.into(),
            (None, true) => Self::Running,
            (None, false) => Self::Queued,
        }
    }
}

impl From<Status> for Stage {
    fn from(status: Status) -> Self {
        match status {
            Status::Succeeded => Self::Succeeded,
            Status::Failed => Self::Failed,
            Status::Rejected => Self::Rejected,
            Status::Cancelled => Self::Cancelled,
            Status::Expired => Self::Expired,
        }
    }
}

/// A label filter: key, `=` or `:`, and a value or nothing. Keys may contain these signs too, so
/// the key ends where a task's label says it does.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct Label(String);

impl FromStr for Label {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.contains(['=', ':']) {
            return Err(format!(
                "the label {text:?} is not key=value; use `{text}=` for every task that has the key"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Label {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl AsRef<str> for Label {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Label {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Label {
    pub fn is_among(&self, labels: &BTreeMap<String, String>) -> bool {
        labels.iter().any(|(key, value)| {
            let rest = self
                .0
                .strip_prefix(key.as_str())
                .and_then(|rest| rest.strip_prefix(['=', ':']));
            rest.is_some_and(|rest| rest.is_empty() || rest == value)
        })
    }
}

/// The body of `retry` and `requeue`; it may be empty.
#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Force {
    /// Also retry a task that has succeeded, or requeue one that is running.
    pub force: bool,
}

/// The answer of `requeue`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Requeued {
    pub task_id: TaskId,
    pub generation: u32,
    /// A sentence for people.
    pub detail: String,
}

/// The result of a retry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Retried {
    /// The task that will run, or whose result is sent.
    pub task_id: String,
    /// The finished task that is repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<TaskId>,
    /// A sentence for people.
    pub detail: String,
}

impl Retried {
    /// A finished task, submitted as a new one.
    pub fn anew(old: TaskId, status: Status, new: &TaskId) -> Self {
        let detail = format!(
            "task {old} ({}) is submitted again as {new}",
            status.as_str()
        );
        Self {
            task_id: new.to_string(),
            retry_of: Some(old),
            detail,
        }
    }
}

/// An id that sorts by its creation time.
pub fn new_id() -> TaskId {
    let text = format!("t-{}", uuid::Uuid::now_v7().simple());
    // A UUID in hexadecimal after `t-` fits the pattern of task ids.
    TaskId::new(text).unwrap_or_else(|_| unreachable!("a UUID is a task id"))
}
