//! Operator actions: cancel a task; pause, drain and resume programmers and routes. Each action
//! appends one event that every process reads and acts on.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use pool_api::control::{BreakerList, EndOfPause, NewBreakerOrder, NewPause, PauseList};
use pool_api::tasks::TaskView;
use pool_core::event::{BreakerOrdered, Event, TargetPaused, TargetResumed, TaskCancelled};
use pool_core::id::{LlmName, TaskId};
use pool_core::pause::{Pause, Target};
use pool_core::result::Status;
use pool_core::state::{PoolState, Refusal, Verdict};

use super::app::App;
use super::error::ApiError;
use super::extract::{Path, RawBody, read};
use super::tasks::known;

const EXAMPLE: &str = r#"for example {"target": {"what": "programmer", "id": "001"}}; others are {"what": "route", "name": "fast"} and {"what": "all"}"#;

/// `GET /programmer_pool/pauses`.
pub async fn pauses(State(app): State<App>) -> Json<PauseList> {
    Json(PauseList {
        pauses: app.reader.pauses(),
    })
}

pub async fn pause(
    State(app): State<App>,
    RawBody(body): RawBody,
) -> Result<Json<PauseList>, ApiError> {
    let NewPause { target, pause } = read(&body, EXAMPLE)?;
    exists(&app, &target)?;
    if let (Target::Route { .. }, Pause::Drain) = (&target, pause) {
        let detail = "a route cannot be drained, only paused: drain the programmers that work on its tasks, or cancel the tasks";
        return Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
    }
    app.append_event(Event::from(TargetPaused {
        target: target.clone(),
        pause,
        since_ms: None,
    }))
    .await?;
    tracing::warn!(%target, ?pause, "paused by an operator");
    Ok(pauses(State(app)).await)
}

pub async fn resume(
    State(app): State<App>,
    RawBody(body): RawBody,
) -> Result<Json<PauseList>, ApiError> {
    let EndOfPause { target } = read(&body, EXAMPLE)?;
    let mut pauses_now = app.reader.pauses().into_iter();
    if !pauses_now.any(|pause| pause.target == target) {
        let detail = format!(
            "{target} is not paused; `pool pauses` (GET /programmer_pool/pauses) lists all pauses"
        );
        return Err(ApiError::new(StatusCode::CONFLICT, detail));
    }
    app.append_event(Event::from(TargetResumed {
        target: target.clone(),
    }))
    .await?;
    tracing::warn!(%target, "resumed by an operator");
    Ok(pauses(State(app)).await)
}

/// Probes or closes the breakers of an LLM.
pub async fn breakers(
    State(app): State<App>,
    RawBody(body): RawBody,
) -> Result<Json<BreakerList>, ApiError> {
    let NewBreakerOrder { llm, order } = read(
        &body,
        r#"for example {"llm": "openai/gpt-4o", "order": "probe"}"#,
    )?;
    let known = app.reader.pool.programmers.iter().flat_map(|one| &one.llms);
    let known: BTreeSet<&str> = known.map(LlmName::as_str).collect();
    if !known.contains(llm.as_str()) {
        let known = Vec::from_iter(known).join(", ");
        let detail = format!("no programmer has the LLM {llm}; the LLMs are {known}");
        return Err(ApiError::new(StatusCode::NOT_FOUND, detail));
    }
    let ordered = Event::from(BreakerOrdered {
        llm: llm.clone(),
        order,
    });
    match app.append_event(ordered).await? {
        Verdict::Accepted => tracing::warn!(%llm, %order, "a breaker was ordered by an operator"),
        Verdict::Refused(_) => {
            let detail = format!("no breaker of {llm} is open; `pool status` shows the breakers");
            return Err(ApiError::new(StatusCode::CONFLICT, detail));
        }
    }
    let breakers = app.reader.breakers();
    Ok(Json(BreakerList { breakers }))
}

/// `DELETE /tasks/{id}` cancels the task. A waiting task never starts; a running one is stopped.
pub async fn cancel(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<TaskView>, ApiError> {
    let view = known(&app, &id)?;
    match app
        .append_event(Event::from(TaskCancelled {
            task: view.id.clone(),
        }))
        .await?
    {
        Verdict::Accepted => tracing::info!(task_id = %view.id, "cancelled by an operator"),
        Verdict::Refused(Refusal::Finished) => is_cancelled(&app, &view.id)?,
        Verdict::Refused(_) => {
            let detail = format!("task {id} cannot be cancelled");
            return Err(ApiError::new(StatusCode::CONFLICT, detail));
        }
    }
    known(&app, &id).map(Json)
}

fn is_cancelled(app: &App, id: &TaskId) -> Result<(), ApiError> {
    let outcome = |fold: &PoolState| fold.tasks.get(id)?.outcome().map(|end| end.status);
    let status = app.reader.process.log.read(outcome);
    match status {
        None | Some(Status::Cancelled) => Ok(()),
        Some(status) => {
            let detail = format!("task {id} has already finished: {}", status.as_str());
            Err(ApiError::new(StatusCode::CONFLICT, detail))
        }
    }
}

fn exists(app: &App, target: &Target) -> Result<(), ApiError> {
    let reader = &app.reader;
    let (what, wanted, known): (_, _, Vec<&str>) = match target {
        Target::All => return Ok(()),
        Target::Programmer { id } => {
            let programmers = reader.pool.programmers.iter();
            (
                "programmers",
                id.as_str(),
                programmers.map(|one| one.id.as_str()).collect(),
            )
        }
        Target::Route { name } => {
            let routes = reader.process.routes.all().iter();
            (
                "routes",
                name.as_str(),
                routes.map(|route| route.name.as_str()).collect(),
            )
        }
    };
    if known.contains(&wanted) {
        return Ok(());
    }
    let known = known.join(", ");
    let detail = format!("the pool has no {target}; the {what} are {known}");
    Err(ApiError::new(StatusCode::NOT_FOUND, detail))
}
