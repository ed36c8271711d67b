//! `POST /tasks/{id}/retry` submits a finished task again as a new one. `POST /tasks/{id}/requeue`
//! puts an unfinished task back into its queue, on an operator's request.

use std::borrow::Cow;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use pool_api::tasks::{Force, Requeued, Retried};
use pool_broker::headers::Reply;
use pool_broker::steps::{Reissued, reissue};
use pool_core::id::TaskId;
use pool_core::result::Status;
use pool_core::state::{Outcome, TaskState};
use pool_core::task::Task;
use pool_telemetry::clock::{new_id, wall_clock};

use super::app::{App, detached};
use super::error::ApiError;
use super::extract::{Path, RawBody, read};
use super::tasks::known;
use crate::intake::NotTaken;
use crate::intake::resubmit::resubmit;

/// How to set `--force` over HTTP.
const FORCED: &str = "over HTTP, send {\"force\": true}";

fn force(body: &[u8]) -> Result<bool, ApiError> {
    if body.is_empty() {
        return Ok(false);
    }
    read::<Force>(body, r#"{"force": true} or nothing"#).map(|read| read.force)
}

fn refused(detail: String) -> ApiError {
    ApiError::new(StatusCode::CONFLICT, detail)
}

/// The task's state in the event log.
fn state(app: &App, id: &str) -> Result<(TaskId, TaskState), ApiError> {
    let id = known(app, id)?.id;
    let state = app
        .reader
        .process
        .log
        .read(|fold| fold.tasks.get(&id).map(Cow::into_owned));
    state
        .map(|state| (id, state))
        .ok_or_else(|| ApiError::unavailable("the event log is being read again"))
}

async fn message(app: &App, id: &TaskId) -> Result<Task, ApiError> {
    app.reader.history.whole().map_err(ApiError::unavailable)?;
    let task = app
        .reader
        .history
        .task(id)
        .await
        .map_err(ApiError::unavailable)?;
    task.ok_or_else(|| {
        refused(format!(
            "the history has no message of task {id}: it was published straight to the broker, or it is too old; \
             submit it again as a new task"
        ))
    })
}

pub async fn retry(
    State(app): State<App>,
    Path(id): Path<String>,
    RawBody(body): RawBody,
) -> Result<Json<Retried>, ApiError> {
    let force = force(&body)?;
    detached(async move {
        let (id, state) = state(&app, &id)?;
        let outcome = may_retry(&id, state.outcome(), force)?;
        app.can_append()?;
        let task = message(&app, &id).await?;
        let before = before(&app, &id);
        let again = app
            .intake
            .prepare(resubmit(task, new_id(), wall_clock()))
            .map_err(|error| not_taken(&error))?;
        let slot = app.intake.slot_again(&again)?;
        let taken = app
            .intake
            .take(again, slot, &Reply::default())
            .await
            .map_err(|error| not_taken(&error))?;
        let mut retried = Retried::anew(id, outcome, &taken.id);
        match &before[..] {
            [] => {}
            [one] => retried.detail += &format!(", and was retried before as {one}"),
            [one, ..] => {
                retried.detail += &format!(
                    ", and was retried {} times before, last as {one}",
                    before.len()
                )
            }
        }
        Ok(Json(retried))
    })
    .await
}

/// Earlier retries of this task, newest first. Someone who repeats a retry may not know that it
/// worked.
fn before(app: &App, id: &TaskId) -> Vec<TaskId> {
    app.reader.history.look(|entries| {
        let again = entries
            .iter()
            .filter(|(_, entry)| entry.retry_of.as_ref() == Some(id));
        let mut again: Vec<_> = again
            .map(|(new, entry)| (entry.task_at, new.clone()))
            .collect();
        again.sort_unstable_by(|one, other| other.cmp(one));
        again.into_iter().map(|(_, new)| new).collect()
    })
}

fn may_retry(id: &TaskId, outcome: Option<&Outcome>, force: bool) -> Result<Status, ApiError> {
    match outcome.map(|outcome| outcome.status) {
        None => Err(refused(format!(
            "task {id} has not finished, so it cannot be retried; `pool requeue {id}` (POST /tasks/{id}/requeue) puts it back into its queue"
        ))),
        Some(Status::Succeeded) if !force => Err(refused(format!(
            "task {id} has succeeded; use `pool retry --force {id}` to run it again anyway ({FORCED})"
        ))),
        Some(status) => Ok(status),
    }
}

fn not_taken(error: &NotTaken) -> ApiError {
    match error {
        NotTaken::Unroutable(_) => {
            ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
        }
        NotTaken::IdConflict(_) => refused(error.to_string()),
        // Each retry makes a new id, so an unanswered one cannot be repeated safely.
        NotTaken::Broker(_) | NotTaken::Log(_) | NotTaken::NotTried => {
            ApiError::unavailable(format!(
                "the new task may or may not have been submitted: {error}; check with `pool tasks`"
            ))
        }
    }
}

pub async fn requeue(
    State(app): State<App>,
    Path(id): Path<String>,
    RawBody(body): RawBody,
) -> Result<Json<Requeued>, ApiError> {
    let force = force(&body)?;
    detached(async move {
        let (id, state) = state(&app, &id)?;
        let before = may_requeue(&id, &state, force)?;
        app.can_append()?;
        let task = message(&app, &id).await?;
        let slot = app.intake.slot_again(&task)?;
        let done = reissue(&app.reader.process, &task, state.generation + 1).await;
        drop(slot);
        match done.map_err(|error| {
            ApiError::unavailable(format!(
                "{error}; the pool repairs this by itself, or try again"
            ))
        })? {
            Reissued::Published(generation) => {
                let detail =
                    format!("task {id} is back in its queue (generation {generation}); {before}");
                tracing::info!(task_id = %id, generation, "an operator requeued a task");
                Ok(Json(Requeued {
                    task_id: id,
                    generation,
                    detail,
                }))
            }
            Reissued::Overtaken => Err(refused(format!(
                "another process has just published task {id} again"
            ))),
            Reissued::Finished => Err(refused(format!("task {id} has just finished"))),
        }
    })
    .await
}

/// Says what happens to the earlier attempt or message, or why the task cannot be requeued.
fn may_requeue(id: &TaskId, state: &TaskState, force: bool) -> Result<String, ApiError> {
    if let Some(outcome) = state.outcome() {
        let (flag, body) = match outcome.status {
            Status::Succeeded => ("--force ", " with {\"force\": true}"),
            Status::Failed | Status::Rejected | Status::Cancelled | Status::Expired => ("", ""),
        };
        return Err(refused(format!(
            "task {id} is already {}; `pool retry {flag}{id}` (POST /tasks/{id}/retry{body}) submits it again as a new task",
            outcome.status.as_str()
        )));
    }
    match state.owner() {
        Some(owner) if !force => Err(refused(format!(
            "{} has been working on task {id} since {}; use `pool requeue --force {id}` to let another programmer start it over ({FORCED})",
            owner.programmer.display_name(),
            owner.since
        ))),
        Some(owner) => Ok(format!(
            "{} loses the task as soon as another programmer takes it",
            owner.programmer.display_name()
        )),
        None => Ok("any other copy of its message is dropped".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use pool_core::event::{Event, TaskFinished, TaskSubmitted};
    use pool_core::state::PoolState;
    use pool_core::time::Timestamp;

    use super::*;

    #[test]
    fn what_cannot_be_queued_again_is_sent_to_the_retry_that_takes_it() {
        let id = TaskId::new("t").expect("an id");
        for (status, retry) in [
            (Status::Succeeded, "`pool retry --force t`"),
            (Status::Failed, "`pool retry t`"),
        ] {
            let (llm, cost_usd, error) = (None, pool_core::money::MicroUsd::ZERO, None);
            let finished = Event::from(TaskFinished {
                task: id.clone(),
                attempt: None,
                status,
                llm,
                cost_usd,
                error,
            });
            let submitted = Event::from(TaskSubmitted {
                task: id.clone(),
                body_hash: String::new(),
                route: "fast".to_owned(),
                deadline_ms: None,
            });
            let fold = PoolState::of_events(Timestamp(1), [submitted, finished]);
            let state = fold.tasks.get(&id).expect("it is known");
            let refused = may_requeue(&id, &state, true).expect_err("it is over");
            assert!(refused.0.detail.contains(retry), "{}", refused.0.detail);
            let forced = retry.contains("--force");
            assert!(
                may_retry(&id, state.outcome(), forced).is_ok(),
                "the command that the message names works: {retry}"
            );
        }
    }

    #[test]
    fn force_is_read_from_the_body_and_no_body_is_no_force() {
        let read = |body: &'static str| force(body.as_bytes()).map_err(|problem| problem.0.status);
        assert_eq!(read(""), Ok(false), "nothing");
        assert_eq!(read("{}"), Ok(false), "an empty object");
        assert_eq!(read(r#"{"force": true}"#), Ok(true), "force is set");
        assert_eq!(
            read(r#"{"forse": true}"#),
            Err(422),
            "a misspelt field is not read as `false`"
        );
        assert_eq!(read("[true]"), Err(422), "not an object");
    }
}
