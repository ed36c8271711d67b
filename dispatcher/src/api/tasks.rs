//! `/tasks`: list, show, patch, why.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use pool_api::tasks::{Stage, TaskList, TaskView};
use pool_api::why::Why;
use pool_core::id::TaskId;
use pool_core::result::ResultMessage;

use super::app::App;
use super::error::ApiError;
use super::extract::{Path, Query};
use crate::views::filter::Filter;
use crate::why::explain;

/// The event log has the outcome a moment before the history has the result.
const RESULT_WITHIN: Duration = Duration::from_secs(2);

/// `GET /tasks`.
pub async fn list(
    State(app): State<App>,
    Query(filter): Query<Filter>,
) -> Result<Json<TaskList>, ApiError> {
    let found = tokio::task::spawn_blocking(move || app.reader.tasks(filter)).await;
    found
        .map(Json)
        .map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

pub(super) fn known(app: &App, id: &str) -> Result<TaskView, ApiError> {
    let id = TaskId::new(id)
        .map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    app.reader.task(&id).ok_or_else(|| {
        let detail = format!(
            "no task `{id}` (see `pool tasks`). A task that was published straight to the broker is listed once a \
             programmer has started it"
        );
        ApiError::new(StatusCode::NOT_FOUND, detail)
    })
}

async fn result_of(app: &App, view: &TaskView) -> Result<Option<ResultMessage>, ApiError> {
    if view.finished_at.is_none() {
        return Ok(None);
    }
    if view.status == Stage::Cancelled {
        let usage = app
            .reader
            .process
            .log
            .read(|fold| fold.tasks.usage(&view.id));
        return Ok(Some(ResultMessage::cancelled(view.id.clone(), usage)));
    }
    let entry = app
        .reader
        .history
        .wait_for_result(&view.id, RESULT_WITHIN)
        .await;
    let entry = entry.map_err(ApiError::unavailable)?;
    let Some(offset) = entry.and_then(|entry| entry.result_at) else {
        return Ok(None);
    };
    Ok(body(app, offset)
        .await?
        .and_then(|body| serde_json::from_slice(&body).ok()))
}

async fn body(app: &App, offset: u64) -> Result<Option<Vec<u8>>, ApiError> {
    let body = app.reader.history.body(offset).await;
    body.map_err(ApiError::unavailable)
}

/// `GET /tasks/{id}`.
pub async fn show(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<TaskView>, ApiError> {
    let mut view = known(&app, &id)?;
    let result = result_of(&app, &view).await?;
    let carried = result
        .as_ref()
        .and_then(|result| result.task.clone())
        .map(|task| *task);
    let offset = app
        .reader
        .history
        .entry(&view.id)
        .and_then(|entry| entry.task_at);
    view.task = match offset {
        Some(offset) => body(&app, offset)
            .await?
            .and_then(|body| serde_json::from_slice(&body).ok()),
        None => carried,
    };
    view.result = result.map(|result| ResultMessage {
        patch: None,
        task: None,
        ..result
    });
    Ok(Json(view))
}

/// `GET /tasks/{id}/patch`: as `git apply` takes it.
pub async fn patch(State(app): State<App>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let view = known(&app, &id)?;
    let missing = |detail: String| ApiError::new(StatusCode::NOT_FOUND, detail);
    let result = result_of(&app, &view).await?;
    let result = result.ok_or_else(|| {
        missing(format!(
            "task {id} is {} and has no result yet",
            view.status
        ))
    })?;
    let place = result
        .commit_at
        .as_ref()
        .map(|place| format!(" in {place}"))
        .unwrap_or_default();
    let patch = result
        .patch
        .ok_or_else(|| match (&result.branch, &result.error) {
            (Some(branch), _) => missing(format!(
                "the patch of task {id} is too large for a result; see the branch {branch}{place}"
            )),
            (None, Some(error)) => missing(format!("task {id} has no patch: {}", error.message)),
            (None, None) => missing(format!("task {id} has no patch")),
        })?;
    Ok((
        [(header::CONTENT_TYPE, "text/x-patch; charset=utf-8")],
        patch,
    )
        .into_response())
}

/// `GET /tasks/{id}/why`: why a task waits, in one sentence, and the details.
///
/// # Errors
/// 404 when the log has no such task.
pub async fn why(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Why>, ApiError> {
    let view = known(&app, &id)?;
    let gone = || {
        ApiError::new(
            StatusCode::NOT_FOUND,
            format!("the event log no longer has task `{id}`"),
        )
    };
    explain(&app.reader, &view.id).map(Json).ok_or_else(gone)
}
