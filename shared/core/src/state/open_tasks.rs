//! Indexes of the tasks without an outcome, so that frequent questions need not visit every task of the log.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::id::TaskId;
use crate::task_state::{Phase, TaskState};
use crate::time::Timestamp;

type TaskAt = (Timestamp, TaskId);

#[derive(Debug, Clone, Default)]
pub(super) struct OpenTasks {
    /// Tasks that have an owner.
    running: HashSet<TaskId>,
    /// Submitted tasks without an owner, by route and then by age.
    waiting: HashMap<String, BTreeSet<TaskAt>>,
    /// The waiting tasks that have a deadline, in the order of the deadlines.
    deadlines: BTreeSet<TaskAt>,
    /// The waiting tasks whose message is not known to be in its queue.
    unpublished: BTreeSet<TaskAt>,
}

fn set(tasks: &mut BTreeSet<TaskAt>, task: TaskAt, there: bool) {
    if there {
        tasks.insert(task);
    } else {
        tasks.remove(&task);
    }
}

impl OpenTasks {
    /// Updates the indexes after a task has changed.
    pub(super) fn put(&mut self, id: &TaskId, state: &TaskState) {
        let (running, waits, unpublished) = match state.phase {
            Phase::Running { .. } => (true, false, false),
            Phase::Queued => (false, true, false),
            Phase::Pending | Phase::RetryAt(_) => (false, true, true),
            Phase::Finished(_) => (false, false, false),
        };
        if running {
            self.running.insert(id.clone());
        } else {
            self.running.remove(id);
        }
        let Some(since) = state.submitted_at else {
            return;
        };
        if !waits && !self.waiting.contains_key(&state.route) {
            return;
        }
        let task = (since, id.clone());
        set(&mut self.unpublished, task.clone(), unpublished);
        if let Some(deadline) = state.deadline {
            set(&mut self.deadlines, (deadline, id.clone()), waits);
        }
        set(
            self.waiting.entry(state.route.clone()).or_default(),
            task,
            waits,
        );
    }

    pub(super) fn running(&self) -> impl Iterator<Item = &TaskId> {
        self.running.iter()
    }

    pub(super) fn waiting(&self, route: &str) -> Option<&BTreeSet<TaskAt>> {
        self.waiting.get(route)
    }

    pub(super) fn overdue(&self, now: Timestamp) -> impl Iterator<Item = &TaskAt> {
        self.deadlines
            .iter()
            .take_while(move |(deadline, _)| *deadline <= now)
    }

    pub(super) fn unpublished(&self) -> impl Iterator<Item = &TaskId> {
        self.unpublished.iter().map(|(_, id)| id)
    }
}
