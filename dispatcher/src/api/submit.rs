//! `POST /tasks`: one task or a list. Once the dispatcher has begun to submit a task it finishes,
//! even if the client disconnects or another task of the list fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use pool_broker::headers::Reply;
use pool_core::id::TaskId;
use pool_core::task::{Priority, Task, TaskMessage};

use super::App;
use super::extract::Body;
use super::problem::{Problem, TaskProblem};
use super::submission::{prepare, problem_of, read_submission};
use super::tasks::{TaskView, view};
use super::uncut::uncut;
use crate::intake::{Intake, NotTaken, Taken};
use crate::room::Place;

/// How many tasks are submitted at the same time.
const AT_ONCE: usize = 64;
const MOST_IDS_IN_WORDS: usize = 10;

/// `POST /tasks`.
pub async fn submit(State(app): State<App>, Body(body): Body) -> Result<Response, Problem> {
    let submission =
        read_submission(&body).map_err(|detail| Problem::new(StatusCode::BAD_REQUEST, detail))?;
    let tasks = prepare(&app, &submission)?;
    // Appends nothing while this process' clock is wrong.
    app.process
        .clock
        .now()
        .map_err(|off| Problem::unavailable(off.to_string()))?;
    let places = app.intake.places(&tasks)?;
    let ids: Vec<TaskId> = tasks.iter().map(|task| task.id.clone()).collect();
    let warnings: Vec<Vec<String>> = tasks.iter().map(|task| warnings(&task.message)).collect();
    let answers = take_all(app.intake.clone(), tasks.into_iter().zip(places).collect()).await?;
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
                ..view(&app, &taken.id)?
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

/// Runs in a spawned task, so that a client that disconnects does not stop it between `submitted`
/// and `published`. One failure does not stop the tasks that have begun. After the broker has
/// failed to answer once, no further tasks are begun: each would wait as long as the first.
async fn take_all(
    intake: Intake,
    tasks: Vec<(Task, Option<Place>)>,
) -> Result<Vec<Result<Taken, NotTaken>>, Problem> {
    let silent = Arc::new(AtomicBool::new(false));
    let taking = stream::iter(tasks)
        .map(move |(task, place)| {
            let (intake, silent) = (intake.clone(), Arc::clone(&silent));
            async move {
                if silent.load(Ordering::Relaxed) {
                    return Err(NotTaken::NotTried);
                }
                let taken = intake.take(task, place, &Reply::default()).await;
                if let Err(NotTaken::Broker(_) | NotTaken::Log(_)) = &taken {
                    silent.store(true, Ordering::Relaxed);
                }
                taken
            }
        })
        .buffered(AT_ONCE)
        .collect();
    uncut(async { Ok(taking.await) }).await
}

/// Some tasks may have been taken, and at least one was not.
fn not_taken(ids: Vec<TaskId>, errors: &[(usize, TaskId, NotTaken)]) -> Problem {
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
    let problem = match status {
        StatusCode::CONFLICT => Problem::new(status, detail),
        _ => Problem::unavailable(detail),
    };
    Problem {
        ids,
        ..problem.with_errors(problems)
    }
}
