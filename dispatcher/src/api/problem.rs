//! Errors of the API: `application/problem+json` (RFC 9457). Each says what to do next.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use pool_core::id::TaskId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::intake::queue_limits::{FullRoute, QueueFull};

const UNAVAILABLE_FOR_S: u32 = 5;
/// A queue gets shorter when a programmer takes a task, and most tasks take longer than this.
const FULL_FOR_S: u32 = 2;

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

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error").to_owned();
        Self {
            title,
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
            ids: Vec::new(),
            no_room: None,
            retry_after_s: (status == StatusCode::SERVICE_UNAVAILABLE).then_some(UNAVAILABLE_FOR_S),
        }
    }

    /// The broker or the event log did not answer; the request itself is fine.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    #[must_use]
    pub fn retry_after(self, seconds: u32) -> Self {
        Self {
            retry_after_s: Some(seconds),
            ..self
        }
    }

    #[must_use]
    pub fn with_errors(self, errors: Vec<TaskProblem>) -> Self {
        Self { errors, ..self }
    }
}

/// A full queue, whichever request wanted to add a task to it.
impl From<QueueFull> for Problem {
    fn from(no_room: QueueFull) -> Self {
        let never = no_room.full.iter().any(FullRoute::never_fits);
        let what = if never {
            "too many tasks in one request"
        } else {
            "the queue is full"
        };
        let detail = format!(
            "{what}: {}. Nothing was taken; {}",
            waiting(&no_room),
            advice(&no_room)
        );
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(FULL_FOR_S);
        Self {
            no_room: Some(Box::new(no_room)),
            ..problem
        }
    }
}

fn waiting(no_room: &QueueFull) -> String {
    let words = |FullRoute {
                     route,
                     waiting,
                     limit,
                     room,
                     wanted,
                 }: &FullRoute| {
        format!(
            "{waiting} of at most {limit} tasks wait for `{route}`, so only {room} of the {wanted} in this request fit"
        )
    };
    no_room
        .full
        .iter()
        .map(words)
        .collect::<Vec<_>>()
        .join("; ")
}

/// A list that is longer than a queue's limit never fits as a whole.
fn advice(no_room: &QueueFull) -> String {
    let too_long = no_room.full.iter().filter(|route| route.never_fits());
    let most: Vec<String> = too_long
        .map(|route| format!("{} for `{}`", route.limit, route.route))
        .collect();
    if most.is_empty() {
        return format!("send it again in {FULL_FOR_S} s");
    }
    format!(
        "send the list in parts, with at most {} per request (`pool submit` does that; `no_room.fits` names the tasks \
         that fit now), or raise load_balancing.max_queue_per_programmer in the pool file",
        most.join(" and ")
    )
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (
            status,
            [(header::CONTENT_TYPE, "application/problem+json")],
            body,
        )
            .into_response();
        if let Some(seconds) = self.retry_after_s {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

pub async fn not_found() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "no such path; GET /openapi.json lists all paths",
    )
}

pub async fn method_not_allowed() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "this path does not support this method; GET /openapi.json lists the methods of each path",
    )
}
