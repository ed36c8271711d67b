//! Tasks as lists and the page of one show them.

use std::collections::BTreeMap;

use pool_core::id::{AttemptId, LlmName, ProgrammerId, TaskId};
use pool_core::money::MicroUsd;
use pool_core::result::ResultMessage;
use pool_core::state::TaskState;
use pool_core::task::TaskMessage;
use pool_core::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::filter::{Stage, programmer};
use crate::history::Entry;

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

impl TaskView {
    pub(super) fn new(id: &TaskId, state: &TaskState, runs: bool, entry: Entry) -> Self {
        let outcome = state.outcome();
        // If the programmer is lost, the task waits again, so its attempt is not shown.
        let owner = state.owner().filter(|_| runs);
        Self {
            id: id.clone(),
            status: Stage::of(state, runs),
            route: state.route.clone(),
            summary: entry.summary,
            labels: entry.labels,
            retry_of: entry.retry_of,
            submitted_at: state.submitted_at,
            attempts: state.attempts,
            programmer: programmer(state, runs).cloned(),
            attempt: owner.map(|o| o.attempt).or_else(|| outcome?.attempt),
            started_at: owner.map(|o| o.since).or_else(|| outcome?.started_at),
            finished_at: outcome.map(|o| o.at),
            cost_usd: outcome.map(|o| o.cost),
            llm: outcome.and_then(|o| o.llm.clone()),
            error: outcome
                .and_then(|o| o.error)
                .map(|kind| kind.as_str().to_owned()),
            result: None,
            task: None,
            warnings: Vec::new(),
        }
    }
}

/// The answer of `GET /tasks`: newest first.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct TaskList {
    /// How many tasks match, including those not listed.
    pub total: usize,
    pub tasks: Vec<TaskView>,
}
