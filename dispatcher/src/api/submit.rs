//! `POST /tasks`: one task or a list. Once the dispatcher has begun to submit a task it finishes,
//! even if the client disconnects or another task of the list fails.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use pool_api::problem::TaskProblem;
use pool_api::tasks::TaskView;
use pool_core::id::TaskId;
use pool_core::task::{Priority, TaskMessage};

use super::app::{App, detached};
use super::error::ApiError;
use super::extract::RawBody;
use super::submission::{prepare, problem_of, read_submission};
use crate::intake::NotTaken;

const MOST_IDS_IN_WORDS: usize = 10;

/// `POST /tasks`.
pub async fn submit(State(app): State<App>, RawBody(body): RawBody) -> Result<Response, ApiError> {
    let submission =
        read_submission(&body).map_err(|detail| ApiError::new(StatusCode::BAD_REQUEST, detail))?;
    let tasks = prepare(&app, &submission)?;
    // Appends nothing while this process' clock is wrong.
    app.reader
        .process
        .clock
        .now()
        .map_err(ApiError::unavailable)?;
    let slots = app.intake.slots(&tasks)?;
    let ids: Vec<TaskId> = tasks.iter().map(|task| task.id.clone()).collect();
    let warnings: Vec<Vec<String>> = tasks.iter().map(|task| warnings(&task.message)).collect();
    // A client that disconnects does not stop it between `submitted` and `published`.
    let (intake, tasks) = (app.intake.clone(), tasks.into_iter().zip(slots).collect());
    let answers = detached(async move { Ok(intake.take_all(tasks).await) }).await?;
    let (mut taken, mut errors) = (Vec::with_capacity(ids.len()), Vec::new());
    for (index, (answer, id)) in answers.into_iter().zip(&ids).enumerate() {
        match answer {
            Ok(one) => taken.push(one),
            Err(error) => errors.push((index, id.clone(), error)),
        }
    }
    if !errors.is_empty() {
        return Err(not_taken(ids, &errors));
    }
    let shown = taken.iter().zip(warnings);
    let views: Vec<TaskView> = shown
        .filter_map(|(taken, warnings)| {
            Some(TaskView {
                warnings,
                ..app.reader.task(&taken.id)?
            })
        })
        .collect();
    let status = if taken.iter().all(|taken| taken.repeated) {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    if submission.single {
        Ok((status, Json(views.into_iter().next())).into_response())
    } else {
        Ok((status, Json(views)).into_response())
    }
}

/// RabbitMQ does not tell its version over AMQP, so the warning covers both.
fn warnings(task: &TaskMessage) -> Vec<String> {
    match task.priority {
        Priority::Normal => Vec::new(),
        Priority::High => vec![
            "priority: RabbitMQ 4.0 and later serve this task before others; earlier versions keep their order"
                .to_owned(),
        ],
    }
}

/// Some tasks may have been taken, and at least one was not.
fn not_taken(ids: Vec<TaskId>, errors: &[(usize, TaskId, NotTaken)]) -> ApiError {
    let conflict = |error: &NotTaken| matches!(error, NotTaken::IdConflict(_));
    let status = match errors.iter().all(|(_, _, error)| conflict(error)) {
        true => StatusCode::CONFLICT,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let named: Vec<&str> = errors
        .iter()
        .take(MOST_IDS_IN_WORDS)
        .map(|(_, id, _)| id.as_str())
        .collect();
    let more = if errors.len() > named.len() {
        ", …"
    } else {
        ""
    };
    let first = errors
        .first()
        .map(|(_, _, error)| error.to_string())
        .unwrap_or_default();
    let detail = match ids.len() {
        1 => format!("task {}: {first}", named.concat()),
        all => format!(
            "{} of {all} tasks were not accepted ({}{more}): {first}. You may send the whole list again with the ids in \
             `ids`, one per task in order: no task is done twice",
            errors.len(),
            named.join(", "),
        ),
    };
    let problems: Vec<TaskProblem> = errors
        .iter()
        .map(|(index, id, error)| problem_of(*index, Some(id.clone()), error))
        .collect();
    let mut problem = ApiError::new(status, detail);
    problem.0.errors = problems;
    problem.0.ids = ids;
    problem
}
