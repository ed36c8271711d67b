//! Errors of the API: `application/problem+json` (RFC 9457). Each says what to do next.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use pool_api::problem::{FullRoute, Problem, QueueFull};

const UNAVAILABLE_FOR_S: u32 = 5;
/// A queue gets shorter when a programmer takes a task, and most tasks take longer than this.
const FULL_FOR_S: u32 = 2;

/// A [`Problem`] as the answer to a request.
#[derive(Debug)]
pub struct ApiError(pub Problem);

impl ApiError {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self(Problem {
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
            ids: Vec::new(),
            no_room: None,
            retry_after_s: (status == StatusCode::SERVICE_UNAVAILABLE).then_some(UNAVAILABLE_FOR_S),
        })
    }

    /// The broker or the event log did not answer; the request itself is fine.
    pub fn unavailable(reason: impl ToString) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, reason.to_string())
    }
}

/// A full queue, whichever request wanted to add a task to it.
impl From<QueueFull> for ApiError {
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
        let mut full = Self::new(StatusCode::TOO_MANY_REQUESTS, detail);
        full.0.retry_after_s = Some(FULL_FOR_S);
        full.0.no_room = Some(Box::new(no_room));
        full
    }
}

fn waiting(no_room: &QueueFull) -> String {
    let words = |full: &FullRoute| {
        format!(
            "{} of at most {} tasks wait for `{}`, so only {} of the {} in this request fit",
            full.waiting, full.limit, full.route, full.room, full.wanted
        )
    };
    let each: Vec<String> = no_room.full.iter().map(words).collect();
    each.join("; ")
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

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self(problem) = self;
        let status =
            StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = (
            status,
            [(header::CONTENT_TYPE, "application/problem+json")],
            body,
        )
            .into_response();
        if let Some(seconds) = problem.retry_after_s {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

pub async fn not_found() -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        "no such path; GET /openapi.json lists all paths",
    )
}

pub async fn method_not_allowed() -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "this path does not support this method; GET /openapi.json lists the methods of each path",
    )
}
