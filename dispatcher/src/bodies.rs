//! The message of a task, as far as the history has it: what was submitted here, or what a result carries.

use pool_broker::BrokerError;
use pool_core::id::TaskId;
use pool_core::result::ResultMessage;
use pool_core::task::{Task, TaskMessage};

use crate::history::History;

/// None: the task came straight to the broker and has no result, or the history has forgotten it.
///
/// # Errors
/// When the broker does not answer.
pub async fn task_of(history: &History, id: &TaskId) -> Result<Option<Task>, BrokerError> {
    let Some(entry) = history.entry(id) else {
        return Ok(None);
    };
    let task = |message: TaskMessage| Task::new(id.clone(), message);
    if let Some(offset) = entry.task_at {
        let body = history.body(offset).await?;
        if let Some(message) = body.and_then(|body| serde_json::from_slice(&body).ok()) {
            return Ok(Some(task(message)));
        }
    }
    let Some(offset) = entry.result_at else {
        return Ok(None);
    };
    let body = history.body(offset).await?;
    let result: Option<ResultMessage> = body.and_then(|body| serde_json::from_slice(&body).ok());
    Ok(result
        .and_then(|result| result.task)
        .map(|message| task(*message)))
}
