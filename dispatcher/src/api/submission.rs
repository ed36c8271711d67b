//! Parses and checks the body of `POST /tasks` as a whole, and reports all mistakes by index.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use pool_api::format::counted;
use pool_api::problem::{ProblemKind, TaskProblem};
use pool_core::id::TaskId;
use pool_core::task::{Task, TaskMessage};
use pool_core::wrong::in_words;
use pool_telemetry::clock::wall_clock;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::app::App;
use super::error::ApiError;
use crate::intake::NotTaken;

/// The tasks of a submission: one task, a list, or `{"tasks": […]}`.
pub(super) struct SubmittedTasks<'a> {
    pub(super) tasks: Vec<&'a RawValue>,
    /// A single task rather than a list: the answer is a single task too.
    pub(super) single: bool,
}

pub(super) fn read_submission(body: &[u8]) -> Result<SubmittedTasks<'_>, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct InObject<'a> {
        #[serde(borrow)]
        tasks: Vec<&'a RawValue>,
    }
    let wrong = |error| in_words(&error, body);
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
    let (tasks, single) = if first == Some(&b'[') {
        (serde_json::from_slice(body).map_err(wrong)?, false)
    } else if let Ok(InObject { tasks }) = serde_json::from_slice(body) {
        (tasks, false)
    } else {
        (vec![serde_json::from_slice(body).map_err(wrong)?], true)
    };
    Ok(SubmittedTasks { tasks, single })
}

pub(super) fn problem_of(index: usize, id: Option<TaskId>, error: &NotTaken) -> TaskProblem {
    let kind = match error {
        NotTaken::Unroutable(_) => ProblemKind::Unroutable,
        NotTaken::IdConflict(_) => ProblemKind::IdConflict,
        NotTaken::Broker(_) | NotTaken::Log(_) | NotTaken::NotTried => ProblemKind::Unavailable,
    };
    TaskProblem {
        index,
        id,
        kind,
        message: error.to_string(),
    }
}

/// Prepares all tasks, or returns the mistakes of all that are wrong.
pub(super) fn prepare(app: &App, submission: &SubmittedTasks<'_>) -> Result<Vec<Task>, ApiError> {
    let mut tasks = Vec::with_capacity(submission.tasks.len());
    let mut errors = Vec::new();
    for (index, raw) in submission.tasks.iter().enumerate() {
        let body = raw.get().as_bytes();
        match TaskMessage::parse(body, wall_clock())
            .or_else(|error| app.intake.taken_before(body).ok_or(error))
        {
            Err(error) => {
                let message = error.to_string();
                errors.push(TaskProblem {
                    index,
                    id: None,
                    kind: ProblemKind::InvalidTask,
                    message,
                });
            }
            Ok(message) => match app.intake.prepare(message) {
                Ok(task) => tasks.push((index, task)),
                Err(error) => errors.push(problem_of(index, None, &error)),
            },
        }
    }
    errors.extend(repeated_ids(&tasks));
    if errors.is_empty() {
        return Ok(tasks.into_iter().map(|(_, task)| task).collect());
    }
    errors.sort_by_key(|error| error.index);
    let conflict = errors
        .iter()
        .all(|error| error.kind == ProblemKind::IdConflict);
    let status = if conflict {
        StatusCode::CONFLICT
    } else {
        StatusCode::UNPROCESSABLE_ENTITY
    };
    let all = counted(submission.tasks.len(), "task", "tasks");
    let detail = match (&errors[..], submission.single) {
        ([only], true) => only.message.clone(),
        ([_], false) => format!("1 of {all} is wrong; none was taken"),
        _ => format!("{} of {all} are wrong; none was taken", errors.len()),
    };
    let mut problem = ApiError::new(status, detail);
    problem.0.errors = errors;
    Err(problem)
}

/// Ids that occur twice in one request with different bodies.
fn repeated_ids(tasks: &[(usize, Task)]) -> Vec<TaskProblem> {
    let mut seen: BTreeMap<&TaskId, String> = BTreeMap::new();
    let mut problems = Vec::new();
    for (index, task) in tasks {
        let hash = task.body_hash();
        if seen
            .insert(&task.id, hash.clone())
            .is_some_and(|other| other != hash)
        {
            problems.push(problem_of(
                *index,
                None,
                &NotTaken::IdConflict(task.id.clone()),
            ));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_submission_is_one_task_a_list_or_a_wrapped_list() {
        let count =
            |body: &str| read_submission(body.as_bytes()).map(|s| (s.tasks.len(), s.single));
        assert_eq!(count(r#" {"instruction": "x"}"#), Ok((1, true)), "one");
        assert_eq!(count(r#"[{"a": 1}, {"b": 2}]"#), Ok((2, false)), "a list");
        assert_eq!(
            count(r#"{"tasks": [{}, {}, {}]}"#),
            Ok((3, false)),
            "wrapped"
        );
        assert!(count("{").is_err(), "not JSON");
    }
}
