//! A finished task, submitted again: a new id, with the old id in `retry_of`.

use pool_core::id::TaskId;
use pool_core::task::{Task, TaskMessage};
use pool_core::time::Timestamp;

/// The message of the new task. A deadline that has passed is dropped: the new task could never
/// meet it.
pub(crate) fn resubmit(task: Task, new_id: TaskId, now: Timestamp) -> TaskMessage {
    let mut message = task.message;
    message.id = Some(new_id);
    message.retry_of = Some(task.id);
    message.limits.deadline = message.limits.deadline.filter(|deadline| *deadline > now);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_is_submitted_again_names_the_old_one_and_has_no_deadline_that_is_over() {
        let id = |text: &str| TaskId::new(text).expect("an id");
        let body = br#"{"instruction": "x", "repository": "app", "limits": {"deadline": "2020-01-01T00:00:00Z"}}"#;
        let message = TaskMessage::parse(body, Timestamp::default()).expect("a task");
        let deadline = message.limits.deadline.expect("a deadline");
        let task = Task::new(id("old"), message);
        let late = resubmit(task.clone(), id("new"), deadline);
        assert_eq!(
            (late.id, late.retry_of),
            (Some(id("new")), Some(id("old"))),
            "both ids"
        );
        assert_eq!(late.limits.deadline, None, "a past deadline is dropped");
        let early = resubmit(task, id("new"), Timestamp(deadline.0 - 1));
        assert_eq!(
            early.limits.deadline,
            Some(deadline),
            "a future deadline is kept"
        );
    }
}
