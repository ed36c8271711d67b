//! Errors of the API: `application/problem+json` (RFC 9457). Each says what to do next.

use pool_core::id::TaskId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    pub title: String,
    pub status: u16,
    pub detail: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<TaskProblem>,
    /// The ids of all tasks of a request that was taken in part. The request may be sent again as a
    /// whole with these ids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<TaskId>,
    /// The routes that are full, and what would fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_room: Option<Box<QueueFull>>,
    /// Seconds until it is worth trying again; also in the header `Retry-After`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u32>,
}

pool_core::words!(
    /// The kind of a mistake in one task.
    pub enum ProblemKind {
        InvalidTask = "invalid_task",
        Unroutable = "unroutable",
        IdConflict = "id_conflict",
        Unavailable = "unavailable",
    }
);

/// The mistake in one task of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TaskProblem {
    /// The task's index in the list, from 0.
    pub index: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<TaskId>,
    #[schemars(with = "String")]
    pub kind: ProblemKind,
    pub message: String,
}

/// Why no task was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "NoRoom")]
pub struct QueueFull {
    pub full: Vec<FullRoute>,
    /// Indexes of the tasks that would be accepted now, from 0.
    pub fits: Vec<usize>,
}

/// A route without room for all its tasks of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FullRoute {
    pub route: String,
    /// Tasks that wait for the route now.
    pub waiting: usize,
    /// The most tasks that may wait.
    pub limit: usize,
    /// How many more fit.
    pub room: usize,
    /// New tasks for the route in the request.
    pub wanted: usize,
}

impl FullRoute {
    /// Whether the request has more tasks for the route than may ever wait there.
    pub fn never_fits(&self) -> bool {
        self.wanted > self.limit
    }
}
