//! `/tasks`: list, show, patch.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use pool_core::id::{AttemptId, LlmName, ProgrammerId, TaskId};
use pool_core::money::MicroUsd;
use pool_core::result::{ResultMessage, Status};
use pool_core::state::{Fold, TaskState};
use pool_core::task::TaskMessage;
use pool_core::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::App;
use super::extract::{Path, Query};
use super::filter::{Filter, Found, Stage, newest, programmer, runs};
use super::problem::Problem;
use crate::history::Entry;
use crate::pool_view::Snapshot;

/// So many tasks are looked through before others get their turn at the history.
const AT_ONCE: usize = 1_000;
/// The log names the outcome a moment before the history has the result.
const RESULT_WITHIN: Duration = Duration::from_secs(2);

/// A task in lists and, with `result`, by itself.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct TaskView {
    pub id: TaskId,
    /// `queued`, `running`, or the status of its result.
    #[schemars(with = "Stage")]
    pub status: String,
    pub route: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub summary: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The task that it is once more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<TaskId>,
    pub submitted_at: Option<Timestamp>,
    pub attempts: u32,
    /// Who works on it, or brought the result.
    pub programmer: Option<ProgrammerId>,
    /// That runs, or whose result is the outcome.
    pub attempt: Option<AttemptId>,
    /// When the attempt began that runs, or that had the task when it ended.
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub cost_usd: Option<MicroUsd>,
    /// Whose answer the result is.
    pub llm: Option<LlmName>,
    /// The error's kind, when there is one.
    pub error: Option<String>,
    /// Without the patch: that is at `/tasks/{id}/patch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<ResultMessage>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskMessage>,
    /// In the answer to a submission: what was accepted, but may not do what its submitter expects.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl TaskView {
    fn new(id: &TaskId, state: &TaskState, runs: bool, entry: Entry) -> Self {
        let outcome = state.outcome.as_ref();
        // An attempt whose programmer is lost is no news of a task that waits again.
        let owner = state.owner.as_ref().filter(|_| runs);
        Self {
            id: id.clone(),
            status: Stage::of(state, runs).as_str().to_owned(),
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

pub(crate) fn view(app: &App, id: &TaskId) -> Option<TaskView> {
    view_as_heard(app, id, &app.heard())
}

/// The same, of one of many.
fn view_as_heard(app: &App, id: &TaskId, heard: &Snapshot) -> Option<TaskView> {
    let entry = app.history.entry(id).unwrap_or_default();
    let view = |fold: &Fold| {
        fold.tasks
            .get(id)
            .map(|state| TaskView::new(id, state, runs(fold, state, heard), entry))
    };
    app.process.log.read(view)
}

/// The answer of `GET /tasks`: the newest first.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct TaskList {
    /// How many match, shown or not.
    pub total: usize,
    pub tasks: Vec<TaskView>,
}

/// `GET /tasks`.
pub async fn list(
    State(app): State<App>,
    Query(mut filter): Query<Filter>,
) -> Result<Json<TaskList>, Problem> {
    filter.text = filter.text.map(|text| text.to_lowercase());
    let found = tokio::task::spawn_blocking(move || find(&app, &filter)).await;
    found
        .map(Json)
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

/// Looks through all tasks. While the log is looked at nothing is folded, so only what it alone can tell is asked there; words
/// are looked through in portions, and what is shown is sorted afterwards.
fn find(app: &App, filter: &Filter) -> TaskList {
    let heard = app.heard();
    let (mut total, mut found) = app
        .process
        .log
        .read(|fold| filter.of_log(&app.pool, fold, &heard));
    if filter.asks_for_words() {
        let matching = |some: &[Found]| {
            app.history.look(|entries| {
                let matches = |(_, id): &&Found| filter.of_words(id, entries.get(id));
                some.iter().filter(matches).cloned().collect::<Vec<_>>()
            })
        };
        found = found.chunks(AT_ONCE).flat_map(matching).collect();
        total = found.len();
    }
    TaskList {
        total,
        tasks: newest(found, filter)
            .iter()
            .filter_map(|id| view_as_heard(app, id, &heard))
            .collect(),
    }
}

pub(super) fn known(app: &App, id: &str) -> Result<TaskView, Problem> {
    let id = TaskId::new(id)
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    view(app, &id).ok_or_else(|| {
        let detail = format!(
            "the log knows no task {id}; `pool watch` and the dashboard show those that it knows. One that was published \
             straight to the broker shows from its start on"
        );
        Problem::new(StatusCode::NOT_FOUND, detail)
    })
}

async fn result_of(app: &App, view: &TaskView) -> Result<Option<ResultMessage>, Problem> {
    if view.finished_at.is_none() {
        return Ok(None);
    }
    if view.status == Status::Cancelled.as_str() {
        let usage = app.process.log.read(|fold| fold.tasks.usage(&view.id));
        return Ok(Some(ResultMessage::cancelled(view.id.clone(), usage)));
    }
    let entry = app.history.wait_for_result(&view.id, RESULT_WITHIN).await;
    let entry = entry.map_err(|error| Problem::unavailable(error.to_string()))?;
    let Some(offset) = entry.and_then(|entry| entry.result_at) else {
        return Ok(None);
    };
    Ok(body(app, offset)
        .await?
        .and_then(|body| serde_json::from_slice(&body).ok()))
}

async fn body(app: &App, offset: u64) -> Result<Option<Vec<u8>>, Problem> {
    let body = app.history.body(offset).await;
    body.map_err(|error| Problem::unavailable(error.to_string()))
}

/// `GET /tasks/{id}`.
pub async fn show(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<TaskView>, Problem> {
    let mut view = known(&app, &id)?;
    let result = result_of(&app, &view).await?;
    let carried = result
        .as_ref()
        .and_then(|result| result.task.clone())
        .map(|task| *task);
    let offset = app.history.entry(&view.id).and_then(|entry| entry.task_at);
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
pub async fn patch(State(app): State<App>, Path(id): Path<String>) -> Result<Response, Problem> {
    let view = known(&app, &id)?;
    let missing = |detail: String| Problem::new(StatusCode::NOT_FOUND, detail);
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
    let patch = result.patch.ok_or_else(|| match (&result.branch, &result.error) {
        (Some(branch), _) => {
            missing(format!("the patch of task {id} is too large for a result; it is on the branch {branch}{place}"))
        }
        (None, Some(error)) => missing(format!("task {id} has no patch: {}", error.message)),
        (None, None) => missing(format!("task {id} has no patch")),
    })?;
    Ok((
        [(header::CONTENT_TYPE, "text/x-patch; charset=utf-8")],
        patch,
    )
        .into_response())
}
